package frame

import (
	"math"
	"net"
	"time"
)

// past is a deadline that interrupts a call in progress.
var past = time.Unix(1, 0)

// An instant is a deadline of the application, since epoch; 0: there is none.
type instant time.Duration

// newInstant returns the instant of t. now is the current time. A deadline may come from the
// wall clock alone: UTC and Round remove the monotonic reading. The wall clock may have been
// set since epoch, so it says only how far such a deadline is from now, as in package net.
func newInstant(t, now time.Time) instant {
	if t.IsZero() {
		return 0
	}
	passed, left := instant(now.Sub(epoch)), instant(t.Sub(now))
	d := passed + left
	switch {
	case left > 0 && d < passed: // the sum is too large
		d = math.MaxInt64
	case left < 0 && d > passed:
		d = math.MinInt64
	case d == 0:
		d = -1 // as expired as epoch itself
	}
	return d
}

func (d instant) time() time.Time {
	if d == 0 {
		return time.Time{}
	}
	return epoch.Add(time.Duration(d))
}

// SetDeadline sets both deadlines: see [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	err := c.SetReadDeadline(t)
	if writeErr := c.SetWriteDeadline(t); err == nil {
		err = writeErr
	}
	return err
}

// SetReadDeadline sets the deadline of Read: see [net.Conn]. After the deadline has
// expired, Read can be called again with a new deadline.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.hasFlag(closing) {
		return c.opError("set", net.ErrClosed)
	}
	c.readDeadline = newInstant(t, time.Now())
	if c.hasFlag(ownsReadDeadline) {
		return nil
	}
	return c.conn.SetReadDeadline(t)
}

// SetWriteDeadline sets the deadline of Write: see [net.Conn]. After the deadline has
// expired, the rest can be written with another Write, unless there is TLS below. The
// deadline does not apply to controls.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.hasFlag(closing) {
		return c.opError("set", net.ErrClosed)
	}
	c.writeDeadline = newInstant(t, time.Now())
	if c.hasFlag(ownsWriteDeadline) && !(c.tls && c.writes.Load() > 0) {
		return nil // endControls sets it
	}
	return c.conn.SetWriteDeadline(t)
}

// readExpired reports whether the deadline of Read has passed.
func (c *Conn) readExpired() bool {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	return c.readDeadline != 0 && now() >= time.Duration(c.readDeadline)
}

// wakeRead interrupts a Read that waits in the transport, and makes later ones fail.
func (c *Conn) wakeRead() error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.hasFlag(ownsReadDeadline) {
		return nil
	}
	err := c.conn.SetReadDeadline(past)
	c.setFlag(ownsReadDeadline, err == nil) // Close must learn of the error, also after CloseRead
	return err
}

// takeReads removes the read deadline, so that the Conn itself can read from the
// transport.
func (c *Conn) takeReads() {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	c.flags.Or(ownsReadDeadline)
	c.conn.SetReadDeadline(time.Time{})
}

// beginControls reports whether controls may be written now. A Write has priority. If
// they may, it replaces the application's write deadline by that of the controls, which
// expires after limit. wmu is held.
func (c *Conn) beginControls(limit time.Duration) bool {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.writes.Load() > 0 {
		return false
	}
	c.flags.Or(ownsWriteDeadline)
	if !c.tls {
		c.controlDeadline = now() + limit
		c.conn.SetWriteDeadline(time.Now().Add(limit))
	} else if c.writeDeadline != 0 {
		c.conn.SetWriteDeadline(time.Time{})
	}
	return true
}

// endControls restores the write deadline of the application.
func (c *Conn) endControls() {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	c.flags.And(^uint32(ownsWriteDeadline))
	if !c.tls || c.writeDeadline != 0 {
		c.conn.SetWriteDeadline(c.writeDeadline.time())
	}
}

// controlsExpired reports whether the deadline of the controls has interrupted them. If
// there was no such deadline, as on TLS, a timeout means that the transport can no
// longer be written to, and every later write fails.
func (c *Conn) controlsExpired() bool {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	return !c.tls && now() >= c.controlDeadline
}

// interruptControls lets a caller that waits for wmu proceed. It interrupts controls
// that wait until the transport accepts them. The next write finishes them. On TLS an
// interrupted write would break the connection, so only the deadline of the waiting
// application interrupts them.
func (c *Conn) interruptControls() {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	switch {
	case !c.hasFlag(ownsWriteDeadline):
	case c.tls:
		c.conn.SetWriteDeadline(c.writeDeadline.time())
	default:
		c.controlDeadline = math.MinInt64 // always in the past
		c.conn.SetWriteDeadline(past)
	}
}
