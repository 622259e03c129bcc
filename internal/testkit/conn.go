package testkit

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// SpyConn counts what is done to a connection, and steps in where a test asks
// for it. It hides every method that net.Conn does not have.
type SpyConn struct {
	net.Conn
	Reads, Writes, Closes atomic.Int32 // reads are those that returned data
	Received              atomic.Int64 // bytes
	Deadlines             atomic.Int32 // that were set, of any kind
	OnRead, OnWrite       func()       // what was read or written is reported after it
	NoDeadlines           bool         // as a channel of an SSH connection
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

// SpyPipe is a net.Pipe that ends with the test.
func SpyPipe(t testing.TB) (client, server net.Conn) {
	client, server = net.Pipe()
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}
