package mount_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// serveMounted is an existing server that serves ReportHandler, and l at
// /client/.
func serveMounted(t testing.TB, n net.Listener, l http.Handler) *http.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/client/", l)
	mux.Handle("/", testkit.ReportHandler)
	return testkit.ServeHTTP(t, n, mux)
}

// upgradeRequest is an upgrade request for the path where l is mounted.
var upgradeRequest = strings.Replace(testkit.Request(), "/t", "/client/t", 1)

// A listener is mounted on an existing server. The other handlers work as
// before, and the tunnels come from Accept.
func TestMount(t *testing.T) {
	l := new(preflight.PreflightListener)
	defer l.Close()
	require.Equal(t, "preflight", l.Addr().String())
	accepted := testkit.AcceptAll(t, l)
	n := testkit.ListenTCP(t)
	serveMounted(t, n, http.MaxBytesHandler(l, 1)) // it puts its own Body into the request
	for range 2 {
		c := testkit.DialClient(t, n)
		c.Send(t, testkit.Get)
		c.Got(t)
		c.Send(t, upgradeRequest)
		a := c.Answer("GET")
		require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
		require.Equal(t, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}, a.Header)
		conn := testkit.NextTunnel(t, accepted)
		require.Equal(t, "/client/t", conn.Request().URL.Path)
		require.Equal(t, "h.example", conn.Request().Host)
		require.Equal(t, c.LocalAddr().String(), conn.Request().RemoteAddr)
		require.Equal(t, c.LocalAddr().String(), conn.RemoteAddr().String())
		require.Equal(t, http.NoBody, conn.Request().Body)
		require.Equal(t, "tcp", conn.Response().Header.Get("Upgrade"))
		require.Same(t, conn.Request(), conn.Response().Request)
		testkit.Talk(t, c, conn)
	}
	d := &preflight.PreflightDialer{Path: "/client/x"}
	c, err := d.Dial("tcp", n.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	testkit.Talk(t, &testkit.Client{Conn: c, R: bufio.NewReader(c)}, testkit.NextTunnel(t, accepted))
}

// Bytes that the server had buffered after the head belong to the tunnel, for
// every split into segments.
func TestMountKeepsBytesAfterTheHead(t *testing.T) {
	const data = "GET /no HTTP/1.1\r\n\r\n"
	for _, before := range []string{"", testkit.Get} {
		synctest.Test(t, func(t *testing.T) {
			n, l := testkit.NewNetwork(), new(preflight.PreflightListener)
			accepted := testkit.AcceptAll(t, l)
			serveMounted(t, n, l)
			stream := before + upgradeRequest + data
			for split := range len(stream) + 4 {
				c := n.Dial(t)
				go func() {
					if split < len(stream) {
						testkit.WriteInPieces(c, stream[:split], len(stream))
						testkit.WriteInPieces(c, stream[split:], len(stream))
					} else {
						testkit.WriteInPieces(c, stream, split-len(stream)+1)
					}
				}()
				if before != "" {
					c.Got(t)
				}
				require.Equal(t, 101, c.Answer("GET").StatusCode)
				conn := <-accepted
				require.Same(t, c.Server, conn.NetConn())
				testkit.Skip(t, conn, data)
				testkit.Talk(t, c, conn)
				conn.Close()
			}
		})
	}
}

// The connection is the server's own, with no wrapper around the TCP or TLS
// connection. io.Copy begins with the buffered bytes.
func TestMountConnection(t *testing.T) {
	serverTLS, clientTLS := testkit.TLSConfigs(t)
	for _, secure := range []bool{false, true} {
		for _, much := range []int{0, 1, 3000, 100_000} {
			t.Run(fmt.Sprintf("TLS %t, %d bytes", secure, much), func(t *testing.T) {
				l := new(preflight.PreflightListener)
				accepted := testkit.AcceptAll(t, l)
				n := testkit.ListenTCP(t)
				var c *testkit.Client
				if secure {
					serveMounted(t, tls.NewListener(n, serverTLS), l)
					c = testkit.Secure(t, testkit.DialClient(t, n), clientTLS)
				} else {
					serveMounted(t, n, l)
					c = testkit.DialClient(t, n)
				}
				data := strings.Repeat("0123456789", much/10+1)[:much]
				sent := make(chan error, 1)
				go func() {
					_, err := io.WriteString(c, upgradeRequest+data)
					c.Conn.(interface{ CloseWrite() error }).CloseWrite()
					sent <- err
				}()
				require.Equal(t, 101, c.Answer("GET").StatusCode)
				conn := testkit.NextTunnel(t, accepted)
				if secure {
					require.IsType(t, &tls.Conn{}, conn.NetConn())
					require.True(t, conn.Request().TLS.HandshakeComplete)
				} else {
					require.IsType(t, &net.TCPConn{}, conn.NetConn())
					require.Nil(t, conn.Request().TLS)
				}
				var got bytes.Buffer
				_, err := io.Copy(&got, conn)
				require.NoError(t, err)
				require.True(t, data == got.String(), "%d bytes sent, %d received", len(data), got.Len())
				require.NoError(t, <-sent)
				echoed := make(chan error, 1)
				go func() {
					_, err := io.Copy(conn, strings.NewReader(data))
					conn.CloseWrite()
					echoed <- err
				}()
				back, err := io.ReadAll(c.R)
				require.NoError(t, err)
				require.True(t, data == string(back))
				require.NoError(t, <-echoed)
			})
		}
	}
}

// A client that half-closes right after its head is served as it is by Accept.
// net/http may have noticed the half-close and takes it for the end of the
// client.
func TestMountHalfClosed(t *testing.T) {
	authorized := make(chan error, 9)
	l := &preflight.PreflightListener{Authorize: func(r *http.Request) (http.Header, error) {
		authorized <- r.Context().Err()
		return nil, nil
	}}
	accepted := testkit.AcceptAll(t, l)
	n := testkit.ListenTCP(t)
	serveMounted(t, n, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		l.ServeHTTP(w, r)
	}))
	c := testkit.DialClient(t, n)
	c.Send(t, upgradeRequest)
	require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
	require.Equal(t, 101, c.Answer("GET").StatusCode)
	conn := testkit.NextTunnel(t, accepted)
	require.NoError(t, <-authorized)
	require.NoError(t, conn.Request().Context().Err())
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Empty(t, got)
	testkit.Carry(t, "an answer", conn, c.R)
}

// TLS inside the tunnel also works if the request came through ServeHTTP.
func TestMountTLSInTheTunnel(t *testing.T) {
	serverTLS, clientTLS := testkit.TLSConfigs(t)
	l := &preflight.PreflightListener{TLSConfig: serverTLS}
	accepted := testkit.AcceptAll(t, l)
	n := testkit.ListenTCP(t)
	serveMounted(t, n, l)
	raw, a := testkit.Upgraded(t, n, strings.Replace(upgradeRequest, "Upgrade: tcp", "Upgrade: tcp\r\nPreflight-Tunnel: tls", 1))
	require.Equal(t, "tls", a.Header.Get("Preflight-Tunnel"))
	require.Empty(t, accepted)
	c := testkit.Secure(t, raw, clientTLS)
	conn := testkit.NextTunnel(t, accepted)
	require.IsType(t, &tls.Conn{}, conn.NetConn())
	require.Equal(t, "tls", conn.Response().Header.Get("Preflight-Tunnel"))
	require.Nil(t, conn.Request().TLS, "the request came without")
	testkit.Talk(t, c, conn)
}

type contextKey struct{}

// A value that a middleware puts into the Context reaches Authorize and the
// application. The Context that Authorize sees ends with the handshake. The
// Context of the application never ends, neither with ServeHTTP nor with the
// server.
func TestMountContext(t *testing.T) {
	for _, authorize := range []bool{false, true} {
		t.Run(fmt.Sprintf("Authorize %t", authorize), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var during context.Context
				n, l := testkit.NewNetwork(), &preflight.PreflightListener{HandshakeTimeout: 5 * time.Second}
				if authorize {
					l.Authorize = func(r *http.Request) (http.Header, error) {
						during = r.Context()
						deadline, ok := during.Deadline()
						if !ok || !deadline.Equal(start.Add(5*time.Second)) || during.Err() != nil {
							return nil, testkit.ErrOther
						}
						return http.Header{"X-User": {during.Value(contextKey{}).(string)}}, nil
					}
				}
				accepted := testkit.AcceptAll(t, l)
				returned := make(chan struct{})
				server := serveMounted(t, n, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer close(returned)
					ctx, cancel := context.WithCancel(context.WithValue(r.Context(), contextKey{}, "ann"))
					defer cancel()
					l.ServeHTTP(w, r.WithContext(ctx))
				}))
				c := n.Dial(t)
				a := <-c.Ask(upgradeRequest)
				require.Equal(t, 101, a.StatusCode)
				if authorize {
					require.Equal(t, "ann", a.Header.Get("X-User"))
				}
				conn := <-accepted
				<-returned
				require.NoError(t, server.Shutdown(context.Background()))
				time.Sleep(time.Hour)
				ctx := conn.Request().Context()
				require.NoError(t, ctx.Err())
				require.Equal(t, "ann", ctx.Value(contextKey{}))
				require.Equal(t, server, ctx.Value(http.ServerContextKey))
				_, bounded := ctx.Deadline()
				require.False(t, bounded)
				if authorize {
					require.Error(t, during.Err())
				}
				testkit.Talk(t, c, conn)
			})
		})
	}
}

// HTTP/2 has no upgrade. The answer tells the reader what to do. If there is a
// Handler, it gets the request. HTTP/1.1 works on the same server.
func TestMountHTTP2(t *testing.T) {
	for _, handler := range []bool{false, true} {
		t.Run(fmt.Sprintf("Handler %t", handler), func(t *testing.T) {
			l := new(preflight.PreflightListener)
			if handler {
				l.Handler = testkit.ReportHandler
			}
			accepted := testkit.AcceptAll(t, l)
			s := httptest.NewUnstartedServer(l)
			s.EnableHTTP2 = true
			s.StartTLS()
			defer s.Close()
			for _, method := range []string{"GET", "POST", "HEAD"} {
				request, err := http.NewRequest(method, s.URL+"/health", strings.NewReader(""))
				require.NoError(t, err)
				a, err := s.Client().Do(request)
				require.NoError(t, err)
				body, err := io.ReadAll(a.Body)
				require.NoError(t, err)
				require.NoError(t, a.Body.Close())
				require.Equal(t, "HTTP/2.0", a.Proto)
				if handler {
					require.Equal(t, http.StatusOK, a.StatusCode)
					continue
				}
				require.Equal(t, http.StatusHTTPVersionNotSupported, a.StatusCode)
				require.Equal(t, "no-store", a.Header.Get("Cache-Control"))
				if method != "HEAD" {
					require.Contains(t, string(body), "speak HTTP/1.1 to this server")
				}
			}
			roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
			d := &preflight.PreflightDialer{TLSConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"}}
			c, err := d.Dial("tcp", s.Listener.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			testkit.Talk(t, &testkit.Client{Conn: c, R: bufio.NewReader(c)}, testkit.NextTunnel(t, accepted))
		})
	}
}
