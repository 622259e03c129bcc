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

// gneListener is a listener for a test of clients that go while Authorize runs.
// Authorize reports each of its contexts when that has ended, unless its request
// has the field Deaf; then it ends when the test says so.
type gneListener struct {
	*preflight.PreflightListener
	*testkit.Recorder
	causes chan error
	hear   chan struct{}
}

func gneNew(set func(*preflight.PreflightListener)) *gneListener {
	g := &gneListener{new(preflight.PreflightListener), testkit.NewRecorder(), make(chan error, 100), make(chan struct{})}
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
		return nil, fmt.Errorf("asking somebody: %w", r.Context().Err())
	}
	if set != nil {
		set(g.PreflightListener)
	}
	return g
}

var gneWait = testkit.Request("Wait: yes")

// An Authorize that waits is told when its client has reset or closed its
// connection, whatever stands between them; and its place is free. It counts as a
// client that has gone, not as one that was refused.
func TestAuthorizeIsToldThatItsClientHasGone(t *testing.T) {
	server, client := testkit.TLSConfigs(t)
	for _, tt := range []struct {
		name    string
		set     func(*preflight.PreflightListener)
		secure  bool
		below   bool // TLS is underneath
		mounted bool
		request string
	}{
		{name: "TCP"},
		{name: "TCP, TLS inside the tunnel", set: func(l *preflight.PreflightListener) { l.TLSConfig = server }, request: strings.Replace(gneWait, "Upgrade: tcp", "Upgrade: tcps", 1)},
		{name: "behind a PROXY header", set: func(l *preflight.PreflightListener) { l.TrustedProxies = testkit.Prefixes("127.0.0.0/8") }, request: testkit.ThroughProxy + gneWait},
		{name: "TLSConfig", set: func(l *preflight.PreflightListener) { l.TLSConfig = server }, secure: true},
		{name: "TLS underneath", below: true, secure: true},
		{name: "ServeHTTP", mounted: true},
		{name: "ServeHTTP over TLS", mounted: true, secure: true},
	} {
		for how, want := range map[string]error{"reset": syscall.ECONNRESET, "close": io.EOF, "half-close": io.EOF} {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				g := gneNew(tt.set)
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
				request := gneWait
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
						got = io.EOF // net/http reads until it is hijacked, and may have taken the reset
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
					testkit.ProbeEventually(t, g.Recorder, "server.handshake.duration error.type="+end+",preflight.carrier=upgrade,preflight.kind=failed", int64(n))
				}
				require.EqualValues(t, 2, g.Sum("server.handshake.duration http.response.status_code=101,preflight.carrier=upgrade,preflight.kind=upgraded"))
			})
		}
	}
}

// An Authorize that does not listen keeps working, and still the place of a client
// that has gone is free for another: MaxPending such places, and not more, or a
// crowd that comes and goes could have it called without a limit. Shutdown waits for
// all of them.
func TestAuthorizeThatDoesNotListenGivesThePlaceUp(t *testing.T) {
	for _, mounted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const most = 2
			g := gneNew(func(l *preflight.PreflightListener) { l.MaxPending = most })
			direct, mount := testkit.NewNetwork(), testkit.NewNetwork()
			g.Listener = direct
			accepted := testkit.AcceptAll(t, g)
			testkit.RevMount(t, mount, g)
			n := direct
			if mounted {
				n = mount
			}
			deaf := func() *testkit.Client {
				c := n.Dial(t)
				c.Send(t, testkit.Request("Wait: yes", "Deaf: yes"))
				synctest.Wait() // a pipe whose other end has gone has no deadlines
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
			for range most { // the first crowd goes
				deaf().Close()
				time.Sleep(time.Second)
			}
			require.True(t, served())
			for range most { // as do those who have their places
				deaf().Close()
				time.Sleep(time.Second)
			}
			require.EqualValues(t, 2*most, g.Sum(testkit.UnderWay))
			require.False(t, served(), "so many calls of Authorize are enough")
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

// Once the calls have ended, every place is there again, and none twice.
func TestAuthorizeTakesThePlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 2
		g := gneNew(func(l *preflight.PreflightListener) { l.MaxPending, l.RequireUpgrade = most, true })
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

// gneSlow is an Authorize that takes half a second.
func gneSlow(*http.Request) (http.Header, error) {
	time.Sleep(time.Second / 2)
	return nil, nil
}

// What a client sends while Authorize runs, with the request or behind it, is the
// first of the tunnel: no byte is lost, and none waits for another. No deadline is
// left over.
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
								s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.Authorize = gneSlow })
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
										if part != "" { // which a pipe would wait for
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

// A client that has ended its direction is still answered, if Authorize comes to
// an answer.
func TestAuthorizeAnswersAHalfClosedClient(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(r *http.Request) (http.Header, error) {
			<-r.Context().Done() // it has heard of it, and goes on
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

// An Authorize that decides at once costs no Read, and none at all where Reads
// cannot be ended again.
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
				server := &gneCounted{SpyConn: testkit.SpyConn{Conn: theirs, NoDeadlines: tt.noDeadlines}}
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

// gneCounted counts the Reads that were begun.
type gneCounted struct {
	testkit.SpyConn
	begun atomic.Int32
}

func (c *gneCounted) Read(b []byte) (int, error) {
	c.begun.Add(1)
	return c.SpyConn.Read(b)
}

// However a slow Authorize ends, its lookout ends with it.
func TestAuthorizeEndsItsLookout(t *testing.T) {
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

// Nobody else's error is taken for the client's going.
func TestAuthorizeOfAClientThatIsThere(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) {
		return nil, errors.Join(context.Canceled, io.EOF)
	}})
	testkit.AcceptAll(t, l)
	require.Equal(t, 403, testkit.Refused(t, l, testkit.Request()).StatusCode)
}
