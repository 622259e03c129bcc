package preflight_test

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
	"github.com/stretchr/testify/require"
)

// A preflight that arrives after Shutdown is refused, wherever it comes from,
// always with the same answer.
func TestListenerShutdownRefusesPreflights(t *testing.T) {
	certs := shdNewCerts(t)
	head := lisRequest()
	same := func(t testing.TB, s *shdScene, c *lisClient) *lisClient { return c }
	secure := func(t testing.TB, s *shdScene, c *lisClient) *lisClient { return lisSecure(t, c, s.clientTLS) }
	asked := func(t testing.TB, s *shdScene, c *lisClient) *lisClient { return c.asked(t, shdOrdinary) }
	for _, tt := range []struct {
		name    string
		mounted bool
		before  func(testing.TB, *shdScene, *lisClient) *lisClient
		sent    string // before Shutdown
		request string
	}{
		{name: "silent", before: same, request: head},
		{name: "in its first line", before: same, sent: head[:7], request: head},
		{name: "in its head", before: same, sent: head[:40], request: head},
		{name: "before the last byte", before: same, sent: head[:len(head)-1], request: head},
		{name: "in its PROXY header", before: same, sent: shdProxy[:9], request: shdProxy + head},
		{name: "behind its PROXY header", before: same, sent: shdProxy, request: shdProxy + head},
		{name: "with data behind it", before: same, sent: head[:40], request: head + "early"},
		{name: "for TLS inside", before: same, sent: head[:7], request: shdTunnels},
		{name: "silent over TLS", before: secure, request: head},
		{name: "in its head over TLS", before: secure, sent: head[:40], request: head},
		{name: "behind a request to Handler", before: asked, request: head},
		{name: "in its head behind a request to Handler", before: asked, sent: head[:40], request: head},
		{name: "with data, behind a request to Handler", before: asked, request: head + "early"},
		{name: "behind a request to Handler over TLS", before: func(t testing.TB, s *shdScene, c *lisClient) *lisClient {
			return asked(t, s, secure(t, s, c))
		}, request: head},
		{name: "by ServeHTTP", mounted: true, before: same, request: head},
		{name: "by ServeHTTP in its head", mounted: true, before: same, sent: head[:40], request: head},
		{name: "by ServeHTTP behind an ordinary request", mounted: true, before: asked, request: head + "early"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var authorized atomic.Int64
				s := shdNew(t, certs, func(l *preflight.PreflightListener) {
					l.Authorize = func(*http.Request) (http.Header, error) { authorized.Add(1); return nil, nil }
				})
				// It keeps the drain going, without which Handler's
				// connections would be closed.
				held := s.deliver(t, shdKinds[1])
				start := time.Now()
				c := s.dial(t, tt.mounted)
				up := tt.before(t, s, c)
				up.send(t, tt.sent)
				synctest.Wait()

				done := s.shutdown(t.Context())
				up.send(t, tt.request[len(tt.sent):])
				a := up.refused(t, head)
				require.Equal(t, golden(t, "shutdown/503"), goldenAnswer(t, a.raw))
				require.Equal(t, "1", a.Header.Get("Retry-After"))
				shdClosed(t, s, 2)
				require.EqualValues(t, 1, authorized.Load(), "nobody is asked about it")

				time.Sleep(time.Until(start.Add(time.Second))) // which is for reading the answer
				synctest.Wait()
				require.True(t, c.server.closed.Load())
				require.Empty(t, done)
				held.talks(t)
				held.close()
				require.NoError(t, <-done)
			})
		})
	}
}

// The dialer tells the refusal from others: it is worth another attempt.
func TestListenerShutdownIsToldByTheDialer(t *testing.T) {
	certs := shdNewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := shdNew(t, certs, nil)
		s.start(t)
		c := s.direct.dial(t)
		synctest.Wait()
		s.shutdown(t.Context())
		req, err := http.NewRequest("GET", "http://h/", nil)
		require.NoError(t, err)
		_, err = preflight.Client(t.Context(), c.Conn, req)
		e := statusError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, e.StatusCode)
		require.Equal(t, "1", e.Header.Get("Retry-After"))
		c.Close()
	})
}

// Ordinary requests are served as long as the drain lasts, each as the last of its
// connection; what Handler has begun it ends.
func TestListenerShutdownServesHandler(t *testing.T) {
	certs := shdNewCerts(t)
	for _, mounted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := shdNew(t, certs, nil)
			tunnel := s.deliver(t, shdKinds[1])
			between, silent, inHead, busy := s.dial(t, mounted), s.dial(t, mounted), s.dial(t, mounted), s.dial(t, mounted)
			between.asked(t, shdOrdinary)
			inHead.send(t, shdOrdinary[:20])
			answer := busy.ask(shdHeld)
			synctest.Wait()
			done := s.shutdown(t.Context())

			for c, request := range map[*lisClient]string{
				between: shdOrdinary, silent: shdOrdinary, inHead: shdOrdinary[20:],
			} {
				a := <-c.ask(request)
				require.NoError(t, a.err)
				require.Equal(t, http.StatusOK, a.StatusCode)
				require.Equal(t, "hello", a.body)
				require.True(t, a.Close, "Connection: close")
				c.ended(t)
			}
			require.Empty(t, done)
			tunnel.close()
			synctest.Wait()
			if mounted {
				require.Len(t, done, 1, "the requests of the other server are its own")
			} else {
				require.Empty(t, done, "Handler has a request under way")
			}
			require.Empty(t, answer)
			close(s.release)
			a := <-answer
			require.NoError(t, a.err)
			require.Equal(t, "held, and let go", a.body)
			require.NoError(t, <-done)
			if !mounted {
				busy.ended(t)
			}
		})
	}
}

// A connection between two requests does not hold Shutdown up, nor does one that
// Handler has hijacked, which stays.
func TestListenerShutdownClosesIdleConnectionsOfHandler(t *testing.T) {
	certs := shdNewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := shdNew(t, certs, nil)
		tunnel := s.deliver(t, shdKinds[1])
		idle := s.direct.dial(t).asked(t, shdOrdinary)
		webSocket, hijacked := s.hijack(t)
		done := s.shutdown(t.Context())
		require.False(t, idle.server.closed.Load(), "as long as the drain lasts it may ask")
		tunnel.close()
		require.NoError(t, <-done)
		idle.ended(t)
		time.Sleep(time.Hour)
		lisTalk(t, webSocket, hijacked)
	})
}

// A plain connection that is sorted after Shutdown is closed without a byte.
func TestListenerShutdownClosesPlainConnections(t *testing.T) {
	certs := shdNewCerts(t)
	for _, tt := range []struct {
		name, before, after string
		plainAfter, ends    time.Duration
	}{
		{name: "silent", ends: 10 * time.Second},
		{name: "silent, where the server speaks first", plainAfter: time.Second, ends: time.Second},
		{name: "its first byte", after: "\x00"},
		{name: "its first line", before: "GET ", after: "key\r\n"},
		{name: "stalled in its first line", before: "EHLO", ends: 10 * time.Second},
		{name: "behind a PROXY header", before: shdProxy, after: "\x00"},
	} {
		for _, secure := range []bool{false, true} {
			if secure && strings.HasPrefix(tt.before, shdProxy) {
				continue // which stands before TLS
			}
			t.Run(tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := shdNew(t, certs, func(l *preflight.PreflightListener) { l.PlainAfter = tt.plainAfter })
					s.start(t)
					start := time.Now()
					c := s.direct.dial(t)
					up := c
					if secure {
						up = lisSecure(t, c, certs.client)
					}
					up.send(t, tt.before)
					synctest.Wait()
					done := s.shutdown(t.Context())
					require.Empty(t, done, "a handshake is under way")
					up.send(t, tt.after)
					rest, _ := io.ReadAll(c.r)
					require.Empty(t, rest)
					require.Equal(t, tt.ends, time.Since(start))
					require.NoError(t, <-done)
					require.True(t, c.server.closed.Load())
					shdClosed(t, s, 1)
				})
			})
		}
	}
}

// What was answered 101 before Shutdown is still returned by Accept, and so is
// what had been sorted, or was being vetted; then Accept reports the end.
func TestListenerShutdownDeliversWhatWasAnswered(t *testing.T) {
	certs := shdNewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan struct{})
		s := shdNew(t, certs, func(l *preflight.PreflightListener) {
			l.Authorize = func(r *http.Request) (http.Header, error) {
				if r.Header.Get("Wait") != "" {
					<-proceed
				}
				return nil, nil
			}
		})
		s.start(t)
		var clients []*lisClient
		for _, k := range shdKinds {
			clients = append(clients, k.talk(t, s, s.dial(t, k.mounted)))
		}
		inside, vetted, unread := s.direct.dial(t), s.direct.dial(t), s.direct.dial(t)
		inside.upgraded(t, shdTunnels)
		answer := vetted.ask(lisRequest("Wait: yes"))
		unread.send(t, lisRequest())
		synctest.Wait()

		done := s.shutdown(t.Context())
		require.Equal(t, http.StatusSwitchingProtocols, unread.answer("GET").StatusCode)
		clients = append(clients, lisSecure(t, inside, certs.client), unread)
		close(proceed)
		require.Equal(t, http.StatusSwitchingProtocols, (<-answer).StatusCode, "it had arrived before")
		clients = append(clients, vetted)

		time.Sleep(time.Hour) // for which the application does not accept
		pairs := map[*lisConn]*preflight.Conn{}
		for range clients {
			c, err := s.Accept()
			require.NoError(t, err)
			conn := c.(*preflight.Conn)
			if conn.Request() == nil {
				lisSkip(t, conn, "\x00")
			}
			pairs[shdBase(conn)] = conn
		}
		shdClosed(t, s, 5)
		require.Empty(t, done, "they are open")
		for _, c := range clients {
			p := shdPair{c, pairs[c.server]}
			require.NotNil(t, p.conn)
			p.talks(t)
			p.close()
		}
		require.NoError(t, <-done)
		shdClosed(t, s, 5)
	})
}

// shdBase is the connection in memory at the bottom of c.
func shdBase(c net.Conn) *lisConn {
	for {
		if base, ok := c.(*lisConn); ok {
			return base
		}
		c = c.(interface{ NetConn() net.Conn }).NetConn()
	}
}

// Calls of Accept that wait already end too, but not before the last connection.
func TestListenerShutdownEndsAccept(t *testing.T) {
	certs := shdNewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := shdNew(t, certs, nil)
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
		c := s.direct.dial(t)
		answer := c.ask(lisRequest("Wait: yes")) // it ends with a refusal
		synctest.Wait()
		done := s.shutdown(context.Background())
		require.Empty(t, results, "something may still come")
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
