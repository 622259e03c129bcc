package preflight_test

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// HandshakeTimeout is of the whole handshake, not of a part and not of a read:
// wherever a client dawdles, it ends at that very moment.
func TestListenerDeadlineIsOfTheWhole(t *testing.T) {
	certs := shdNewCerts(t)
	for _, timeout := range []time.Duration{0, 7 * time.Second} {
		want := 10 * time.Second
		if timeout > 0 {
			want = timeout
		}
		for _, tt := range append(shdSlows, shdSlowsInHTTP...) {
			t.Run(want.String()+" for "+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := shdNew(t, certs, func(l *preflight.PreflightListener) { l.HandshakeTimeout = timeout })
					accepted := lisServe(t, s)
					c := s.dial(t, tt.mounted)
					shdIsLate(t, s, c, tt, want)
					require.Empty(t, accepted)
				})
			})
		}
	}
}

// shdIsLate plays tt over c, whose connection must end after want.
func shdIsLate(t *testing.T, s *shdScene, c *lisClient, tt shdSlow, want time.Duration) {
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
		a := up.answer("GET")
		require.NoError(t, a.err)
		require.Equal(t, tt.answer, a.StatusCode)
		require.Equal(t, want, time.Since(start))
		want += time.Second // in which it may read the answer
	}
	time.Sleep(time.Until(start.Add(want - 1)))
	require.False(t, c.server.closed.Load(), "not yet")
	time.Sleep(time.Nanosecond)
	synctest.Wait()
	require.True(t, c.server.closed.Load(), "not later")
	<-acted
}

// A transport without deadlines is closed at that moment, through all layers. The
// answer that a client could not have waited for is lost.
func TestListenerDeadlineOfATransportWithoutDeadlines(t *testing.T) {
	certs := shdNewCerts(t)
	for _, tt := range shdSlows {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := shdNew(t, certs, nil)
				accepted := lisServe(t, s)
				tt.answer = 0
				shdIsLate(t, s, shdDialBare(t, s.direct), tt, 10*time.Second)
				require.Empty(t, accepted)
			})
		})
	}
}

// shdDialBare is lisNet.dial for a transport without deadlines.
func shdDialBare(t testing.TB, n *lisNet) *lisClient {
	t.Helper()
	ours, theirs := net.Pipe()
	c := &lisClient{Conn: ours, r: bufio.NewReader(ours), server: &lisConn{Conn: theirs}}
	n.backlog <- lisNoDeadlines{c.server}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return c
}

// A refusal has a second of its own for a client that does not read it, wherever
// the refused request came from.
func TestListenerDeadlineOfARefusal(t *testing.T) {
	certs := shdNewCerts(t)
	bad := lisRequest("Content-Length: 1") + "x"
	for _, tt := range []struct {
		name          string
		mounted, bare bool
		begin         func(testing.TB, *shdScene, *lisClient) *lisClient
	}{
		{name: "on the port", begin: shdSame},
		{name: "over TLS", begin: shdSecure},
		{name: "behind a request to Handler", begin: shdAsked},
		{name: "by ServeHTTP", mounted: true, begin: shdSame},
		{name: "without deadlines", bare: true, begin: shdSame},
		{name: "over TLS without deadlines", bare: true, begin: shdSecure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := shdNew(t, certs, nil)
				accepted := lisServe(t, s)
				c := s.dial(t, tt.mounted)
				if tt.bare {
					c = shdDialBare(t, s.direct)
				}
				up := tt.begin(t, s, c)
				time.Sleep(8 * time.Second)
				up.send(t, bad)
				time.Sleep(time.Second - 1)
				require.False(t, c.server.closed.Load())
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.True(t, c.server.closed.Load())
				require.Empty(t, accepted)
			})
		})
	}
}

// A TLS layer underneath is not told of the end if the client does not read: its
// last message would take another five seconds.
func TestListenerDeadlineOverTLSUnderneath(t *testing.T) {
	certs := shdNewCerts(t)
	for _, request := range []string{lisRequest(), "GET / HTTP/1.1\r\n\r\n", ""} {
		for _, closes := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				n := lisNewNet()
				l := listen(t, &preflight.PreflightListener{Listener: tls.NewListener(n, certs.server), RequireUpgrade: true})
				accepted := lisServe(t, l)
				c := n.dial(t)
				start := time.Now()
				lisSecure(t, c, certs.client).send(t, request)
				synctest.Wait()
				var want time.Duration
				switch {
				case closes:
					require.NoError(t, l.Close())
				case request == "" || request == lisRequest():
					want = 10 * time.Second
				default:
					want = time.Second
				}
				time.Sleep(want)
				synctest.Wait()
				require.True(t, c.server.closed.Load(), "%q", request)
				require.Equal(t, want, time.Since(start))
				require.Empty(t, accepted)
			})
		}
	}
}

// A request in ServeHTTP waits for a place until then, and is told so.
func TestListenerDeadlineOfTheWaitForAPlace(t *testing.T) {
	certs := shdNewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := shdNew(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
		s.start(t)
		s.direct.dial(t).upgraded(t, lisRequest())
		start := time.Now()
		var answers []<-chan lisAnswer
		for range 3 {
			answers = append(answers, s.mounted.dial(t).ask(lisRequest()))
		}
		for _, answer := range answers {
			a := <-answer
			require.NoError(t, a.err)
			require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
			require.Equal(t, "1", a.Header.Get("Retry-After"))
			require.Equal(t, "too many handshakes are under way\n", a.body)
			require.Equal(t, 10*time.Second, time.Since(start))
		}
	})
}

// The wait of a request in ServeHTTP for a place is part of its handshake.
func TestListenerDeadlineIncludesTheWaitForAPlace(t *testing.T) {
	certs := shdNewCerts(t)
	for _, tt := range []struct {
		name string
		act  func(testing.TB, *shdScene, *lisClient)
	}{
		{"reading its 101", shdSend(lisRequest())},
		{"in Authorize", shdAsk(lisRequest("Wait: yes"))},
		{"in the hello inside the tunnel", shdAsk(shdTunnels)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := shdNew(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
				s.start(t)
				finished := s.direct.dial(t).upgraded(t, lisRequest())
				waiting := s.mounted.dial(t)
				start := time.Now()
				tt.act(t, s, waiting)
				time.Sleep(6 * time.Second)
				c, err := s.Accept() // which makes room
				require.NoError(t, err)
				defer shdPair{finished, c.(*preflight.Conn)}.close()
				shdRead(finished)
				for !waiting.server.closed.Load() {
					time.Sleep(time.Second)
					synctest.Wait()
				}
				require.LessOrEqual(t, time.Since(start), 11*time.Second, "a second more for a refusal")
			})
		})
	}
}

// The clock of a handshake stops when it is finished, however long it then waits
// for Accept, and no deadline is left behind: not of TLS, and not in its depths.
func TestListenerDeadlineEndsWithTheHandshake(t *testing.T) {
	certs := shdNewCerts(t)
	for _, bare := range []bool{false, true} {
		for _, k := range shdKinds {
			name := k.name
			if bare {
				// net/http interrupts its own reading by a deadline.
				if k.mounted || k.name == "tunnel behind an ordinary request" {
					continue
				}
				name += " without deadlines"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := shdNew(t, certs, nil)
					s.start(t)
					c := s.dial(t, k.mounted)
					if bare {
						c = shdDialBare(t, s.direct)
					}
					time.Sleep(9 * time.Second)
					client := k.talk(t, s, c)
					time.Sleep(time.Hour)
					conn, err := s.Accept()
					require.NoError(t, err)
					p := shdPair{client, conn.(*preflight.Conn)}
					defer p.close()
					if p.conn.Request() == nil {
						lisSkip(t, p.conn, "\x00")
					}
					for range 2 {
						p.talks(t)
						time.Sleep(time.Hour)
					}
					p.talks(t)
				})
			})
		}
	}
}
