package frame

import (
	"errors"
	"io"
	"net"

	"github.com/preflight-go/preflight/internal/capsule"
	"github.com/preflight-go/preflight/internal/websocket"
)

// Write writes p in DATA capsules of at most 32768 bytes. Headers and data go
// to the transport in one call, which may hold two capsules.
//
// A Write that is cut short, by its deadline say, returns how much of p was
// taken, and may leave a capsule open. The next Write fills it.
func (c *Conn) Write(p []byte) (int, error) {
	if !c.beginWrite() {
		return 0, c.writeError()
	}
	defer c.endWrite()
	if c.flags.Load()&^readStop == 0 && len(p) <= maxCopy {
		return c.writeSmall(p)
	}
	return c.write(p, 0)
}

// ReadFrom writes what it reads from r until EOF. It reads to where a header
// fits in front and masks in place, so that nothing is copied.
func (c *Conn) ReadFrom(r io.Reader) (n int64, err error) {
	buf := largeBuffers.Get().(*largeBuffer)
	defer largeBuffers.Put(buf)
	const room = maxControls + maxHeader
	for {
		m, readErr := r.Read(buf[room : room+maxData])
		if m > 0 {
			if !c.beginWrite() {
				return n, c.writeError()
			}
			written, err := c.write(buf[:room+m], room)
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
	}
}

// writeSmall is the usual Write: p fits into a small buffer, and there is nothing
// to see to but p. It does what write does, in fewer steps and with less of the
// stack.
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
		return c.smallCut(len(p), len(b), start, n, err)
	}
	c.wrote = true
	return len(p), nil
}

// smallCut ends a writeSmall of so much data, in so many bytes, of which the
// transport says that it has taken n.
func (c *Conn) smallCut(data, size int, start websocket.Key, n int, err error) (int, error) {
	n, err = c.believe(n, size, err)
	_, key := c.appendHeader(make([]byte, 0, maxHeader), dataHeader(data), start)
	only := piece{head: size - data, body: data, start: start, key: key}
	n = c.took(&batch{pieces: [2]piece{only}, count: 1}, n)
	c.markWrite(err)
	if err != nil {
		err = c.writeFailure(err)
	}
	return n, err
}

// write writes b[off:]. If off is not 0, write may overwrite all of b.
func (c *Conn) write(b []byte, off int) (n int, err error) {
	if off == len(b) && c.marked(writeStop) {
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

// errStopped is how writeBatch says that there is writeStop.
var errStopped = errors.New("stopped")

// beginWrite waits for other Writes, and makes controls give way. It reports whether
// there may be a Write: one that cannot write anything leaves the controls alone.
func (c *Conn) beginWrite() bool {
	if c.marked(writeStop) {
		return false
	}
	c.writes.Add(1)
	if !c.wmu.TryLock() {
		c.hurry()
		c.wmu.Lock()
	}
	return true
}

// endWrite has the controls sent that have become due during the Write.
func (c *Conn) endWrite() {
	c.wmu.Unlock()
	c.writes.Add(-1)
	c.kick()
}

// A batch is what one call to the transport writes: a lead, which is what must
// or may go first, then one or two capsules.
type batch struct {
	lead   []byte
	pieces [2]piece
	count  int // of pieces
}

// A piece of a batch is a capsule, or what a batch holds of the one that is open.
type piece struct {
	head  int           // the length of its headers; 0: it is open
	body  int           // the length of the data in the batch
	start websocket.Key // for the headers
	key   websocket.Key // for the data
}

// add adds the capsule for the next of n bytes to the batch, and appends its
// headers to b.
func (c *Conn) add(t *batch, b []byte, n int) ([]byte, piece) {
	var p piece
	if t.count == 0 && c.left > 0 {
		p = piece{body: min(n, c.left), key: c.key}
	} else {
		p = piece{body: min(n, maxData), start: c.newKey()}
		had := len(b)
		b, p.key = c.appendHeader(b, dataHeader(p.body), p.start)
		p.head = len(b) - had
	}
	t.pieces[t.count] = p
	t.count++
	return b, p
}

func dataHeader(n int) capsule.Header { return capsule.Header{Type: capsule.Data, Length: uint64(n)} }

// writeBatch writes the beginning of b[off:] in one call to the transport, and
// returns how much of it was taken.
func (c *Conn) writeBatch(b []byte, off int, owned bool) (taken int, err error) {
	buf := smallBuffers.Get().(*smallBuffer)
	defer smallBuffers.Put(buf)
	lead, err := c.lead(buf.bytes[:0])
	if err != nil {
		return 0, err
	}
	t := batch{lead: lead}
	data := len(b) - off
	switch {
	case owned:
		return c.writeInPlace(&t, b, off)
	case c.vector && !c.masks() && data > maxCopy:
		return c.writeVector(&t, b[off:], buf)
	case data <= maxCopy:
		return c.writeCopy(&t, b[off:], lead)
	}
	large := largeBuffers.Get().(*largeBuffer)
	defer largeBuffers.Put(large)
	return c.writeCopy(&t, b[off:], append(large[:0], lead...))
}

// lead appends to b what must go before data: what the transport did not take
// of the last call, or else the controls that are due.
func (c *Conn) lead(b []byte) ([]byte, error) {
	if c.marked(writeStop | due) {
		// Under mu, so that what is due is no Close frame: no data may follow one.
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.marked(writeStop) {
			return nil, errStopped
		}
		if len(c.tail) == 0 && c.left == 0 {
			return c.takeControls(b), nil
		}
	}
	return append(b, c.tail...), nil
}

// writeCopy copies the data behind its headers to b, which begins with the lead.
func (c *Conn) writeCopy(t *batch, p, b []byte) (int, error) {
	for len(p) > 0 && t.count < len(t.pieces) {
		var piece piece
		b, piece = c.add(t, b, len(p))
		b, _ = c.appendMasked(b, p[:piece.body], piece.key)
		p = p[piece.body:]
	}
	n, err := c.transmit(b)
	return c.took(t, n), err
}

// writeInPlace puts lead and headers in front of b[off:], and masks the data
// where it is.
func (c *Conn) writeInPlace(t *batch, b []byte, off int) (int, error) {
	head, piece := c.add(t, t.lead, len(b)-off)
	end := off + piece.body
	if c.masks() {
		websocket.Mask(b[off:end], b[off:end], piece.key)
	}
	off -= copy(b[off-len(head):], head)
	n, err := c.transmit(b[off:end])
	return c.took(t, n), err
}

// writeVector has the kernel gather lead, headers and data.
func (c *Conn) writeVector(t *batch, p []byte, buf *smallBuffer) (int, error) {
	b, from := t.lead, 0
	v := buf.vectors[:0]
	for len(p) > 0 && t.count < len(t.pieces) {
		var piece piece
		b, piece = c.add(t, b, len(p))
		v = append(v, b[from:], p[:piece.body])
		from = len(b)
		p = p[piece.body:]
	}
	buf.vector = v
	n, err := buf.vector.WriteTo(c.conn)
	clear(buf.vectors[:])
	c.wrote = c.wrote || n > 0
	return c.took(t, int(n)), err
}

// transmit writes b.
func (c *Conn) transmit(b []byte) (int, error) {
	n, err := c.conn.Write(b)
	return c.believe(n, len(b), err)
}

// believe returns what the transport has done with size bytes. It believes none that
// says more, or less, than it can have done.
func (c *Conn) believe(n, size int, err error) (int, error) {
	n = min(max(n, 0), size)
	if n < size && err == nil {
		err = io.ErrShortWrite
	}
	c.wrote = c.wrote || n > 0
	return n, err
}

// took notes that the transport has taken the first n bytes of t, and returns
// how many bytes of data are among them.
func (c *Conn) took(t *batch, n int) (taken int) {
	if n < len(t.lead) {
		c.keepTail(t.lead[n:])
		return 0
	}
	if len(c.tail) > 0 {
		c.keepTail(nil)
	}
	n -= len(t.lead)
	for _, p := range t.pieces[:t.count] {
		if p.head > 0 {
			if n == 0 {
				break // it has not begun
			}
			c.left, c.key = p.body, p.key
			if n < p.head {
				b, _ := c.appendHeader(make([]byte, 0, maxHeader), dataHeader(p.body), p.start)
				c.keepTail(b[n:])
				break
			}
			n -= p.head
		}
		body := min(n, p.body)
		c.left -= body
		c.key = c.key.At(body)
		taken += body
		n -= body
		if body < p.body {
			break
		}
	}
	return taken
}

// markWrite shows the others how a call to the transport has left things.
func (c *Conn) markWrite(err error) {
	c.mark(openCapsule, c.left > 0)
	c.mark(writeFailed, err != nil)
}

// writeFailure returns the error for a call to the transport that has failed
// with err.
func (c *Conn) writeFailure(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.cause != nil {
		return c.whyNo("write") // the transport failed because it was closed
	}
	return err
}

// writeError returns why there is writeStop.
func (c *Conn) writeError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.whyNo("write")
}

var _ net.Conn = (*Conn)(nil)
