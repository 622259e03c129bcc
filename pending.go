package preflight

import (
	"context"
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
	count    int   // of handshakes
	oldest   place // of those not finished, a ring in order of age; its next is the oldest
	evicting bool  // one has been evicted and has not left yet; it makes room for one
	active   int   // connections that Accept has returned and that are open
}

// A place is the place of an exchange in the ring of those under way.
type place struct {
	x          *exchange
	since      time.Time
	prev, next *place
}

func (p *pending) enter(x *exchange) {
	x.place = place{x: x, since: time.Now(), prev: p.oldest.prev, next: &p.oldest}
	x.place.prev.next, x.place.next.prev = &x.place, &x.place
}

func (p *pending) leave(x *exchange) {
	x.place.prev.next, x.place.next.prev = x.place.next, x.place.prev
}

// acceptAll accepts connections until the listener is closed. An error goes to
// the caller of Accept, and nothing more is accepted until it has been taken:
// the pause that the caller makes on EMFILE is ours too.
func (l *PreflightListener) acceptAll() {
	for l.ctx.Err() == nil {
		c, err := l.Listener.Accept()
		if err != nil {
			if l.draining.Load() {
				return
			}
			l.deliver(delivery{err: err})
			continue
		}
		x := newExchange(c)
		x.await()
		if !l.admit(l.ctx, x) {
			c.Close()
			return
		}
		go l.handshake(x, 0, nil)
	}
}

func (l *PreflightListener) deliver(d delivery) bool {
	select {
	case l.delivered <- d:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// handshake brings one connection to its end: delivered, handed to Handler,
// refused or closed. net/http has read the first n bytes of what it has sent,
// the head of req, if that is not nil.
func (l *PreflightListener) handshake(x *exchange, n int, req *http.Request) {
	var evicted bool
	defer func() { l.finished(evicted) }() // also where Authorize ends the goroutine
	conn, ordinary := l.serve(x, n, req, &evicted)
	switch {
	case conn == nil:
	case l.ctx.Err() != nil: // Close may have cut it off in its last moment
		conn.Close()
	case ordinary:
		l.handOver(conn)
	default:
		l.opened()
		conn.onClose = l.onClose
		if !l.deliver(delivery{conn: conn}) {
			conn.Close()
		}
	}
}

// serve performs the handshake. It closes the connection and returns nil if it
// is not the application's or Handler's. When it returns, Close no longer knows
// the connection, so that it never touches one that has been delivered.
func (l *PreflightListener) serve(x *exchange, n int, req *http.Request, evicted *bool) (conn *Conn, ordinary bool) {
	defer func() {
		if conn == nil {
			// Not x.conn: a TLS layer would wait for its last message to be
			// sent, and what there was to say has been said.
			x.base.Close()
		}
		l.mu.Lock()
		l.pending.leave(x)
		*evicted = x.evicted
		l.mu.Unlock()
		x.free()
	}()
	ctx, deadline := l.ctx, time.Now().Add(l.handshakeTimeout())
	if req != nil {
		ctx = req.Context()
		deadline, _ = ctx.Deadline()
	}
	if x.begin(context.Background(), deadline) != nil {
		return nil, false
	}
	x.ctx = ctx // Close cuts off every exchange; none needs a watch of its own
	var h handover
	var err error
	if req == nil {
		h, err = x.serve(&l.policy, nil)
	} else {
		h, err = x.answer(&l.policy, n, req, nil)
	}
	if err == nil && h.secure {
		x.consume(len(x.buf) - len(h.rest))
		l.await(x)
		if err = x.secure(l.policy.tls); err != nil {
			err = &stageError{"TLS handshake in the tunnel", err}
		}
		h.rest = nil
	}
	if x.end(err) != nil {
		return nil, false
	}
	return h.conn(x.conn, x.remote), h.ordinary
}

// admit gives x a place among the handshakes under way, and waits until there
// is one. It reports false if ctx ended first, or the listener was closed.
func (l *PreflightListener) admit(ctx context.Context, x *exchange) bool {
	for {
		l.mu.Lock()
		if l.ctx.Err() != nil || l.draining.Load() {
			l.mu.Unlock()
			return false
		}
		if l.pending.count < l.maxPending() {
			l.pending.count++
			l.pending.enter(x)
			more := l.pending.count < l.maxPending()
			l.mu.Unlock()
			if more {
				l.signalRoom() // to the next that waits
			}
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
			return false
		case <-l.ctx.Done():
		}
	}
}

// makeRoom evicts the oldest handshake that has kept us waiting for long
// enough. If there is none, it returns the time until there may be one, or 0
// if only the end of a handshake can make room. The caller holds mu.
func (l *PreflightListener) makeRoom() (wait time.Duration) {
	for p := l.pending.oldest.next; p != &l.pending.oldest && !l.pending.evicting; p = p.next {
		age := time.Since(p.since)
		if age < grace {
			return grace - age
		}
		l.pending.evicting = p.x.evict()
	}
	return 0
}

// await makes x one that waits for bytes of the client, from now on.
func (l *PreflightListener) await(x *exchange) {
	l.mu.Lock()
	l.pending.leave(x)
	l.pending.enter(x)
	l.mu.Unlock()
	x.await()
}

func (l *PreflightListener) signalRoom() {
	select {
	case l.room <- struct{}{}:
	default:
	}
}

// finished counts a handshake that has come to its end.
func (l *PreflightListener) finished(evicted bool) {
	l.mu.Lock()
	l.pending.count--
	if evicted {
		l.pending.evicting = false
	}
	l.settle()
	l.mu.Unlock()
	l.signalRoom()
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
	l.settle()
	l.mu.Unlock()
}

// settle tells Accept and Shutdown when there is nothing left to wait for. Once
// the listener drains, the counts only go down. The caller holds mu.
func (l *PreflightListener) settle() {
	if !l.draining.Load() || l.pending.count > 0 {
		return
	}
	closeOnce(l.drained)
	if l.pending.active == 0 {
		closeOnce(l.quiet)
	}
}

// closeOnce closes c if it is not; the caller holds a lock.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
