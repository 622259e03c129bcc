package frame

import (
	"math"
	"sync/atomic"
	"time"
	"weak"
)

// afterFunc calls f after d, unless c is unreachable by then. The timer does not
// keep c alive: a Conn that was dropped without Close ends as a net.TCPConn does,
// when the garbage collector finds it.
func afterFunc(c *Conn, d time.Duration, f func(*Conn)) *time.Timer {
	w := weak.Make(c)
	return time.AfterFunc(d, func() {
		if c := w.Value(); c != nil {
			f(c)
		}
	})
}

func (c *Conn) startKeepAlive() {
	c.mu.Lock() // the timer may be faster than the assignment
	c.ticker = afterFunc(c, c.keepAlive/2, (*Conn).tick)
	c.mu.Unlock()
}

// tick sends a PING, unless something was written since the last tick. At two
// ticks a period, no silence of this side is longer than a period.
func (c *Conn) tick() {
	c.mu.Lock()
	if c.phase != phaseOpen || c.ownFinal && c.peerFinal {
		c.mu.Unlock()
		return
	}
	c.ticker.Reset(c.keepAlive / 2)
	c.mu.Unlock()
	if c.spoke() {
		return
	}
	c.mu.Lock()
	c.pingDue = true
	c.flags.Or(due)
	c.release()
}

// spoke reports whether something was written since the last call, or is being
// written.
func (c *Conn) spoke() bool {
	if !c.wmu.TryLock() {
		return true
	}
	defer c.wmu.Unlock()
	wrote := c.wrote
	c.wrote = false
	return wrote
}

// An idleTimer measures how long a Read has waited. It is not set for each
// Read: it goes off at a time that once was right, and then finds out whether
// it still is.
type idleTimer struct {
	limit time.Duration
	timer *time.Timer
	armed atomic.Bool
	since atomic.Int64 // when the Read that waits has begun, since epoch; or noRead
}

// noRead stands for the time of a Read where none waits.
const noRead = math.MinInt64

func newIdleTimer(c *Conn, limit time.Duration) *idleTimer {
	i := &idleTimer{limit: limit, timer: afterFunc(c, limit, (*Conn).checkIdle)}
	i.timer.Stop()
	i.since.Store(noRead)
	return i
}

// waits notes that a Read begins to wait.
func (i *idleTimer) waits() {
	i.since.Store(int64(now()))
	if i.armed.CompareAndSwap(false, true) {
		i.timer.Reset(i.limit)
	}
}

// waited notes that no Read waits any more.
func (i *idleTimer) waited() { i.since.Store(noRead) }

// checkIdle ends the connection if the Read that waits has done so for too long.
func (c *Conn) checkIdle() {
	i := c.idle
	since := i.since.Load()
	for since == noRead {
		i.armed.Store(false)
		// A Read that has begun in between may have seen armed as it was.
		if since = i.since.Load(); since == noRead || !i.armed.CompareAndSwap(false, true) {
			return
		}
	}
	silence := now() - time.Duration(max(since, c.heard.Load()))
	if silence < i.limit {
		i.timer.Reset(i.limit - silence)
		return
	}
	c.mu.Lock()
	if c.phase != phaseOpen || c.marked(readStop) {
		c.mu.Unlock()
		return
	}
	c.cause = &idleError{limit: i.limit}
	c.mu.Unlock()
	c.end(true)
}
