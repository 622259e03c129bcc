package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/preflight-go/preflight/internal/wire"
)

const (
	defaultTimeout = 10 * time.Second
	defaultToken   = "tcp"

	// A head of up to firstRead bytes that arrives in one segment costs one
	// Read; it is also what a peer that stalls in its head can hold. Only a
	// longer head is worth more memory.
	firstRead  = 512
	secondRead = 4 << 10
)

// errIncomplete is the cause of a bare EOF in a handshake.
var errIncomplete = fmt.Errorf("the connection ended before the answer, so the proxy or the server behind it is unavailable: %w", io.ErrUnexpectedEOF)

// Client performs the upgrade on c, as a [PreflightDialer] does on the
// connection it has dialed. It is for composition: c may be anything.
//
// Of req it sends the target (URL), the Host, the Header and the token that
// Header holds as Upgrade ("tcp" without one). Method must be GET or "", there
// can be no Body, and the fields that PreflightDialer.Header may not hold are
// errors here too, before anything is sent. req becomes [Conn.Request] and must
// not be modified afterwards; its own Context is not used.
//
// The handshake ends with ctx, or after 10 seconds. Once Client has returned,
// ctx has no effect on the connection. A refusal is a [*StatusError]. On error
// the caller closes c, which can be used for nothing else.
func Client(ctx context.Context, c net.Conn, req *http.Request) (*Conn, error) {
	u, err := upgradeOf(req)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	conn, err := u.do(ctx, c, time.Now().Add(defaultTimeout))
	if err != nil {
		return nil, err
	}
	conn.req.Store(req)
	return conn, nil
}

// Server performs the server's part on c, as the zero [PreflightListener] does
// for each connection it accepts: an upgrade request is answered 101, any other
// HTTP request is refused, and a connection that speaks something else is
// handed on as it is, with a nil [Conn.Request].
//
// The handshake ends with ctx, or after 10 seconds: who has sent nothing, or
// not yet a whole line, by then speaks no HTTP. Once Server has returned, ctx has no effect on
// the connection. A refusal, which has been sent to the client, is a
// [*StatusError]. On error the caller closes c.
func Server(ctx context.Context, c net.Conn) (*Conn, error) {
	x := newExchange(c)
	if err := x.begin(ctx, time.Now().Add(defaultTimeout)); err != nil {
		x.free()
		return nil, opError("preflight", c, err)
	}
	h, err := x.serve(&zeroPolicy, nil)
	if ended := x.end(err); ended != nil {
		x.free()
		return nil, failure(c, ended, "refused %s with ")
	}
	conn := h.conn(c)
	x.free()
	return conn, nil
}

// An upgrade is a validated upgrade request.
type upgrade struct {
	target, host, protocol string
	header                 http.Header
}

func (u *upgrade) check() error {
	if !wire.ValidTarget(u.target) {
		path, _, _ := strings.Cut(u.target, "?") // a query may hold a secret
		return fmt.Errorf("the path %q and its query must begin with \"/\", be percent-encoded where RFC 3986 wants it, and have no fragment", path)
	}
	if !wire.ValidHost(u.host) {
		host := u.host[strings.LastIndex(u.host, "@")+1:] // before it stands a password
		return fmt.Errorf("the host %q is not valid in a Host field: it must be a name or an address, with or without a port", host)
	}
	if !wire.ValidProtocol(u.protocol) {
		return fmt.Errorf("the protocol %q is not a token that Upgrade can hold", u.protocol)
	}
	return checkHeader(u.header, reserved)
}

// upgradeOf reads an upgrade off the request given to Client.
func upgradeOf(req *http.Request) (*upgrade, error) {
	switch {
	case req == nil || req.URL == nil:
		return nil, errors.New("the request has no URL")
	case req.Method != "" && req.Method != http.MethodGet:
		return nil, fmt.Errorf("the method of an upgrade request is GET, not %q", req.Method)
	case req.Body != nil && req.Body != http.NoBody || req.ContentLength > 0 || len(req.TransferEncoding) > 0 || len(req.Trailer) > 0:
		return nil, errors.New("an upgrade request has no body")
	}
	u := &upgrade{target: req.URL.RequestURI(), host: req.Host, protocol: defaultToken, header: req.Header}
	if u.host == "" {
		u.host = req.URL.Host
	}
	tokens, connection := req.Header.Values("Upgrade"), req.Header.Values("Connection")
	if len(tokens) > 1 || len(connection) > 1 || len(connection) == 1 && !strings.EqualFold(connection[0], "upgrade") {
		return nil, errors.New("the request may hold one Upgrade field with one token, and no Connection but Upgrade")
	}
	if len(tokens) == 1 {
		u.protocol = tokens[0]
	}
	if len(tokens)+len(connection) > 0 {
		u.header = req.Header.Clone()
		u.header.Del("Upgrade")
		u.header.Del("Connection")
	}
	return u, u.check()
}

// do performs the client's part on c until deadline, which may be zero.
func (u *upgrade) do(ctx context.Context, c net.Conn, deadline time.Time) (*Conn, error) {
	x := newExchange(c)
	if err := x.begin(ctx, deadline); err != nil {
		x.free()
		return nil, opError("preflight", c, err)
	}
	heads, err := x.request(u)
	err = x.end(err)
	rest := bytes.Clone(x.buf)
	x.free()
	if err != nil {
		return nil, failure(c, err, "%s answered ")
	}
	return newConn(c, heads, rest, nil), nil
}

// failure is the error of a handshake with the peer of c; what says how a
// refusal came about.
func failure(c net.Conn, err error, what string) error {
	if e, ok := err.(*StatusError); ok {
		e.what = fmt.Sprintf(what, addrString(c.RemoteAddr()))
		return e
	}
	return opError("preflight", c, err)
}

// A stageError says what a handshake was doing when it failed.
type stageError struct {
	stage string
	err   error
}

func (e *stageError) Error() string { return e.stage + ": " + e.err.Error() }
func (e *stageError) Unwrap() error { return e.err }

// Timeout makes net.OpError, which looks no further than its Err, report one.
func (e *stageError) Timeout() bool { return isTimeout(e.err) }

// An exchange is one handshake in either role: the connection, what has been
// read from it, and what bounds it in time. Exchanges are pooled.
type exchange struct {
	conn     net.Conn
	buf      []byte // read and not yet consumed
	consumed int    // what has been, of the bytes that limit counts

	ctx      context.Context
	deadline time.Time   // of the whole handshake beside that of ctx; zero: none
	timer    *time.Timer // in place of deadlines, for a connection that has none
	stop     func() bool // ends the watch on ctx
	retire   bool        // an interruption may still be running: not for the pool

	// mu orders the changes of the deadline, so that none of them undoes an
	// interruption.
	mu          sync.Mutex
	interrupted bool // by ctx: nothing more may be done on the connection
	waiting     bool // for bytes of the client; what follows is our work
	evicted     bool // by the listener, while it was waiting
	place       place

	interrupt func()
	first     [firstRead]byte
}

var exchanges = sync.Pool{New: func() any {
	x := new(exchange)
	x.interrupt = x.cutOff
	return x
}}

func newExchange(c net.Conn) *exchange {
	x := exchanges.Get().(*exchange)
	x.conn = c
	x.buf = x.first[:0]
	return x
}

// free gives the exchange back. Nothing of it may be used afterwards. It is not
// called by defer: where a transport of the caller's panics, the watch on the
// context goes on.
func (x *exchange) free() {
	if x.timer != nil {
		x.timer.Stop() // where Authorize ended the goroutine, nobody else has
	}
	if x.retire {
		return
	}
	// All of it: what was read holds credentials.
	*x = exchange{interrupt: x.interrupt}
	exchanges.Put(x)
}

// longAgo is a deadline that interrupts what is blocked now.
var longAgo = time.Unix(1, 0)

// cutOff ends what is blocked on the connection. A transport without
// deadlines, such as a channel of an SSH connection, can only be closed.
func (x *exchange) cutOff() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.interrupted = true
	if x.conn.SetDeadline(longAgo) != nil {
		closeBottom(x.conn)
	}
}

// finishBy bounds what is left to do on a connection that is lost to the
// application, until the returned function is called.
func (x *exchange) finishBy(t time.Time) (stop func() bool) {
	if x.doBy(t) == nil {
		return func() bool { return true }
	}
	c := x.conn
	return time.AfterFunc(time.Until(t), func() { closeBottom(c) }).Stop
}

// closeBottom closes the transport at the bottom of c. Closing a TLS layer above
// it could block: that sends a last message, which without deadlines waits for
// the peer to read.
func closeBottom(c net.Conn) {
	for {
		layer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			c.Close()
			return
		}
		c = layer.NetConn()
	}
}

// evict ends a handshake that waits for bytes, and reports whether it did.
func (x *exchange) evict() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.waiting || x.evicted {
		return false
	}
	x.evicted = true
	if x.conn.SetReadDeadline(longAgo) != nil {
		closeBottom(x.conn)
	}
	return true
}

// settled ends the time in which the handshake can be evicted, and reports
// whether it was.
func (x *exchange) settled() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.waiting = false
	return x.evicted
}

// readBy sets the deadline of reading.
func (x *exchange) readBy(t time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.interrupted && !(x.waiting && x.evicted) {
		x.conn.SetReadDeadline(t)
	}
}

// doBy sets the deadline of reading and writing.
func (x *exchange) doBy(t time.Time) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.interrupted || x.waiting && x.evicted {
		return nil
	}
	return x.conn.SetDeadline(t)
}

// begin bounds the handshake by ctx and by deadline, which may be zero. The
// deadline of ctx is left to ctx, whose cause is the error then.
func (x *exchange) begin(ctx context.Context, deadline time.Time) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	x.ctx, x.deadline = ctx, deadline
	if err := x.doBy(deadline); err != nil && !deadline.IsZero() {
		c := x.conn
		x.timer = time.AfterFunc(time.Until(deadline), func() { closeBottom(c) })
	}
	if ctx.Done() != nil {
		x.stop = context.AfterFunc(ctx, x.interrupt)
	}
	return nil
}

// end stops what begin started. It returns nil if the handshake, which ended
// with err, is good and the connection is free of its bounds; else the reason.
func (x *exchange) end(err error) error {
	if x.stop != nil && !x.stop() {
		// The interruption has begun and will poison the connection, now or
		// later: the handshake failed, whatever has arrived (golang/go#16523).
		x.retire = true
		return x.because(err, context.Cause(x.ctx))
	}
	expired := x.timer != nil && !x.timer.Stop()
	switch {
	case expired, isTimeout(err):
		return x.because(err, os.ErrDeadlineExceeded)
	case err != nil:
		return err
	case x.timer == nil:
		// A pipe whose other end has been closed reports that here, although
		// there may be bytes to read that came before.
		x.conn.SetDeadline(time.Time{})
	}
	return nil
}

func isTimeout(err error) bool {
	if err == nil { // before t, which is allocated
		return false
	}
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// because replaces the symptom of an interrupted handshake by its cause, and
// keeps the stage. A refusal stays one: the answer says more than the clock.
func (x *exchange) because(err, cause error) error {
	var refusal *StatusError
	var at *stageError
	switch {
	case errors.As(err, &refusal):
		return err
	case errors.As(err, &at):
		return &stageError{at.stage, cause}
	}
	return cause
}

// read reads more, until limit bytes have been read in all.
func (x *exchange) read(limit int) error {
	room := limit - x.consumed - len(x.buf)
	if len(x.buf) == cap(x.buf) {
		size := max(secondRead, len(x.buf))
		if len(x.buf) >= secondRead {
			size = len(x.buf) + room
		}
		grown := make([]byte, len(x.buf), size)
		copy(grown, x.buf)
		x.buf = grown
	}
	free := x.buf[len(x.buf):cap(x.buf)]
	free = free[:min(len(free), room)]
	// A transport may return nothing without an error, but not for ever.
	for range 100 {
		n, err := x.conn.Read(free)
		if n > 0 {
			x.buf = x.buf[:len(x.buf)+n]
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}
