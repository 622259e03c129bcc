package frame

import (
	"bytes"
	"errors"
	"time"

	"github.com/preflight-go/preflight/internal/capsule"
	"github.com/preflight-go/preflight/internal/websocket"
)

// controlTimeout bounds how long controls wait for room in the transport. The
// peer may not be reading.
const controlTimeout = 2 * time.Second

// controls are the control capsules and frames that are due.
type controls struct {
	ping uint64 // the newest PING of the peer. Its PONG answers those before, too.

	pongDue    bool // for ping
	rfcPongDue bool // for webSocket.ping
	pingDue    bool
	finalDue   bool   // FINAL_DATA, with a PING behind it
	closeDue   uint16 // the code of a Close frame; 0: none is due
	closeSent  bool   // nothing may follow it
}

// kick has controls that are due sent by a goroutine, if no Write will. It does not
// wait. A reader that waited for its writer would block two peers for good, each
// behind the full window of the other.
func (c *Conn) kick() {
	if c.mayControl() && c.sending.CompareAndSwap(false, true) {
		go c.sendControls()
	}
}

// mayControl reports whether sendControls has something to do. It has not while a
// Write is under way, which takes controls along, or calls kick at its end. It has
// not while a capsule is open that a Write can still complete.
func (c *Conn) mayControl() bool {
	f := c.flags.Load()
	return f&due != 0 && c.writes.Load() == 0 && (f&openCapsule == 0 || f&writeStop != 0)
}

// sendControls sends what is due. Whoever has set sending runs it: once at a time
// for each connection.
func (c *Conn) sendControls() {
	for {
		c.flush()
		if !c.stillDue() {
			return
		}
	}
}

// stillDue gives sending up, unless more has become due. Whoever has found sending
// set relies on that.
func (c *Conn) stillDue() bool {
	c.sending.Store(false)
	return c.mayControl() && c.sending.CompareAndSwap(false, true)
}

// flush writes the controls that are due, and takes the step in the end of the
// connection that comes behind them.
func (c *Conn) flush() {
	c.wmu.Lock()
	at, err := c.writeControls()
	c.wmu.Unlock()

	c.mu.Lock()
	switch {
	case err == nil:
	case err == errCutShort:
		if c.marked(writeStop) && c.phase < phaseClosed {
			// No Write comes any more that would finish them. What sets
			// writeStop later makes controls due itself.
			c.flags.Or(due)
		}
	case c.controlErr == nil:
		c.controlErr = err // Read will return it
	}
	c.release()
	c.advance(at)
}

// errCutShort is how writeControls says that controls can be finished later.
var errCutShort = errors.New("cut short")

// writeControls writes the controls that are due, unless a Write waits, which takes
// them along. It returns the phase in which there was nothing more to write. wmu
// is held.
func (c *Conn) writeControls() (at phase, err error) {
	if !c.beginControls() {
		return phaseOpen, nil
	}
	defer c.endControls()
	buf := smallBuffers.Get().(*smallBuffer)
	defer smallBuffers.Put(buf)
	for {
		b, wrote := buf.bytes[:0], true
		if c.left == 0 {
			b = append(b, c.tail...)
		}
		if len(b) == 0 {
			c.mu.Lock()
			// A frame that answers a gateway ends there: to the peer it is silence.
			wrote = c.wrote || c.pongDue || c.pingDue || c.finalDue
			b, at = c.takeControls(b), c.phase
			c.mu.Unlock()
		}
		if len(b) == 0 {
			return at, nil
		}
		n, err := c.transmit(b)
		c.wrote = c.wrote && wrote
		c.keepTail(b[n:])
		switch {
		case err == nil:
		case isTimeout(err) && c.controlsExpired():
			// The step that comes behind them must wait: the end of the transport
			// would cut off a Close frame.
			return phaseOpen, errCutShort
		default:
			// What is due can no longer be sent, but it can end.
			c.mu.Lock()
			c.flags.And(^uint32(due))
			at = c.phase
			c.mu.Unlock()
			return at, err
		}
	}
}

// keepTail keeps what the transport has not taken. Whatever writes next writes it
// first.
func (c *Conn) keepTail(b []byte) {
	c.tail = nil
	if len(b) > 0 {
		c.tail = bytes.Clone(b)
	}
	c.mark(tailLeft, len(b) > 0)
}

// takeControls appends the controls that are due to b. wmu and mu are held, and
// those that it has appended before have been written.
func (c *Conn) takeControls(b []byte) []byte {
	c.finalWritten = c.finalPing > 0
	c.flags.And(^uint32(due))
	if c.left > 0 || c.closeSent {
		return b // inside a capsule that nobody can complete, or behind the end
	}
	if c.pongDue {
		b = c.appendControl(b, capsule.Pong, c.ping)
	}
	if c.rfcPongDue {
		b = c.appendFrame(b, websocket.Pong, c.ws.ping)
	}
	if c.finalDue {
		b, _ = c.appendHeader(b, capsule.Header{Type: capsule.FinalData}, c.newKey())
	}
	if c.finalDue || c.pingDue {
		c.pings++
		b = c.appendControl(b, capsule.Ping, c.pings)
	}
	if c.finalDue {
		c.finalPing = c.pings
	}
	c.pongDue, c.rfcPongDue, c.finalDue, c.pingDue = false, false, false, false
	if c.closeDue != 0 {
		var body [2]byte
		b = c.appendFrame(b, websocket.Close, websocket.AppendClose(body[:0], c.closeDue))
		c.closeDue, c.closeSent = 0, true
	}
	return b
}
