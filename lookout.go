package preflight

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// lookoutDelay is how long Authorize may run before a lookout begins to read. An
// Authorize that decides by itself has returned by then, and costs no Read.
const lookoutDelay = 100 * time.Millisecond

// A lookout reads from the connection while Authorize runs, so that Authorize is
// told when its client has gone, and does not work on for nobody. Nothing else
// can tell: a connection is known to have ended only when somebody reads. What
// arrives is kept, as the first bytes of the tunnel.
//
// An orderly end counts as well as a reset. It may be a half-close, after which a
// client could still read the 101, but it is nearly always a client, or a proxy
// on its behalf, that has given up; net/http decides the same. The context is all
// that ends: what Authorize answers nevertheless is sent.
type lookout struct {
	x       *exchange
	keeper  keeper
	ctx     context.Context // of the request
	cancel  context.CancelCauseFunc
	release context.CancelFunc
	timer   *time.Timer   // begins to look; nil: it never does, or has ended
	done    chan struct{} // closed when it has looked
	gone    error         // why the client has gone
	yielded bool          // the place is free for others
}

// lookOut begins a lookout. end must be called, in a deferred call too: Authorize
// may end its goroutine.
func (x *exchange) lookOut(p *policy) *lookout {
	l := &lookout{x: x, keeper: p.keeper, done: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(x.ctx)
	l.cancel = cancel
	l.ctx, l.release = context.WithDeadline(ctx, x.deadline)
	if x.timer == nil { // else the transport has no deadlines, and its Read cannot be ended
		l.timer = time.AfterFunc(lookoutDelay, l.look)
	}
	return l
}

// look reads until the connection ends, or end interrupts it. A client that sends
// before it has the 101 could make us keep any amount: once there are firstRead
// bytes, nobody looks any more.
func (l *lookout) look() {
	defer close(l.done)
	defer contain("a transport")
	var err error
	for limit := len(l.x.buf) + firstRead; err == nil && len(l.x.buf) < limit; {
		err = l.x.read(limit)
	}
	if err == nil || isTimeout(err) && !errors.Is(err, syscall.ETIMEDOUT) {
		return
	}
	l.gone = fmt.Errorf("the client has gone: %w", err)
	l.cancel(l.gone)
	l.yielded = l.keeper != nil && l.keeper.yield()
}

// end ends the lookout. It returns why the client has gone, or nil if it has not.
// It may be called again.
func (l *lookout) end() error {
	if l.timer != nil && !l.timer.Stop() {
		l.x.readBy(longAgo)
		<-l.done
		l.x.readBy(l.x.deadline)
	}
	if l.yielded {
		l.keeper.reclaim()
	}
	l.timer, l.yielded = nil, false
	l.cancel(nil)
	l.release()
	return l.gone
}
