package preflight

import (
	"context"
	"errors"
	"log"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// An exchange is one handshake in either role: the connection, what has been
// read from it, and what bounds it in time. Exchanges are pooled.
type exchange struct {
	conn   net.Conn     // the uppermost layer so far
	base   net.Conn     // the lowest, that of the caller
	remote *net.TCPAddr // the client's, where it is not that of conn
	buf    []byte       // read and not yet consumed
	seen   *observation

	ctx      context.Context
	deadline time.Time   // of the whole handshake beside that of ctx; zero: none
	timer    *time.Timer // in place of deadlines, for a connection that has none
	stop     func() bool // ends the watch on ctx; nil once it has

	// mu orders the changes of the deadline, so that none of them undoes an
	// interruption.
	mu          sync.Mutex
	interrupted bool  // nothing more may be done on the connection
	waiting     bool  // for bytes of the client; what follows is our work
	evicted     bool  // by the listener, while it was waiting
	unknown     bool  // a proxy does not tell who the client is
	consumed    int32 // what has been, of the bytes that a limit counts; here for its size
	place       place // guarded by the listener's lock

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
	x.conn, x.base = c, c
	x.buf = x.first[:0]
	return x
}

// free gives the exchange back. Nothing of it may be used afterwards. Where there
// is a watch on a context it must not be called by defer: when a transport of
// the caller's panics, that watch goes on.
func (x *exchange) free() {
	if x.timer != nil {
		x.timer.Stop() // where Authorize ended the goroutine, nobody else has
	}
	if x.stop != nil {
		return // an interruption may still be running: not for the pool
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
	if x.setDeadline(x.conn.SetDeadline, longAgo) != nil {
		go closeBottom(x.conn) // it may block, and the listener's lock is held
	}
}

// setDeadline sets a deadline by set, a method of the connection. It is called on
// goroutines that belong to nobody who could recover: a panic of the transport
// is an error.
func (x *exchange) setDeadline(set func(time.Time) error, t time.Time) (err error) {
	defer func() {
		if v := recover(); v != nil {
			reportPanic("a transport", v)
			err = errPanic
		}
	}()
	return set(t)
}

// finishBy bounds what is left to do on a connection that is lost to the
// application, until the returned function is called. A TLS layer sets a write
// deadline of its own for its last message.
func (x *exchange) finishBy(t time.Time) (stop func() bool) {
	c := x.conn
	if _, layered := c.(interface{ NetConn() net.Conn }); x.doBy(t) == nil && !layered {
		return func() bool { return true }
	}
	return time.AfterFunc(time.Until(t), func() { closeBottom(c) }).Stop
}

// closeBottom closes the transport at the bottom of c. Closing a TLS layer above
// it could block: that sends a last message, which without deadlines waits for
// the peer to read.
func closeBottom(c net.Conn) {
	defer contain("the Close of a transport")
	for {
		layer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			c.Close()
			return
		}
		c = layer.NetConn()
	}
}

// abandon closes c without a last message of TLS, for which crypto/tls would
// wait up to five seconds.
func abandon(c net.Conn) error {
	if _, layered := c.(interface{ NetConn() net.Conn }); layered {
		closeBottom(c)
	}
	defer contain("the Close of a transport")
	return c.Close() // also a layer has something to give up
}

// contain is to be deferred around a call of the application's code where no
// caller could recover from a panic, which would end the process. what names
// the code.
func contain(what string) {
	if v := recover(); v != nil {
		reportPanic(what, v)
	}
}

// reportPanic prints a panic with its stack, as net/http does.
func reportPanic(what string, v any) {
	log.Printf("preflight: panic in %s: %v\n%s", what, v, debug.Stack())
}

// evict ends a handshake that waits for bytes, and reports whether it did.
func (x *exchange) evict() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.waiting || x.evicted {
		return false
	}
	x.evicted = true
	if x.setDeadline(x.conn.SetReadDeadline, longAgo) != nil {
		x.interrupted = true
		go closeBottom(x.conn)
	}
	return true
}

// revive takes back an eviction: the bytes came after all. It reports whether
// there was one to take back. A transport without deadlines is being closed.
func (x *exchange) revive() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.evicted || x.interrupted {
		return false
	}
	x.evicted = false
	x.conn.SetReadDeadline(x.deadline)
	return true
}

// await begins a time in which the handshake can be evicted: it waits for bytes.
func (x *exchange) await() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.waiting = true
}

// settle ends the time in which the handshake can be evicted.
func (x *exchange) settle() {
	if !x.waiting { // which the handshake alone changes
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.waiting = false
	x.place.settled = clock()
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

var errInterrupted = errors.New("the handshake was interrupted")

// begin bounds the handshake by ctx and by deadline, which may be zero. The
// deadline of ctx is left to ctx, whose cause is the error then.
func (x *exchange) begin(ctx context.Context, deadline time.Time) error {
	if ctx.Err() != nil {
		return endOf(ctx)
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
		return x.because(err, endOf(x.ctx))
	}
	x.stop = nil
	expired := x.timer != nil && !x.timer.Stop()
	switch {
	case expired, isTimeout(err):
		return x.because(err, os.ErrDeadlineExceeded)
	case err != nil:
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.interrupted {
		return errInterrupted
	}
	// A transport may have deadlines for reading alone. A pipe whose other end
	// has been closed reports that here, although there may be bytes to read
	// that came before.
	if x.conn.SetDeadline(time.Time{}) != nil {
		x.conn.SetReadDeadline(time.Time{})
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
	if refusal, ok := err.(*StatusError); ok { // not one that the transport has met
		return refusal
	}
	var at *stageError
	if errors.As(err, &at) {
		return &stageError{at.stage, cause}
	}
	return cause
}

// A contextError is the end of a handshake by the end of its context. It is what
// the context says, whatever its cause, so that errors.Is finds
// [context.Canceled] or [context.DeadlineExceeded]. errors.Is and errors.As also
// find the cause, with one exception: a *StatusError in it is the refusal of
// another handshake and would be taken for that of this one.
type contextError struct{ err, cause error }

// endOf is the error of ctx, which has ended.
func endOf(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(err, cause) {
		return err
	}
	return &contextError{err, cause}
}

func (e *contextError) Error() string { return e.err.Error() + ": " + e.cause.Error() }
func (e *contextError) Unwrap() error { return e.err }

// Timeout is that of the cause, by which the caller has said what it is.
func (e *contextError) Timeout() bool { return isTimeout(e.cause) }

func (e *contextError) Is(target error) bool { return errors.Is(e.cause, target) }

func (e *contextError) As(target any) bool {
	_, refusal := target.(**StatusError)
	return !refusal && errors.As(e.cause, target)
}

// addr is the address of the client as far as it is known.
func (x *exchange) addr() net.Addr {
	if x.remote != nil {
		return x.remote
	}
	return x.conn.RemoteAddr()
}
