package room_test

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A momConn is the server's end of a connection on which something happens in the
// moment in which a Read has come to its result, and has not returned it yet.
type momConn struct {
	*testkit.NetworkConn
	armed  *atomic.Bool
	moment func() error // its error, if there is one, is that of the Read
}

func (c momConn) Read(b []byte) (int, error) {
	n, err := c.NetworkConn.Read(b)
	if c.armed.CompareAndSwap(true, false) {
		if instead := c.moment(); instead != nil {
			return 0, instead
		}
	}
	return n, err
}

func momDial(t *testing.T, n *testkit.Network, moment func() error) *testkit.Client {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	server := momConn{&testkit.NetworkConn{Conn: theirs}, new(atomic.Bool), moment}
	server.armed.Store(true)
	n.Backlog <- server
	return testkit.Raw(ours, server.NetworkConn)
}

// PlainAfter is over with a client's first word, and then the deadline is that of
// the handshake. Setting it undoes neither the end of the listener nor an eviction
// that has come in the meantime.
func TestFirstWordUndoesNothing(t *testing.T) {
	t.Run("Close", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, PlainAfter: time.Minute, HandshakeTimeout: time.Hour})
			testkit.AcceptAll(t, l)
			c := momDial(t, n, l.Close)
			c.Send(t, "GET")
			start := time.Now()
			c.Ended(t)
			require.Zero(t, time.Since(start))
		})
	})
	t.Run("eviction", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, PlainAfter: time.Minute, HandshakeTimeout: time.Hour, MaxPending: 1})
			accepted := testkit.AcceptAll(t, l)
			next := make(chan *testkit.Client, 1)
			c := momDial(t, n, func() error {
				next <- n.Dial(t)
				time.Sleep(time.Millisecond) // in which it is evicted
				return nil
			})
			time.Sleep(2 * time.Second)
			c.Send(t, "GET")
			start := time.Now()
			c.Ended(t)
			require.Equal(t, time.Millisecond, time.Since(start))
			testkit.Talk(t, (<-next).Upgraded(t, testkit.Request()), <-accepted)
		})
	})
}

// A silent client that has to make room is handed on because its time is over, and
// not when its connection has failed by itself in that moment.
func TestEvictionOfAClientThatHasGone(t *testing.T) {
	for _, gone := range []error{syscall.ECONNRESET, io.ErrUnexpectedEOF, testkit.ErrOther} {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, HandshakeTimeout: time.Hour, MaxPending: 1})
			accepted := testkit.AcceptAll(t, l)
			evicted := make(chan struct{})
			c := momDial(t, n, func() error {
				<-evicted
				return gone
			})
			time.Sleep(2 * time.Second)
			next := n.Dial(t)
			time.Sleep(time.Millisecond)
			close(evicted)
			c.Ended(t)
			testkit.Talk(t, next.Upgraded(t, testkit.Request()), <-accepted)
			require.Empty(t, accepted)
		})
	}
}

// A transport without deadlines can only be closed to make room. If its bytes come
// in that moment, it is no tunnel nevertheless: it is being closed.
func TestEvictionWithoutDeadlinesIsNotTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, HandshakeTimeout: time.Hour, MaxPending: 1})
		accepted := testkit.AcceptAll(t, l)
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		next := make(chan *testkit.Client, 1)
		server := &testkit.SpyConn{Conn: theirs, NoDeadlines: true, OnRead: func() {
			next <- n.Dial(t)
			time.Sleep(time.Millisecond) // in which it is evicted
		}}
		n.Backlog <- server
		time.Sleep(2 * time.Second)
		_, err := io.WriteString(ours, testkit.Request())
		require.NoError(t, err)
		testkit.Talk(t, (<-next).Upgraded(t, testkit.Request()), <-accepted)
		require.Empty(t, accepted)
		require.NotZero(t, server.Closes.Load())
	})
}
