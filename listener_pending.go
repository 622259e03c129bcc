package preflight

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

const (
	defaultMaxPending = 4096
	// grace is how long a client may keep us waiting for bytes before it can
	// be closed in favour of a new one.
	grace = time.Second
)

// pending are the handshakes under way, those that are finished and wait for
// Accept included, and after them the connections that Accept has returned.
type pending struct {
	count    int      // of handshakes
	yielded  int      // of those, the ones whose places are given to others, see yield
	oldest   exchange // stands for the ring of those not finished, in order of age; its next is the oldest
	evicting bool     // one has been evicted and has not left yet; it makes room for one
	active   int      // connections that Accept has returned and that are open
}

// A place is the place of an exchange in the ring of those under way. Its age is
// the time for which the exchange has kept us waiting; what our own work takes
// is not counted.
type place struct {
	since      time.Duration // by clock; the age is what has passed since
	prev, next *exchange
}

var epoch = time.Now()

// clock is a time that is a third as large as a [time.Time].
func clock() time.Duration { return time.Since(epoch) }

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

// remove takes x out of the ring. It may be called again.
func (p *pending) remove(x *exchange) {
	if x.place.next != nil {
		x.place.prev.place.next, x.place.next.place.prev = x.place.next, x.place.prev
		x.place.prev, x.place.next = nil, nil
	}
}

// resume ends a time of our work, by which x becomes younger.
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

// acceptAll accepts connections until the listener is closed. An error goes to
// the caller of Accept, and nothing more is accepted until it has been taken:
// the pause that the caller makes on EMFILE is ours too.
func (l *PreflightListener) acceptAll() {
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
		x.startWaiting()
		if !l.admit(l.ctx, x) {
			abandon(c)
			return
		}
		go l.handshake(x)
	}
}

// acceptOne makes an error of a panic of the wrapped listener: no caller of ours
// could recover from it.
func (l *PreflightListener) acceptOne() (c net.Conn, err error) {
	defer func() {
		if v := recover(); v != nil {
			reportPanic("the Accept of PreflightListener.Listener", v)
			err = fmt.Errorf("preflight: PreflightListener.Listener: %w", errPanic)
		}
	}()
	return l.Listener.Accept()
}

func (l *PreflightListener) deliver(d delivery) bool {
	select {
	case l.delivered <- d:
		return true
	case <-l.gone:
		return false
	}
}

// handshake brings an accepted connection to its end: delivered, handed to
// Handler, refused or closed. While it waits for the client it has little on the
// stack, see sort.
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
	if x.begin(context.Background(), time.Now().Add(l.handshakeTimeout())) != nil {
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
	err = x.sorted(&l.policy, n, watch, err, nil, &h)
	l.handOn(x, &h, err)
}

// goesOn is told of a handshake that has settled because its bytes have come. If
// it was evicted in that moment, it goes on nevertheless, with a new second, and
// somebody else has to make room.
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

// handshakeOf is handshake for a connection on which net/http has read req,
// whose head are the first n bytes of x.buf. The context of req ends with the
// handshake.
func (l *PreflightListener) handshakeOf(req *http.Request, x *exchange, n int) {
	defer l.release(x)
	deadline, _ := req.Context().Deadline()
	if x.begin(context.Background(), deadline) != nil {
		return
	}
	x.ctx = req.Context()
	var h handover
	protocol, err := x.choose(&l.policy, x.buf[:n])
	if err == nil {
		err = x.answer(&l.policy, n, protocol, req, nil, &h)
	}
	l.handOn(x, &h, err)
}

// handOn completes the handshake and gives the connection to whom it belongs.
func (l *PreflightListener) handOn(x *exchange, h *handover, err error) {
	if err == nil && h.tunnelTLS {
		err = l.acceptTunnelTLS(x, h)
	}
	if err = x.end(err); err != nil {
		if x.evicted { // on whatever layer
			err = errEvicted
		}
		x.obs.fail(l.ctx, err)
		return
	}
	conn := h.conn(x.conn, x.remote, x.obs)
	x.obs.done(h.kind())
	x.base = nil
	if !l.detach(x) { // Close may have cut it off in its last moment
		conn.Close()
		return
	}
	if h.ordinary {
		l.handOver(conn, x.unknown, h.rule)
		return
	}
	l.opened()
	conn.onClose = l.onClose
	if !l.deliver(delivery{conn: conn}) {
		conn.Close()
	}
}

// secureTunnel begins TLS inside the tunnel.
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
		return &stageError{"TLS handshake in the tunnel", err}
	}
	return nil
}

// detach takes x from among those that Close and a new client may interrupt, so
// that they never touch a connection that has been handed on. It reports
// whether the listener is still open.
func (l *PreflightListener) detach(x *exchange) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending.remove(x)
	return l.ctx.Err() == nil
}

// release ends a handshake, also where Authorize ends the goroutine: its
// connection is closed if it was not handed on, and its place is free. It must be
// deferred: a panic in a callback of TLS or in a transport ends this connection
// alone, as it does in net/http.
func (l *PreflightListener) release(x *exchange) {
	panicked := recover()
	if panicked != nil && !x.obs.panicked(panicked) {
		reportPanic("a handshake", panicked)
	}
	if x.base != nil {
		abandon(x.base) // what there was to say has been said
		x.obs.fail(l.ctx, errPanic)
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

// admit gives x a place among the handshakes under way, and waits until there
// is one. It reports false if ctx ended first, or the listener was closed.
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

// makeRoom evicts the oldest handshake that has kept us waiting for long
// enough. If there is none, it returns the time until there may be one, or 0
// if only the end of a handshake, or of our work in one, can make room. The
// caller holds mu.
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

// waits is told that x has done with our work, and waits for bytes of the client
// again.
func (l *PreflightListener) waitsForClient(x *exchange) {
	l.mu.Lock()
	l.pending.resume(x)
	l.mu.Unlock()
	x.startWaiting()
	l.signalRoom() // a client that waits for a place may now wait for this one
}

// yield gives the place of a handshake to others while its work goes on. At most
// MaxPending do so at a time: an Authorize that does not end for clients that
// have gone is not called without a limit. reclaim ends it.
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

// signalRoom wakes one that waits in admit. Each that has waited wakes the next,
// for which there may be room too, or one to be evicted.
func (l *PreflightListener) signalRoom() {
	select {
	case l.room <- struct{}{}:
	default:
	}
}

// opened counts a connection that Accept is about to return.
func (l *PreflightListener) opened() {
	l.mu.Lock()
	l.pending.active++
	l.mu.Unlock()
}

// closed counts one that was closed.
func (l *PreflightListener) closed() {
	l.mu.Lock()
	l.pending.active--
	l.signalEnd()
	l.mu.Unlock()
}

// tellEnd tells Accept and Shutdown when there is nothing left to wait for. Once
// the listener drains, the counts only go down. The caller holds mu.
func (l *PreflightListener) signalEnd() {
	if !l.draining.Load() || l.pending.count > 0 {
		return
	}
	closeOnce(l.drained)
	if l.pending.active == 0 {
		closeOnce(l.idle)
	}
}

// closeOnce closes c if it is not; the caller holds a lock.
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
