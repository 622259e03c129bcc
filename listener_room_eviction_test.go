package preflight_test

import (
	"bufio"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// shdLast is the server's end of a connection. Once it is armed, a new client
// arrives between the moment when the next bytes have come and the moment when
// they are seen.
type shdLast struct {
	*lisConn
	armed   *atomic.Bool
	arrive  func()
	evicted chan struct{} // by the first deadline in the past
	once    *sync.Once
}

func (c shdLast) Read(b []byte) (int, error) {
	n, err := c.lisConn.Read(b)
	if n > 0 && c.armed.CompareAndSwap(true, false) {
		c.arrive()
		<-c.evicted
	}
	return n, err
}

func (c shdLast) SetReadDeadline(t time.Time) error {
	if t.Before(time.Now()) && !t.IsZero() {
		c.once.Do(func() { close(c.evicted) })
	}
	return c.lisConn.SetReadDeadline(t)
}

// shdRacing connects a client whose eviction meets its next bytes. The new client
// for which it has to go comes out of next.
func shdRacing(s *shdScene, t *testing.T) (ours net.Conn, server shdLast, next chan *lisClient) {
	t.Helper()
	ours, theirs := net.Pipe()
	next = make(chan *lisClient, 1)
	server = shdLast{
		&lisConn{Conn: theirs}, new(atomic.Bool), func() { next <- s.direct.dial(t) }, make(chan struct{}), new(sync.Once),
	}
	s.direct.backlog <- server
	return ours, server, next
}

// A client that has to go in the very moment in which its last bytes are here
// is not lost: it is what it has turned out to be, and no mark is left on it.
func TestListenerEvictionMeetsTheLastBytes(t *testing.T) {
	certs := shdNewCerts(t)
	for _, tt := range []struct {
		name   string
		secure bool
		sent   string // before
		last   string
		status int // 0: plain
	}{
		{name: "a tunnel", last: lisRequest(), status: 101},
		{name: "a tunnel, its last byte", sent: lisRequest()[:len(lisRequest())-1], last: "\n", status: 101},
		{name: "a tunnel behind a PROXY header", sent: shdProxy[:20], last: shdProxy[20:] + lisRequest(), status: 101},
		{name: "a tunnel over TLS", secure: true, last: lisRequest(), status: 101},
		{name: "plain", last: "\x00"},
		{name: "plain over TLS", secure: true, last: "\x00"},
		{name: "a refusal", sent: "GET / HTTP/1.1\r\n", last: "\r\n", status: 400},
		{name: "an ordinary request", sent: shdOrdinary[:20], last: shdOrdinary[20:], status: 200},
		{name: "an ordinary request over TLS", secure: true, last: shdOrdinary, status: 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := shdNew(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
				accepted := lisServe(t, s)
				ours, server, next := shdRacing(s, t)
				defer ours.Close()
				old := shdRaw(ours, server.lisConn)
				up := old
				if tt.secure {
					up = lisSecure(t, old, certs.client)
				}
				up.send(t, tt.sent)
				time.Sleep(time.Second)
				server.armed.Store(true)
				up.send(t, tt.last)
				if tt.status != 0 {
					a := up.answer("GET")
					require.NoError(t, a.err)
					require.Equal(t, tt.status, a.StatusCode)
				}
				<-server.evicted
				if tt.status == 0 || tt.status == 101 {
					p := shdPair{up, <-accepted}
					if tt.status == 0 {
						lisSkip(t, p.conn, tt.last)
					}
					time.Sleep(time.Hour)
					p.talks(t)
					p.close()
				}
				ours.Close()
				c := <-next
				if tt.status == 0 || tt.status == 101 {
					lisTalk(t, c, <-accepted) // it was silent for an hour
					return
				}
				require.Equal(t, 101, (<-c.ask(lisRequest())).StatusCode)
				lisTalk(t, c, <-accepted)
			})
		})
	}
}

// shdRaw is a client of which both ends are known.
func shdRaw(ours net.Conn, server *lisConn) *lisClient {
	c := &lisClient{Conn: ours, r: bufio.NewReader(ours)}
	c.server = server
	return c
}

// shdCleared is the server's end of a connection that calls a function when its
// deadlines are cleared, at the end of the handshake.
type shdCleared struct {
	*lisConn
	armed *atomic.Bool
	then  func()
}

func (c shdCleared) SetDeadline(t time.Time) error {
	err := c.lisConn.SetDeadline(t)
	if t.IsZero() && c.armed.CompareAndSwap(true, false) {
		c.then()
	}
	return err
}

// A new client that comes when the handshake inside a tunnel has just ended
// leaves that tunnel alone: there is nothing more that it waits for.
func TestListenerEvictionLeavesAFinishedTunnelAlone(t *testing.T) {
	certs := shdNewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := shdNew(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
		accepted := lisServe(t, s)
		ours, theirs := net.Pipe()
		defer ours.Close()
		server := shdCleared{&lisConn{Conn: theirs}, new(atomic.Bool), func() {
			s.direct.dial(t)
			for range 10_000 { // until it looks for a place
				runtime.Gosched()
			}
		}}
		s.direct.backlog <- server
		c := shdRaw(ours, server.lisConn).upgraded(t, shdTunnels)
		time.Sleep(2 * time.Second)
		server.armed.Store(true)
		p := shdPair{lisSecure(t, c, certs.client), <-accepted}
		require.False(t, server.armed.Load())
		p.talks(t)
		p.close()
	})
}
