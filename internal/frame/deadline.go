package frame

import (
	"math"
	"net"
	"time"
)

// past is a deadline that ends a call under way.
var past = time.Unix(1, 0)

// SetDeadline sets both deadlines, as [net.Conn] says.
func (c *Conn) SetDeadline(t time.Time) error {
	err := c.SetReadDeadline(t)
	if writeErr := c.SetWriteDeadline(t); err == nil {
		err = writeErr
	}
	return err
}

// SetReadDeadline sets the deadline of Read, as [net.Conn] says. A Read that has
// run into it can be repeated.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.marked(closing) {
		return c.opError("set", net.ErrClosed)
	}
	c.readDeadline = t
	if c.readTaken {
		return nil
	}
	return c.conn.SetReadDeadline(t)
}

// SetWriteDeadline sets the deadline of Write, as [net.Conn] says. A Write that has
// run into it can be continued, unless there is TLS below. Controls are not under
// this deadline.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.marked(closing) {
		return c.opError("set", net.ErrClosed)
	}
	c.writeDeadline = t
	if c.writeTaken && !(c.tls && c.writes.Load() > 0) {
		return nil // endControls sets it
	}
	return c.conn.SetWriteDeadline(t)
}

// readExpired reports whether the deadline of Read has passed.
func (c *Conn) readExpired() bool {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	return !c.readDeadline.IsZero() && !time.Now().Before(c.readDeadline)
}

// wakeRead ends a Read that waits in the transport, and all that would follow.
func (c *Conn) wakeRead() error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.readTaken {
		return nil
	}
	c.readTaken = true
	return c.conn.SetReadDeadline(past)
}

// takeReads lets the layer itself read from the transport, without a deadline.
func (c *Conn) takeReads() {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	c.readTaken = true
	c.conn.SetReadDeadline(time.Time{})
}

// beginControls makes the transport's write deadline the layer's. It reports
// whether controls may be written now: a Write goes first. wmu is held.
func (c *Conn) beginControls() bool {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.writes.Load() > 0 {
		return false
	}
	c.writeTaken = true
	if !c.tls {
		c.controlsUntil = now() + controlTimeout
		c.conn.SetWriteDeadline(time.Now().Add(controlTimeout))
	} else if !c.writeDeadline.IsZero() {
		c.conn.SetWriteDeadline(time.Time{})
	}
	return true
}

// endControls gives the write deadline back to the application.
func (c *Conn) endControls() {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	c.writeTaken = false
	if !c.tls || !c.writeDeadline.IsZero() {
		c.conn.SetWriteDeadline(c.writeDeadline)
	}
}

// controlsExpired reports whether it was the layer's deadline that ended controls.
// Where none was in force, such as on TLS, the transport can write no more, and says
// so each time.
func (c *Conn) controlsExpired() bool {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	return !c.tls && now() >= c.controlsUntil
}

// hurry makes way for whoever waits for wmu. Controls that wait for room in the
// transport are cut short, and whatever writes next finishes them. On TLS nothing
// may be cut short, but by the deadline of the application that waits.
func (c *Conn) hurry() {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	switch {
	case !c.writeTaken:
	case c.tls:
		c.conn.SetWriteDeadline(c.writeDeadline)
	default:
		c.controlsUntil = math.MinInt64 // long ago
		c.conn.SetWriteDeadline(past)
	}
}
