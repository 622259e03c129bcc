package preflight_test

import (
	"errors"
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

// Close ends every handshake wherever it is, at once, and leaves nothing: the
// bubble would end with a panic if a goroutine did not.
func TestListenerCloseWhilePending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lisNewNet()
		l := listen(t, &preflight.PreflightListener{
			Listener: n, AllowPlain: true, PlainAfter: time.Minute, HandshakeTimeout: time.Hour,
			Authorize: func(r *http.Request) (http.Header, error) {
				if r.Header.Get("Block") != "" {
					<-r.Context().Done()
				}
				return nil, nil
			},
		})
		lisLeaveOnce(t, n, l)
		start := time.Now()
		clients := make([]*lisClient, 1000)
		for i := range clients {
			c := n.dial(t)
			clients[i] = c
			switch i % 8 {
			case 0: // silent
			case 1:
				c.send(t, "GET")
			case 2:
				c.send(t, "GET /t HTTP/1.1\r\nHost: h\r\n")
			case 3:
				c.send(t, lisRequest("Block: yes"))
			case 4: // finished, and nobody accepts it
				c.ask(lisRequest())
			case 5: // plain, likewise
				c.send(t, "plain\n")
			case 6: // does not read its 101, or its refusal
				c.send(t, lisRequest())
			case 7: // does not leave after its refusal
				c.ask("GET /t HTTP/1.1\r\n\r\n")
			}
		}
		synctest.Wait()
		require.NoError(t, l.Close())
		synctest.Wait()
		require.Zero(t, time.Since(start), "nothing was waited for")
		for i, c := range clients {
			require.True(t, c.server.closed.Load(), "client %d", i)
		}
		_, err := l.Accept()
		require.Equal(t, net.ErrClosed, err)
	})
}

// lisSlow is a connection that takes its time to be closed, as one of
// crypto/tls does that sends its last message first.
type lisSlow struct {
	*lisConn
	closing chan<- struct{}
	release <-chan struct{}
}

func (c lisSlow) Close() error {
	c.closing <- struct{}{}
	<-c.release
	return c.lisConn.Close()
}

// However long connections take to be closed, Close waits for none of them,
// nor do they for each other.
func TestListenerCloseDoesNotWait(t *testing.T) {
	n := lisNewNet()
	l := listen(t, &preflight.PreflightListener{Listener: n})
	lisLeaveOnce(t, n, l)
	closing, release := make(chan struct{}, 100), make(chan struct{})
	defer close(release)
	kinds := []string{"GET", "GET /t HTTP/1.1\r\n", lisRequest(), "plain\n"}
	for _, sent := range kinds {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close() })
		n.backlog <- lisSlow{&lisConn{Conn: theirs}, closing, release}
		_, err := io.WriteString(ours, sent)
		require.NoError(t, err)
	}
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	for range kinds {
		select {
		case <-closing:
		case <-time.After(patience):
			require.FailNow(t, "it is not closed")
		}
	}
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(patience):
		require.FailNow(t, "Close waits")
	}
}

// lisHooked is a connection that calls a function before its deadline is set.
type lisHooked struct {
	*lisConn
	before func(time.Time)
}

func (c *lisHooked) SetDeadline(d time.Time) error {
	c.before(d)
	return c.lisConn.SetDeadline(d)
}

// Close that meets a handshake in its very first moment ends it too: the
// deadline of the handshake must not replace the interruption.
func TestListenerCloseMeetsABeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := lisNewNet()
		l := listen(t, &preflight.PreflightListener{Listener: n})
		accepted, interrupted := make(chan error), make(chan struct{})
		var first, second sync.Once
		ours, theirs := net.Pipe()
		defer ours.Close()
		conn := &lisHooked{lisConn: &lisConn{Conn: theirs}, before: func(d time.Time) {
			if d.Before(start) {
				second.Do(func() { close(interrupted) })
				return
			}
			first.Do(func() {
				go l.Close()
				<-accepted // Close has begun
				// Either it interrupts this connection now, or it waits for us.
				for range 10_000 {
					select {
					case <-interrupted:
						return
					default:
						runtime.Gosched()
					}
				}
			})
		}}
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
		n.backlog <- conn
		synctest.Wait()
		require.True(t, conn.closed.Load(), "it is closed at once, not when its handshake times out")
	})
}

// lisPeer answers each byte with the next, until its connection ends.
func lisPeer(c net.Conn) {
	b := make([]byte, 1)
	for {
		if _, err := c.Read(b); err != nil {
			return
		}
		b[0]++
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// lisAlive requires that a lisPeer is at the other end.
func lisAlive(t testing.TB, c net.Conn) {
	t.Helper()
	b := []byte{'a'}
	_, err := c.Write(b)
	require.NoError(t, err)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "b", string(b))
}

// What Accept has returned is the application's, however close Close came: it
// is not closed, and has no deadline. What it has not returned is closed.
func TestListenerCloseLeavesWhatWasDelivered(t *testing.T) {
	for round := range 150 {
		synctest.Test(t, func(t *testing.T) {
			n := lisNewNet()
			l := listen(t, &preflight.PreflightListener{Listener: n})
			const clients = 20
			servers := map[net.Conn]*lisConn{}
			for i := range clients {
				c := n.dial(t)
				servers[c.server] = c.server
				go func() {
					request := lisRequest()
					if i%4 == 0 {
						request = "\x00" // plain
					}
					if _, err := io.WriteString(c, request); err != nil {
						return
					}
					if i%4 != 0 {
						if a := c.answer("GET"); a.err != nil {
							return
						}
					}
					lisPeer(c)
				}()
			}
			delivered := make(chan net.Conn, clients)
			var count atomic.Int64
			var accepting sync.WaitGroup
			for range 2 {
				accepting.Go(func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						delivered <- c
						if count.Add(1) == int64(round%clients) {
							go l.Close()
						}
					}
				})
			}
			if round%clients == 0 {
				l.Close()
			}
			accepting.Wait()
			synctest.Wait()
			time.Sleep(time.Hour) // an old deadline would have passed
			close(delivered)
			for c := range delivered {
				conn := c.(*preflight.Conn)
				server := servers[conn.NetConn()]
				require.NotNil(t, server, "delivered twice")
				delete(servers, conn.NetConn())
				require.False(t, server.closed.Load())
				if conn.Request() == nil {
					lisSkip(t, conn, "\x00")
				}
				lisAlive(t, conn)
				require.NoError(t, conn.Close())
			}
			for range len(n.backlog) {
				delete(servers, (<-n.backlog).(net.Conn)) // never accepted
			}
			for _, server := range servers {
				require.True(t, server.closed.Load(), "neither delivered nor closed")
			}
		})
	}
}

// An eviction that comes when the last byte does either takes effect, or it
// does not: no connection is delivered with its mark.
func TestListenerEvictionLeavesWhatWasDelivered(t *testing.T) {
	for _, tt := range []struct{ name, sent, last string }{
		{"in its head", lisRequest()[:len(lisRequest())-1], "\n"},
		{"silent, then plain", "", "\x00"},
		{"silent, then all of it", "", lisRequest()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := lisNewNet()
				l := listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1})
				accepted := lisServe(t, l)
				for range 300 {
					old := n.dial(t)
					old.send(t, tt.sent)
					time.Sleep(time.Second)

					begin := make(chan struct{})
					go func() {
						<-begin
						if _, err := io.WriteString(old, tt.last); err == nil {
							if tt.last != "\x00" && old.answer("GET").err != nil {
								return
							}
							lisPeer(old)
						}
					}()
					ours, theirs := net.Pipe()
					c := &lisConn{Conn: theirs}
					go func() {
						<-begin
						n.backlog <- c
						lisPeer(ours)
					}()
					synctest.Wait()
					close(begin)
					synctest.Wait()
					time.Sleep(time.Hour) // the new client is silent, and plain in the end

					sawOld, sawNew := false, false
					for range len(accepted) {
						conn := <-accepted
						switch conn.NetConn() {
						case net.Conn(c):
							require.False(t, sawNew)
							sawNew = true
							lisAlive(t, conn)
						case net.Conn(old.server):
							require.False(t, sawOld)
							sawOld = true
							// It may have been handed on before it spoke.
							if conn.Request() == nil && tt.last == "\x00" {
								lisSkip(t, conn, tt.last)
							}
							if conn.Request() != nil || tt.last == "\x00" {
								lisAlive(t, conn)
							}
						}
						conn.Close()
					}
					require.True(t, sawNew, "the new client is served")
					require.True(t, sawOld || old.server.closed.Load())
					ours.Close()
					old.Close()
				}
			})
		})
	}
}

// lisNoDeadlines is a transport that has no deadlines, such as a channel of an
// SSH connection. It can only be closed.
type lisNoDeadlines struct{ *lisConn }

func (lisNoDeadlines) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (lisNoDeadlines) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (lisNoDeadlines) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

func TestListenerOverTransportWithoutDeadlines(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		served     bool
		close      bool          // the listener
		other      bool          // client comes after 2 s, and MaxPending is 1
		closedAt   time.Duration // unless it is served
	}{
		{name: "a tunnel", sent: lisRequest(), served: true},
		{name: "plain", sent: "plain\n", served: true},
		{name: "silent", closedAt: 10 * time.Second},
		{name: "in its head", sent: "GET / HTTP/1.1\r\n", closedAt: 10 * time.Second},
		{name: "refused", sent: "GET / HTTP/1.1\r\n\r\n", closedAt: time.Second},
		{name: "closed with the listener", sent: "GET", close: true, closedAt: 2 * time.Second},
		{name: "evicted", sent: "GET", other: true, closedAt: 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := lisNewNet()
				l := listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1})
				accepted := lisServe(t, l)
				ours, theirs := net.Pipe()
				defer ours.Close()
				server := lisNoDeadlines{&lisConn{Conn: theirs}}
				n.backlog <- server
				ended := make(chan time.Duration, 1)
				go func() {
					io.WriteString(ours, tt.sent)
					io.Copy(io.Discard, ours)
					ended <- time.Since(start)
				}()
				time.Sleep(2 * time.Second)
				if tt.close {
					l.Close()
				}
				if tt.other {
					c := n.dial(t)
					require.Equal(t, 101, (<-c.ask(lisRequest())).StatusCode)
					lisTalk(t, c, <-accepted)
				}
				time.Sleep(time.Hour) // and no timer that is left closes it later
				if tt.served {
					require.False(t, server.closed.Load())
					require.Len(t, accepted, 1)
					conn := <-accepted
					if conn.Request() == nil {
						lisSkip(t, conn, tt.sent)
					}
					lisCarry(t, "a question", ours, conn)
					return
				}
				require.Equal(t, tt.closedAt, <-ended)
				require.True(t, server.closed.Load())
				require.Empty(t, accepted)
			})
		})
	}
}

// lisCounted counts how often it is closed.
type lisCounted struct {
	lisNoDeadlines
	closes *atomic.Int64
}

func (c lisCounted) Close() error {
	c.closes.Add(1)
	return c.lisNoDeadlines.Close()
}

// The timer in place of a deadline goes with the handshake, however that ends:
// it would hold the connection, and close it once more.
func TestListenerLeavesNoTimer(t *testing.T) {
	for _, sent := range []string{
		"plain\n", lisRequest(), lisRequest("Do: exit"), lisRequest("Do: refuse"), "GET / HTTP/1.1\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			n := lisNewNet()
			l := listen(t, &preflight.PreflightListener{
				Listener: n, AllowPlain: true,
				Authorize: func(r *http.Request) (http.Header, error) {
					switch r.Header.Get("Do") {
					case "exit":
						runtime.Goexit()
					case "refuse":
						return nil, errLisOther
					}
					return nil, nil
				},
			})
			accepted := lisServe(t, l)
			ours, theirs := net.Pipe()
			conn := lisCounted{lisNoDeadlines{&lisConn{Conn: theirs}}, new(atomic.Int64)}
			n.backlog <- conn
			go func() {
				io.WriteString(ours, sent)
				io.Copy(io.Discard, ours)
			}()
			synctest.Wait()
			for range len(accepted) {
				(<-accepted).Close()
			}
			ours.Close()
			time.Sleep(time.Hour)
			require.EqualValues(t, 1, conn.closes.Load(), "%q", sent)
		})
	}
}

// lisReadDeadlines has deadlines for reading alone, and says so late.
type lisReadDeadlines struct{ net.Conn }

func (c lisReadDeadlines) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return errors.ErrUnsupported
}

// lisOnlyReadDeadlines has no SetDeadline at all.
type lisOnlyReadDeadlines struct{ net.Conn }

func (lisOnlyReadDeadlines) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// The deadline by which PlainAfter waits does not outlive the handshake.
func TestListenerPlainAfterLeavesNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lisNewNet()
		accepted := lisServe(t, listen(t, &preflight.PreflightListener{Listener: n, PlainAfter: time.Second}))
		ours, theirs := net.Pipe()
		defer ours.Close()
		n.backlog <- lisOnlyReadDeadlines{theirs}
		time.Sleep(time.Hour)
		c := lisNext(t, accepted)
		go io.WriteString(ours, "late\n")
		lisSkip(t, c, "late\n")
	})
}

// What a transport took of a deadline does not outlive the handshake.
func TestListenerHalfADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		go io.WriteString(ours, lisRequest())
		go io.ReadFull(ours, make([]byte, 4<<10)) // the 101
		c, err := preflight.Server(t.Context(), lisReadDeadlines{theirs})
		require.NoError(t, err)
		defer c.Close()
		time.Sleep(time.Hour)
		go io.WriteString(ours, "late")
		lisSkip(t, c, "late")
	})
}

// lisStuck is a transport without deadlines whose Close waits.
type lisStuck struct {
	lisNoDeadlines
	release chan struct{}
}

func (c lisStuck) Close() error {
	<-c.release
	return c.lisNoDeadlines.Close()
}

// Neither Close nor a new client waits for the Close of a transport.
func TestListenerTransportStuckInClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lisNewNet()
		l := listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 2})
		accepted := lisServe(t, l)
		release := make(chan struct{})
		for range 2 {
			ours, theirs := net.Pipe()
			defer ours.Close()
			n.backlog <- lisStuck{lisNoDeadlines{&lisConn{Conn: theirs}}, release}
			go io.WriteString(ours, "GET")
			synctest.Wait()
			time.Sleep(time.Second)
		}
		// One of them is evicted, and does not go. The listener lives: a
		// handshake of another kind would find its lock free.
		last := n.dial(t)
		synctest.Wait()
		closed := make(chan error)
		go func() { closed <- l.Close() }()
		synctest.Wait()
		select {
		case err := <-closed:
			require.NoError(t, err)
		default:
			require.Fail(t, "Close waits for a transport")
		}
		require.Empty(t, accepted)
		last.Close()
		close(release)
		synctest.Wait()
	})
}
