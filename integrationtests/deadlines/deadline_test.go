package deadlines_test

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// HandshakeTimeout bounds the whole handshake, not one step and not one Read.
// If a client is too slow at any step, the handshake ends at exactly that time.
func TestListenerDeadlineOfTheWholeHandshake(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, timeout := range []time.Duration{0, 7 * time.Second} {
		want := 10 * time.Second
		if timeout > 0 {
			want = timeout
		}
		for _, tt := range append(slowClients, slowHTTPClients...) {
			t.Run(want.String()+" for "+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.HandshakeTimeout = timeout })
					accepted := testkit.AcceptAll(t, s)
					c := s.Dial(t, tt.mounted)
					requireTimeout(t, s, c, tt, want)
					require.Empty(t, accepted)
				})
			})
		}
	}
}

// requireTimeout runs tt over c. The connection must end after want.
func requireTimeout(t *testing.T, s *testkit.Scene, c *testkit.Client, tt slowClient, want time.Duration) {
	t.Helper()
	start, up := time.Now(), c
	if tt.begin != nil {
		up = tt.begin(t, s, c)
	}
	acted := make(chan struct{})
	go func() {
		defer close(acted)
		tt.act(s, up)
	}()
	if tt.answer != 0 {
		a := up.Answer("GET")
		require.NoError(t, a.Err)
		require.Equal(t, tt.answer, a.StatusCode)
		require.Equal(t, want, time.Since(start))
		want += time.Second // the client may read the answer in this time
	}
	time.Sleep(time.Until(start.Add(want - 1)))
	require.False(t, c.Server.Closed.Load(), "not yet")
	time.Sleep(time.Nanosecond)
	synctest.Wait()
	require.True(t, c.Server.Closed.Load(), "not later")
	<-acted
}

// A transport without deadlines is closed at that time, through all layers. No
// answer is sent to the client.
func TestListenerDeadlineOfATransportWithoutDeadlines(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, tt := range slowClients {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testkit.NewScene(t, certs, nil)
				accepted := testkit.AcceptAll(t, s)
				tt.answer = 0
				requireTimeout(t, s, dialWithoutDeadlines(t, s.Direct), tt, 10*time.Second)
				require.Empty(t, accepted)
			})
		})
	}
}

// dialWithoutDeadlines is Network.Dial for a transport without deadlines.
func dialWithoutDeadlines(t testing.TB, n *testkit.Network) *testkit.Client {
	t.Helper()
	ours, theirs := net.Pipe()
	c := &testkit.Client{Conn: ours, R: bufio.NewReader(ours), Server: &testkit.NetworkConn{Conn: theirs}}
	n.Backlog <- testkit.NoDeadlines{NetworkConn: c.Server}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return c
}

// A refusal has one separate second for a client that does not read it, however
// the refused request came.
func TestListenerDeadlineOfARefusal(t *testing.T) {
	certs := testkit.NewCerts(t)
	bad := testkit.Request("Content-Length: 1") + "x"
	for _, tt := range []struct {
		name          string
		mounted, bare bool
		begin         func(testing.TB, *testkit.Scene, *testkit.Client) *testkit.Client
	}{
		{name: "on the port", begin: unchanged},
		{name: "over TLS", begin: secureClient},
		{name: "behind a request to Handler", begin: afterOrdinaryRequest},
		{name: "by ServeHTTP", mounted: true, begin: unchanged},
		{name: "without deadlines", bare: true, begin: unchanged},
		{name: "over TLS without deadlines", bare: true, begin: secureClient},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testkit.NewScene(t, certs, nil)
				accepted := testkit.AcceptAll(t, s)
				c := s.Dial(t, tt.mounted)
				if tt.bare {
					c = dialWithoutDeadlines(t, s.Direct)
				}
				up := tt.begin(t, s, c)
				time.Sleep(8 * time.Second)
				up.Send(t, bad)
				time.Sleep(time.Second - 1)
				require.False(t, c.Server.Closed.Load())
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.True(t, c.Server.Closed.Load())
				require.Empty(t, accepted)
			})
		})
	}
}

// If the client does not read, a TLS layer below the listener is closed without
// its last message, which would take another five seconds.
func TestListenerDeadlineOverTLSUnderneath(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, request := range []string{testkit.Request(), "GET / HTTP/1.1\r\n\r\n", ""} {
		for _, closes := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: tls.NewListener(n, certs.Server), RequireUpgrade: true})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				start := time.Now()
				testkit.Secure(t, c, certs.Client).Send(t, request)
				synctest.Wait()
				var want time.Duration
				switch {
				case closes:
					require.NoError(t, l.Close())
				case request == "" || request == testkit.Request():
					want = 10 * time.Second
				default:
					want = time.Second
				}
				time.Sleep(want)
				synctest.Wait()
				require.True(t, c.Server.Closed.Load(), "%q", request)
				require.Equal(t, want, time.Since(start))
				require.Empty(t, accepted)
			})
		}
	}
}

// A request in ServeHTTP waits for a place until the timeout, and is then
// refused with a reason.
func TestListenerDeadlineOfTheWaitForAPlace(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
		s.Start(t)
		s.Direct.Dial(t).Upgraded(t, testkit.Request())
		start := time.Now()
		var answers []<-chan testkit.Answer
		for range 3 {
			answers = append(answers, s.Mounted.Dial(t).Ask(testkit.Request()))
		}
		for _, answer := range answers {
			a := <-answer
			require.NoError(t, a.Err)
			require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
			require.Equal(t, "1", a.Header.Get("Retry-After"))
			require.Equal(t, "too many handshakes are under way\n", a.Text)
			require.Equal(t, 10*time.Second, time.Since(start))
		}
	})
}

// The time that a request in ServeHTTP waits for a place is part of its
// handshake.
func TestListenerDeadlineIncludesTheWaitForAPlace(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, tt := range []struct {
		name string
		act  func(testing.TB, *testkit.Scene, *testkit.Client)
	}{
		{"reading its 101", testkit.SendStep(testkit.Request())},
		{"in Authorize", testkit.AskStep(testkit.Request("Wait: yes"))},
		{"in the hello inside the tunnel", testkit.AskStep(testkit.TunnelTLSRequest)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
				s.Start(t)
				finished := s.Direct.Dial(t).Upgraded(t, testkit.Request())
				waiting := s.Mounted.Dial(t)
				start := time.Now()
				tt.act(t, s, waiting)
				time.Sleep(6 * time.Second)
				c, err := s.Accept() // this makes room
				require.NoError(t, err)
				defer testkit.Pair{Client: finished, Conn: c.(*preflight.Conn)}.Close()
				testkit.DiscardInput(finished)
				for !waiting.Server.Closed.Load() {
					time.Sleep(time.Second)
					synctest.Wait()
				}
				require.LessOrEqual(t, time.Since(start), 11*time.Second, "a second more for a refusal")
			})
		})
	}
}

// The timeout of a handshake stops when the handshake is finished, even if the
// connection then waits for Accept. No deadline remains, neither on TLS nor on
// a layer below.
func TestListenerDeadlineEndsWithTheHandshake(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, bare := range []bool{false, true} {
		for _, k := range testkit.Kinds {
			name := k.Name
			if bare {
				// net/http interrupts its own Read with a deadline.
				if k.Mounted || k.Name == "tunnel behind an ordinary request" {
					continue
				}
				name += " without deadlines"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := testkit.NewScene(t, certs, nil)
					s.Start(t)
					c := s.Dial(t, k.Mounted)
					if bare {
						c = dialWithoutDeadlines(t, s.Direct)
					}
					time.Sleep(9 * time.Second)
					client := k.Talk(t, s, c)
					time.Sleep(time.Hour)
					conn, err := s.Accept()
					require.NoError(t, err)
					p := testkit.Pair{Client: client, Conn: conn.(*preflight.Conn)}
					defer p.Close()
					if p.Conn.Request() == nil {
						testkit.Skip(t, p.Conn, "\x00")
					}
					for range 2 {
						p.Talks(t)
						time.Sleep(time.Hour)
					}
					p.Talks(t)
				})
			})
		}
	}
}
