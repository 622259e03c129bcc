package frame

import (
	"errors"

	"github.com/preflight-go/preflight/internal/websocket"
)

// What the reader comes upon is noted here under mu. What follows from it must wait
// until the reader has taken apart all that it has read, which then calls release:
// behind FINAL_DATA, say, there may be a PING that must be answered before the end.

func (c *Conn) gotPing(value uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ping, c.pongDue = value, true
	c.peerAsked = c.peerFinal
	c.flags.Or(due)
}

func (c *Conn) gotPong(value uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A PONG answers the PINGs before its own, too. One that answers nothing is
	// ignored.
	if value <= c.pings {
		c.ponged = max(c.ponged, value)
	}
}

func (c *Conn) gotRFCPing(payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ws.ping, c.rfcPongDue = append(c.ws.ping[:0], payload...), true
	c.flags.Or(due)
}

// gotFinalData notes that the peer has ended its direction. From now on the layer
// reads by itself, to answer PINGs and to see the end.
func (c *Conn) gotFinalData() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peerFinal = true
	c.tendDue = true
	c.flags.Or(readStop)
}

// gotClose notes that the peer has ended both directions by a Close frame, which
// is answered at once. What follows it means nothing.
func (c *Conn) gotClose(code uint16) {
	c.deaf = true
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peerClose = true
	c.closeDue = code
	if !c.peerFinal {
		c.readErr = c.truncated(code)
	}
	c.flags.Or(readStop | writeStop | due)
}

// broke notes that the peer has broken the protocol: what follows cannot be
// understood.
func (c *Conn) broke(err error) {
	c.deaf = true
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase >= phaseDrain {
		return
	}
	c.cause = &protocolError{err}
	c.finalDue, c.pingDue = false, false
	if c.ws != nil {
		c.closeDue = websocket.CodeProtocol
		if e, ok := errors.AsType[*websocket.Error](err); ok {
			c.closeDue = e.Code
		}
	}
	c.flags.Or(readStop | writeStop)
	c.tendDue = true
	c.enter(phaseDrain, drainLimit)
}

// discard passes over n application bytes.
func (c *Conn) discard(n int) {
	if c.ws != nil {
		c.ws.Skip(n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.threw = true
}

// Sizes of the buffer that the layer reads into. A half-closed peer sends only
// controls. One that does not know yet that the connection is closed may send
// what it has.
const (
	tendBuffer    = 512
	discardBuffer = 16 << 10
)

// tend reads what comes when the application reads no more: behind the peer's
// FINAL_DATA, and after Close. It ends with the transport.
func (c *Conn) tend() {
	c.rmu.Lock() // until the last Read has left the reader
	c.takeReads()
	src, err := c.rest, c.late
	c.rest = nil
	c.rmu.Unlock()
	buf := make([]byte, tendBuffer)
	for {
		c.deframe(nil, src, true)
		c.stamp(false)
		if err != nil {
			break
		}
		if len(src) == tendBuffer && len(buf) == tendBuffer {
			buf = make([]byte, discardBuffer)
		}
		var n int
		n, err = c.conn.Read(buf)
		src = buf[:n]
	}
	c.mu.Lock()
	c.peerEnd = true
	if c.peerFinal {
		c.flags.Or(writeStop)
	}
	drained := c.phase == phaseDrain
	c.release()
	if drained {
		c.end(false)
	}
}
