package chaos

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// errLeak reports a connection that was not closed. Counting descriptors is not enough,
// because the garbage collector closes such a connection.
var errLeak = errors.New("a connection was not closed")

// A counter counts the connections of a dialer or of a listener.
type counter struct{ opened, closed atomic.Int64 }

// open returns how many connections are not closed.
func (n *counter) open() int64 { return n.opened.Load() - n.closed.Load() }

func (n *counter) count(c net.Conn) net.Conn {
	n.opened.Add(1)
	return &countedConn{c.(*net.TCPConn), sync.OnceFunc(func() { n.closed.Add(1) })}
}

type countedConn struct {
	*net.TCPConn
	closed func()
}

func (c *countedConn) Close() error {
	c.closed()
	return c.TCPConn.Close()
}

type countingListener struct {
	net.Listener
	*counter
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.count(c), nil
}

type countingDialer struct{ *counter }

func (d countingDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return d.count(c), nil
}
