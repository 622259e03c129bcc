package shutdown_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// An upgrade request that arrives after Shutdown is refused with the same
// answer on every way to the listener.
func TestListenerShutdownRefusesPreflights(t *testing.T) {
	certs := testkit.NewCerts(t)
	head := testkit.Request()
	same := func(t testing.TB, s *testkit.Scene, c *testkit.Client) *testkit.Client { return c }
	secure := func(t testing.TB, s *testkit.Scene, c *testkit.Client) *testkit.Client {
		return testkit.Secure(t, c, s.ClientTLS)
	}
	asked := func(t testing.TB, s *testkit.Scene, c *testkit.Client) *testkit.Client {
		return c.Asked(t, testkit.Ordinary)
	}
	for _, tt := range []struct {
		name    string
		mounted bool
		before  func(testing.TB, *testkit.Scene, *testkit.Client) *testkit.Client
		sent    string // before Shutdown
		request string
	}{
		{name: "silent", before: same, request: head},
		{name: "in its first line", before: same, sent: head[:7], request: head},
		{name: "in its head", before: same, sent: head[:40], request: head},
		{name: "before the last byte", before: same, sent: head[:len(head)-1], request: head},
		{name: "in its PROXY header", before: same, sent: testkit.ThroughProxy[:9], request: testkit.ThroughProxy + head},
		{name: "behind its PROXY header", before: same, sent: testkit.ThroughProxy, request: testkit.ThroughProxy + head},
		{name: "with data behind it", before: same, sent: head[:40], request: head + "early"},
		{name: "for TLS inside", before: same, sent: head[:7], request: testkit.TunnelTLSRequest},
		{name: "silent over TLS", before: secure, request: head},
		{name: "in its head over TLS", before: secure, sent: head[:40], request: head},
		{name: "behind a request to Handler", before: asked, request: head},
		{name: "in its head behind a request to Handler", before: asked, sent: head[:40], request: head},
		{name: "with data, behind a request to Handler", before: asked, request: head + "early"},
		{name: "behind a request to Handler over TLS", before: func(t testing.TB, s *testkit.Scene, c *testkit.Client) *testkit.Client {
			return asked(t, s, secure(t, s, c))
		}, request: head},
		{name: "by ServeHTTP", mounted: true, before: same, request: head},
		{name: "by ServeHTTP in its head", mounted: true, before: same, sent: head[:40], request: head},
		{name: "by ServeHTTP behind an ordinary request", mounted: true, before: asked, request: head + "early"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var authorized atomic.Int64
				s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) {
					l.Authorize = func(*http.Request) (http.Header, error) { authorized.Add(1); return nil, nil }
				})
				// This keeps the drain going. Otherwise the connections of
				// Handler would be closed.
				held := s.Deliver(t, testkit.Kinds[1])
				start := time.Now()
				c := s.Dial(t, tt.mounted)
				up := tt.before(t, s, c)
				up.Send(t, tt.sent)
				synctest.Wait()

				done := s.BeginShutdown(t.Context())
				up.Send(t, tt.request[len(tt.sent):])
				a := up.Refused(t, head)
				require.Equal(t, testkit.Golden(t, "shutdown/503"), testkit.GoldenAnswer(t, a.Raw))
				require.Equal(t, "1", a.Header.Get("Retry-After"))
				requireClosed(t, s, 2)
				require.EqualValues(t, 1, authorized.Load(), "Authorize is not called")

				time.Sleep(time.Until(start.Add(time.Second))) // the time for reading the answer
				synctest.Wait()
				require.True(t, c.Server.Closed.Load())
				require.Empty(t, done)
				held.Talks(t)
				held.Close()
				require.NoError(t, <-done)
			})
		})
	}
}

// The dialer can tell this refusal from others: another attempt makes sense.
func TestListenerShutdownIsTemporaryForTheDialer(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, nil)
		s.Start(t)
		c := s.Direct.Dial(t)
		synctest.Wait()
		s.BeginShutdown(t.Context())
		req, err := http.NewRequest("GET", "http://h/", nil)
		require.NoError(t, err)
		_, err = preflight.Client(t.Context(), c.Conn, req)
		e := testkit.StatusError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, e.StatusCode)
		require.Equal(t, "1", e.Header.Get("Retry-After"))
		c.Close()
	})
}

// Ordinary requests are served as long as the drain lasts. Each answer ends its
// connection. Requests that Handler has begun are completed.
func TestListenerShutdownServesHandler(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, mounted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := testkit.NewScene(t, certs, nil)
			tunnel := s.Deliver(t, testkit.Kinds[1])
			between, silent, inHead, busy := s.Dial(t, mounted), s.Dial(t, mounted), s.Dial(t, mounted), s.Dial(t, mounted)
			between.Asked(t, testkit.Ordinary)
			inHead.Send(t, testkit.Ordinary[:20])
			answer := busy.Ask(testkit.Held)
			synctest.Wait()
			done := s.BeginShutdown(t.Context())

			for c, request := range map[*testkit.Client]string{
				between: testkit.Ordinary, silent: testkit.Ordinary, inHead: testkit.Ordinary[20:],
			} {
				a := <-c.Ask(request)
				require.NoError(t, a.Err)
				require.Equal(t, http.StatusOK, a.StatusCode)
				require.Equal(t, "hello", a.Text)
				require.True(t, a.Close, "Connection: close")
				c.Ended(t)
			}
			require.Empty(t, done)
			tunnel.Close()
			synctest.Wait()
			if mounted {
				require.Len(t, done, 1, "Shutdown does not affect the requests of the other server")
			} else {
				require.Empty(t, done, "Handler has a request in progress")
			}
			require.Empty(t, answer)
			close(s.Release)
			a := <-answer
			require.NoError(t, a.Err)
			require.Equal(t, "held, and let go", a.Text)
			require.NoError(t, <-done)
			if !mounted {
				busy.Ended(t)
			}
		})
	}
}

// Shutdown does not wait for a connection between two requests, nor for one
// that Handler has hijacked. The latter stays open.
func TestListenerShutdownClosesIdleConnectionsOfHandler(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, nil)
		tunnel := s.Deliver(t, testkit.Kinds[1])
		idle := s.Direct.Dial(t).Asked(t, testkit.Ordinary)
		webSocket, hijacked := s.Hijack(t)
		done := s.BeginShutdown(t.Context())
		require.False(t, idle.Server.Closed.Load(), "a request is served while the drain lasts")
		tunnel.Close()
		require.NoError(t, <-done)
		idle.Ended(t)
		time.Sleep(time.Hour)
		testkit.Talk(t, webSocket, hijacked)
	})
}

// A plain connection that is sorted after Shutdown is closed without an answer.
func TestListenerShutdownClosesPlainConnections(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, tt := range []struct {
		name, before, after string
		plainAfter, ends    time.Duration
	}{
		{name: "silent", ends: 10 * time.Second},
		{name: "silent, where the server speaks first", plainAfter: time.Second, ends: time.Second},
		{name: "its first byte", after: "\x00"},
		{name: "its first line", before: "GET ", after: "key\r\n"},
		{name: "stalled in its first line", before: "EHLO", ends: 10 * time.Second},
		{name: "behind a PROXY header", before: testkit.ThroughProxy, after: "\x00"},
	} {
		for _, secure := range []bool{false, true} {
			if secure && strings.HasPrefix(tt.before, testkit.ThroughProxy) {
				continue // it comes before TLS
			}
			t.Run(tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.PlainAfter = tt.plainAfter })
					s.Start(t)
					start := time.Now()
					c := s.Direct.Dial(t)
					up := c
					if secure {
						up = testkit.Secure(t, c, certs.Client)
					}
					up.Send(t, tt.before)
					synctest.Wait()
					done := s.BeginShutdown(t.Context())
					require.Empty(t, done, "a handshake is in progress")
					up.Send(t, tt.after)
					rest, _ := io.ReadAll(c.R)
					require.Empty(t, rest)
					require.Equal(t, tt.ends, time.Since(start))
					require.NoError(t, <-done)
					require.True(t, c.Server.Closed.Load())
					requireClosed(t, s, 1)
				})
			})
		}
	}
}

// A connection that was answered 101 before Shutdown is still returned by
// Accept, and so is one that had been sorted, or for which Authorize was
// running. Then Accept returns net.ErrClosed.
func TestListenerShutdownDeliversAnsweredTunnels(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan struct{})
		s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) {
			l.Authorize = func(r *http.Request) (http.Header, error) {
				if r.Header.Get("Wait") != "" {
					<-proceed
				}
				return nil, nil
			}
		})
		s.Start(t)
		var clients []*testkit.Client
		for _, k := range testkit.Kinds {
			clients = append(clients, k.Talk(t, s, s.Dial(t, k.Mounted)))
		}
		inside, vetted, unread := s.Direct.Dial(t), s.Direct.Dial(t), s.Direct.Dial(t)
		inside.Upgraded(t, testkit.TunnelTLSRequest)
		answer := vetted.Ask(testkit.Request("Wait: yes"))
		unread.Send(t, testkit.Request())
		synctest.Wait()

		done := s.BeginShutdown(t.Context())
		require.Equal(t, http.StatusSwitchingProtocols, unread.Answer("GET").StatusCode)
		clients = append(clients, testkit.Secure(t, inside, certs.Client), unread)
		close(proceed)
		require.Equal(t, http.StatusSwitchingProtocols, (<-answer).StatusCode, "it had arrived before Shutdown")
		clients = append(clients, vetted)

		time.Sleep(time.Hour) // the application does not accept it
		pairs := map[*testkit.NetworkConn]*preflight.Conn{}
		for range clients {
			c, err := s.Accept()
			require.NoError(t, err)
			conn := c.(*preflight.Conn)
			if conn.Request() == nil {
				testkit.Skip(t, conn, "\x00")
			}
			pairs[testkit.BaseConn(conn)] = conn
		}
		requireClosed(t, s, 5)
		require.Empty(t, done, "they are open")
		for _, c := range clients {
			p := testkit.Pair{Client: c, Conn: pairs[c.Server]}
			require.NotNil(t, p.Conn)
			p.Talks(t)
			p.Close()
		}
		require.NoError(t, <-done)
		requireClosed(t, s, 5)
	})
}

// Calls of Accept that already wait return net.ErrClosed too, but not before
// the last connection.
func TestListenerShutdownEndsAccept(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, nil)
		results := make(chan error, 3)
		for range cap(results) {
			go func() {
				c, err := s.Accept()
				if c != nil {
					t.Cleanup(func() { c.Close() })
				}
				results <- err
			}()
		}
		synctest.Wait()
		c := s.Direct.Dial(t)
		answer := c.Ask(testkit.Request("Wait: yes")) // it ends with a refusal
		synctest.Wait()
		done := s.BeginShutdown(context.Background())
		require.Empty(t, results, "a connection may still come")
		start := time.Now()
		require.Equal(t, http.StatusForbidden, (<-answer).StatusCode)
		c.Close()
		for range cap(results) {
			require.Equal(t, net.ErrClosed, <-results)
		}
		require.NoError(t, <-done)
		require.Equal(t, 10*time.Second, time.Since(start))
	})
}
