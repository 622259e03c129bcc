package frame

import (
	"io"
	"net"
	"os"
	"time"

	"github.com/preflight-go/preflight/internal/capsule"
	"github.com/preflight-go/preflight/internal/websocket"
)

// Read reads application bytes. The transport reads into p, and Read removes the headers
// there, so it may return fewer bytes than the transport has read. It never writes. It
// returns io.EOF after the peer's FINAL_DATA. If the stream ends without FINAL_DATA, the
// error wraps io.ErrUnexpectedEOF.
//
// PINGs are answered only while the application reads.
func (c *Conn) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.beginRead()
	defer c.endRead()
	// A goroutine may wait here for a long time, and its stack must stay small. So other
	// functions do everything that is not needed during the wait.
	for n == 0 && err == nil {
		if len(c.buffered) > 0 || c.bufferedErr != nil || c.hasFlag(readStop) {
			n, err = c.readBuffered(p)
			continue
		}
		buf := p
		if len(p) < len(c.readBuf) {
			// p has no space for the header of a small message. Without this
			// buffer, such a message would take two calls to the transport.
			buf = c.readBuf[:]
		}
		got, readErr := c.conn.Read(buf)
		n, err = c.handleRead(p, buf[:got], readErr, nil)
	}
	return n, err
}

func (c *Conn) beginRead() {
	c.rmu.Lock()
	if c.idle != nil {
		c.idle.beginWait()
	}
}

func (c *Conn) endRead() {
	if c.idle != nil {
		c.idle.endWait()
	}
	c.rmu.Unlock()
}

// WriteTo reads until EOF and writes the data to w. It uses one buffer for both. If w can
// gather buffers, the data stays where it was read, between the headers.
func (c *Conn) WriteTo(w io.Writer) (n int64, err error) {
	b := newCopyBuffer()
	defer b.free()
	var parts *partList
	if gathers(w) {
		parts = new(partList)
	}
	for {
		buf := b.bytes()
		m, readErr := c.readParts(buf, parts)
		if m > 0 {
			var written int64
			if parts != nil {
				written, err = parts.writeTo(w)
			} else {
				var some int
				some, err = w.Write(buf[:m])
				written = int64(min(max(some, 0), m))
			}
			n += written
			if err != nil {
				return n, err
			}
			if written < int64(m) {
				return n, io.ErrShortWrite
			}
		}
		if readErr == io.EOF {
			return n, nil
		}
		if readErr != nil {
			return n, readErr
		}
		b.adapt(m)
	}
}

// readParts is Read, but it leaves the data in several parts of p, if parts is not nil.
func (c *Conn) readParts(p []byte, parts *partList) (n int, err error) {
	c.beginRead()
	defer c.endRead()
	for n == 0 && err == nil {
		if len(c.buffered) > 0 || c.bufferedErr != nil || c.hasFlag(readStop) {
			if n, err = c.readBuffered(p); n > 0 && parts != nil {
				parts.add(p[:n])
			}
			continue
		}
		got, readErr := c.conn.Read(p)
		n, err = c.handleRead(p, p[:got], readErr, parts)
	}
	return n, err
}

// readBuffered does the work of Read if nothing needs to be read from the transport: at
// the end of the stream, and while there are buffered bytes or a buffered error.
func (c *Conn) readBuffered(p []byte) (int, error) {
	switch {
	case c.hasFlag(readStop):
		return 0, c.readError()
	case len(c.buffered) == 0:
		return 0, c.readFailed(c.bufferedErr)
	case c.readExpired():
		// An expired deadline takes precedence over buffered bytes, as it does
		// over the bytes in the buffer of a socket.
		return 0, c.opError("read", os.ErrDeadlineExceeded)
	}
	moved, used := c.deframe(p, c.buffered, nil)
	c.keepBuffered(c.buffered[used:])
	c.recordReceived(moved > 0)
	return moved, nil
}

// handleRead parses what the transport has returned, and returns the results of Read. The
// number of bytes is 0 if there were only headers and controls.
func (c *Conn) handleRead(p, raw []byte, err error, parts *partList) (int, error) {
	if len(raw) == 0 {
		if err != nil {
			err = c.readFailed(err)
		}
		return 0, err
	}
	if err != nil && !isTimeout(err) {
		c.bufferedErr = err
	}
	moved, used := c.deframe(p, raw, parts)
	c.keepBuffered(raw[used:]) // empty if raw is in p, which has space for all its data
	c.recordReceived(moved > 0 && len(raw) == max(len(p), len(c.readBuf)))
	return moved, nil
}

// keepBuffered keeps b for the next Read. An empty b may be the end of a buffer of the
// application, or of a large one of WriteTo. A connection that falls silent must not keep
// that buffer in memory.
func (c *Conn) keepBuffered(b []byte) {
	if len(b) == 0 {
		b = nil
	}
	c.buffered = b
}

// deframe parses src. It moves the application's bytes to dst, or discards them if dst is
// nil, and handles headers and controls. dst and src may begin at the same address. Then
// parts may be set, and the bytes go where it says. deframe returns how many bytes it has
// moved, and how many bytes of src it has used. It uses all of them unless dst is full. The
// caller holds rmu, or is backgroundRead.
func (c *Conn) deframe(dst, src []byte, parts *partList) (moved, used int) {
	changed := false
	for used < len(src) && !c.ignoreInput {
		b := src[used:]
		if c.ws != nil {
			data := c.ws.Data()
			if data == 0 {
				n, more := c.takeFrame(b)
				used += n
				changed = changed || more
				continue
			}
			b = b[:min(data, uint64(len(b)))]
		}
		c.received = true
		if data := c.capsules.Data(); data == 0 {
			n, more := c.takeCapsule(b)
			used += n
			changed = changed || more
		} else {
			b = b[:min(data, uint64(len(b)))]
			if dst == nil {
				c.discard(len(b))
			} else if parts != nil {
				c.move(parts.add(b), b)
				moved += len(b)
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
			c.final, changed = true, true
			c.gotFinalData()
		}
	}
	if c.ignoreInput {
		used = len(src)
	}
	if changed {
		c.mu.Lock()
		c.release()
	}
	return moved, used
}

// move moves application bytes to the buffer of the application, and unmasks them.
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
	// Above 2 KiB, copy uses a string instruction. This takes twice the time if dst
	// begins a few bytes before src.
	const step = 1 << 10
	for len(src) > step {
		copy(dst, src[:step])
		dst, src = dst[step:], src[step:]
	}
	copy(dst, src)
}

// takeFrame consumes a frame header or a control frame at the beginning of b. It returns
// the number of bytes, and whether the caller must call release.
func (c *Conn) takeFrame(b []byte) (n int, changed bool) {
	n, event, err := c.ws.Next(b)
	switch {
	case err != nil:
		c.gotProtocolError(err)
	case event == websocket.PingPassed:
		c.gotRFCPing(c.ws.Control())
	case event == websocket.ClosePassed:
		c.gotClose(c.ws.Code())
	default:
		return n, false
	}
	return n, true
}

// takeCapsule consumes a capsule header, a PING, a PONG or a value of an unknown type at
// the beginning of b. It returns the number of bytes, and whether the caller must call
// release.
func (c *Conn) takeCapsule(b []byte) (n int, changed bool) {
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
		c.gotProtocolError(err)
	case event == capsule.PingPassed:
		c.gotPing(c.capsules.Value())
	case event == capsule.PongPassed:
		c.gotPong(c.capsules.Value())
	default:
		return n, false
	}
	return n, true
}

// readFailed returns the error that Read must return for an error of the transport.
func (c *Conn) readFailed(err error) error {
	if c.hasFlag(readStop) {
		return c.readError() // the Conn itself has interrupted the Read
	}
	if isTimeout(err) {
		return err
	}
	c.mu.Lock()
	c.peerEnd = true
	switch {
	// After a timeout, a caller would read again. io.EOF, which an SSH channel returns for a
	// Write after its end, would look like the end of the stream.
	case c.controlErr != nil && !isTimeout(c.controlErr) && !isEOF(c.controlErr):
		err = c.controlErr
	case isEOF(err):
		err = c.truncated(0)
	}
	c.readErr = err
	c.flags.Or(readStop)
	c.release()
	return err
}

// recordReceived records when bytes of a capsule last arrived. Reading the clock costs as
// much as a small capsule. While the transport fills each buffer, more bytes are waiting,
// and the clock is read for one buffer in 16.
func (c *Conn) recordReceived(full bool) {
	if !c.received {
		return
	}
	c.received = false
	if full && c.unrecorded < 15 {
		c.unrecorded++
		return
	}
	c.unrecorded = 0
	c.lastReceived.Store(int64(now()))
}

// truncated returns the error for a stream that has ended without FINAL_DATA. code is the
// code of the Close frame that ended it, or 0.
func (c *Conn) truncated(code uint16) error {
	c.recordReceived(false)
	return c.opError("read", &truncatedError{
		silence: now() - time.Duration(c.lastReceived.Load()),
		atMost:  c.unrecorded > 0,
		code:    code,
	})
}

// readError returns the error that Read must return after readStop was set.
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
