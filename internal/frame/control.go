package frame

import (
	"errors"
	"time"

	"github.com/preflight-go/preflight/internal/capsule"
	"github.com/preflight-go/preflight/internal/websocket"
)

// controlTimeout is how long controls wait until the transport accepts them. A peer
// that does not read would block them without a limit.
const controlTimeout = 2 * time.Second

// closeTimeout is how long Close waits until the transport accepts the controls.
const closeTimeout = 10 * time.Millisecond

// controls are the control capsules and frames that must be sent.
type controls struct {
	ping uint64 // the newest PING of the peer; its PONG also answers the earlier ones

	pongDue    bool // for ping
	rfcPongDue bool // for webSocket.ping
	pingDue    bool
	finalDue   bool   // FINAL_DATA, followed by a PING
	closeDue   uint16 // the code of a Close frame; 0: none is due
	closeSent  bool   // a Close frame was sent, and nothing may follow it
}

// startControls starts a goroutine that sends the controls that are due, unless a Write
// will send them. It does not wait. If a reader waited for its writer, two peers could
// deadlock: each would wait for the other to read from a full window.
func (c *Conn) startControls() {
	if c.mayControl() && c.beginSending() {
		go c.sendControls()
	}
}

// mayControl reports whether sendControls has something to do. It has nothing to do
// while a Write is in progress: the Write sends the controls itself, or calls
// startControls at its end. It also has nothing to do while a capsule is open that a
// Write can still complete.
func (c *Conn) mayControl() bool {
	f := c.flags.Load()
	return f&due != 0 && c.writes.Load() == 0 && (f&openCapsule == 0 || f&writeStop != 0)
}

// sendControls sends the controls that are due. The caller must have set sending, so
// it runs at most once at a time for each connection.
func (c *Conn) sendControls() {
	for {
		c.flush(controlTimeout)
		if !c.stillDue() {
			return
		}
	}
}

// sendControlsBriefly is sendControls for Close. After closeTimeout a goroutine continues.
func (c *Conn) sendControlsBriefly() {
	if c.vector { // a socket, which keeps its deadlines
		c.flush(closeTimeout)
		if c.stillDue() {
			go c.sendControls()
		}
		return
	}
	flushed := make(chan struct{})
	go func() {
		c.flush(controlTimeout)
		close(flushed)
		if c.stillDue() {
			c.sendControls()
		}
	}()
	expired := time.NewTimer(closeTimeout)
	defer expired.Stop()
	select {
	case <-flushed:
	case <-expired.C:
	}
}

// stillDue clears sending, unless more controls have become due. A goroutine that has
// found sending set relies on this check: its controls are sent too.
func (c *Conn) stillDue() bool {
	c.flags.And(^uint32(sending))
	return c.mayControl() && c.beginSending()
}

// beginSending sets the flag sending, and reports whether it was not set.
func (c *Conn) beginSending() bool { return c.flags.Or(sending)&sending == 0 }

// flush writes the controls that are due, and then performs the step of the phase that
// follows them. It waits for at most limit, unless there is TLS below.
func (c *Conn) flush(limit time.Duration) {
	c.wmu.Lock()
	at, err := c.writeControls(limit)
	c.wmu.Unlock()

	c.mu.Lock()
	switch {
	case err == nil:
	case err == errCutShort:
		if c.hasFlag(writeStop) && c.phase < phaseClosed {
			// No further Write can finish them. Code that sets writeStop later
			// also makes controls due.
			c.flags.Or(due)
		}
	case c.controlErr == nil:
		c.controlErr = err // Read will return it
	}
	c.release()
	c.finishPhase(at)
}

// errCutShort means that writeControls was interrupted. The controls can be finished later.
var errCutShort = errors.New("cut short")

// writeControls writes the controls that are due. If a Write waits, writeControls does
// nothing, because the Write sends them. It returns the phase in which no controls
// remained to be written. wmu is held.
func (c *Conn) writeControls(limit time.Duration) (at phase, err error) {
	if !c.beginControls(limit) {
		return phaseOpen, nil
	}
	defer c.endControls()
	buf := smallBuffers.Get().(*smallBuffer)
	defer smallBuffers.Put(buf)
	for {
		b, wrote := buf.bytes[:0], true
		if c.capsuleLeft == 0 {
			b = append(b, c.unsent...)
		}
		if len(b) == 0 {
			c.mu.Lock()
			// A gateway does not forward Pong frames, so they do not end the
			// silence of this side.
			wrote = c.wroteSinceTick || c.pongDue || c.pingDue || c.finalDue
			b, at = c.takeControls(b), c.phase
			c.mu.Unlock()
		}
		if len(b) == 0 {
			return at, nil
		}
		n, err := c.transmit(b)
		c.wroteSinceTick = c.wroteSinceTick && wrote
		c.keepUnsent(b[n:])
		switch {
		case err == nil:
		case isTimeout(err) && c.controlsExpired():
			// The next step must wait. Closing the transport now would cut off a
			// Close frame.
			return phaseOpen, errCutShort
		default:
			// The controls can no longer be sent, but the phase can still end.
			c.mu.Lock()
			c.flags.And(^uint32(due))
			at = c.phase
			c.mu.Unlock()
			return at, err
		}
	}
}

// keepUnsent keeps the bytes that the transport has not accepted. The next call that
// writes sends them first.
func (c *Conn) keepUnsent(b []byte) {
	c.unsent = string(b)
	c.setFlag(hasUnsent, len(b) > 0)
}

// takeControls appends the controls that are due to b. wmu and mu are held. The
// controls of earlier calls have been written.
func (c *Conn) takeControls(b []byte) []byte {
	c.finalWritten = c.finalPing > 0
	c.flags.And(^uint32(due))
	if c.capsuleLeft > 0 || c.closeSent {
		return b // inside a capsule that can never be completed, or after a Close frame
	}
	if c.pongDue {
		b = c.appendControl(b, capsule.Pong, c.ping)
	}
	if c.rfcPongDue {
		b = c.appendFrame(b, websocket.Pong, c.ws.ping.value())
	}
	if c.finalDue {
		var key websocket.Key
		value := c.last.value()
		b, key = c.appendHeader(b, capsule.Header{Type: capsule.FinalData, Length: uint64(len(value))}, c.newKey())
		b, _ = c.appendMasked(b, value, key)
		c.last = nil
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
