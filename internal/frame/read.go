package frame

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/preflight-go/preflight/internal/capsule"
	"github.com/preflight-go/preflight/internal/websocket"
)

// Read reads application bytes. It has the transport read into p, and takes the
// headers out there, so that it may return fewer bytes than the transport had
// for p. It never writes. It returns io.EOF behind the peer's FINAL_DATA, and
// io.ErrUnexpectedEOF, wrapped, if the stream ends without.
//
// The layer sees a PING only while the application reads.
func (c *Conn) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.beginRead()
	defer c.endRead()
	// A goroutine may wait here for long. All that it does not need for that is done
	// in other functions, so that its stack stays small.
	for n == 0 && err == nil {
		if len(c.rest) > 0 || c.late != nil || c.marked(readStop) {
			n, err = c.readRest(p)
			continue
		}
		buf := p
		if len(p) < len(c.hold) {
			// Without room for a header beside it, a small message would take
			// two calls to the transport.
			buf = c.hold[:]
		}
		got, readErr := c.conn.Read(buf)
		n, err = c.digest(p, buf[:got], readErr)
	}
	return n, err
}

func (c *Conn) beginRead() {
	c.rmu.Lock()
	if c.idle != nil {
		c.idle.waits()
	}
}

func (c *Conn) endRead() {
	if c.idle != nil {
		c.idle.waited()
	}
	c.rmu.Unlock()
}

// WriteTo writes to w what can be read until EOF. It reads into one buffer and
// writes from there.
func (c *Conn) WriteTo(w io.Writer) (n int64, err error) {
	buf := largeBuffers.Get().(*largeBuffer)
	defer largeBuffers.Put(buf)
	for {
		m, readErr := c.Read(buf[:])
		if m > 0 {
			written, err := w.Write(buf[:m])
			written = min(max(written, 0), m)
			n += int64(written)
			if err != nil {
				return n, err
			}
			if written < m {
				return n, io.ErrShortWrite
			}
		}
		if readErr == io.EOF {
			return n, nil
		}
		if readErr != nil {
			return n, readErr
		}
	}
}

// readRest is Read where nothing is to be read from the transport: at the end, and
// while there is a rest, or an error that was returned beside it.
func (c *Conn) readRest(p []byte) (int, error) {
	switch {
	case c.marked(readStop):
		return 0, c.readError()
	case len(c.rest) == 0:
		return 0, c.readFailed(c.late)
	case c.readExpired():
		// As over bytes that wait in a socket, the deadline wins.
		return 0, c.opError("read", os.ErrDeadlineExceeded)
	}
	moved, used := c.deframe(p, c.rest, false)
	c.rest = c.rest[used:]
	c.stamp(moved > 0)
	return moved, nil
}

// digest takes apart what the transport has returned, and returns what Read must
// return. It returns no bytes if there were only headers and controls.
func (c *Conn) digest(p, raw []byte, err error) (int, error) {
	if len(raw) == 0 {
		if err != nil {
			err = c.readFailed(err)
		}
		return 0, err
	}
	if err != nil && !isTimeout(err) {
		c.late = err
	}
	moved, used := c.deframe(p, raw, false)
	c.rest = raw[used:] // empty unless raw is in c.hold: nothing outgrows p in p
	c.stamp(moved > 0 && len(raw) == max(len(p), len(c.hold)))
	return moved, nil
}

// deframe takes src apart. It moves the application's bytes to dst, or discards
// them, and sees to everything else. dst may begin where src does. It returns how
// many bytes it has moved and how many of src it has used: all, if dst is not full.
// rmu is held, or the layer itself reads.
func (c *Conn) deframe(dst, src []byte, discard bool) (moved, used int) {
	news := false
	for used < len(src) && !c.deaf {
		b := src[used:]
		if c.ws != nil {
			data := c.ws.Data()
			if data == 0 {
				n, more := c.takeFrame(b)
				used += n
				news = news || more
				continue
			}
			b = b[:min(data, uint64(len(b)))]
		}
		c.fresh = true
		if data := c.capsules.Data(); data == 0 {
			n, more := c.takeCapsule(b)
			used += n
			news = news || more
		} else {
			b = b[:min(data, uint64(len(b)))]
			if discard {
				c.discard(len(b))
			} else {
				b = b[:min(len(b), len(dst)-moved)]
				if len(b) == 0 {
					break
				}
				c.move(dst[moved:moved+len(b)], b)
				moved += len(b)
			}
			c.capsules.Take(len(b))
			used += len(b)
		}
		if !c.final && c.capsules.Ended() {
			c.final, news = true, true
			c.gotFinalData()
		}
	}
	if c.deaf {
		used = len(src)
	}
	if news {
		c.mu.Lock()
		c.release()
	}
	return moved, used
}

// move moves application bytes to where the application wants them.
func (c *Conn) move(dst, src []byte) {
	if c.ws != nil {
		if !c.client {
			c.ws.Unmask(dst, src)
			return
		}
		c.ws.Skip(len(src))
	}
	if &dst[0] == &src[0] {
		return
	}
	// Above 2 KiB, copy uses a string instruction, which takes twice the time
	// where dst begins just before src.
	const step = 1 << 10
	for len(src) > step {
		copy(dst, src[:step])
		dst, src = dst[step:], src[step:]
	}
	copy(dst, src)
}

// takeFrame takes a header or a control frame from the beginning of b. It returns
// its length, and whether there is news for release.
func (c *Conn) takeFrame(b []byte) (n int, news bool) {
	n, event, err := c.ws.Next(b)
	switch {
	case err != nil:
		c.broke(err)
	case event == websocket.PingPassed:
		c.gotRFCPing(c.ws.Control())
	case event == websocket.ClosePassed:
		c.gotClose(c.ws.Code())
	default:
		return n, false
	}
	return n, true
}

// takeCapsule takes a header, a PING, a PONG or an unknown value from the
// beginning of b. It returns its length, and whether there is news for release.
func (c *Conn) takeCapsule(b []byte) (n int, news bool) {
	var unmasked [capsule.MaxHeader]byte
	if c.ws != nil {
		n := min(len(b), len(unmasked))
		c.ws.Peek(unmasked[:n], b[:n])
		b = unmasked[:n]
	}
	n, event, err := c.capsules.Next(b)
	if c.ws != nil {
		c.ws.Skip(n)
	}
	switch {
	case err != nil:
		c.broke(err)
	case event == capsule.PingPassed:
		c.gotPing(c.capsules.Value())
	case event == capsule.PongPassed:
		c.gotPong(c.capsules.Value())
	default:
		return n, false
	}
	return n, true
}

// readFailed returns what Read must return for an error of the transport.
func (c *Conn) readFailed(err error) error {
	if c.marked(readStop) {
		return c.readError() // the transport failed because Read was to end
	}
	if isTimeout(err) {
		return err
	}
	c.mu.Lock()
	c.peerEnd = true
	switch {
	case c.controlErr != nil && !isTimeout(c.controlErr): // a caller would try again behind a timeout
		err = c.controlErr
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = c.truncated(0)
	}
	c.readErr = err
	c.flags.Or(readStop)
	c.release()
	return err
}

// stamp notes when capsules were last heard of. A look at the clock costs as much
// as a small capsule. While the transport fills one buffer after the other, and
// so has more, one in 16 must do.
func (c *Conn) stamp(full bool) {
	if !c.fresh {
		return
	}
	c.fresh = false
	if full && c.unstamped < 15 {
		c.unstamped++
		return
	}
	c.unstamped = 0
	c.heard.Store(int64(now()))
}

// truncated returns the error for a stream that has ended without FINAL_DATA. code
// is that of the Close frame that ended it, or 0.
func (c *Conn) truncated(code uint16) error {
	c.stamp(false)
	return c.opError("read", &truncatedError{
		silence: now() - time.Duration(c.heard.Load()),
		atMost:  c.unstamped > 0,
		code:    code,
	})
}

// readError returns why there is readStop.
func (c *Conn) readError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return c.opError("read", net.ErrClosed)
	case c.peerFinal, c.readClosed:
		return io.EOF
	case c.cause != nil:
		return c.opError("read", c.cause)
	default:
		return c.readErr
	}
}
