package shutdown_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Shutdown returns when the application has closed the last connection that
// Accept has returned, and not earlier. The application may close it in any
// way.
func TestListenerShutdownWaitsForDeliveredConnections(t *testing.T) {
	certs := testkit.NewCerts(t)
	for name, end := range map[string]func(testkit.Pair){
		"closed": func(p testkit.Pair) { p.Conn.Close() },
		"closed twice": func(p testkit.Pair) {
			p.Conn.Close()
			p.Conn.Close()
		},
		"closed concurrently": func(p testkit.Pair) {
			var calls sync.WaitGroup
			for range 5 {
				calls.Go(func() { p.Conn.Close() })
			}
			calls.Wait()
		},
		"closed after the peer": func(p testkit.Pair) {
			p.Client.Server.Conn.Close() // this closes both ends
			io.Copy(io.Discard, p.Conn)
			p.Conn.Close()
		},
		"closed after it has failed": func(p testkit.Pair) {
			p.Conn.SetDeadline(time.Unix(1, 0))
			p.Conn.Read(make([]byte, 1))
			p.Conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testkit.NewScene(t, certs, nil)
				pairs := s.DeliverAll(t)
				// Connections that are closed before Shutdown do not count.
				s.Deliver(t, testkit.Kinds[0]).Close()
				s.Deliver(t, testkit.Kinds[1]).Close()
				done := s.BeginShutdown(t.Context())
				requireClosed(t, s, 1)
				for _, p := range pairs {
					time.Sleep(time.Hour)
					p.Talks(t)
					require.Empty(t, done)
					testkit.DiscardInput(p.Client) // the last message of TLS
					end(p)
					synctest.Wait()
				}
				require.Len(t, done, 1)
				require.NoError(t, <-done)
			})
		})
	}
}

// A connection that fails without Close still counts as open.
func TestListenerShutdownWaitsForClose(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, nil)
		p := s.Deliver(t, testkit.Kinds[1])
		done := s.BeginShutdown(t.Context())
		p.Client.Close()
		_, err := io.ReadAll(p.Conn)
		require.NoError(t, err)
		p.Conn.CloseRead()
		p.Conn.CloseWrite()
		require.NoError(t, p.Conn.NetConn().Close())
		time.Sleep(time.Hour)
		require.Empty(t, done, "the application has not said that it is done")
		p.Conn.Close()
		require.NoError(t, <-done)
	})
}

// If its context ends first, Shutdown returns the cause, and everything stays
// as it was: open connections stay open, and new ones are refused or served as
// before. Shutdown and Close can still end the rest.
func TestListenerShutdownEndsWithItsContext(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, again := range []string{"Shutdown", "Close"} {
		t.Run(again, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testkit.NewScene(t, certs, nil)
				p := s.Deliver(t, testkit.Kinds[1])
				silent, ordinary := s.Direct.Dial(t), s.Direct.Dial(t).Asked(t, testkit.Ordinary)
				finished := s.Direct.Dial(t).Upgraded(t, testkit.Request())
				start := time.Now()
				for _, end := range []time.Duration{time.Second, 0} { // the context of the second has ended before
					ctx, cancel := context.WithTimeoutCause(t.Context(), end, testkit.ErrOther)
					require.Equal(t, testkit.ErrOther, s.Shutdown(ctx))
					require.Equal(t, time.Second, time.Since(start))
					cancel()
				}

				p.Talks(t)
				ordinary.Asked(t, testkit.Ordinary).Ended(t)
				c, err := s.Accept()
				require.NoError(t, err)
				late := testkit.Pair{Client: finished, Conn: c.(*preflight.Conn)}
				late.Talks(t)
				if again == "Shutdown" {
					silent.Send(t, testkit.Request())
					require.Equal(t, http.StatusServiceUnavailable, silent.Refused(t, testkit.Request()).StatusCode)
					done := s.BeginShutdown(t.Context())
					p.Close()
					synctest.Wait()
					require.Empty(t, done)
					late.Close()
					require.NoError(t, <-done)
					requireClosed(t, s, 1)
					return
				}
				require.NoError(t, s.Close())
				silent.Ended(t)
				requireClosed(t, s, 1)
				late.Talks(t)
				p.Close()
				late.Close()
			})
		})
	}
}

// A request to Handler that does not end does not delay Shutdown beyond the end
// of its context.
func TestListenerShutdownEndsWithItsContextInHandler(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, nil)
		s.Start(t)
		c := s.Direct.Dial(t)
		answer := c.Ask(testkit.Held)
		synctest.Wait()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, testkit.ErrOther)
		defer cancel()
		start := time.Now()
		require.Equal(t, testkit.ErrOther, s.Shutdown(ctx), "the cause")
		require.Equal(t, time.Second, time.Since(start))
		require.False(t, c.Server.Closed.Load())
		done := s.BeginShutdown(t.Context())
		require.Empty(t, done)
		close(s.Release)
		require.Equal(t, "held, and let go", (<-answer).Text)
		require.NoError(t, <-done)
	})
}

// Shutdown works if there is nothing to end.
func TestListenerShutdownOfNothing(t *testing.T) {
	for name, l := range map[string]*preflight.PreflightListener{
		"zero":                {},
		"with Handler":        {Handler: http.NotFoundHandler()},
		"with a Listener":     {Listener: testkit.NewNetwork()},
		"with both":           {Listener: testkit.NewNetwork(), Handler: http.NotFoundHandler()},
		"wrongly configured":  {Listener: testkit.NewNetwork(), HandshakeTimeout: -1},
		"without any handler": {Protocols: []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			if n, ok := l.Listener.(*testkit.Network); ok {
				n.Dial(t) // it is not accepted
			}
			for range 2 {
				require.NoError(t, l.Shutdown(context.Background()))
			}
			if l.HandshakeTimeout == 0 && l.Protocols == nil {
				requireClosed(t, l, 2)
			} else {
				_, err := l.Accept()
				require.ErrorContains(t, err, "preflight: ", "the error of the configuration stays")
			}
			if n, ok := l.Listener.(*testkit.Network); ok {
				<-n.Closed
				require.Zero(t, n.Calls.Load())
			}
			require.NoError(t, l.Close())
			require.NoError(t, l.Shutdown(context.Background()))
		})
	}
}

// If there is nothing to wait for, Shutdown returns nil, even if the context
// has ended too.
func TestListenerShutdownOfNothingAfterTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 { // a select would choose the end of the context every second time
		require.NoError(t, new(preflight.PreflightListener).Shutdown(ctx))
		require.NoError(t, (&preflight.PreflightListener{Handler: http.NotFoundHandler()}).Shutdown(ctx))
	}
}

// Shutdown after Close waits for the connections that Accept has returned. It
// returns no error if the wrapped listener is already closed, because servers
// that stop call Close first.
func TestListenerShutdownAfterClose(t *testing.T) {
	for _, before := range []bool{false, true} {
		l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t), Handler: http.NotFoundHandler(), RequireUpgrade: true}
		accepted := testkit.AcceptAll(t, l)
		client, _ := testkit.Upgraded(t, l, testkit.Request())
		conn := testkit.NextConn(t, accepted)
		done := make(chan error, 1)
		if before {
			go func() { done <- l.Shutdown(context.Background()) }()
			for conn2, err := net.Dial("tcp", l.Addr().String()); err == nil; conn2, err = net.Dial("tcp", l.Addr().String()) {
				conn2.Close() // it has not begun
			}
		}
		require.NoError(t, ignoreClosed(l.Close()))
		if !before {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			require.Equal(t, context.Canceled, l.Shutdown(ctx))
			go func() { done <- l.Shutdown(context.Background()) }()
		}
		testkit.Talk(t, client, conn)
		require.Empty(t, done)
		require.NoError(t, conn.Close())
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(testkit.Patience):
			require.FailNow(t, "Shutdown must return")
		}
	}
}

// ignoreClosed returns nil if the listener was already closed.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// An error from Close of the wrapped listener is returned.
func TestListenerShutdownReportsTheWrappedListener(t *testing.T) {
	l := &preflight.PreflightListener{Listener: brokenListener{testkit.NewNetwork()}}
	require.Equal(t, testkit.ErrOther, l.Shutdown(context.Background()))
	require.Equal(t, testkit.ErrOther, l.Close())
	requireClosed(t, l, 1)
}

type brokenListener struct{ *testkit.Network }

func (n brokenListener) Close() error {
	n.Network.Close()
	return testkit.ErrOther
}

// Several calls of Shutdown complete together, each with its own context.
func TestListenerShutdownConcurrently(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, nil)
		p := s.Deliver(t, testkit.Kinds[1])
		start := time.Now()
		results := make(chan error, 5)
		for i := range cap(results) {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if i == 0 {
					ctx, cancel = context.WithTimeoutCause(t.Context(), time.Second, testkit.ErrOther)
				}
				defer cancel()
				results <- s.Shutdown(ctx)
			}()
		}
		require.Equal(t, testkit.ErrOther, <-results)
		require.Equal(t, time.Second, time.Since(start))
		synctest.Wait()
		require.Empty(t, results)
		p.Close()
		for range cap(results) - 1 {
			require.NoError(t, <-results)
		}
		require.Equal(t, time.Second, time.Since(start))
	})
}

// From the call of Shutdown on, the kernel refuses new clients.
func TestListenerShutdownRefusesDials(t *testing.T) {
	inner := testkit.ListenTCP(t)
	l := &preflight.PreflightListener{Listener: inner}
	accepted := testkit.AcceptAll(t, l)
	client, _ := testkit.Upgraded(t, l, testkit.Request())
	conn := testkit.NextConn(t, accepted)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.Equal(t, context.Canceled, l.Shutdown(ctx))
	_, err := net.Dial("tcp", inner.Addr().String())
	require.Error(t, err)
	testkit.Talk(t, client, conn)
	require.NoError(t, conn.Close())
	require.NoError(t, l.Shutdown(context.Background()))
}

// A client that waits for a place when Shutdown is called gets none, on the
// port and in ServeHTTP. The client that has the place is served.
func TestListenerShutdownWhileAClientWaits(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, mounted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
			s.Start(t)
			finished := s.Direct.Dial(t).Upgraded(t, testkit.Request())
			waiting := s.Dial(t, mounted)
			answer := waiting.Ask(testkit.Request())
			synctest.Wait()
			done := s.BeginShutdown(t.Context())
			c, err := s.Accept()
			require.NoError(t, err)
			p := testkit.Pair{Client: finished, Conn: c.(*preflight.Conn)}
			p.Talks(t)
			requireClosed(t, s, 2)
			if mounted {
				require.Equal(t, http.StatusServiceUnavailable, (<-answer).StatusCode)
			} else {
				require.Error(t, (<-answer).Err)
			}
			require.Empty(t, done)
			p.Close()
			require.NoError(t, <-done)
			time.Sleep(time.Second)
			synctest.Wait()
			require.True(t, waiting.Server.Closed.Load())
		})
	}
}
