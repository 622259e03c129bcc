package preflight

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is a connection behind its handshake: a tunnel to the peer, or a plain
// connection that a listener handed on untouched. It adds nothing to the bytes
// of the application, and costs no allocation for each Read or Write.
//
// Bytes that arrived together with the handshake are read first. All methods
// are safe for concurrent use.
//
// There is no SyscallConn and no ConnectionState on purpose: socket options,
// TLS facts and net.Buffers (writev) go through [Conn.NetConn], on which
// writing is safe at any time and reading once Conn has been read.
type Conn struct {
	conn net.Conn

	heads heads // parsed only when they are asked for, which is seldom
	req   atomic.Pointer[http.Request]
	resp  atomic.Pointer[http.Response]

	// rest is what arrived behind the handshake. Once it is drained, Read
	// looks at nothing but the flag.
	undrained atomic.Bool
	mu        sync.Mutex
	closed    bool
	rest      []byte
	deadline  time.Time // of Read, while there is a rest
}

// heads are what a handshake consisted of; zero for a plain connection.
type heads struct{ request, answer []byte }

// newConn takes ownership of heads and rest.
func newConn(c net.Conn, heads heads, rest []byte) *Conn {
	conn := &Conn{conn: c, heads: heads}
	if len(rest) > 0 {
		conn.rest = rest
		conn.undrained.Store(true)
	}
	return conn
}

// Request is the upgrade request: on the server's side the very one that
// [PreflightListener.Authorize] saw, so that values it put in the Context are
// found here; on the client's side the one that was sent. It is nil for a
// plain connection. Callers must not modify it.
func (c *Conn) Request() *http.Request {
	if c.heads.request == nil {
		return nil
	}
	if r := c.req.Load(); r != nil {
		return r
	}
	r, err := newRequest(c.heads.request)
	if err != nil {
		return nil
	}
	r.RemoteAddr = addrString(c.RemoteAddr())
	if !c.req.CompareAndSwap(nil, r) {
		return c.req.Load()
	}
	return r
}

// Response is the 101 that was received or sent; its Upgrade field names the
// protocol that was chosen. It is nil for a plain connection. Callers must not
// modify it.
func (c *Conn) Response() *http.Response {
	if c.heads.request == nil {
		return nil
	}
	if r := c.resp.Load(); r != nil {
		return r
	}
	r := newResponse(c.heads.answer, c.Request())
	if !c.resp.CompareAndSwap(nil, r) {
		return c.resp.Load()
	}
	return r
}

// NetConn is the connection directly below: TLS if the handshake ran over TLS,
// else the one that was dialed or accepted. Reading from it before Conn has
// been read would pass over what arrived with the handshake.
func (c *Conn) NetConn() net.Conn { return c.conn }

// Read reads what arrived with the handshake first, then from the connection.
func (c *Conn) Read(b []byte) (int, error) {
	if c.undrained.Load() {
		if n, err, ok := c.readRest(b); ok {
			return n, err
		}
	}
	return c.conn.Read(b)
}

func (c *Conn) readRest(b []byte) (n int, err error, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.rest) == 0 {
		return 0, nil, false
	}
	if c.expired() {
		return 0, c.opError("read", os.ErrDeadlineExceeded), true
	}
	n = copy(b, c.rest)
	c.keep(c.rest[n:])
	return n, nil, true
}

// expired reports whether the deadline of Read has passed. It wins over the
// rest, as it does over bytes that wait in the socket's own buffer. The caller
// holds mu.
func (c *Conn) expired() bool { return !c.deadline.IsZero() && !time.Now().Before(c.deadline) }

// keep replaces the rest, and frees it when it is empty. The caller holds mu.
func (c *Conn) keep(rest []byte) {
	if len(rest) == 0 {
		rest = nil
	}
	c.rest = rest
	c.undrained.Store(rest != nil)
}

// drop gives the rest up for good.
func (c *Conn) drop() {
	c.mu.Lock()
	c.closed = true
	c.keep(nil)
	c.mu.Unlock()
}

// Write writes to the connection.
func (c *Conn) Write(b []byte) (int, error) { return c.conn.Write(b) }

// WriteTo writes to w what arrived with the handshake, then everything that
// can be read until EOF. Between TCP connections the kernel moves the bytes
// (splice) as it does without a Conn.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	var n int
	if c.undrained.Load() {
		var err error
		if n, err = c.writeRest(w); err != nil {
			return int64(n), err
		}
	}
	m, err := io.Copy(w, c.conn)
	return int64(n) + m, err
}

// writeRest takes the rest, and puts back what w does not. The lock is not held
// over the write: SetReadDeadline must not wait for a peer of w that does not read.
func (c *Conn) writeRest(w io.Writer) (int, error) {
	c.mu.Lock()
	rest := c.rest
	if rest == nil {
		c.mu.Unlock()
		return 0, nil
	}
	if c.expired() {
		// Not left to the connection: its clock may be slower, and what it
		// then reads would pass the rest.
		c.mu.Unlock()
		return 0, c.opError("read", os.ErrDeadlineExceeded)
	}
	c.rest = nil
	c.mu.Unlock()
	n, err := w.Write(rest)
	n = min(max(n, 0), len(rest)) // what a faulty Writer returns is no index
	if n < len(rest) && err == nil {
		err = io.ErrShortWrite
	}
	c.mu.Lock()
	if !c.closed {
		c.keep(rest[n:])
	}
	c.mu.Unlock()
	return n, err
}

// ReadFrom writes everything that can be read from r to the connection.
// Between TCP connections the kernel moves the bytes (splice) as it does
// without a Conn.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.conn, r) }

// Close closes the connection. What arrived with the handshake and has not
// been read is dropped.
func (c *Conn) Close() error {
	c.drop()
	return c.conn.Close()
}

// CloseWrite ends the direction to the peer (half-close). It is an error
// wrapping [errors.ErrUnsupported] if the connection below cannot do that.
// Few proxies carry it through: nginx ends both directions.
func (c *Conn) CloseWrite() error {
	if h, ok := c.conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.opError("close", fmt.Errorf("CloseWrite on %T: %w", c.conn, errors.ErrUnsupported))
}

// CloseRead ends the direction from the peer and drops what has arrived. It is
// an error wrapping [errors.ErrUnsupported] if the connection below cannot do that.
func (c *Conn) CloseRead() error {
	if h, ok := c.conn.(interface{ CloseRead() error }); ok {
		c.drop()
		return h.CloseRead()
	}
	return c.opError("close", fmt.Errorf("CloseRead on %T: %w", c.conn, errors.ErrUnsupported))
}

// LocalAddr is the local address of the connection.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr is the remote address of the connection: behind a proxy, the
// proxy's. It never blocks.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// SetDeadline sets both deadlines, as [net.Conn] says.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.restDeadline(t, c.conn.SetDeadline(t))
}

// SetReadDeadline sets the deadline of Read, as [net.Conn] says.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.restDeadline(t, c.conn.SetReadDeadline(t))
}

// SetWriteDeadline sets the deadline of Write, as [net.Conn] says.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }

// restDeadline makes a deadline that the connection has taken that of the rest.
func (c *Conn) restDeadline(t time.Time, err error) error {
	if err == nil && c.undrained.Load() {
		c.mu.Lock()
		c.deadline = t
		c.mu.Unlock()
	}
	return err
}

func (c *Conn) opError(op string, err error) error { return opError(op, c.conn, err) }

// opError describes an error of the connection as package net does.
func opError(op string, c net.Conn, err error) error {
	e := &net.OpError{Op: op, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
	if e.Addr != nil {
		e.Net = e.Addr.Network()
	}
	return e
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}
