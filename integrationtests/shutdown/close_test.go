package shutdown_test

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
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Close ends the connection of a client at once, at every step. The connection
// is not delivered later. Connections that Accept has returned stay open, of
// every kind, and so do those that Handler has hijacked. No goroutine leaks: it
// would end the bubble with a panic.
func TestListenerCloseAtEveryStage(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, stage := range testkit.Stages {
		t.Run(stage.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testkit.NewScene(t, certs, nil)
				delivered := s.DeliverAll(t)
				webSocket, hijacked := s.Hijack(t)
				c := s.Dial(t, stage.Mounted)
				stage.Bring(t, s, c)
				synctest.Wait()
				require.False(t, c.Server.Closed.Load(), "it is still open")

				start := time.Now()
				require.NoError(t, s.Close())
				synctest.Wait()
				require.Zero(t, time.Since(start), "Close did not wait")
				require.True(t, c.Server.Closed.Load())
				requireClosed(t, s, 2)
				require.NoError(t, s.Close(), "a second time")
				requireClosed(t, s, 1)

				time.Sleep(time.Hour) // a deadline that remained would have passed
				for _, p := range delivered {
					p.Talks(t)
				}
				testkit.Talk(t, webSocket, hijacked)
			})
		})
	}
}

// fullConn is the server's end of a connection. When it is full, every Write
// blocks until it is closed.
type fullConn struct {
	*testkit.NetworkConn
	full *atomic.Bool
	gone chan struct{}
	once *sync.Once
}

func (c fullConn) Write(b []byte) (int, error) {
	if c.full.Load() {
		<-c.gone
	}
	return c.NetworkConn.Write(b)
}

func (c fullConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.NetworkConn.Close()
}

// A client of Handler over TLS does not read. Neither Close nor the context of
// Shutdown waits for it. crypto/tls tries for five seconds to send its last
// message, for one client after the other. That message is not worth the delay.
func TestListenerEndDoesNotWaitForHandlersTLS(t *testing.T) {
	serverTLS, clientTLS := testkit.TLSConfigs(t)
	for name, end := range map[string]func(*preflight.PreflightListener) error{
		"Close": (*preflight.PreflightListener).Close,
		"Shutdown": func(l *preflight.PreflightListener) error {
			ctx, cancel := context.WithTimeoutCause(context.Background(), 10*time.Millisecond, testkit.ErrOther)
			defer cancel()
			// Shutdown may end before its context.
			if err := l.Shutdown(ctx); err != testkit.ErrOther {
				return err
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, full := testkit.NewNetwork(), new(atomic.Bool)
			l := &preflight.PreflightListener{Listener: n, TLSConfig: serverTLS, Handler: http.NotFoundHandler()}
			testkit.AcceptAll(t, l)
			for range 3 {
				ours, theirs := net.Pipe()
				t.Cleanup(func() { ours.Close() })
				server := fullConn{&testkit.NetworkConn{Conn: theirs}, full, make(chan struct{}), new(sync.Once)}
				defer server.Close()
				n.Backlog <- server
				c := testkit.Secure(t, &testkit.Client{Conn: ours}, clientTLS)
				require.Equal(t, http.StatusNotFound, (<-c.Ask(testkit.Ordinary)).StatusCode)
			}
			full.Store(true)
			ended := make(chan error, 1)
			go func() { ended <- end(l) }()
			select {
			case err := <-ended:
				require.NoError(t, err)
			case <-time.After(testkit.Patience):
				require.Fail(t, "it waits for clients")
			}
		})
	}
}

// After Close, ServeHTTP answers by itself. The other server continues.
func TestListenerCloseLeavesTheServerItIsMountedOn(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, request := range []string{testkit.Request(), testkit.Ordinary} {
		synctest.Test(t, func(t *testing.T) {
			s := testkit.NewScene(t, certs, nil)
			require.NoError(t, s.Close())
			c := s.Mounted.Dial(t)
			c.Send(t, request)
			a := c.Refused(t, request)
			require.Equal(t, testkit.Golden(t, "shutdown/503-closed"), testkit.GoldenAnswer(t, a.Raw))
		})
	}
}

// Close may be called from a function that the listener itself has called.
func TestListenerCloseFromInside(t *testing.T) {
	for name, request := range map[string]string{"Authorize": testkit.Request("Close: yes"), "Handler": testkit.Ordinary} {
		for _, mounted := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				certs := testkit.NewCerts(t)
				synctest.Test(t, func(t *testing.T) {
					closed := make(chan error, 1)
					var l *preflight.PreflightListener
					s := testkit.NewScene(t, certs, func(its *preflight.PreflightListener) {
						l = its
						its.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { closed <- l.Close() })
						its.Authorize = func(r *http.Request) (http.Header, error) {
							if r.Header.Get("Close") != "" {
								closed <- l.Close()
							}
							return nil, nil
						}
					})
					s.Start(t)
					c := s.Dial(t, mounted)
					c.Ask(request)
					synctest.Wait()
					require.Len(t, closed, 1)
					require.NoError(t, <-closed)
					requireClosed(t, s, 1)
				})
			})
		}
	}
}

// Close and Shutdown are called at once, under load. Every connection is either
// delivered and open, or closed. Nothing blocks, and nothing leaks.
func TestListenerCloseAndShutdownUnderLoad(t *testing.T) {
	certs := testkit.NewCerts(t)
	const most = 60
	requests := []string{testkit.Request(), testkit.Ordinary, "\x00", testkit.Request()[:30], "GET / HTTP/1.1\r\n\r\n", testkit.SceneHello, testkit.ThroughProxy}
	for round := range most {
		synctest.Test(t, func(t *testing.T) {
			s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 6 })
			var clients []*testkit.Client
			for i := range 3 * len(requests) {
				c := s.Dial(t, i%3 == 0)
				clients = append(clients, c)
				go func() {
					io.WriteString(c, requests[i%len(requests)])
					if i%5 != 0 { // these clients do not read
						io.Copy(io.Discard, c.R)
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
			// The scheduler decides their order, which differs from round to
			// round.
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
				require.False(t, base.(*testkit.NetworkConn).Closed.Load(), "a delivered connection is never closed")
				open[base] = true
				t.Cleanup(func() { c.Close() })
			}
			for range len(s.Direct.Backlog) {
				(<-s.Direct.Backlog).(net.Conn).Close() // never accepted
			}
			require.NoError(t, s.Server.Close())
			time.Sleep(time.Second) // for clients that do not read the end
			synctest.Wait()
			for i, c := range clients {
				require.NotEqual(t, open[c.Server], c.Server.Closed.Load(), "client %d is either delivered or closed", i)
			}
			requireClosed(t, s, 2)
		})
	}
}
