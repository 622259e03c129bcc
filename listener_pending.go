package preflight

import (
	"container/list"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	defaultMaxPending = 4096
	// grace is how long a client may keep us waiting for bytes before it can
	// be closed in favour of a new one.
	grace = time.Second
)

// pending counts the handshakes in progress, including those that have finished and wait
// for Accept, and the connections that Accept has returned.
type pending struct {
	count    int           // of handshakes
	yielded  int           // of those, the ones whose places are given to others, see yield
	oldest   exchange      // stands for the ring of those not finished, in order of age; its next is the oldest
	evicting bool          // one has been evicted and has not left yet; it makes room for one
	sweeping bool          // sweep will be called
	unswept  time.Duration // when the first one entered that the next sweep may have to arm
	lingers  list.List     // of *tunnel: their transports outlive their connections

	active atomic.Int64 // connections that Accept has returned and that are open, or linger; changed without the lock too
}

// A place is the position of an exchange in the ring. Its age is the time for which the
// exchange has kept the listener waiting. The time of our own work does not count.
type place struct {
	since      time.Duration // by clock; the age is what has passed since
	prev, next *exchange
}

func (p *pending) prepare() { p.oldest.place.prev, p.oldest.place.next = &p.oldest, &p.oldest }

func (p *pending) enter(x *exchange) {
	now := clock()
	x.place, x.stoppedWaiting = place{since: now}, now
	p.insert(x, &p.oldest)
}

// insert puts x before next.
func (p *pending) insert(x, next *exchange) {
	x.place.prev, x.place.next = next.place.prev, next
	x.place.prev.place.next, next.place.prev = x, x
}

// arm sets the deadlines of the handshakes that have entered since the last sweep.
func (p *pending) arm() {
	p.sweeping = false
	for x := p.oldest.place.prev; x != &p.oldest && x.place.since >= p.unswept; x = x.place.prev {
		x.mu.Lock()
		x.arm()
		x.mu.Unlock()
	}
}

// remove removes x from the ring. It may be called again.
func (p *pending) remove(x *exchange) {
	if x.place.next != nil {
		x.place.prev.place.next, x.place.next.place.prev = x.place.next, x.place.prev
		x.place.prev, x.place.next = nil, nil
	}
}

// resume ends a period of our own work, which makes x younger.
func (p *pending) resume(x *exchange) {
	next := x.place.next
	if next == nil {
		return
	}
	x.place.since += clock() - x.stoppedWaiting
	for next != &p.oldest && next.place.since < x.place.since {
		next = next.place.next
	}
	p.remove(x)
	p.insert(x, next)
}

// acceptAll accepts connections until the listener is closed. An error goes to the caller
// of Accept, and nothing more is accepted until it has been returned. If the caller pauses
// on EMFILE, acceptAll pauses too.
func (l *PreflightListener) acceptAll() {
	// The connections of package net have deadlines, and none is set yet. Another listener may
	// have set one, which the handshake must replace when it begins and remove when it ends.
	// PlainAfter sets one in any case, where less of the stack is left.
	_, fresh := l.Listener.(*net.TCPListener)
	unarmed := fresh && l.PlainAfter == 0
	for l.ctx.Err() == nil {
		c, err := l.acceptOne()
		if err != nil {
			if l.draining.Load() {
				return
			}
			l.deliver(delivery{err: err})
			continue
		}
		x := newExchange(c)
		x.obs = l.policy.role.begin()
		x.waiting, x.unarmed = true, unarmed // nobody else has it yet
		if !l.admit(l.ctx, x) {
			abandon(c)
			return
		}
		go l.handshake(x)
	}
}

// acceptOne turns a panic of the wrapped listener into an error, because no caller could
// recover from it. A nil connection becomes an error too, because a listener that returns only
// such connections would keep acceptAll busy.
func (l *PreflightListener) acceptOne() (c net.Conn, err error) {
	defer func() {
		if v := recover(); v != nil {
			reportPanic("the Accept of PreflightListener.Listener", v)
			err = fmt.Errorf("preflight: PreflightListener.Listener: %w", errPanic)
		}
	}()
	if c, err = l.Listener.Accept(); err == nil && isNil(c) {
		err = fmt.Errorf("preflight: PreflightListener.Listener (%T) returned neither a connection nor an error", l.Listener)
	}
	return c, err
}

// deliver waits until a call of Accept returns d. It reports false if none will.
func (l *PreflightListener) deliver(d delivery) bool {
	select {
	case l.delivered <- d: // Accept waits already; to wait for two channels costs more
		return true
	default:
	}
	select {
	case l.delivered <- d:
		return true
	case <-l.gone:
		return false
	}
}

// handshake completes the handshake of an accepted connection: it is delivered, passed to
// Handler, refused or closed. While it waits for the client it uses little stack, see sort.
func (l *PreflightListener) handshake(x *exchange) {
	defer l.release(x)
	if !l.bound(x) {
		return
	}
	n, watch, err := x.sort(&l.policy)
	l.conclude(x, n, watch, err)
}

//go:noinline
func (l *PreflightListener) bound(x *exchange) bool {
	// It entered just now, so the clock is not read again.
	if x.begin(context.Background(), epoch.Add(x.place.since+l.handshakeTimeout())) != nil {
		return false
	}
	x.ctx = l.ctx // Close cuts off every exchange; none needs a watch of its own
	return true
}

//go:noinline
func (l *PreflightListener) conclude(x *exchange, n int, watch *watch, err error) {
	x.stopWaiting()
	if n > 0 {
		l.progressed(x)
	}
	var h handover
	if err = x.sorted(&l.policy, n, watch, err, &h); h.heads.request != nil {
		h.heads.request = cloned(h.heads.request)
	}
	l.handOn(x, &h, err)
}

// progressed is called when bytes of the client have arrived and the handshake no longer
// waits. If it was evicted at that moment, it continues with a new grace period, and
// another handshake has to make room.
func (l *PreflightListener) progressed(x *exchange) {
	if !x.evicted || !x.undoEviction() {
		return
	}
	l.mu.Lock()
	l.pending.remove(x)
	l.pending.enter(x)
	l.pending.evicting = false
	l.mu.Unlock()
	l.signalRoom()
}

// handshakeOf is handshake for a connection on which net/http has read req. The head of req
// is the first n bytes of x.buf. The context of req ends with the handshake.
func (l *PreflightListener) handshakeOf(req *http.Request, x *exchange, n int) {
	defer l.release(x)
	deadline, _ := req.Context().Deadline()
	if x.begin(context.Background(), deadline) != nil {
		return
	}
	x.ctx = req.Context()
	var h handover
	terms, err := x.choose(&l.policy, x.buf[:n])
	if err == nil {
		err = x.answer(&l.policy, n, terms, req, &h)
	}
	l.handOn(x, &h, err)
}

// handOn completes the handshake and passes the connection on.
func (l *PreflightListener) handOn(x *exchange, h *handover, err error) {
	var t *tunnel
	if err == nil && h.framed {
		t = l.frame(x, h)
	}
	if err == nil && h.tunnelTLS {
		err = l.acceptTunnelTLS(x, h)
	}
	if err = x.end(err); err != nil {
		if x.evicted { // on whatever layer
			err = errEvicted
		}
		x.failed(l.ctx, &l.policy, err)
		return
	}
	conn := h.conn(x.conn, x.remote, x.obs)
	x.obs.handedOn(h)
	x.base = nil
	if !l.detach(x, t, !h.ordinary) { // Close may have cut it off in its last moment
		h.giveUp(conn)
		return
	}
	if h.ordinary {
		l.handOver(conn, x.unknown, h.rule)
		return
	}
	if conn.onClose = l.onClose; t != nil {
		conn.onClose = t.closed
	}
	if !l.deliver(delivery{conn: conn}) {
		h.giveUp(conn)
	}
}

// giveUp closes a connection that Accept has not returned.
func (h *handover) giveUp(conn *Conn) {
	if h.framed {
		abandon(conn) // without FINAL_DATA, because the application never served it
		return
	}
	conn.Close()
}

// acceptTunnelTLS begins TLS inside the tunnel.
func (l *PreflightListener) acceptTunnelTLS(x *exchange, h *handover) error {
	if h.req == nil { // while the layer is on top over which it came
		head := h.heads.request
		if head == nil {
			head, _ = x.obs.request()
		}
		h.req, _ = newRequest(context.WithoutCancel(x.ctx), head, x.conn, x.addr())
	}
	x.consume(len(x.buf) - len(h.leftover))
	h.leftover = nil
	l.mu.Lock()
	l.pending.remove(x)
	l.pending.enter(x) // a whole request has come, so its age begins anew
	l.mu.Unlock()
	if err := x.acceptTunnelTLS(&l.policy); err != nil {
		if left, ok := err.(probeError); ok {
			err = left.error // a client with a tunnel is no probe
		}
		return &stageError{stage: "TLS handshake in the tunnel", err: err}
	}
	return nil
}

// detach removes x from the handshakes that Close and a new client may interrupt, so that
// they never touch a connection that was passed on. It reports whether the listener is
// still open. If so, and if opens is set, it counts the connection, which Accept is about to
// return. t is nil without framing.
func (l *PreflightListener) detach(x *exchange, t *tunnel, opens bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending.remove(x)
	if l.ctx.Err() != nil {
		return false
	}
	if opens {
		l.pending.active.Add(1)
		if t != nil {
			t.counts = true
		}
	}
	return true
}

// release ends a handshake, even if Authorize ends the goroutine. It closes the connection
// if it was not passed on, and frees its place. It must be deferred: a panic in a callback
// of TLS or in a transport ends only this connection, as in net/http.
func (l *PreflightListener) release(x *exchange) {
	panicked := recover()
	if panicked != nil && !x.obs.panicked(panicked) {
		reportPanic("a handshake", panicked)
	}
	if x.base != nil {
		abandon(x.base) // what there was to say has been said
		x.failed(l.ctx, &l.policy, errPanic)
	}
	l.policy.role.addPending(-1)
	l.mu.Lock()
	l.pending.remove(x)
	l.pending.count--
	evicted := x.evicted
	if evicted {
		l.pending.evicting = false
	}
	l.signalEnd()
	l.mu.Unlock()
	if evicted {
		l.policy.role.evicted()
	}
	l.signalRoom()
	if panicked == nil {
		x.free() // else whoever panicked may still use it
	}
}

// admit gives x a place among the handshakes in progress. It waits until there is one. It
// reports false if ctx ended first, or if the listener was closed.
func (l *PreflightListener) admit(ctx context.Context, x *exchange) bool {
	for {
		l.mu.Lock()
		if l.ctx.Err() != nil || l.draining.Load() {
			l.mu.Unlock()
			l.signalRoom()
			return false
		}
		if l.pending.count-l.pending.yielded < l.maxPending() {
			l.pending.count++
			l.pending.enter(x)
			if x.unarmed && !l.pending.sweeping {
				l.pending.sweeping, l.pending.unswept = true, x.place.since
				l.sweepLater()
			}
			l.mu.Unlock()
			l.signalRoom()
			l.policy.role.addPending(1)
			return true
		}
		wait := l.makeRoom()
		l.mu.Unlock()
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-l.room:
		case <-timer:
		case <-ctx.Done():
			l.signalRoom()
			return false
		case <-l.ctx.Done():
		}
	}
}

// sweepLater begins the time after which sweep is called. In half of its time, nearly every
// handshake has ended, and none has reached its deadline. The caller holds mu.
func (l *PreflightListener) sweepLater() {
	d := l.handshakeTimeout() / 2
	if l.sweeper == nil {
		l.sweeper = time.AfterFunc(d, l.sweep)
	} else {
		l.sweeper.Reset(d)
	}
}

// sweep sets the deadlines of the handshakes that are not done yet.
func (l *PreflightListener) sweep() {
	l.mu.Lock()
	l.pending.arm()
	l.mu.Unlock()
}

// makeRoom evicts the oldest handshake if it has kept the listener waiting for long enough.
// If there is none, it returns the time until there may be one, or 0 if only the end of a
// handshake, or of our own work in one, can make room. The caller holds mu.
func (l *PreflightListener) makeRoom() (wait time.Duration) {
	for x := l.pending.oldest.place.next; x != &l.pending.oldest && !l.pending.evicting; x = x.place.next {
		age := clock() - x.place.since
		if age < grace {
			return grace - age
		}
		l.pending.evicting = x.evict()
	}
	return 0
}

// waitsForClient is called when our own work on x is done and x waits for bytes of the
// client again.
func (l *PreflightListener) waitsForClient(x *exchange) {
	l.mu.Lock()
	l.pending.resume(x)
	l.mu.Unlock()
	x.startWaiting()
	l.signalRoom() // a client that waits for a place may now wait for this one
}

// yield gives the place of a handshake to others while its work continues. At most
// MaxPending handshakes do so at a time. Without that limit, an Authorize that does not
// return could run any number of times for clients that have left. reclaim ends it.
func (l *PreflightListener) yield() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending.yielded >= l.maxPending() {
		return false
	}
	l.pending.yielded++
	l.signalRoom()
	return true
}

func (l *PreflightListener) reclaim() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending.yielded--
}

// signalRoom wakes one waiter in admit. Each waiter wakes the next one when it leaves,
// because there may be room for more than one, or another one to be evicted.
func (l *PreflightListener) signalRoom() {
	select {
	case l.room <- struct{}{}:
	default:
	}
}

// closed counts a connection that was closed.
func (l *PreflightListener) closed() {
	if l.pending.active.Add(-1); l.draining.Load() { // otherwise nobody waits for the end
		l.mu.Lock()
		l.signalEnd()
		l.mu.Unlock()
	}
}

// signalEnd informs Accept and Shutdown when nothing is left to wait for. While the listener
// drains, the counts only decrease. The caller holds mu.
func (l *PreflightListener) signalEnd() {
	if !l.draining.Load() || l.pending.count > 0 {
		return
	}
	closeOnce(l.drained)
	if l.pending.active.Load() == 0 {
		closeOnce(l.idle)
	}
}

// closeOnce closes c unless it is closed; the caller holds a lock.
func closeOnce(c chan struct{}) {
	if !isClosed(c) {
		close(c)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
