package preflight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight/internal/websocket"
	"github.com/preflight-go/preflight/internal/wire"
)

// Conn is a connection after its handshake: a tunnel to the peer, or a plain connection
// that a listener passed on unchanged. With [CarrierUpgrade] nothing is added to the bytes
// of the application. Read and Write do not allocate.
//
// Bytes that arrived together with the handshake are read first. All methods are safe
// for concurrent use.
//
// Conn has no SyscallConn and no ConnectionState on purpose. Socket options, the state of
// TLS and net.Buffers (writev) need [Conn.NetConn]. Writing to that connection is safe
// at any time. Reading from it is safe only after Conn has been read.
type Conn struct {
	conn    net.Conn
	remote  *net.TCPAddr // the client's; nil: that of conn
	onClose func()       // called once
	obs     *observation

	heads heads // parsed only when they are asked for, which is seldom
	req   atomic.Pointer[http.Request]
	resp  atomic.Pointer[http.Response]

	// special is set while Read must do more than call the connection: there are
	// leftover bytes or a watch, or the connection has been closed. Otherwise Read
	// loads only this flag.
	special    atomic.Bool
	closed     bool // by Close
	readClosed bool // by CloseRead
	mu         sync.Mutex
	early      *early // nil: there was none. Most tunnels do without, and so are smaller while idle
}

// early is the state of Read if it has something to do before the connection.
type early struct {
	leftover []byte    // arrived behind the handshake, and not yet read
	deadline time.Time // of Read, as long as special is set
	watch    *watch
}

// heads are the messages of a handshake; zero for a plain connection. The request is
// empty if there is an http.Request from the beginning.
type heads struct{ request, answer []byte }

// newConn takes ownership of heads, leftover and watch. remote is nil if the client's
// address is that of c.
func newConn(c net.Conn, remote *net.TCPAddr, heads *heads, leftover []byte, watch *watch) *Conn {
	conn := allocate(len(leftover) > 0 || watch != nil)
	conn.init(c, remote, heads, leftover, watch)
	return conn
}

// allocate returns a Conn that has what init needs.
func allocate(hasEarly bool) *Conn {
	if !hasEarly {
		return new(Conn)
	}
	both := new(struct { // one allocation
		conn  Conn
		early early
	})
	both.conn.early = &both.early
	return &both.conn
}

// init needs c.early if there are leftover bytes or a watch.
func (c *Conn) init(conn net.Conn, remote *net.TCPAddr, heads *heads, leftover []byte, watch *watch) {
	c.conn, c.remote, c.heads = conn, remote, *heads
	if c.early != nil {
		c.early.watch = watch
		c.setLeftover(leftover)
	}
}

// Request returns the upgrade request. On the server it is the same request that
// [PreflightListener.Authorize] received, so its Context holds the values that
// Authorize put there. On the client it is the request that was sent. It is nil for a
// plain connection. Callers must not modify it.
func (c *Conn) Request() *http.Request {
	if r := c.req.Load(); r != nil {
		return r
	}
	head, ctx := c.heads.request, context.Background()
	if head == nil && c.obs != nil {
		head, ctx = c.obs.request()
	}
	if len(head) == 0 {
		return nil
	}
	r, err := newRequest(ctx, head, c.conn, c.RemoteAddr())
	if err != nil {
		return nil
	}
	if !c.req.CompareAndSwap(nil, r) {
		return c.req.Load()
	}
	return r
}

// Response returns the 101 that was received or sent. Its Upgrade field is the chosen
// protocol. It is nil for a plain connection. Callers must not modify it.
func (c *Conn) Response() *http.Response {
	if c.heads.answer == nil {
		return nil
	}
	if r := c.resp.Load(); r != nil {
		return r
	}
	req := c.Request()
	r := newResponse(c.heads.answer, req)
	if accept := r.Header["Sec-Websocket-Accept"]; len(accept) == 1 && accept[0] == "" && c.Carrier() == CarrierWebSocket {
		// A listener does not keep this for each tunnel: see the type switching. A dialer
		// has checked it, and for the other carriers nobody needs it.
		accept[0] = websocket.Accept(req.Header.Get("Sec-WebSocket-Key"))
	}
	if !c.resp.CompareAndSwap(nil, r) {
		return c.resp.Load()
	}
	return r
}

// Carrier returns how the tunnel is carried. It is "" for a plain connection.
func (c *Conn) Carrier() Carrier { return carrierOf(c.heads.answer) }

// NetConn returns the connection directly below. That is the TLS connection inside the
// tunnel or below the handshake, if there is one, and otherwise the connection that was
// dialed or accepted. Reading from it before Conn has been read skips the bytes that
// arrived with the handshake.
//
// With CarrierFramed and CarrierWebSocket, without TLS inside, it is the layer of the
// capsules. That has a NetConn method of its own. What it returns is only for socket
// options: to read, write or close it breaks the tunnel.
func (c *Conn) NetConn() net.Conn { return c.conn }

// Read first returns the bytes that arrived with the handshake, and then reads from the
// connection. If the first line of a plain connection arrives late and turns out to be
// an HTTP request line, Read closes the connection and returns an error instead of the
// end of the line.
func (c *Conn) Read(b []byte) (int, error) {
	var n int
	var err error
	if c.special.Load() {
		n, err = c.readSpecial(b)
	} else {
		n, err = c.conn.Read(b)
	}
	c.obs.read(int64(n))
	return n, err
}

func (c *Conn) readSpecial(b []byte) (int, error) {
	if n, err, ok := c.readLeftover(b); ok {
		return n, err
	}
	c.mu.Lock()
	ended := c.ended()
	var w *watch
	if c.early != nil {
		w = c.early.watch
	}
	c.mu.Unlock()
	switch {
	case w != nil:
		return c.readWatched(w, b, ended)
	case ended != nil:
		return 0, ended
	}
	return c.conn.Read(b)
}

// ended is the error of Read after the connection has been closed. The leftover bytes
// are gone then, so no byte after them may be returned. Without this check it would be:
// TLS still returns what it has decrypted, and Linux still returns what arrives before
// and after CloseRead. The caller holds mu.
func (c *Conn) ended() error {
	switch {
	case c.closed:
		return c.opError("read", net.ErrClosed)
	case c.readClosed:
		return io.EOF
	}
	return nil
}

func (c *Conn) readLeftover(b []byte) (n int, err error, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.early == nil || len(c.early.leftover) == 0 {
		return 0, nil, false
	}
	if c.early.expired() {
		return 0, c.opError("read", os.ErrDeadlineExceeded), true
	}
	n = copy(b, c.early.leftover)
	c.setLeftover(c.early.leftover[n:])
	return n, nil, true
}

// expired reports whether the deadline of Read has passed. It then takes precedence over
// leftover bytes, as it does over bytes in the socket's buffer. The caller holds mu.
func (e *early) expired() bool { return !e.deadline.IsZero() && !time.Now().Before(e.deadline) }

// setLeftover replaces the leftover bytes, and frees them when none are left. There were some
// before, if leftover is not empty. The caller holds mu.
func (c *Conn) setLeftover(leftover []byte) {
	special := c.closed || c.readClosed
	if e := c.early; e != nil {
		if len(leftover) == 0 {
			leftover = nil
		}
		e.leftover = leftover
		special = special || leftover != nil || e.watch != nil
	}
	c.special.Store(special)
}

// drop returns the leftover bytes and ends reading.
func (c *Conn) drop() (leftover []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.early != nil {
		leftover = c.early.leftover
	}
	c.closed = true
	c.setLeftover(nil)
	return leftover
}

// Write writes to the connection.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.conn.Write(b)
	c.obs.wrote(int64(n))
	return n, err
}

// WriteTo writes the bytes that arrived with the handshake to w, and then everything
// that can be read until EOF. Between TCP connections the kernel moves the bytes
// (splice), as it does without a Conn.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	var written int64
	if c.special.Load() {
		n, err := c.writeLeftover(w)
		c.obs.read(int64(n))
		written = int64(n)
		if err != nil {
			return written, err
		}
		for buf := make([]byte, 4<<10); c.special.Load(); {
			n, readErr := c.Read(buf)
			if n, err = write(w, buf[:n]); err != nil {
				return written + int64(n), err
			}
			written += int64(n)
			if readErr == io.EOF {
				return written, nil
			}
			if readErr != nil {
				return written, readErr
			}
		}
	}
	n, err := io.Copy(w, c.conn)
	c.obs.read(n)
	return written + n, err
}

// write writes all of b to w. It checks the results of w, which may be wrong.
func write(w io.Writer, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := w.Write(b)
	n = min(max(n, 0), len(b))
	if n < len(b) && err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}

// writeLeftover writes the leftover bytes, and puts back those that w does not accept.
// It does not hold the lock during the write: SetReadDeadline must not wait for a peer
// of w that does not read.
func (c *Conn) writeLeftover(w io.Writer) (int, error) {
	c.mu.Lock()
	if c.early == nil || c.early.leftover == nil {
		c.mu.Unlock()
		return 0, nil
	}
	leftover := c.early.leftover
	if c.early.expired() {
		// Not left to the connection: its clock may be slower, and what it
		// then reads would pass the rest.
		c.mu.Unlock()
		return 0, c.opError("read", os.ErrDeadlineExceeded)
	}
	c.early.leftover = nil
	c.mu.Unlock()
	n, err := write(w, leftover)
	c.mu.Lock()
	if !c.closed && !c.readClosed {
		c.setLeftover(leftover[n:])
	}
	c.mu.Unlock()
	return n, err
}

// ReadFrom writes everything that can be read from r to the connection. Between TCP
// connections the kernel moves the bytes (splice), as it does without a Conn.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.conn, r)
	c.obs.wrote(n)
	return n, err
}

// Close closes the connection. Bytes that arrived with the handshake and have not been
// read are dropped. A Read after Close returns [net.ErrClosed]. If a Read is in progress
// while Close drops such bytes, that Read does not return the bytes that follow them.
//
// With CarrierFramed and CarrierWebSocket, Close sends the end of the stream. It waits for at
// most 10 ms until the connection below accepts it. That connection stays open until the
// peer has received everything, for at most 60 seconds. A program that exits ends it
// earlier. If bytes were still waiting to be sent, Read of the peer then returns
// [io.ErrUnexpectedEOF] instead of [io.EOF]. A program that must not lose them calls
// CloseWrite, reads until io.EOF, and then calls Close.
//
// The io.EOF of Read does not prove that the peer has read what was written, because the
// peer can end its direction earlier. It proves this only if the application's protocol
// does, for example if a server ends its direction after its answer to the whole request.
//
// After CloseWrite and io.EOF, the connection of these carriers ends by itself as soon as
// each side has confirmed that it has received everything. If it has ended without the peer's
// confirmation, Close returns an error.
func (c *Conn) Close() error {
	endTunnelTLS(c.conn)
	err := c.conn.Close() // first, so that what is dropped is the last that could be read
	c.mu.Lock()
	c.closed = true
	c.setLeftover(nil)
	onClose := c.onClose
	c.onClose = nil
	c.mu.Unlock()
	c.obs.close()
	if onClose != nil {
		onClose()
	}
	return err
}

// CloseWrite ends the direction to the peer (half-close). If the connection below does
// not support that, the error wraps [errors.ErrUnsupported]. With CarrierUpgrade some
// proxies, such as nginx, end both directions when one ends. With the other carriers the
// end is part of the stream, and passes every proxy.
func (c *Conn) CloseWrite() error {
	if h, ok := c.conn.(interface{ CloseWrite() error }); ok {
		framed := endTunnelTLS(c.conn)
		err := h.CloseWrite()
		if framed != nil && err == nil {
			return framed.CloseWrite() // behind TLS's close_notify
		}
		return err
	}
	return c.opError("close", fmt.Errorf("CloseWrite on %T: %w", c.conn, errors.ErrUnsupported))
}

// CloseRead ends the direction from the peer and drops the bytes that arrived with the
// handshake. Read then returns [io.EOF]. On Linux the peer is not told: the kernel
// accepts what it sends until the window is full, which blocks the peer. If the
// connection below does not support CloseRead, or fails, CloseRead returns an error and
// drops nothing. The error of a connection without support wraps
// [errors.ErrUnsupported].
func (c *Conn) CloseRead() error {
	if h, ok := c.conn.(interface{ CloseRead() error }); ok {
		err := h.CloseRead()
		if err == nil {
			c.mu.Lock()
			c.readClosed = true
			c.setLeftover(nil)
			c.mu.Unlock()
		}
		return err
	}
	return c.opError("close", fmt.Errorf("CloseRead on %T: %w", c.conn, errors.ErrUnsupported))
}

// LocalAddr returns the local address of the connection.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr returns the address of the peer. On a connection that a
// [PreflightListener] has accepted, it is the client's address as its TrustedProxies
// report it. It was determined before Accept returned.
func (c *Conn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return c.conn.RemoteAddr()
}

// SetDeadline sets both deadlines, as described in [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	if c.special.Load() {
		return c.setLeftoverDeadline(c.conn.SetDeadline, t)
	}
	return c.conn.SetDeadline(t)
}

// SetReadDeadline sets the deadline of Read, as described in [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.special.Load() {
		return c.setLeftoverDeadline(c.conn.SetReadDeadline, t)
	}
	return c.conn.SetReadDeadline(t)
}

// SetWriteDeadline sets the deadline of Write, as described in [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if _, framed := framedBelow(c.conn); framed != nil {
		return framed.SetWriteDeadline(t) // TLS would only pass it on
	}
	return c.conn.SetWriteDeadline(t)
}

// setLeftoverDeadline calls set, which sets a deadline of the connection. If set
// succeeds, the deadline applies to the leftover bytes too. It holds the lock during
// both steps: of two concurrent calls, the same one must win in both places.
func (c *Conn) setLeftoverDeadline(set func(time.Time) error, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := set(t)
	if err == nil && c.early != nil {
		c.early.deadline = t
	}
	return err
}

func (c *Conn) opError(op string, err error) error { return opError(op, c, err) }

// opError describes an error of the connection as package net does.
func opError(op string, c net.Conn, err error) *net.OpError {
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

// A watch inspects the bytes that a plain connection reads, as long as they may still
// turn out to be HTTP.
type watch struct {
	// reading covers a Read and the inspection of its bytes, so that no other Read
	// returns the bytes after a request line.
	reading sync.Mutex
	wire.Watch
}

// watchLimit is the most bytes of a connection that are inspected. Without a limit, a
// protocol whose first line never ends would never get splice. No proxy forwards a
// longer request line unless it is configured to: the largest default is the 1 MiB of
// net/http, which Caddy and Traefik use.
const watchLimit = 1 << 20

// errHTTP ends a connection that was taken for plain.
var errHTTP = errors.New("an HTTP request on a connection that began as a plain one; it was closed")

// readWatched is Read while there is a watch. ended is the error of Conn.ended.
func (c *Conn) readWatched(w *watch, b []byte, ended error) (n int, err error) {
	w.reading.Lock()
	defer w.reading.Unlock()
	if w.Verdict() != wire.HTTP {
		if ended != nil {
			return 0, ended
		}
		n, err = c.conn.Read(b)
	}
	if w.Verdict() == wire.More {
		switch w.Inspect(b[:n]) {
		case wire.Plain:
			c.mu.Lock()
			c.early.watch = nil
			c.setLeftover(c.early.leftover)
			c.mu.Unlock()
		case wire.HTTP:
			clear(b[:n])
			c.Close()
		}
	}
	if w.Verdict() == wire.HTTP {
		return 0, c.opError("read", errHTTP)
	}
	return n, err
}
