package preflight_test

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
	"github.com/stretchr/testify/require"
)

// Shutdown returns when the last connection that Accept has returned is closed by
// the application, in whatever way that happens, and not before.
func TestListenerShutdownWaitsForDeliveredConnections(t *testing.T) {
	certs := shdNewCerts(t)
	for name, end := range map[string]func(shdPair){
		"closed": func(p shdPair) { p.conn.Close() },
		"closed twice": func(p shdPair) {
			p.conn.Close()
			p.conn.Close()
		},
		"closed concurrently": func(p shdPair) {
			var calls sync.WaitGroup
			for range 5 {
				calls.Go(func() { p.conn.Close() })
			}
			calls.Wait()
		},
		"closed after the peer": func(p shdPair) {
			p.client.server.Conn.Close() // with which both ends are closed
			io.Copy(io.Discard, p.conn)
			p.conn.Close()
		},
		"closed after it has failed": func(p shdPair) {
			p.conn.SetDeadline(time.Unix(1, 0))
			p.conn.Read(make([]byte, 1))
			p.conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := shdNew(t, certs, nil)
				pairs := s.deliverAll(t)
				// Those that are closed before Shutdown do not count.
				s.deliver(t, shdKinds[0]).close()
				s.deliver(t, shdKinds[1]).close()
				done := s.shutdown(t.Context())
				shdClosed(t, s, 1)
				for _, p := range pairs {
					time.Sleep(time.Hour)
					p.talks(t)
					require.Empty(t, done)
					shdRead(p.client) // the last message of TLS
					end(p)
					synctest.Wait()
				}
				require.Len(t, done, 1)
				require.NoError(t, <-done)
			})
		})
	}
}

// What a connection loses without Close does not count as its end.
func TestListenerShutdownWaitsForClose(t *testing.T) {
	certs := shdNewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := shdNew(t, certs, nil)
		p := s.deliver(t, shdKinds[1])
		done := s.shutdown(t.Context())
		p.client.Close()
		_, err := io.ReadAll(p.conn)
		require.NoError(t, err)
		p.conn.CloseRead()
		p.conn.CloseWrite()
		require.NoError(t, p.conn.NetConn().Close())
		time.Sleep(time.Hour)
		require.Empty(t, done, "the application has not said that it is done")
		p.conn.Close()
		require.NoError(t, <-done)
	})
}

// When its context ends first, Shutdown says why, and everything is as it was:
// what is open stays open and is refused or served as before, and both Shutdown
// and Close can still end the rest.
func TestListenerShutdownEndsWithItsContext(t *testing.T) {
	certs := shdNewCerts(t)
	for _, again := range []string{"Shutdown", "Close"} {
		t.Run(again, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := shdNew(t, certs, nil)
				p := s.deliver(t, shdKinds[1])
				silent, ordinary := s.direct.dial(t), s.direct.dial(t).asked(t, shdOrdinary)
				finished := s.direct.dial(t).upgraded(t, lisRequest())
				start := time.Now()
				for _, end := range []time.Duration{time.Second, 0} { // the second has ended before
					ctx, cancel := context.WithTimeoutCause(t.Context(), end, errLisOther)
					require.Equal(t, errLisOther, s.Shutdown(ctx))
					require.Equal(t, time.Second, time.Since(start))
					cancel()
				}

				p.talks(t)
				ordinary.asked(t, shdOrdinary).ended(t)
				c, err := s.Accept()
				require.NoError(t, err)
				late := shdPair{finished, c.(*preflight.Conn)}
				late.talks(t)
				if again == "Shutdown" {
					silent.send(t, lisRequest())
					require.Equal(t, http.StatusServiceUnavailable, silent.refused(t, lisRequest()).StatusCode)
					done := s.shutdown(t.Context())
					p.close()
					synctest.Wait()
					require.Empty(t, done)
					late.close()
					require.NoError(t, <-done)
					shdClosed(t, s, 1)
					return
				}
				require.NoError(t, s.Close())
				silent.ended(t)
				shdClosed(t, s, 1)
				late.talks(t)
				p.close()
				late.close()
			})
		})
	}
}

// Also a request to Handler that does not end is no reason to stay beyond the
// end of the context.
func TestListenerShutdownEndsWithItsContextInHandler(t *testing.T) {
	certs := shdNewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := shdNew(t, certs, nil)
		s.start(t)
		c := s.direct.dial(t)
		answer := c.ask(shdHeld)
		synctest.Wait()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errLisOther)
		defer cancel()
		start := time.Now()
		require.Equal(t, errLisOther, s.Shutdown(ctx), "the cause")
		require.Equal(t, time.Second, time.Since(start))
		require.False(t, c.server.closed.Load())
		done := s.shutdown(t.Context())
		require.Empty(t, done)
		close(s.release)
		require.Equal(t, "held, and let go", (<-answer).body)
		require.NoError(t, <-done)
	})
}

// Nothing has to be there to be ended.
func TestListenerShutdownOfNothing(t *testing.T) {
	for name, l := range map[string]*preflight.PreflightListener{
		"zero":                {},
		"with Handler":        {Handler: http.NotFoundHandler()},
		"with a Listener":     {Listener: lisNewNet()},
		"with both":           {Listener: lisNewNet(), Handler: http.NotFoundHandler()},
		"wrongly configured":  {Listener: lisNewNet(), HandshakeTimeout: -1},
		"without any handler": {Protocols: []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			if n, ok := l.Listener.(*lisNet); ok {
				n.dial(t) // which nobody takes
			}
			for range 2 {
				require.NoError(t, l.Shutdown(context.Background()))
			}
			if l.HandshakeTimeout == 0 && l.Protocols == nil {
				shdClosed(t, l, 2)
			} else {
				_, err := l.Accept()
				require.ErrorContains(t, err, "preflight: ", "the error of the configuration stays")
			}
			if n, ok := l.Listener.(*lisNet); ok {
				<-n.closed
				require.Zero(t, n.calls.Load())
			}
			require.NoError(t, l.Close())
			require.NoError(t, l.Shutdown(context.Background()))
		})
	}
}

// What is done is done, even if the context has ended too.
func TestListenerShutdownOfNothingInNoTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 { // the end of the context would win every second time
		require.NoError(t, new(preflight.PreflightListener).Shutdown(ctx))
		require.NoError(t, (&preflight.PreflightListener{Handler: http.NotFoundHandler()}).Shutdown(ctx))
	}
}

// Shutdown after Close waits for what Accept has returned, and does not mind
// that the wrapped listener is closed: it is how servers end, which call Close.
func TestListenerShutdownAfterClose(t *testing.T) {
	for _, before := range []bool{false, true} {
		l := &preflight.PreflightListener{Listener: listenTCP(t), Handler: http.NotFoundHandler(), RequireUpgrade: true}
		accepted := lisServe(t, l)
		client, _ := lisUpgraded(t, l, lisRequest())
		conn := lisNext(t, accepted)
		done := make(chan error, 1)
		if before {
			go func() { done <- l.Shutdown(context.Background()) }()
			for conn2, err := net.Dial("tcp", l.Addr().String()); err == nil; conn2, err = net.Dial("tcp", l.Addr().String()) {
				conn2.Close() // it has not begun
			}
		}
		require.NoError(t, shdIgnoreClosed(l.Close()))
		if !before {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			require.Equal(t, context.Canceled, l.Shutdown(ctx))
			go func() { done <- l.Shutdown(context.Background()) }()
		}
		lisTalk(t, client, conn)
		require.Empty(t, done)
		require.NoError(t, conn.Close())
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(patience):
			require.FailNow(t, "Shutdown does not return")
		}
	}
}

// shdIgnoreClosed is nil where a listener was closed before.
func shdIgnoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// The error with which the wrapped listener is closed is not lost.
func TestListenerShutdownReportsTheWrappedListener(t *testing.T) {
	l := &preflight.PreflightListener{Listener: shdBroken{lisNewNet()}}
	require.Equal(t, errLisOther, l.Shutdown(context.Background()))
	require.Equal(t, errLisOther, l.Close())
	shdClosed(t, l, 1)
}

type shdBroken struct{ *lisNet }

func (n shdBroken) Close() error {
	n.lisNet.Close()
	return errLisOther
}

// Several calls of Shutdown return together, each with its own context.
func TestListenerShutdownConcurrently(t *testing.T) {
	certs := shdNewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := shdNew(t, certs, nil)
		p := s.deliver(t, shdKinds[1])
		start := time.Now()
		results := make(chan error, 5)
		for i := range cap(results) {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if i == 0 {
					ctx, cancel = context.WithTimeoutCause(t.Context(), time.Second, errLisOther)
				}
				defer cancel()
				results <- s.Shutdown(ctx)
			}()
		}
		require.Equal(t, errLisOther, <-results)
		require.Equal(t, time.Second, time.Since(start))
		synctest.Wait()
		require.Empty(t, results)
		p.close()
		for range cap(results) - 1 {
			require.NoError(t, <-results)
		}
		require.Equal(t, time.Second, time.Since(start))
	})
}

// From the moment of Shutdown the kernel refuses new clients.
func TestListenerShutdownRefusesDials(t *testing.T) {
	inner := listenTCP(t)
	l := &preflight.PreflightListener{Listener: inner}
	accepted := lisServe(t, l)
	client, _ := lisUpgraded(t, l, lisRequest())
	conn := lisNext(t, accepted)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.Equal(t, context.Canceled, l.Shutdown(ctx))
	_, err := net.Dial("tcp", inner.Addr().String())
	require.Error(t, err)
	lisTalk(t, client, conn)
	require.NoError(t, conn.Close())
	require.NoError(t, l.Shutdown(context.Background()))
}

// A client that waits for a place when Shutdown is called gets none, on the port
// or in ServeHTTP, and the one that has the place is served.
func TestListenerShutdownMeetsAClientThatWaits(t *testing.T) {
	certs := shdNewCerts(t)
	for _, mounted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := shdNew(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
			s.start(t)
			finished := s.direct.dial(t).upgraded(t, lisRequest())
			waiting := s.dial(t, mounted)
			answer := waiting.ask(lisRequest())
			synctest.Wait()
			done := s.shutdown(t.Context())
			c, err := s.Accept()
			require.NoError(t, err)
			p := shdPair{finished, c.(*preflight.Conn)}
			p.talks(t)
			shdClosed(t, s, 2)
			if mounted {
				require.Equal(t, http.StatusServiceUnavailable, (<-answer).StatusCode)
			} else {
				require.Error(t, (<-answer).err)
			}
			require.Empty(t, done)
			p.close()
			require.NoError(t, <-done)
			time.Sleep(time.Second)
			synctest.Wait()
			require.True(t, waiting.server.closed.Load())
		})
	}
}
