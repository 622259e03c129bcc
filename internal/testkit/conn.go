package testkit

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// SpyConn counts the operations on a connection, and calls functions of the
// test. It hides every method that is not in net.Conn.
type SpyConn struct {
	net.Conn
	Reads, Writes, Closes atomic.Int32 // Reads that returned data
	Received              atomic.Int64 // bytes
	Deadlines             atomic.Int32 // deadlines that were set, of any kind
	OnRead, OnWrite       func()       // called after a Read or a Write has its result and before it returns
	NoDeadlines           bool         // like a channel of an SSH connection
}

var ErrNoDeadlines = errors.New("this transport has no deadlines")

func (c *SpyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.Reads.Add(1)
		c.Received.Add(int64(n))
		if c.OnRead != nil {
			c.OnRead()
		}
	}
	return n, err
}

func (c *SpyConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.Writes.Add(1)
	if c.OnWrite != nil {
		c.OnWrite()
	}
	return n, err
}

func (c *SpyConn) Close() error {
	c.Closes.Add(1)
	return c.Conn.Close()
}

func (c *SpyConn) SetDeadline(t time.Time) error {
	return c.setDeadline(c.Conn.SetDeadline, t)
}

func (c *SpyConn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(c.Conn.SetReadDeadline, t)
}

func (c *SpyConn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(c.Conn.SetWriteDeadline, t)
}

func (c *SpyConn) setDeadline(set func(time.Time) error, t time.Time) error {
	c.Deadlines.Add(1)
	if c.NoDeadlines {
		return ErrNoDeadlines
	}
	return set(t)
}

// SpyPipe returns a net.Pipe that is closed at the end of the test.
func SpyPipe(t testing.TB) (client, server net.Conn) {
	client, server = net.Pipe()
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}
