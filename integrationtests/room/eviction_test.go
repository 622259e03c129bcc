package room_test

import (
	"net"
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

// lastBytesConn is the server's end of a connection. When it is armed, a new client
// arrives after the next bytes have come and before the listener sees them.
type lastBytesConn struct {
	*testkit.NetworkConn
	armed   *atomic.Bool
	arrive  func()
	evicted chan struct{} // closed by the first deadline in the past
	once    *sync.Once
}

func (c lastBytesConn) Read(b []byte) (int, error) {
	n, err := c.NetworkConn.Read(b)
	if n > 0 && c.armed.CompareAndSwap(true, false) {
		c.arrive()
		<-c.evicted
	}
	return n, err
}

func (c lastBytesConn) SetReadDeadline(t time.Time) error {
	if t.Before(time.Now()) && !t.IsZero() {
		c.once.Do(func() { close(c.evicted) })
	}
	return c.NetworkConn.SetReadDeadline(t)
}

// dialRacing connects a client that is evicted at the moment when its next bytes
// arrive. The new client that causes the eviction is sent to next.
func dialRacing(s *testkit.Scene, t *testing.T) (ours net.Conn, server lastBytesConn, next chan *testkit.Client) {
	t.Helper()
	ours, theirs := net.Pipe()
	next = make(chan *testkit.Client, 1)
	server = lastBytesConn{
		&testkit.NetworkConn{Conn: theirs}, new(atomic.Bool), func() { next <- s.Direct.Dial(t) }, make(chan struct{}), new(sync.Once),
	}
	s.Direct.Backlog <- server
	return ours, server, next
}

// A client is evicted at the moment when its last bytes have arrived. It is not
// lost: the listener handles it by its kind, and no deadline of the eviction
// remains.
func TestListenerEvictionAtTheLastBytes(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, tt := range []struct {
		name   string
		secure bool
		sent   string // sent before
		last   string
		status int // 0: plain
	}{
		{name: "a tunnel", last: testkit.Request(), status: 101},
		{name: "a tunnel, its last byte", sent: testkit.Request()[:len(testkit.Request())-1], last: "\n", status: 101},
		{name: "a tunnel behind a PROXY header", sent: testkit.ThroughProxy[:20], last: testkit.ThroughProxy[20:] + testkit.Request(), status: 101},
		{name: "a tunnel over TLS", secure: true, last: testkit.Request(), status: 101},
		{name: "plain", last: "\x00"},
		{name: "plain over TLS", secure: true, last: "\x00"},
		{name: "a refusal", sent: "GET / HTTP/1.1\r\n", last: "\r\n", status: 400},
		{name: "an ordinary request", sent: testkit.Ordinary[:20], last: testkit.Ordinary[20:], status: 200},
		{name: "an ordinary request over TLS", secure: true, last: testkit.Ordinary, status: 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
				accepted := testkit.AcceptAll(t, s)
				ours, server, next := dialRacing(s, t)
				defer ours.Close()
				old := testkit.Raw(ours, server.NetworkConn)
				up := old
				if tt.secure {
					up = testkit.Secure(t, old, certs.Client)
				}
				up.Send(t, tt.sent)
				time.Sleep(time.Second)
				server.armed.Store(true)
				up.Send(t, tt.last)
				if tt.status != 0 {
					a := up.Answer("GET")
					require.NoError(t, a.Err)
					require.Equal(t, tt.status, a.StatusCode)
				}
				<-server.evicted
				if tt.status == 0 || tt.status == 101 {
					p := testkit.Pair{Client: up, Conn: <-accepted}
					if tt.status == 0 {
						testkit.Skip(t, p.Conn, tt.last)
					}
					time.Sleep(time.Hour)
					p.Talks(t)
					p.Close()
				}
				ours.Close()
				c := <-next
				if tt.status == 0 || tt.status == 101 {
					testkit.Talk(t, c, <-accepted) // it was silent for an hour
					return
				}
				require.Equal(t, 101, (<-c.Ask(testkit.Request())).StatusCode)
				testkit.Talk(t, c, <-accepted)
			})
		})
	}
}

// clearHookConn is the server's end of a connection. It calls a function when its
// deadlines are cleared, at the end of the handshake.
type clearHookConn struct {
	*testkit.NetworkConn
	armed *atomic.Bool
	then  func()
}

func (c clearHookConn) SetDeadline(t time.Time) error {
	err := c.NetworkConn.SetDeadline(t)
	if t.IsZero() && c.armed.CompareAndSwap(true, false) {
		c.then()
	}
	return err
}

// A new client arrives when the handshake inside a tunnel has just ended. That
// tunnel is not evicted, because it waits for no more bytes.
func TestListenerEvictionLeavesAFinishedTunnelAlone(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
		accepted := testkit.AcceptAll(t, s)
		ours, theirs := net.Pipe()
		defer ours.Close()
		server := clearHookConn{&testkit.NetworkConn{Conn: theirs}, new(atomic.Bool), func() {
			s.Direct.Dial(t)
			for range 10_000 { // time for the new client to look for a place
				runtime.Gosched()
			}
		}}
		s.Direct.Backlog <- server
		c := testkit.Raw(ours, server.NetworkConn).Upgraded(t, testkit.TunnelTLSRequest)
		time.Sleep(2 * time.Second)
		server.armed.Store(true)
		p := testkit.Pair{Client: testkit.Secure(t, c, certs.Client), Conn: <-accepted}
		require.False(t, server.armed.Load())
		p.Talks(t)
		p.Close()
	})
}
