package authorize_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// watchedListener is a listener for tests of clients that leave while Authorize
// runs. Authorize reports each of its contexts after that has ended. If the
// request has the field Deaf, Authorize ignores its context and returns when
// the test tells it to.
type watchedListener struct {
	*preflight.PreflightListener
	*testkit.Recorder
	causes chan error
	hear   chan struct{}
}

func newWatchedListener(set func(*preflight.PreflightListener)) *watchedListener {
	g := &watchedListener{new(preflight.PreflightListener), testkit.NewRecorder(), make(chan error, 100), make(chan struct{})}
	g.Telemetry = g.Watch()
	g.MaxPending, g.HandshakeTimeout = 1, time.Hour
	g.Authorize = func(r *http.Request) (http.Header, error) {
		switch {
		case r.Header.Get("Wait") == "":
			return nil, nil
		case r.Header.Get("Deaf") != "":
			<-g.hear
			return nil, testkit.ErrOther
		}
		<-r.Context().Done()
		g.causes <- context.Cause(r.Context())
		return nil, fmt.Errorf("asking a service: %w", r.Context().Err())
	}
	if set != nil {
		set(g.PreflightListener)
	}
	return g
}

var waitingRequest = testkit.Request("Wait: yes")

// When the client resets or closes its connection, the context of a waiting
// Authorize ends, through every layer, and the place of the client becomes
// free. Telemetry counts a client that left, not a refused one.
func TestAuthorizeContextEndsWhenTheClientLeaves(t *testing.T) {
	server, client := testkit.TLSConfigs(t)
	for _, tt := range []struct {
		name    string
		set     func(*preflight.PreflightListener)
		secure  bool
		below   bool // TLS is below the listener
		mounted bool
		request string
	}{
		{name: "TCP"},
		{name: "TCP, TLS inside the tunnel", set: func(l *preflight.PreflightListener) { l.TLSConfig = server }, request: strings.Replace(waitingRequest, "Upgrade: tcp", "Upgrade: tcps", 1)},
		{name: "behind a PROXY header", set: func(l *preflight.PreflightListener) { l.TrustedProxies = testkit.Prefixes("127.0.0.0/8") }, request: testkit.ThroughProxy + waitingRequest},
		{name: "TLSConfig", set: func(l *preflight.PreflightListener) { l.TLSConfig = server }, secure: true},
		{name: "TLS underneath", below: true, secure: true},
		{name: "ServeHTTP", mounted: true},
		{name: "ServeHTTP over TLS", mounted: true, secure: true},
	} {
		for how, want := range map[string]error{"reset": syscall.ECONNRESET, "close": io.EOF, "half-close": io.EOF} {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				g := newWatchedListener(tt.set)
				g.Listener = testkit.ListenTCP(t)
				if tt.below {
					g.Listener = tls.NewListener(g.Listener, server)
				}
				accepted := testkit.AcceptAll(t, g)
				addr := g.Addr()
				if tt.mounted {
					s := httptest.NewUnstartedServer(g)
					if tt.secure {
						s.TLS = server
						s.StartTLS()
					} else {
						s.Start()
					}
					t.Cleanup(s.Close)
					addr = s.Listener.Addr()
				}
				dial := func() (*net.TCPConn, *testkit.Client) {
					tcp := testkit.DialTCP(t, addr)
					c := testkit.Raw(tcp, nil)
					if tt.secure {
						c = testkit.Secure(t, c, client)
					}
					return tcp, c
				}
				request := waitingRequest
				if tt.request != "" {
					request = tt.request
				}
				ends := map[error]string{syscall.ECONNRESET: "connection_reset", io.EOF: "eof"}
				seen := make(map[string]int)
				for range 2 {
					tcp, c := dial()
					c.Send(t, request)
					if how == "half-close" {
						require.NoError(t, c.Conn.(interface{ CloseWrite() error }).CloseWrite())
						a := c.Answer("GET")
						require.Equal(t, 400, a.StatusCode)
						require.Contains(t, a.Text, "must keep the connection open until the 101")
						c.Ended(t)
					} else {
						testkit.ProbeEnds[how](tcp)
					}
					cause := <-g.causes
					got := want
					if tt.mounted && errors.Is(cause, io.EOF) {
						got = io.EOF // net/http reads until the connection is hijacked, and may have consumed the reset
					}
					require.ErrorIs(t, cause, got)
					require.ErrorContains(t, cause, "the client has gone")
					seen[ends[got]]++
					_, next := dial()
					next.Send(t, testkit.Request())
					require.Equal(t, 101, next.Answer("GET").StatusCode)
					testkit.Talk(t, next, testkit.NextConn(t, accepted))
				}
				for end, n := range seen {
					testkit.ProbeEventually(t, g.Recorder, "server.handshake.duration error.type="+end+",preflight.carrier=upgrade,preflight.kind=failed,preflight.reason=client-gone", int64(n))
				}
				require.EqualValues(t, 2, g.Sum("server.handshake.duration http.response.status_code=101,preflight.carrier=upgrade,preflight.kind=upgraded"))
			})
		}
	}
}

// An Authorize that ignores its context continues to run, but the place of the
// client that left is given to another client. At most MaxPending such calls
// may run. Otherwise clients that connect and leave could start any number of
// calls. Shutdown waits for all of them.
func TestAuthorizeThatIgnoresItsContextReleasesItsPlace(t *testing.T) {
	for _, mounted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const most = 2
			g := newWatchedListener(func(l *preflight.PreflightListener) { l.MaxPending = most })
			direct, mount := testkit.NewNetwork(), testkit.NewNetwork()
			g.Listener = direct
			accepted := testkit.AcceptAll(t, g)
			testkit.Mount(t, mount, g)
			n := direct
			if mounted {
				n = mount
			}
			deaf := func() *testkit.Client {
				c := n.Dial(t)
				c.Send(t, testkit.Request("Wait: yes", "Deaf: yes"))
				synctest.Wait() // a pipe whose other end is closed has no deadlines
				return c
			}
			served := func() bool {
				c := direct.Dial(t)
				answer := c.Ask(testkit.Request())
				time.Sleep(time.Second)
				synctest.Wait()
				if len(answer) == 0 {
					c.Close()
					return false
				}
				require.Equal(t, 101, (<-answer).StatusCode)
				testkit.Talk(t, c, <-accepted)
				synctest.Wait()
				return true
			}
			for range most { // the first group leaves
				deaf().Close()
				time.Sleep(time.Second)
			}
			require.True(t, served())
			for range most { // the second group, which now has the places, leaves too
				deaf().Close()
				time.Sleep(time.Second)
			}
			require.EqualValues(t, 2*most, g.Sum(testkit.UnderWay))
			require.False(t, served(), "no more calls of Authorize than this may run")
			done := make(chan error, 1)
			go func() { done <- g.Shutdown(t.Context()) }()
			time.Sleep(time.Minute)
			require.Empty(t, done)
			close(g.hear)
			synctest.Wait()
			for len(accepted) > 0 {
				(<-accepted).Close()
			}
			g.Close()
		})
	}
}

// When the calls have ended, every place is free again, and no place is freed
// twice.
func TestAuthorizeFreesEveryPlaceOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 2
		g := newWatchedListener(func(l *preflight.PreflightListener) { l.MaxPending, l.RequireUpgrade = most, true })
		n := testkit.NewNetwork()
		g.Listener = n
		testkit.AcceptAll(t, g)
		for range 3 {
			for range most {
				c := n.Dial(t)
				c.Send(t, testkit.Request("Wait: yes", "Deaf: yes"))
				c.Close()
			}
			time.Sleep(time.Second)
			for range most {
				g.hear <- struct{}{}
			}
			synctest.Wait()
			require.Zero(t, g.Sum(testkit.UnderWay))
		}
		for range most + 1 {
			n.Dial(t).Send(t, "GET /")
		}
		synctest.Wait()
		require.EqualValues(t, most, g.Sum(testkit.UnderWay))
		g.Close()
	})
}

// slowAuthorize is an Authorize that takes half a second.
func slowAuthorize(*http.Request) (http.Header, error) {
	time.Sleep(time.Second / 2)
	return nil, nil
}

// Bytes that a client sends while Authorize runs, with the request or after it,
// are the first bytes of the tunnel. No byte is lost, no byte waits for another
// one, and no deadline remains.
func TestAuthorizeLosesNoByte(t *testing.T) {
	certs := testkit.NewCerts(t)
	text := strings.Repeat("0123456789abcdef", 1<<9)
	for _, secure := range []bool{false, true} {
		for _, mounted := range []bool{false, true} {
			for _, glued := range []int{0, 1, 300, 5000} {
				for _, late := range []int{0, 1, 100, 511, 512, 513, 2000, len(text) - 5000} {
					for _, long := range []bool{false, true} {
						name := fmt.Sprintf("secure=%v/mounted=%v/%d/%d/long=%v", secure, mounted, glued, late, long)
						t.Run(name, func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.Authorize = slowAuthorize })
								accepted := testkit.AcceptAll(t, s)
								c := s.Dial(t, mounted)
								if secure && !mounted {
									c = testkit.Secure(t, c, certs.Client)
								}
								head := testkit.Request()
								if long {
									head = testkit.Request("X-Long: " + strings.Repeat("x", 5000))
								}
								wrote := make(chan struct{})
								go func() {
									defer close(wrote)
									for _, part := range []string{head + text[:glued], text[glued : glued+late], text[glued+late:]} {
										if part != "" { // a pipe would wait for this read
											io.WriteString(c, part)
										}
										time.Sleep(time.Second / 4)
									}
								}()
								require.Equal(t, 101, c.Answer("GET").StatusCode)
								conn := <-accepted
								time.Sleep(time.Hour)
								got := make([]byte, len(text))
								_, err := io.ReadFull(conn, got)
								require.NoError(t, err)
								require.Equal(t, text, string(got))
								<-wrote
								testkit.Talk(t, c, conn)
								testkit.Pair{Client: c, Conn: conn}.Close()
							})
						})
					}
				}
			}
		}
	}
}

// A client that has half-closed its connection still gets an answer when
// Authorize returns one.
func TestAuthorizeAnswersAHalfClosedClient(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(r *http.Request) (http.Header, error) {
			<-r.Context().Done() // Authorize has seen the half-close and continues
			if refuse {
				return nil, &preflight.StatusError{StatusCode: 401}
			}
			return nil, nil
		}})
		accepted := testkit.AcceptAll(t, l)
		c := testkit.DialClient(t, l)
		c.Send(t, testkit.Request())
		require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
		a := c.Answer("GET")
		if refuse {
			require.Equal(t, 401, a.StatusCode)
			continue
		}
		require.Equal(t, 101, a.StatusCode)
		conn := testkit.NextConn(t, accepted)
		_, err := conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		testkit.Carry(t, "an answer", conn, c.R)
	}
}

// An Authorize that returns after a short time causes no Read. On a transport
// whose Reads cannot be interrupted, a slow Authorize causes none either.
func TestAuthorizeCostsNoRead(t *testing.T) {
	for _, tt := range []struct {
		name        string
		takes       time.Duration
		noDeadlines bool
		reads       int32
	}{
		{name: "at once", reads: 1},
		{name: "a little later", takes: 50 * time.Millisecond, reads: 1},
		{name: "later", takes: time.Second, reads: 2},
		{name: "later, without deadlines", takes: time.Second, noDeadlines: true, reads: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, Authorize: func(*http.Request) (http.Header, error) {
					time.Sleep(tt.takes)
					return nil, nil
				}})
				accepted := testkit.AcceptAll(t, l)
				ours, theirs := net.Pipe()
				t.Cleanup(func() { ours.Close(); theirs.Close() })
				server := &countingConn{SpyConn: testkit.SpyConn{Conn: theirs, NoDeadlines: tt.noDeadlines}}
				n.Backlog <- server
				c := testkit.Raw(ours, nil).Upgraded(t, testkit.Request())
				conn := <-accepted
				require.Equal(t, tt.reads, server.begun.Load())
				require.EqualValues(t, 1, server.Writes.Load())
				testkit.Talk(t, c, conn)
				time.Sleep(time.Hour)
				testkit.Talk(t, c, conn)
			})
		})
	}
}

// countingConn counts the Reads that have started.
type countingConn struct {
	testkit.SpyConn
	begun atomic.Int32
}

func (c *countingConn) Read(b []byte) (int, error) {
	c.begun.Add(1)
	return c.SpyConn.Read(b)
}

// The watch on the client ends when Authorize ends, however Authorize ends.
func TestAuthorizeEndsTheWatchOnTheClient(t *testing.T) {
	for name, end := range map[string]func(){
		"panic":       func() { panic("a fault of Authorize") },
		"Goexit":      runtime.Goexit,
		"nothing":     func() {},
		"a long time": func() { time.Sleep(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				testkit.CaptureLog(t)
				n := testkit.NewNetwork()
				var first sync.Once
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1, Authorize: func(*http.Request) (http.Header, error) {
					time.Sleep(time.Second)
					first.Do(end)
					return nil, nil
				}})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				a := <-c.Ask(testkit.Request())
				want := map[string]int{"panic": 500, "Goexit": 0, "nothing": 101}[name]
				require.Equal(t, want, a.StatusCode)
				if want == 101 {
					testkit.Talk(t, c, <-accepted)
				}
				next := n.Dial(t).Upgraded(t, testkit.Request())
				testkit.Talk(t, next, <-accepted)
			})
		})
	}
}

// An error that Authorize returns by itself is a refusal, even if it looks like
// the end of the client.
func TestAuthorizeErrorWhileTheClientIsConnected(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) {
		return nil, errors.Join(context.Canceled, io.EOF)
	}})
	testkit.AcceptAll(t, l)
	require.Equal(t, 403, testkit.Refused(t, l, testkit.Request()).StatusCode)
}
