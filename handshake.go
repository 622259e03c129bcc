package preflight

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"reflect"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/preflight-go/preflight/internal/frame"
)

// An exchange is one handshake, in the role of the client or of the server. It
// consists of what bounds the handshake in time, what has been read from the
// connection, and what the two roles need. Exchanges are pooled. Their size is part
// of what a stalled client costs: 192 bytes fill their size class.
type exchange struct {
	bounds
	buffer
	base   net.Conn     // the lowest layer, which the caller supplied; nil: handed on
	remote *net.TCPAddr // the client's address; nil: that of conn
	obs    *observation
	place  place // guarded by the listener's lock
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

func newExchange(c net.Conn) *exchange {
	x := exchanges.Get().(*exchange)
	x.conn, x.base = c, c
	x.borrow()
	return x
}

// free returns the exchange to the pool. Nothing of it may be used afterwards. If
// the exchange watches a context, free must not be deferred: after a panic of the
// caller's transport the watch still runs.
func (x *exchange) free() {
	if x.timer != nil {
		x.timer.Stop() // if Authorize ended the goroutine, nothing else has stopped it
	}
	if x.stop != nil {
		return // an interruption may still be running, so the pool must not get x
	}
	x.release()
	*x = exchange{bounds: bounds{interrupt: x.interrupt}}
	exchanges.Put(x)
}

// addr is the address of the client, as far as it is known.
func (x *exchange) addr() net.Addr {
	if x.remote != nil {
		return x.remote
	}
	return x.conn.RemoteAddr()
}

// read reads more into the buffer, which may then hold up to limit bytes.
func (x *exchange) read(limit int) error {
	free := x.room(limit)
	// A transport may return 0 bytes without an error, but not forever.
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

// bounds are the limits in time of a handshake. The goroutine of the handshake sets them
// by begin and removes them by end. Other goroutines may end the handshake (abort), or
// evict it while it waits for bytes (evict).
type bounds struct {
	conn     net.Conn // the uppermost layer so far
	ctx      context.Context
	deadline time.Time   // of the whole handshake, beside that of ctx; zero: none
	timer    *time.Timer // replaces deadlines on a connection that has none
	stop     func() bool // ends the watch on ctx; nil: there is none

	// mu orders the changes of the deadline, so that none of them undoes an
	// interruption.
	mu             sync.Mutex
	interrupted    bool          // nothing more may be done on the connection
	waiting        bool          // for bytes of the client; otherwise this side is working
	evicted        bool          // by the listener, while it was waiting
	unarmed        bool          // the deadline is not yet set on the connection, see arm
	reported       bool          // its end is in the log; as unknown, not a bound
	unknown        bool          // a proxy does not report who the client is; not a bound, but it costs no byte here
	stoppedWaiting time.Duration // by clock; when our own work began after which it waits again

	interrupt func() // abort, allocated once; nil: not needed so far
}

// aLongTimeAgo is a deadline that interrupts a blocked Read or Write at once.
var aLongTimeAgo = time.Unix(1, 0)

// abort interrupts everything that is blocked on the connection. A transport without
// deadlines, such as a channel of an SSH connection, can only be closed.
func (b *bounds) abort() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.interrupted = true
	if b.callSetDeadline(b.conn.SetDeadline, aLongTimeAgo) != nil {
		go closeBottom(b.conn) // it may block, and the listener's lock is held
	}
}

// callSetDeadline calls set, a method of the connection that sets a deadline. It may run
// on a goroutine that has no recover, so a panic of the transport becomes an error.
func (b *bounds) callSetDeadline(set func(time.Time) error, t time.Time) (err error) {
	defer func() {
		if v := recover(); v != nil {
			reportPanic("a transport", v)
			err = errPanic
		}
	}()
	return set(t)
}

// finishBy bounds the remaining work on a connection that the application will not get,
// until the returned function is called. A TLS layer overrides write deadlines for its
// last message, so a timer closes the transport below it.
func (b *bounds) finishBy(t time.Time) (stop func() bool) {
	c := b.conn
	if _, layered := c.(interface{ NetConn() net.Conn }); b.setDeadlines(t) == nil && !layered {
		return func() bool { return true }
	}
	return time.AfterFunc(time.Until(t), func() { closeBottom(c) }).Stop
}

// closeBottom closes the transport at the bottom of c. Closing a TLS layer above it could
// block: it sends a last message, and without deadlines that waits until the peer reads.
func closeBottom(c net.Conn) {
	defer contain("the Close of a transport")
	frame.Bottom(c).Close()
}

// abandon closes c without the last message of TLS, for which crypto/tls would wait up to
// five seconds.
func abandon(c net.Conn) error {
	if _, layered := c.(interface{ NetConn() net.Conn }); layered {
		closeBottom(c)
	}
	defer contain("the Close of a transport")
	return c.Close() // also a layer has something to give up
}

// contain must be deferred around a call of the application's code if no caller could
// recover from its panic, which would end the process. what names the code.
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
func (b *bounds) evict() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.waiting || b.evicted {
		return false
	}
	b.arm()
	b.evicted = true
	if b.callSetDeadline(b.conn.SetReadDeadline, aLongTimeAgo) != nil {
		b.interrupted = true
		go closeBottom(b.conn)
	}
	return true
}

// undoEviction undoes an eviction, because the bytes have arrived after all. It reports
// whether there was an eviction that could be undone. A transport without deadlines is
// already being closed.
func (b *bounds) undoEviction() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.evicted || b.interrupted {
		return false
	}
	b.evicted = false
	b.conn.SetReadDeadline(b.deadline)
	return true
}

// startWaiting begins a period in which the handshake waits for bytes and can be
// evicted.
func (b *bounds) startWaiting() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = true
}

// stopWaiting ends that period: our own work begins.
func (b *bounds) stopWaiting() {
	if !b.waiting { // which the handshake alone changes
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = false
}

// pauseWaiting is stopWaiting if the handshake will wait again.
func (b *bounds) pauseWaiting() {
	if b.waiting {
		b.stopWaiting()
		b.stoppedWaiting = clock()
	}
}

// contextDeadline returns the deadline for a context that the application sees. That of a
// listener is derived from clock, so its wall clock may be off.
func (b *bounds) contextDeadline() time.Time { return time.Now().Add(time.Until(b.deadline)) }

// arm sets the deadline of a handshake for which begin has left that to the listener. Setting
// a deadline costs more than parsing the head, and nearly all handshakes are done long before
// it. The caller holds mu.
func (b *bounds) arm() {
	if !b.unarmed {
		return
	}
	b.unarmed = false
	if !b.interrupted && !b.deadline.IsZero() { // else begin, which is yet to come, sets it
		b.conn.SetDeadline(b.deadline)
	}
}

// setReadDeadline sets the deadline of reading, unless the handshake was interrupted.
func (b *bounds) setReadDeadline(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.arm()
	if !b.interrupted && !(b.waiting && b.evicted) {
		b.conn.SetReadDeadline(t)
	}
}

// setDeadlines sets the deadline of reading and writing, unless the handshake was
// interrupted.
func (b *bounds) setDeadlines(t time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unarmed = false
	return b.set(t)
}

// set is setDeadlines for a caller that holds mu.
func (b *bounds) set(t time.Time) error {
	if b.interrupted || b.waiting && b.evicted {
		return nil
	}
	return b.conn.SetDeadline(t)
}

// bound sets the deadline of the whole handshake, or leaves that to arm.
func (b *bounds) bound(deadline time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.deadline = deadline; b.unarmed {
		return nil
	}
	return b.set(deadline)
}

var errInterrupted = errors.New("the handshake was interrupted")

// begin bounds the handshake by ctx and by deadline, which may be zero. The deadline of
// ctx is left to ctx, so that the error is the cause of ctx.
func (b *bounds) begin(ctx context.Context, deadline time.Time) error {
	if ctx.Err() != nil {
		return contextCause(ctx)
	}
	b.ctx = ctx
	if err := b.bound(deadline); err != nil && !deadline.IsZero() {
		c := b.conn
		b.timer = time.AfterFunc(time.Until(deadline), func() { closeBottom(c) })
	}
	if ctx.Done() != nil {
		if b.interrupt == nil {
			b.interrupt = b.abort
		}
		b.stop = context.AfterFunc(ctx, b.interrupt)
	}
	return nil
}

// end removes the bounds. err is the result of the handshake. end returns nil if the
// handshake succeeded and the connection is free of its bounds, and otherwise the reason.
func (b *bounds) end(err error) error {
	if b.stop != nil && !b.stop() {
		// The interruption has begun and will poison the connection, now or
		// later: the handshake failed, whatever has arrived (golang/go#16523).
		return b.withCause(err, contextCause(b.ctx))
	}
	b.stop = nil
	expired := b.timer != nil && !b.timer.Stop()
	switch {
	case expired, hasExpired(err):
		return b.withCause(err, os.ErrDeadlineExceeded)
	case err != nil:
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.interrupted {
		return errInterrupted
	}
	if b.unarmed {
		b.unarmed = false
		return nil
	}
	// A transport may have deadlines for reading alone. A pipe whose other end
	// has been closed reports that here, although there may be bytes to read
	// that came before.
	if b.conn.SetDeadline(time.Time{}) != nil {
		b.conn.SetReadDeadline(time.Time{})
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

// hasExpired reports whether err is the end of a deadline. The ETIMEDOUT of a dead peer is
// a timeout too, but it ends the connection and not our patience (tcp(7): keep-alive,
// TCP_USER_TIMEOUT).
func hasExpired(err error) bool {
	return isTimeout(err) && !errors.Is(err, syscall.ETIMEDOUT)
}

// withCause replaces the symptom of an interrupted handshake by its cause, and keeps the
// stage. A refusal is returned unchanged, because it says more than the timeout.
func (b *bounds) withCause(err, cause error) error {
	if refusal, ok := err.(*StatusError); ok { // not one that the transport has met
		return refusal
	}
	var at *stageError
	if errors.As(err, &at) {
		return &stageError{stage: at.stage, err: cause}
	}
	return cause
}

// A contextError is the end of a handshake by the end of its context. It wraps the error
// of the context, so errors.Is finds [context.Canceled] or [context.DeadlineExceeded].
// errors.Is and errors.As find the cause too, with one exception: a *StatusError in it is
// the refusal of another handshake, and would be taken for the refusal of this one.
type contextError struct{ err, cause error }

// contextCause is the error of ctx, which has ended.
func contextCause(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(err, cause) {
		return err
	}
	return &contextError{err, cause}
}

func (e *contextError) Error() string { return e.err.Error() + ": " + e.cause.Error() }
func (e *contextError) Unwrap() error { return e.err }

// Timeout reports that of the cause, which the caller has chosen.
func (e *contextError) Timeout() bool { return isTimeout(e.cause) }

func (e *contextError) Is(target error) bool { return errors.Is(e.cause, target) }

func (e *contextError) As(target any) bool {
	var refusal *StatusError
	if reflect.TypeOf(refusal).AssignableTo(reflect.TypeOf(target).Elem()) && errors.As(e.cause, &refusal) {
		return false
	}
	return errors.As(e.cause, target)
}

var errPanic = errors.New("panic in a function of the application")

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

var epoch = time.Now()

// clock is a time that needs a third of the memory of a [time.Time].
func clock() time.Duration { return time.Since(epoch) }

// ended reports whether err means that the peer ended the connection, orderly or by a
// reset.
func ended(err error) bool {
	for _, end := range [...]error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// A keeper manages the places of the handshakes in progress.
type keeper interface {
	waitsForClient(*exchange) // for bytes of the client, after work of ours
	progressed(*exchange)     // bytes of the client have come
	yield() bool              // gives the place to another, although work continues
	reclaim()                 // it is not free any more
}

func (p *policy) waitsForClient(x *exchange) {
	if p.keeper != nil {
		p.keeper.waitsForClient(x)
	}
}

func (p *policy) progressed(x *exchange) {
	if p.keeper != nil {
		p.keeper.progressed(x)
	}
}
