package preflight_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A shdStage is a place at which a client can be, and stay, before Accept has
// returned its connection.
type shdStage struct {
	name    string
	is      shdIs
	mounted bool
	bring   func(testing.TB, *shdScene, *lisClient)
}

// shdIs says what is to happen next at a stage.
type shdIs int

const (
	shdWaits    shdIs = iota // we wait for bytes of the client
	shdSilent                // likewise, and it may be plain
	shdBusy                  // the work is ours
	shdRefused               // it is refused, and has a second to read that
	shdFinished              // it waits for Accept
	shdServed                // Handler serves it
)

// shdSend is a stage in which a client has sent s, and reads nothing.
func shdSend(s string) func(testing.TB, *shdScene, *lisClient) {
	return func(t testing.TB, _ *shdScene, c *lisClient) { c.send(t, s) }
}

// shdAsk is a stage in which a client has sent s and reads.
func shdAsk(s string) func(testing.TB, *shdScene, *lisClient) {
	return func(_ testing.TB, _ *shdScene, c *lisClient) { c.ask(s) }
}

// shdTLS is bring over TLS.
func shdTLS(bring func(testing.TB, *shdScene, *lisClient)) func(testing.TB, *shdScene, *lisClient) {
	return func(t testing.TB, s *shdScene, c *lisClient) { bring(t, s, lisSecure(t, c, s.clientTLS)) }
}

var shdStages = []shdStage{
	{name: "silent", is: shdSilent, bring: shdSend("")},
	{name: "in the PROXY header", bring: shdSend("PROXY TCP4 192.0.2.7")},
	{name: "in the binary PROXY header", bring: shdSend("\r\n\r\n\x00\r\nQUIT\n\x21")},
	{name: "behind the PROXY header", is: shdSilent, bring: shdSend(shdProxy)},
	{name: "in the first bytes of the binary PROXY header", bring: shdSend("\r\n\r")},
	{name: "in the first bytes of the TLS hello", bring: shdSend(shdHello[:3])},
	{name: "in the TLS hello", bring: shdSend(shdHello)},
	{name: "in the TLS hello behind a PROXY header", bring: shdSend(shdProxy + shdHello)},
	{name: "in the TLS handshake", bring: func(t testing.TB, s *shdScene, c *lisClient) { s.halfTLS(t, c) }},
	{name: "silent behind the TLS handshake", is: shdSilent, bring: shdTLS(shdSend(""))},
	{name: "in the head", bring: shdSend("GET /t HTTP/1.1\r\nHost: h\r\n")},
	{name: "in the head over TLS", bring: shdTLS(shdSend("GET /t HTTP/1.1\r\nHost: h\r\n"))},
	{name: "in Authorize", is: shdBusy, bring: shdAsk(lisRequest("Wait: yes"))},
	{name: "in Authorize over TLS", is: shdBusy, bring: shdTLS(shdAsk(lisRequest("Wait: yes")))},
	{name: "does not read its 101", is: shdBusy, bring: shdSend(lisRequest())},
	{name: "does not read its 101 over TLS", is: shdBusy, bring: shdTLS(shdSend(lisRequest()))},
	{name: "silent behind the 101 for TLS inside", bring: shdAsk(shdTunnels)},
	{name: "in the hello inside the tunnel", bring: func(t testing.TB, _ *shdScene, c *lisClient) {
		c.upgraded(t, shdTunnels).send(t, shdHello)
	}},
	{name: "in the handshake inside the tunnel", bring: func(t testing.TB, s *shdScene, c *lisClient) {
		s.halfTLS(t, c.upgraded(t, shdTunnels))
	}},
	{name: "in the handshake inside the tunnel over TLS", bring: func(t testing.TB, s *shdScene, c *lisClient) {
		s.halfTLS(t, lisSecure(t, c, s.clientTLS).upgraded(t, shdTunnels))
	}},
	{name: "finished", is: shdFinished, bring: shdAsk(lisRequest())},
	{name: "finished and plain", is: shdFinished, bring: shdSend("\x00")},
	{name: "finished over TLS", is: shdFinished, bring: func(t testing.TB, s *shdScene, c *lisClient) {
		shdRead(lisSecure(t, c, s.clientTLS).upgraded(t, lisRequest()))
	}},
	{name: "finished with TLS inside", is: shdFinished, bring: func(t testing.TB, s *shdScene, c *lisClient) {
		shdRead(lisSecure(t, c.upgraded(t, shdTunnels), s.clientTLS))
	}},
	{name: "does not read its refusal", is: shdRefused, bring: shdSend(shdMalformed)},
	{name: "does not leave after its refusal", is: shdRefused, bring: shdAsk(shdMalformed)},
	{name: "in Handler", is: shdServed, bring: shdAsk(shdHeld)},
	{name: "in Handler over TLS", is: shdServed, bring: func(t testing.TB, s *shdScene, c *lisClient) {
		c = lisSecure(t, c, s.clientTLS)
		c.send(t, shdHeld)
		shdRead(c)
	}},
	{name: "between two requests to Handler", is: shdServed, bring: func(t testing.TB, _ *shdScene, c *lisClient) { c.asked(t, shdOrdinary) }},
	{name: "in the head behind a request to Handler", is: shdServed, bring: func(t testing.TB, _ *shdScene, c *lisClient) {
		c.asked(t, shdOrdinary).send(t, lisRequest()[:50])
	}},
	{name: "in Authorize behind a request to Handler", is: shdBusy, bring: func(t testing.TB, _ *shdScene, c *lisClient) {
		c.asked(t, shdOrdinary).ask(lisRequest("Wait: yes"))
	}},
	{name: "does not read its 101 behind a request to Handler", is: shdBusy, bring: func(t testing.TB, _ *shdScene, c *lisClient) {
		c.asked(t, shdOrdinary).send(t, lisRequest())
	}},
	{name: "does not read its 101 behind a request to Handler over TLS", is: shdBusy, bring: shdTLS(func(t testing.TB, _ *shdScene, c *lisClient) {
		c.asked(t, shdOrdinary).send(t, lisRequest())
	})},
	{name: "finished behind a request to Handler", is: shdFinished, bring: func(t testing.TB, _ *shdScene, c *lisClient) {
		c.asked(t, shdOrdinary).upgraded(t, lisRequest())
	}},
	{name: "in ServeHTTP, in Authorize", is: shdBusy, mounted: true, bring: shdAsk(lisRequest("Wait: yes"))},
	{name: "in ServeHTTP, does not read its 101", is: shdBusy, mounted: true, bring: shdSend(lisRequest())},
	{name: "in ServeHTTP, silent behind the 101 for TLS inside", mounted: true, bring: shdAsk(shdTunnels)},
	{name: "in ServeHTTP, in the handshake inside the tunnel", mounted: true, bring: func(t testing.TB, s *shdScene, c *lisClient) {
		s.halfTLS(t, c.upgraded(t, shdTunnels))
	}},
	{name: "in ServeHTTP, finished", is: shdFinished, mounted: true, bring: shdAsk(lisRequest())},
	{name: "in ServeHTTP, does not leave after its refusal", is: shdRefused, mounted: true, bring: shdAsk(lisRequest("Content-Length: 1") + "x")},
}

// Wherever a client is, Close ends its connection, at once, and nothing of it is
// delivered later. What Accept has returned stays open, of every kind, and what
// Handler has hijacked. No goroutine is left: it would end the bubble with a panic.
func TestListenerCloseAtEveryStage(t *testing.T) {
	certs := shdNewCerts(t)
	for _, stage := range shdStages {
		t.Run(stage.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := shdNew(t, certs, nil)
				delivered := s.deliverAll(t)
				webSocket, hijacked := s.hijack(t)
				c := s.dial(t, stage.mounted)
				stage.bring(t, s, c)
				synctest.Wait()
				require.False(t, c.server.closed.Load(), "it is still open")

				start := time.Now()
				require.NoError(t, s.Close())
				synctest.Wait()
				require.Zero(t, time.Since(start), "nothing is waited for")
				require.True(t, c.server.closed.Load())
				shdClosed(t, s, 2)
				require.NoError(t, s.Close(), "a second time")
				shdClosed(t, s, 1)

				time.Sleep(time.Hour) // an old deadline would have passed
				for _, p := range delivered {
					p.talks(t)
				}
				lisTalk(t, webSocket, hijacked)
			})
		})
	}
}

// shdFull is the server's end of a connection into which, once it is full,
// nothing more can be written until it is closed.
type shdFull struct {
	*lisConn
	full *atomic.Bool
	gone chan struct{}
	once *sync.Once
}

func (c shdFull) Write(b []byte) (int, error) {
	if c.full.Load() {
		<-c.gone
	}
	return c.lisConn.Write(b)
}

func (c shdFull) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.lisConn.Close()
}

// Neither Close nor the context of Shutdown waits for a client of Handler over
// TLS that does not read: the last message of TLS, which tells it of the end, is
// not worth the five seconds for which crypto/tls tries to send it, one client
// after the other.
func TestListenerEndDoesNotWaitForHandlersTLS(t *testing.T) {
	serverTLS, clientTLS := lisTLS(t)
	for name, end := range map[string]func(*preflight.PreflightListener) error{
		"Close": (*preflight.PreflightListener).Close,
		"Shutdown": func(l *preflight.PreflightListener) error {
			ctx, cancel := context.WithTimeoutCause(context.Background(), 10*time.Millisecond, errLisOther)
			defer cancel()
			// It may have been quick enough.
			if err := l.Shutdown(ctx); err != errLisOther {
				return err
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, full := lisNewNet(), new(atomic.Bool)
			l := &preflight.PreflightListener{Listener: n, TLSConfig: serverTLS, Handler: http.NotFoundHandler()}
			lisServe(t, l)
			for range 3 {
				ours, theirs := net.Pipe()
				t.Cleanup(func() { ours.Close() })
				server := shdFull{&lisConn{Conn: theirs}, full, make(chan struct{}), new(sync.Once)}
				defer server.Close()
				n.backlog <- server
				c := lisSecure(t, &lisClient{Conn: ours}, clientTLS)
				require.Equal(t, http.StatusNotFound, (<-c.ask(shdOrdinary)).StatusCode)
			}
			full.Store(true)
			ended := make(chan error, 1)
			go func() { ended <- end(l) }()
			select {
			case err := <-ended:
				require.NoError(t, err)
			case <-time.After(patience):
				require.Fail(t, "it waits for clients")
			}
		})
	}
}

// After Close, ServeHTTP answers itself: the other server goes on.
func TestListenerCloseLeavesTheServerItIsMountedOn(t *testing.T) {
	certs := shdNewCerts(t)
	for _, request := range []string{lisRequest(), shdOrdinary} {
		synctest.Test(t, func(t *testing.T) {
			s := shdNew(t, certs, nil)
			require.NoError(t, s.Close())
			c := s.mounted.dial(t)
			c.send(t, request)
			a := c.refused(t, request)
			require.Equal(t, golden(t, "shutdown/503-closed"), goldenAnswer(t, a.raw))
		})
	}
}

// Close may be called from where the listener itself has called.
func TestListenerCloseFromInside(t *testing.T) {
	for name, request := range map[string]string{"Authorize": lisRequest("Close: yes"), "Handler": shdOrdinary} {
		for _, mounted := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				certs := shdNewCerts(t)
				synctest.Test(t, func(t *testing.T) {
					closed := make(chan error, 1)
					var l *preflight.PreflightListener
					s := shdNew(t, certs, func(its *preflight.PreflightListener) {
						l = its
						its.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { closed <- l.Close() })
						its.Authorize = func(r *http.Request) (http.Header, error) {
							if r.Header.Get("Close") != "" {
								closed <- l.Close()
							}
							return nil, nil
						}
					})
					s.start(t)
					c := s.dial(t, mounted)
					c.ask(request)
					synctest.Wait()
					require.Len(t, closed, 1)
					require.NoError(t, <-closed)
					shdClosed(t, s, 1)
				})
			})
		}
	}
}

// Whatever is called at once, every connection ends up on one side: delivered
// and open, or closed. Nothing hangs, nothing is left.
func TestListenerCloseAndShutdownUnderLoad(t *testing.T) {
	certs := shdNewCerts(t)
	const most = 60
	requests := []string{lisRequest(), shdOrdinary, "\x00", lisRequest()[:30], "GET / HTTP/1.1\r\n\r\n", shdHello, shdProxy}
	for round := range most {
		synctest.Test(t, func(t *testing.T) {
			s := shdNew(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 6 })
			var clients []*lisClient
			for i := range 3 * len(requests) {
				c := s.dial(t, i%3 == 0)
				clients = append(clients, c)
				go func() {
					io.WriteString(c, requests[i%len(requests)])
					if i%5 != 0 { // those do not read
						io.Copy(io.Discard, c.r)
					}
				}()
			}
			delivered := make(chan net.Conn, len(clients))
			var calls sync.WaitGroup
			for range 3 {
				calls.Go(func() {
					for {
						c, err := s.Accept()
						if err != nil {
							return
						}
						delivered <- c
					}
				})
			}
			// Their order is that of the scheduler, and another one each round.
			pause := func(n int) {
				for range n {
					runtime.Gosched()
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for i := range 2 {
				calls.Go(func() { pause(round * 20); s.Shutdown(ctx) })
				calls.Go(func() { pause((most - round + 2*i) * 15); s.Close() })
			}
			calls.Go(func() { pause(round * 25); cancel() })
			calls.Wait()
			synctest.Wait()
			close(delivered)
			open := map[net.Conn]bool{}
			for c := range delivered {
				base := c.(*preflight.Conn).NetConn()
				require.False(t, open[base], "delivered twice")
				require.False(t, base.(*lisConn).closed.Load(), "what was delivered is never closed")
				open[base] = true
				t.Cleanup(func() { c.Close() })
			}
			for range len(s.direct.backlog) {
				(<-s.direct.backlog).(net.Conn).Close() // never accepted
			}
			require.NoError(t, s.server.Close())
			time.Sleep(time.Second) // for those that are told of the end and do not read
			synctest.Wait()
			for i, c := range clients {
				require.NotEqual(t, open[c.server], c.server.closed.Load(), "client %d is either delivered or closed", i)
			}
			shdClosed(t, s, 2)
		})
	}
}
