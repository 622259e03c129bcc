package frame

import (
	"math"
	"sync/atomic"
	"time"
	"weak"
)

// The timers of an open connection do not keep it alive. If an application drops a Conn
// without calling Close, the garbage collector frees it, as it does with a net.TCPConn.

func (c *Conn) startKeepAlive(period time.Duration) {
	w := weak.Make(c)
	c.mu.Lock() // the timer may run before the assignment
	c.timer = time.AfterFunc(period/2, func() {
		if c := w.Value(); c != nil {
			c.tick(period)
		}
	})
	c.mu.Unlock()
}

// tick sends a PING, unless something was written since the last tick. There are two ticks
// in a period, so this side is never silent for longer than a period.
func (c *Conn) tick(period time.Duration) {
	c.mu.Lock()
	if c.phase != phaseOpen || c.ownFinal && c.peerFinal {
		c.mu.Unlock()
		return
	}
	c.timer.Reset(period / 2)
	c.mu.Unlock()
	if c.recentlyWrote() {
		return
	}
	c.mu.Lock()
	c.pingDue = true
	c.flags.Or(due)
	c.release()
}

// recentlyWrote reports whether something was written since the last call, or is being
// written now.
func (c *Conn) recentlyWrote() bool {
	if !c.wmu.TryLock() {
		return true
	}
	defer c.wmu.Unlock()
	wrote := c.wroteSinceTick
	c.wroteSinceTick = false
	return wrote
}

// An idleTimer measures how long a Read has waited. Setting a timer for each Read would be
// expensive. So the timer may fire too early. It then computes the time that is left, and
// is set again.
type idleTimer struct {
	limit        time.Duration
	timer        *time.Timer
	armed        atomic.Bool
	waitingSince atomic.Int64 // when the Read that waits has begun, since epoch; or noRead
}

// noRead is the value of waitingSince while no Read waits.
const noRead = math.MinInt64

func newIdleTimer(c *Conn, limit time.Duration) *idleTimer {
	w := weak.Make(c)
	// Not limit, which can pass before c has its idleTimer.
	i := &idleTimer{limit: limit, timer: time.AfterFunc(math.MaxInt64, func() {
		if c := w.Value(); c != nil {
			c.checkIdle()
		}
	})}
	i.timer.Stop()
	i.waitingSince.Store(noRead)
	return i
}

// beginWait records that a Read begins to wait.
func (i *idleTimer) beginWait() {
	i.waitingSince.Store(int64(now()))
	if i.armed.CompareAndSwap(false, true) {
		i.timer.Reset(i.limit)
	}
}

// endWait records that no Read waits any longer.
func (i *idleTimer) endWait() { i.waitingSince.Store(noRead) }

// stop frees the timer when the connection has ended. A Read that follows does not set it.
func (i *idleTimer) stop() {
	i.armed.Store(true)
	i.timer.Stop()
}

// checkIdle ends the connection if a Read has waited for too long.
func (c *Conn) checkIdle() {
	i := c.idle
	since := i.waitingSince.Load()
	for since == noRead {
		i.armed.Store(false)
		// A Read may have begun before armed was cleared, and then it has not set
		// the timer.
		if since = i.waitingSince.Load(); since == noRead || !i.armed.CompareAndSwap(false, true) {
			return
		}
	}
	silence := now() - time.Duration(max(since, c.lastReceived.Load()))
	if silence < i.limit {
		i.timer.Reset(i.limit - silence)
		return
	}
	c.mu.Lock()
	if c.phase != phaseOpen || c.hasFlag(readStop) {
		c.mu.Unlock()
		return
	}
	c.cause = &idleError{limit: i.limit}
	c.mu.Unlock()
	c.end(true)
}
