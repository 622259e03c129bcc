package listener_test

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
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Close ends every handshake at once, at any step, and leaks nothing: a
// remaining goroutine would end the bubble with a panic.
func TestListenerCloseWhilePending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{
			Listener: n, AllowPlain: true, PlainAfter: time.Minute, HandshakeTimeout: time.Hour,
			Authorize: func(r *http.Request) (http.Header, error) {
				if r.Header.Get("Block") != "" {
					<-r.Context().Done()
				}
				return nil, nil
			},
		})
		testkit.CloseOnce(t, n, l)
		start := time.Now()
		clients := make([]*testkit.Client, 1000)
		for i := range clients {
			c := n.Dial(t)
			clients[i] = c
			switch i % 8 {
			case 0: // silent
			case 1:
				c.Send(t, "GET")
			case 2:
				c.Send(t, "GET /t HTTP/1.1\r\nHost: h\r\n")
			case 3:
				c.Send(t, testkit.Request("Block: yes"))
			case 4: // finished, and not accepted
				c.Ask(testkit.Request())
			case 5: // plain, and not accepted
				c.Send(t, "plain\n")
			case 6: // it does not read its 101, or its refusal
				c.Send(t, testkit.Request())
			case 7: // it does not close after its refusal
				c.Ask("GET /t HTTP/1.1\r\n\r\n")
			}
		}
		synctest.Wait()
		require.NoError(t, l.Close())
		synctest.Wait()
		require.Zero(t, time.Since(start), "Close did not wait")
		for i, c := range clients {
			require.True(t, c.Server.Closed.Load(), "client %d", i)
		}
		_, err := l.Accept()
		require.Equal(t, net.ErrClosed, err)
	})
}

// slowCloseConn is a connection whose Close takes time, like that of crypto/tls,
// which first sends its last message.
type slowCloseConn struct {
	*testkit.NetworkConn
	closing chan<- struct{}
	release <-chan struct{}
}

func (c slowCloseConn) Close() error {
	c.closing <- struct{}{}
	<-c.release
	return c.NetworkConn.Close()
}

// Close does not wait for connections that take long to close, and they do not
// wait for each other.
func TestListenerCloseDoesNotWait(t *testing.T) {
	n := testkit.NewNetwork()
	l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
	testkit.CloseOnce(t, n, l)
	closing, release := make(chan struct{}, 100), make(chan struct{})
	defer close(release)
	kinds := []string{"GET", "GET /t HTTP/1.1\r\n", testkit.Request(), "plain\n"}
	for _, sent := range kinds {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close() })
		n.Backlog <- slowCloseConn{&testkit.NetworkConn{Conn: theirs}, closing, release}
		_, err := io.WriteString(ours, sent)
		require.NoError(t, err)
	}
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	for range kinds {
		select {
		case <-closing:
		case <-time.After(testkit.Patience):
			require.FailNow(t, "the connection is not closed")
		}
	}
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(testkit.Patience):
		require.FailNow(t, "Close does not return")
	}
}

// hookedConn is a connection that calls a function before its deadline is set.
type hookedConn struct {
	*testkit.NetworkConn
	before func(time.Time)
}

func (c *hookedConn) SetDeadline(d time.Time) error {
	c.before(d)
	return c.NetworkConn.SetDeadline(d)
}

// Close also ends a handshake that has just begun: the deadline of the
// handshake must not replace the interruption.
func TestListenerCloseAtTheStartOfAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
		accepted, interrupted := make(chan error), make(chan struct{})
		var first, second sync.Once
		ours, theirs := net.Pipe()
		defer ours.Close()
		conn := &hookedConn{NetworkConn: &testkit.NetworkConn{Conn: theirs}, before: func(d time.Time) {
			if d.Before(start) {
				second.Do(func() { close(interrupted) })
				return
			}
			first.Do(func() {
				go l.Close()
				<-accepted // Close has begun
				// Close either interrupts this connection now, or waits for
				// this function.
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
		n.Backlog <- conn
		synctest.Wait()
		require.True(t, conn.Closed.Load(), "it is closed at once, not when its handshake times out")
	})
}

// A connection that Accept has returned belongs to the application, even if
// Close is called at the same time: it is not closed, and has no deadline. A
// connection that Accept has not returned is closed.
func TestListenerCloseKeepsDeliveredConnections(t *testing.T) {
	for round := range 150 {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
			const clients = 20
			servers := map[net.Conn]*testkit.NetworkConn{}
			for i := range clients {
				c := n.Dial(t)
				servers[c.Server] = c.Server
				go func() {
					request := testkit.Request()
					if i%4 == 0 {
						request = "\x00" // plain
					}
					if _, err := io.WriteString(c, request); err != nil {
						return
					}
					if i%4 != 0 {
						if a := c.Answer("GET"); a.Err != nil {
							return
						}
					}
					testkit.WaitForPeer(c)
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
			time.Sleep(time.Hour) // a deadline that remained would have passed
			close(delivered)
			for c := range delivered {
				conn := c.(*preflight.Conn)
				server := servers[conn.NetConn()]
				require.NotNil(t, server, "delivered twice")
				delete(servers, conn.NetConn())
				require.False(t, server.Closed.Load())
				if conn.Request() == nil {
					testkit.Skip(t, conn, "\x00")
				}
				testkit.Alive(t, conn)
				require.NoError(t, conn.Close())
			}
			for range len(n.Backlog) {
				delete(servers, (<-n.Backlog).(net.Conn)) // never accepted
			}
			for _, server := range servers {
				require.True(t, server.Closed.Load(), "neither delivered nor closed")
			}
		})
	}
}

// An eviction at the moment of the last byte either takes effect or does not.
// No connection is delivered with the deadline of an eviction.
func TestListenerEvictionKeepsDeliveredConnections(t *testing.T) {
	for _, tt := range []struct{ name, sent, last string }{
		{"in its head", testkit.Request()[:len(testkit.Request())-1], "\n"},
		{"silent, then plain", "", "\x00"},
		{"silent, then all of it", "", testkit.Request()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1})
				accepted := testkit.AcceptAll(t, l)
				for range 300 {
					old := n.Dial(t)
					old.Send(t, tt.sent)
					time.Sleep(time.Second)

					begin := make(chan struct{})
					go func() {
						<-begin
						if _, err := io.WriteString(old, tt.last); err == nil {
							if tt.last != "\x00" && old.Answer("GET").Err != nil {
								return
							}
							testkit.WaitForPeer(old)
						}
					}()
					ours, theirs := net.Pipe()
					c := &testkit.NetworkConn{Conn: theirs}
					go func() {
						<-begin
						n.Backlog <- c
						testkit.WaitForPeer(ours)
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
							testkit.Alive(t, conn)
						case net.Conn(old.Server):
							require.False(t, sawOld)
							sawOld = true
							// It may have been delivered before it spoke.
							if conn.Request() == nil && tt.last == "\x00" {
								testkit.Skip(t, conn, tt.last)
							}
							if conn.Request() != nil || tt.last == "\x00" {
								testkit.Alive(t, conn)
							}
						}
						conn.Close()
					}
					require.True(t, sawNew, "the new client is served")
					require.True(t, sawOld || old.Server.Closed.Load())
					ours.Close()
					old.Close()
				}
			})
		})
	}
}

func TestListenerOverTransportWithoutDeadlines(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		served     bool
		close      bool          // Close of the listener
		other      bool          // another client comes after 2 s, and MaxPending is 1
		closedAt   time.Duration // unless it is served
	}{
		{name: "a tunnel", sent: testkit.Request(), served: true},
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
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1})
				accepted := testkit.AcceptAll(t, l)
				ours, theirs := net.Pipe()
				defer ours.Close()
				server := testkit.NoDeadlines{NetworkConn: &testkit.NetworkConn{Conn: theirs}}
				n.Backlog <- server
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
					c := n.Dial(t)
					require.Equal(t, 101, (<-c.Ask(testkit.Request())).StatusCode)
					testkit.Talk(t, c, <-accepted)
				}
				time.Sleep(time.Hour) // no timer that remains closes it later
				if tt.served {
					require.False(t, server.Closed.Load())
					require.Len(t, accepted, 1)
					conn := <-accepted
					if conn.Request() == nil {
						testkit.Skip(t, conn, tt.sent)
					}
					testkit.Carry(t, "a question", ours, conn)
					return
				}
				require.Equal(t, tt.closedAt, <-ended)
				require.True(t, server.Closed.Load())
				require.Empty(t, accepted)
			})
		})
	}
}

// countingConn counts the calls of its Close.
type countingConn struct {
	testkit.NoDeadlines
	closes *atomic.Int64
}

func (c countingConn) Close() error {
	c.closes.Add(1)
	return c.NoDeadlines.Close()
}

// The timer that replaces a deadline stops with the handshake, however that
// ends. If it remained, it would keep the connection in memory and close it
// again.
func TestListenerLeavesNoTimer(t *testing.T) {
	for _, sent := range []string{
		"plain\n", testkit.Request(), testkit.Request("Do: exit"), testkit.Request("Do: refuse"), "GET / HTTP/1.1\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{
				Listener: n, AllowPlain: true,
				Authorize: func(r *http.Request) (http.Header, error) {
					switch r.Header.Get("Do") {
					case "exit":
						runtime.Goexit()
					case "refuse":
						return nil, testkit.ErrOther
					}
					return nil, nil
				},
			})
			accepted := testkit.AcceptAll(t, l)
			ours, theirs := net.Pipe()
			conn := countingConn{testkit.NoDeadlines{NetworkConn: &testkit.NetworkConn{Conn: theirs}}, new(atomic.Int64)}
			n.Backlog <- conn
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

// readDeadlines supports deadlines for Read only, and its SetDeadline
// reports that after it has set one.
type readDeadlines struct{ net.Conn }

func (c readDeadlines) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return errors.ErrUnsupported
}

// onlyReadDeadlines does not support SetDeadline.
type onlyReadDeadlines struct{ net.Conn }

func (onlyReadDeadlines) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// The deadline of PlainAfter is removed at the end of the handshake.
func TestListenerPlainAfterLeavesNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		accepted := testkit.AcceptAll(t, testkit.Listen(t, &preflight.PreflightListener{Listener: n, PlainAfter: time.Second}))
		ours, theirs := net.Pipe()
		defer ours.Close()
		n.Backlog <- onlyReadDeadlines{theirs}
		time.Sleep(time.Hour)
		c := testkit.NextConn(t, accepted)
		go io.WriteString(ours, "late\n")
		testkit.Skip(t, c, "late\n")
	})
}

// If a transport applies only a part of a deadline, that part is removed at the
// end of the handshake.
func TestListenerPartOfADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		go io.WriteString(ours, testkit.Request())
		go io.ReadFull(ours, make([]byte, 4<<10)) // the 101
		c, err := preflight.Server(t.Context(), readDeadlines{theirs})
		require.NoError(t, err)
		defer c.Close()
		time.Sleep(time.Hour)
		go io.WriteString(ours, "late")
		testkit.Skip(t, c, "late")
	})
}

// stuckCloseConn is a transport without deadlines whose Close blocks.
type stuckCloseConn struct {
	testkit.NoDeadlines
	release chan struct{}
}

func (c stuckCloseConn) Close() error {
	<-c.release
	return c.NoDeadlines.Close()
}

// Neither Close of the listener nor a new client waits for Close of a
// transport.
func TestListenerTransportStuckInClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 2})
		accepted := testkit.AcceptAll(t, l)
		release := make(chan struct{})
		for range 2 {
			ours, theirs := net.Pipe()
			defer ours.Close()
			n.Backlog <- stuckCloseConn{testkit.NoDeadlines{NetworkConn: &testkit.NetworkConn{Conn: theirs}}, release}
			go io.WriteString(ours, "GET")
			synctest.Wait()
			time.Sleep(time.Second)
		}
		// One of them is evicted, and its Close blocks. The listener still
		// works: another handshake can take its lock.
		last := n.Dial(t)
		synctest.Wait()
		closed := make(chan error)
		go func() { closed <- l.Close() }()
		synctest.Wait()
		select {
		case err := <-closed:
			require.NoError(t, err)
		default:
			require.Fail(t, "Close of the listener waits for Close of a transport")
		}
		require.Empty(t, accepted)
		last.Close()
		close(release)
		synctest.Wait()
	})
}
