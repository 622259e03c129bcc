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

// A momentConn is the server's end of a connection. It calls a function after a
// Read has its result and before it returns.
type momentConn struct {
	*testkit.NetworkConn
	armed  *atomic.Bool
	moment func() error // if it returns an error, Read returns that error
}

func (c momentConn) Read(b []byte) (int, error) {
	n, err := c.NetworkConn.Read(b)
	if c.armed.CompareAndSwap(true, false) {
		if instead := c.moment(); instead != nil {
			return 0, instead
		}
	}
	return n, err
}

func dialMoment(t *testing.T, n *testkit.Network, moment func() error) *testkit.Client {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	server := momentConn{&testkit.NetworkConn{Conn: theirs}, new(atomic.Bool), moment}
	server.armed.Store(true)
	n.Backlog <- server
	return testkit.Raw(ours, server.NetworkConn)
}

// PlainAfter ends with the first byte of a client. Then the deadline is that of
// the handshake. Setting it must not undo the end of the listener, nor an
// eviction that came in the meantime.
func TestFirstByteUndoesNothing(t *testing.T) {
	t.Run("Close", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, PlainAfter: time.Minute, HandshakeTimeout: time.Hour})
			testkit.AcceptAll(t, l)
			c := dialMoment(t, n, l.Close)
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
			c := dialMoment(t, n, func() error {
				next <- n.Dial(t)
				time.Sleep(time.Millisecond) // the eviction happens in this time
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

// A silent client is delivered as plain to make room only if its time has
// expired, not if its connection failed at the same moment.
func TestEvictionOfAClientThatLeft(t *testing.T) {
	for _, gone := range []error{syscall.ECONNRESET, io.ErrUnexpectedEOF, testkit.ErrOther} {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, HandshakeTimeout: time.Hour, MaxPending: 1})
			accepted := testkit.AcceptAll(t, l)
			evicted := make(chan struct{})
			c := dialMoment(t, n, func() error {
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

// A transport without deadlines can only be closed to make room. Bytes that
// arrive at that moment open no tunnel, because the connection is being closed.
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
			time.Sleep(time.Millisecond) // the eviction happens in this time
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
