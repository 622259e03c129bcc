package frame

import (
	"errors"
	"io"
	"net"

	"github.com/preflight-go/preflight/internal/capsule"
	"github.com/preflight-go/preflight/internal/websocket"
)

// Write writes p in DATA capsules of at most 32768 bytes. One call to the transport
// writes headers and data, for up to eight capsules on TCP and on Unix sockets, unless they
// are masked, and otherwise for up to two.
//
// If a Write is interrupted, for example by its deadline, it returns how many bytes of p
// were written. It may leave a capsule open. The next Write completes the capsule.
func (c *Conn) Write(p []byte) (int, error) {
	if !c.beginWrite() {
		return 0, c.writeError()
	}
	defer c.endWrite()
	if c.flags.Load()&^noWriteFlags == 0 && len(p) <= maxCopy {
		return c.writeSmall(p)
	}
	return c.write(p, 0)
}

// ReadFrom reads from r until EOF and writes the data. It leaves space for a header before
// the data and masks the data in place, so nothing is copied.
func (c *Conn) ReadFrom(r io.Reader) (n int64, err error) {
	b := newCopyBuffer()
	defer b.free()
	const room = maxControls + maxHeader
	for {
		buf := b.bytes()
		end := room + (len(buf)-room)/maxData*maxData
		m, readErr := r.Read(buf[room:end])
		if m > 0 {
			// This panics if r claims more than it was asked for, as in io.Copy. What
			// follows in buf may be of another connection.
			buf = buf[: room+m : end]
			if !c.beginWrite() {
				return n, c.writeError()
			}
			written, err := c.write(buf, room)
			c.endWrite()
			n += int64(written)
			if err != nil {
				return n, err
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

// writeSmall is the usual case of Write: p fits into a small buffer, and nothing else must
// be written. It does what write does, in fewer steps and with a smaller stack.
func (c *Conn) writeSmall(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	buf := smallBuffers.Get().(*smallBuffer)
	start := c.newKey()
	b, key := c.appendHeader(buf.bytes[:0], dataHeader(len(p)), start)
	b, _ = c.appendMasked(b, p, key)
	n, err := c.conn.Write(b)
	smallBuffers.Put(buf)
	if n != len(b) || err != nil {
		return c.finishShortWrite(len(p), len(b), start, n, err)
	}
	c.wroteSinceTick = true
	return len(p), nil
}

// finishShortWrite ends a writeSmall that the transport has not completed. data is the
// length of the data, size the length of the data with its header. n is the number of
// bytes that the transport has reported.
func (c *Conn) finishShortWrite(data, size int, start websocket.Key, n int, err error) (int, error) {
	n, err = c.checkWritten(n, size, err)
	_, key := c.appendHeader(make([]byte, 0, maxHeader), dataHeader(data), start)
	only := piece{head: size - data, body: data, start: start, key: key}
	n = c.recordWritten(&batch{pieces: [maxCapsules]piece{only}, count: 1}, n)
	c.markWrite(err)
	if err != nil {
		err = c.writeFailure(err)
	}
	return n, err
}

// write writes b[off:]. If off is not 0, write may overwrite all of b.
func (c *Conn) write(b []byte, off int) (n int, err error) {
	if off == len(b) && c.hasFlag(writeStop) {
		return 0, c.writeError()
	}
	owned := off > 0
	for off < len(b) {
		taken, err := c.writeBatch(b, off, owned)
		if err == errStopped {
			return n, c.writeError()
		}
		c.markWrite(err)
		n += taken
		off += taken
		if err != nil {
			return n, c.writeFailure(err)
		}
	}
	return n, nil
}

// errStopped is what writeBatch returns if writeStop is set.
var errStopped = errors.New("stopped")

// beginWrite waits for other Writes, and interrupts controls that are being written. It
// reports whether a Write is possible. If not, it does not interrupt the controls.
func (c *Conn) beginWrite() bool {
	if c.hasFlag(writeStop) {
		return false
	}
	c.writes.Add(1)
	if !c.wmu.TryLock() {
		c.interruptControls()
		c.wmu.Lock()
	}
	return true
}

// endWrite ends a Write, and starts sending the controls that have become due during it.
func (c *Conn) endWrite() {
	c.wmu.Unlock()
	c.writes.Add(-1)
	c.startControls()
}

// A batch is what one call to the transport writes: the lead, then some capsules. The lead
// contains the bytes that were left over from the last call, or the controls that are
// due.
type batch struct {
	lead   []byte
	pieces [maxCapsules]piece
	count  int // of pieces
}

// A piece of a batch is a whole capsule, or a part of the value of the open capsule.
type piece struct {
	head  int           // the length of its headers; 0: it continues the open capsule
	body  int           // the length of the data in the batch
	start websocket.Key // for the headers
	key   websocket.Key // for the data
}

// add adds a capsule to the batch, for as many of the next n bytes as it can contain. It
// appends the headers of the capsule to b.
func (c *Conn) add(t *batch, b []byte, n int) ([]byte, piece) {
	var p piece
	if t.count == 0 && c.capsuleLeft > 0 {
		p = piece{body: min(n, int(c.capsuleLeft)), key: c.key}
	} else {
		p = piece{body: min(n, maxData), start: c.newKey()}
		start := len(b)
		b, p.key = c.appendHeader(b, dataHeader(p.body), p.start)
		p.head = len(b) - start
	}
	t.pieces[t.count] = p
	t.count++
	return b, p
}

func dataHeader(n int) capsule.Header { return capsule.Header{Type: capsule.Data, Length: uint64(n)} }

// writeBatch writes the beginning of b[off:] in one call to the transport. It returns how
// many bytes of data the transport has accepted. If owned is set, it may overwrite b.
func (c *Conn) writeBatch(b []byte, off int, owned bool) (taken int, err error) {
	buf := smallBuffers.Get().(*smallBuffer)
	defer smallBuffers.Put(buf)
	lead, err := c.appendLead(buf.bytes[:0])
	if err != nil {
		return 0, err
	}
	t := batch{lead: lead}
	data := len(b) - off
	switch {
	case owned && !(c.vector && data > maxData):
		return c.writeInPlace(&t, b, off)
	case c.vector && (owned || !c.masks()) && data > maxCopy:
		return c.writeVector(&t, b[off:], buf)
	case data <= maxCopy:
		return c.writeCopy(&t, b[off:], lead)
	}
	large := largeBuffers.Get().(*largeBuffer)
	defer largeBuffers.Put(large)
	return c.writeCopy(&t, b[off:], append(large[:0], lead...))
}

// appendLead appends to b the bytes that must be written before data: those that the
// transport did not accept in the last call, or else the controls that are due.
func (c *Conn) appendLead(b []byte) ([]byte, error) {
	if c.hasFlag(writeStop | due) {
		// No data may follow a Close frame. mu is held, so no Close frame can
		// become due after writeStop was checked.
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.hasFlag(writeStop) {
			return nil, errStopped
		}
		if len(c.unsent) == 0 && c.capsuleLeft == 0 {
			return c.takeControls(b), nil
		}
	}
	return append(b, c.unsent...), nil
}

// writeCopy copies headers and data to b, which already contains the lead.
func (c *Conn) writeCopy(t *batch, p, b []byte) (int, error) {
	for len(p) > 0 && t.count < maxCopied {
		var piece piece
		b, piece = c.add(t, b, len(p))
		b, _ = c.appendMasked(b, p[:piece.body], piece.key)
		p = p[piece.body:]
	}
	n, err := c.transmit(b)
	return c.recordWritten(t, n), err
}

// writeInPlace puts the lead and the headers directly before b[off:], and masks the data in
// place.
func (c *Conn) writeInPlace(t *batch, b []byte, off int) (int, error) {
	head, piece := c.add(t, t.lead, len(b)-off)
	end := off + piece.body
	if c.masks() {
		websocket.Mask(b[off:end], b[off:end], piece.key)
	}
	off -= copy(b[off-len(head):], head)
	n, err := c.transmit(b[off:end])
	return c.recordWritten(t, n), err
}

// writeVector lets the kernel gather the lead, the headers and the data (writev). It masks
// the data in place.
func (c *Conn) writeVector(t *batch, p []byte, buf *smallBuffer) (int, error) {
	b, from := t.lead, 0
	v := buf.vectors[:0]
	for len(p) > 0 && t.count < len(t.pieces) {
		var piece piece
		b, piece = c.add(t, b, len(p))
		if c.masks() {
			websocket.Mask(p[:piece.body], p[:piece.body], piece.key)
		}
		v = append(v, b[from:], p[:piece.body])
		from = len(b)
		p = p[piece.body:]
	}
	buf.vector = v
	n, err := buf.vector.WriteTo(c.conn)
	clear(buf.vectors[:])
	c.wroteSinceTick = c.wroteSinceTick || n > 0
	return c.recordWritten(t, int(n)), err
}

// transmit writes b.
func (c *Conn) transmit(b []byte) (int, error) {
	n, err := c.conn.Write(b)
	return c.checkWritten(n, len(b), err)
}

// checkWritten checks the result of a Write of size bytes to the transport, which may break
// the contract of io.Writer. It returns a valid number of bytes, and an error if not all
// bytes were written.
func (c *Conn) checkWritten(n, size int, err error) (int, error) {
	n = min(max(n, 0), size)
	if n < size && err == nil {
		err = io.ErrShortWrite
	}
	c.wroteSinceTick = c.wroteSinceTick || n > 0
	return n, err
}

// recordWritten records that the transport has accepted the first n bytes of t. It returns
// how many bytes of data are among them.
func (c *Conn) recordWritten(t *batch, n int) (taken int) {
	if n < len(t.lead) {
		c.keepUnsent(t.lead[n:])
		return 0
	}
	if len(c.unsent) > 0 {
		c.keepUnsent(nil)
	}
	n -= len(t.lead)
	for _, p := range t.pieces[:t.count] {
		if p.head > 0 {
			if n == 0 {
				break // nothing of the capsule was written
			}
			c.capsuleLeft, c.key = uint16(p.body), p.key
			if n < p.head {
				b, _ := c.appendHeader(make([]byte, 0, maxHeader), dataHeader(p.body), p.start)
				c.keepUnsent(b[n:])
				break
			}
			n -= p.head
		}
		body := min(n, p.body)
		c.capsuleLeft -= uint16(body)
		c.key = c.key.At(body)
		taken += body
		n -= body
		if body < p.body {
			break
		}
	}
	return taken
}

// markWrite sets the flags that show the result of a call to the transport.
func (c *Conn) markWrite(err error) {
	c.setFlag(openCapsule, c.capsuleLeft > 0)
	c.setFlag(writeFailed, err != nil)
}

// writeFailure returns the error for a call to the transport that has failed
// with err.
func (c *Conn) writeFailure(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.cause != nil {
		return c.closedError("write") // the Conn itself has closed the transport
	}
	return err
}

// writeError returns the error that Write must return after writeStop was set.
func (c *Conn) writeError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closedError("write")
}

var _ net.Conn = (*Conn)(nil)
