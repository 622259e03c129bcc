package shutdown_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// newHTTPServer is an HTTP server that answers "/held" after release is closed.
func newHTTPServer(release <-chan struct{}) *http.Server {
	return &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			<-release
		}
		io.WriteString(w, "hello")
	})}
}

// newHTTPClient is an HTTP client whose connections are tunnels over n.
func newHTTPClient(t testing.TB, n *testkit.Network) *http.Client {
	t.Helper()
	d := &preflight.PreflightDialer{NetDialer: networkDialer{t, n}}
	transport := &http.Transport{DialContext: d.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// getInBackground sends a request in the background, and returns a channel with its
// result.
func getInBackground(client *http.Client, path string) <-chan string {
	answer := make(chan string, 1)
	go func() {
		r, err := client.Get("http://h" + path)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		answer <- string(body)
	}()
	return answer
}

// An HTTP server runs in tunnels. Shutdown of the listener refuses new tunnels
// and delivers the rest. Then Shutdown of the server closes the tunnels that
// have no request in progress. Each returns when its part is done.
func TestListenerShutdownWithHTTPServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, release := testkit.NewNetwork(), make(chan struct{})
		ln := testkit.Listen(t, &preflight.PreflightListener{Listener: n, RequireUpgrade: true})
		srv, served := newHTTPServer(release), make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		idle, busy := newHTTPClient(t, n), newHTTPClient(t, n)
		for range 3 {
			require.Equal(t, "hello", <-getInBackground(idle, "/"))
		}
		answer := getInBackground(busy, "/held")
		silent := n.Dial(t)
		synctest.Wait()

		lnDone, srvDone := make(chan error, 1), make(chan error, 1)
		go func() { lnDone <- ln.Shutdown(t.Context()) }()
		synctest.Wait()
		require.Equal(t, "hello", <-getInBackground(idle, "/"), "an open tunnel continues")
		silent.Send(t, testkit.Request())
		require.Equal(t, http.StatusServiceUnavailable, silent.Refused(t, testkit.Request()).StatusCode)
		require.ErrorIs(t, <-served, net.ErrClosed)
		require.Contains(t, <-getInBackground(newHTTPClient(t, n), "/"), errShdRefused.Error())

		go func() { srvDone <- srv.Shutdown(t.Context()) }()
		time.Sleep(time.Minute)
		require.Empty(t, srvDone, "a request is in progress")
		require.Empty(t, lnDone)
		require.Contains(t, <-getInBackground(idle, "/"), errShdRefused.Error(), "its tunnel was ended")
		close(release)
		require.Equal(t, "hello", <-answer)
		require.NoError(t, <-srvDone)
		require.NoError(t, <-lnDone)
	})
}

// Both are called, in either order and at once. Both return in the end.
func TestListenerShutdownWithHTTPServerInAnyOrder(t *testing.T) {
	for _, order := range []string{"listener first", "server first", "together"} {
		t.Run(order, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, release := testkit.NewNetwork(), make(chan struct{})
				ln := testkit.Listen(t, &preflight.PreflightListener{Listener: n, Handler: http.NotFoundHandler()})
				srv, served := newHTTPServer(release), make(chan error, 1)
				go func() { served <- srv.Serve(ln) }()
				idle := newHTTPClient(t, n)
				require.Equal(t, "hello", <-getInBackground(idle, "/"))
				answer := getInBackground(newHTTPClient(t, n), "/held")
				synctest.Wait()

				done := make(chan error, 2)
				shutdowns := []func(context.Context) error{ln.Shutdown, srv.Shutdown}
				if order == "server first" {
					shutdowns[0], shutdowns[1] = shutdowns[1], shutdowns[0]
				}
				for _, shutdown := range shutdowns {
					go func() { done <- shutdown(t.Context()) }()
					if order != "together" {
						synctest.Wait()
					}
				}
				time.Sleep(time.Minute)
				require.Empty(t, done)
				require.Error(t, <-served)
				close(release)
				require.Equal(t, "hello", <-answer)
				require.NoError(t, <-done)
				require.NoError(t, <-done)
				requireClosed(t, ln, 1)
			})
		})
	}
}

// tapConn records the bytes that were read.
type tapConn struct {
	net.Conn
	read []byte
}

func (c *tapConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read = append(c.read, b[:n]...)
	return n, err
}

// lastRecord returns the type of the last TLS record, from its unencrypted
// header.
func (c *tapConn) lastRecord() (kind byte) {
	for b := c.read; len(b) >= 5; b = b[5+int(b[3])<<8+int(b[4]):] {
		kind = b[0]
	}
	return kind
}

// Over TLS, the last answer of Handler and the connections that it has hijacked
// end with the last message of TLS. Without it, a client may treat the answer
// as truncated.
func TestListenerShutdownEndsTLSInOrder(t *testing.T) {
	certs := testkit.NewCerts(t)
	const alert = 21
	config := certs.Client.Clone()
	config.MaxVersion = tls.VersionTLS12 // with this version an alert is visible
	for _, end := range []string{"Shutdown", "Close"} {
		synctest.Test(t, func(t *testing.T) {
			s := testkit.NewScene(t, certs, nil)
			tunnel := s.Deliver(t, testkit.Kinds[1])
			dial := func() (*testkit.Client, *tapConn) {
				c := s.Direct.Dial(t)
				tap := &tapConn{Conn: c.Conn}
				c.Conn = tap
				return testkit.Secure(t, c, config), tap
			}
			last, lastTap := dial()
			webSocket, webSocketTap := dial()
			webSocket.Send(t, testkit.Hijack)
			hijacked := <-s.Hijacked
			synctest.Wait()
			done := s.BeginShutdown(t.Context())
			last.Asked(t, testkit.Ordinary).Ended(t)
			require.EqualValues(t, alert, lastTap.lastRecord())
			if end == "Close" {
				require.NoError(t, s.Close())
			}
			testkit.Talk(t, webSocket, hijacked)
			go hijacked.Close()
			webSocket.Ended(t)
			require.EqualValues(t, alert, webSocketTap.lastRecord())
			tunnel.Close()
			require.NoError(t, <-done)
		})
	}
}

// The listener is mounted on a server. The server's Shutdown ends the requests
// and ignores the tunnels, and the listener's waits for the tunnels.
func TestListenerShutdownWhereMounted(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.Listener = nil })
		tunnel := s.Deliver(t, testkit.Kinds[6])
		vetted := s.Mounted.Dial(t)
		answer := vetted.Ask(testkit.Request("Wait: yes"))
		idle := s.Mounted.Dial(t).Asked(t, testkit.Ordinary)
		synctest.Wait()
		require.NoError(t, s.Server.Shutdown(t.Context()))
		idle.Ended(t)
		tunnel.Talks(t)
		require.Empty(t, answer, "it now belongs to the listener")

		start := time.Now()
		done := s.BeginShutdown(t.Context())
		require.Equal(t, http.StatusForbidden, (<-answer).StatusCode)
		vetted.Close()
		require.Equal(t, 10*time.Second, time.Since(start))
		requireClosed(t, s, 3)
		time.Sleep(time.Hour)
		require.Empty(t, done)
		tunnel.Talks(t)
		tunnel.Close()
		require.NoError(t, <-done)
	})
}

// The listener is shut down first. The server continues. Requests for the
// listener are refused, while it drains and afterwards.
func TestListenerShutdownLeavesTheServerItIsMountedOn(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.Listener, l.Handler = nil, nil })
		tunnel := s.Deliver(t, testkit.Kinds[6])
		done := s.BeginShutdown(t.Context())
		for _, draining := range []bool{true, false} {
			c := s.Mounted.Dial(t)
			c.Send(t, testkit.Request())
			require.Equal(t, http.StatusServiceUnavailable, c.Refused(t, testkit.Request()).StatusCode)

			c = s.Mounted.Dial(t)
			c.Send(t, testkit.Ordinary)
			want := http.StatusServiceUnavailable
			if draining {
				want = http.StatusUpgradeRequired
				tunnel.Talks(t)
			}
			require.Equal(t, want, c.Refused(t, testkit.Ordinary).StatusCode)
			if draining {
				tunnel.Close()
				require.NoError(t, <-done)
			}
		}
	})
}
