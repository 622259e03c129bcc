package frame

import (
	"errors"
	"io"

	"github.com/preflight-go/preflight/internal/websocket"
)

// The reader calls the got functions for what it finds in the stream. They only record
// it, under mu. The reader calls release after it has parsed all bytes that it has read,
// and only then acts on it. For example, FINAL_DATA may be followed by a PING, which
// must be answered before the end.

func (c *Conn) gotPing(value uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ping, c.pongDue = value, true
	c.peerPinged = c.peerFinal
	c.flags.Or(due)
}

func (c *Conn) gotPong(value uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A PONG also answers the earlier PINGs. A PONG that answers no PING is ignored.
	if value <= c.pings {
		c.ponged = max(c.ponged, value)
	}
}

func (c *Conn) gotRFCPing(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ws.ping == nil && len(p) > 0 {
		c.ws.ping = new(payload)
	}
	if c.ws.ping != nil {
		c.ws.ping.n = copy(c.ws.ping.bytes[:], p)
	}
	c.rfcPongDue = true
	c.flags.Or(due)
}

// gotFinalData records that the peer has ended its direction. From now on the Conn reads
// without the application, to answer PINGs and to detect the end of the transport.
func (c *Conn) gotFinalData() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peerFinal = true
	c.backgroundReadDue = true
	c.flags.Or(readStop)
}

// gotClose records that the peer has ended both directions with a Close frame. It is
// answered at once. The bytes that follow it are ignored.
func (c *Conn) gotClose(code uint16) {
	c.ignoreInput = true
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peerClose = true
	c.closeDue = code
	if !c.peerFinal {
		c.readErr = c.truncated(code)
	}
	c.flags.Or(readStop | writeStop | due)
}

// gotProtocolError records that the peer has broken the protocol. The bytes that follow
// cannot be parsed.
func (c *Conn) gotProtocolError(err error) {
	c.ignoreInput = true
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
	c.backgroundReadDue = true
	c.enterPhase(phaseDrain, drainLimit)
}

// discard skips n application bytes.
func (c *Conn) discard(n int) {
	if c.ws != nil {
		c.ws.Skip(n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.discarded = true
}

// The sizes of the buffer of backgroundRead. A peer that has ended its direction sends
// only controls. A peer that does not know yet that the connection is closed may send
// data.
const (
	controlBufferSize = 512
	discardBufferSize = 16 << 10
)

// backgroundRead reads when the application no longer does: after the peer's FINAL_DATA,
// and after Close. It returns when the transport ends.
func (c *Conn) backgroundRead() {
	c.rmu.Lock() // waits until the last Read has returned
	c.takeReads()
	src, err := c.buffered, c.bufferedErr
	c.buffered = nil
	c.rmu.Unlock()
	buf := make([]byte, controlBufferSize)
	for {
		c.deframe(nil, src, nil)
		c.recordReceived(false)
		if err != nil {
			break
		}
		if len(src) == controlBufferSize && len(buf) == controlBufferSize {
			buf = make([]byte, discardBufferSize)
		}
		var n int
		n, err = c.conn.Read(buf)
		src = buf[:n]
	}
	c.mu.Lock()
	c.peerEnd = true
	if c.peerFinal {
		c.flags.Or(writeStop)
		if err != io.EOF && c.phase < phaseEnd {
			c.readErr = err
		}
	}
	drained := c.phase == phaseDrain
	c.release()
	if drained {
		c.end(false)
	}
}
