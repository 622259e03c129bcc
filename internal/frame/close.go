package frame

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/preflight-go/preflight/internal/websocket"
)

const (
	// lingerLimit is how long the transport stays open after Close. The peer must
	// have received everything within this time.
	lingerLimit = 60 * time.Second

	// drainLimit is how long the transport stays open after the peer has sent a
	// Close frame or has broken the protocol.
	drainLimit = 2 * time.Second

	// closeFrameTimeout is the time to send a Close frame at the end of lingerLimit.
	closeFrameTimeout = 50 * time.Millisecond
)

// A phase is a stage in the life of a transport. A later phase has a higher value, and
// no transport returns to an earlier one.
type phase uint8

const (
	// phaseOpen: the application uses the connection.
	phaseOpen phase = iota

	// phaseLinger: the application has closed the connection. The Conn waits
	// until the peer has received everything. It discards the data that the peer
	// sends.
	phaseLinger

	// phaseDrain: the peer has stopped reading, or its stream can no longer be
	// parsed. The Conn ends its own direction and reads the other one to its end.
	// If a transport is closed while it has unread bytes, TCP resets it. The
	// peer may then lose the Close frame that contains the reason.
	phaseDrain

	// phaseEnd: the Conn closes the transport as soon as the controls are sent.
	phaseEnd

	// phaseClosed: the transport is closed.
	phaseClosed
)

// state is the state that the reader, the writer and the close procedure share.
type state struct {
	controls
	phase phase

	closed            bool // Close has been called
	readClosed        bool // CloseRead has been called
	ownFinal          bool // FINAL_DATA was sent or is due
	peerFinal         bool // the peer's FINAL_DATA and all its data have arrived
	peerPinged        bool // the peer's PING after its FINAL_DATA has arrived
	awaitsPing        bool // the Conn waits for this PING, for at most drainLimit
	peerClose         bool // the peer has sent a Close frame
	peerEnd           bool // reading the transport has ended
	finalWritten      bool // the transport has accepted FINAL_DATA
	discarded         bool // DATA of the peer was discarded
	lingerReported    bool // Owner.Lingers was called
	backgroundReadDue bool // the Conn itself must read from now on
	backgroundReading bool // the goroutine of backgroundRead was started
	hasLast           bool // WriteLast was called

	pings     uint64   // the value of our last PING; the values are 1, 2, 3, ...
	last      *payload // the value of FINAL_DATA, until it is sent: see WriteLast; nil: it is empty
	finalPing uint64   // the value of the PING after FINAL_DATA; 0: not sent
	ponged    uint64   // the highest value of a PONG

	cause      error // why the connection failed: a protocol error, or silence
	readErr    error // what Read returns at the end; after peerFinal, how the transport has ended
	controlErr error // the first error of the transport while it wrote controls

	timer       *time.Timer   // in phaseOpen that of KeepAlivePeriod, or nil; then that of the phase
	endDeadline time.Duration // when the last phase must end, since epoch; 0: no limit
}

// CloseWrite ends the direction to the peer. It sends FINAL_DATA. The write deadline
// does not apply to it. CloseWrite waits at most 2 s until the transport accepts the
// bytes. The remaining bytes are sent later, when the transport accepts them. If a
// Write ended inside a capsule, CloseWrite returns an error until another Write has
// completed the capsule.
func (c *Conn) CloseWrite() error {
	if err := c.queueFinal(); err != nil {
		return err
	}
	if c.tls {
		c.startControls() // there is no deadline, so a goroutine waits, and not the caller
		return nil
	}
	if c.beginSending() {
		c.flush(controlTimeout)
		if c.stillDue() {
			go c.sendControls()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finalWritten {
		return nil
	}
	return c.controlErr
}

// WriteLast keeps p, which FINAL_DATA will carry behind everything that was written. It
// does not wait for the peer. A TLS layer above writes its close_notify so: with Write, a
// peer that does not read would hold it up, and then the end of the stream would be lost.
// At most 128 bytes are accepted, and none after CloseWrite or Close. If the peer has closed
// the connection in order, nobody misses them, and that is no error.
func (c *Conn) WriteLast(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.closed && !c.ownFinal && c.peerFinal && c.peerEnd && c.cause == nil:
		return len(p), nil
	case c.closed, c.ownFinal, c.hasFlag(writeStop):
		return 0, c.closedError("write")
	case len(c.last.value())+len(p) > maxPayload:
		return 0, c.opError("write", errLastTooLong)
	}
	if c.last == nil {
		c.last, c.hasLast = new(payload), true
	}
	c.last.n += copy(c.last.bytes[c.last.n:], p)
	return len(p), nil
}

// queueFinal makes FINAL_DATA due. It waits for the Writes that are in progress.
func (c *Conn) queueFinal() error {
	if c.writes.Load() > 0 {
		c.wmu.Lock()
		defer c.wmu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := c.flags.Load(); {
	case c.closed, !c.ownFinal && f&writeStop != 0:
		return c.closedError("close")
	case f&openCapsule != 0:
		return c.opError("close", errOpenCapsule)
	case !c.ownFinal:
		c.ownFinal, c.finalDue = true, true
		c.flags.Or(writeStop | due)
	}
	return nil
}

// CloseRead stops reading from the peer. Only this side knows: nothing is sent to the
// peer. If the peer continues to send, its data is not read, and its writes block when
// the buffers of the transport are full.
func (c *Conn) CloseRead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.closedError("close")
	}
	c.readClosed = true
	c.flags.Or(readStop)
	return c.wakeRead()
}

// Close closes the connection. It does not wait for the peer. If no Write is in
// progress and the last one succeeded, Close sends FINAL_DATA, unless CloseWrite has
// sent it. It waits at most 10 ms until the transport accepts the bytes; the remaining
// bytes are sent later. The transport then stays open until the peer has received everything, for at
// most 60 s. Incoming data is discarded. If a Write is in progress or the last one
// failed, Close closes the transport at once, and the peer sees that data is missing.
// Close also closes a transport at once that has been reset, or was closed below the Conn.
//
// If CloseWrite was called and the peer has ended its direction, Read no longer shows how
// the transport ends. So Close returns an error if that has happened before the peer's
// PONG for FINAL_DATA has arrived.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		defer c.mu.Unlock()
		return c.closedError("close")
	}
	c.closed = true
	err := c.unconfirmed()
	c.flags.Or(closing | readStop | writeStop)
	if c.writes.Load() > 0 || c.hasFlag(openCapsule|writeFailed) {
		c.mu.Unlock()
		c.end(true)
		return nil
	}
	wakeErr := c.wakeRead()
	if isGone(c.readErr) || isGone(wakeErr) {
		// Nothing can be sent or received any more, so nothing needs to linger.
		c.mu.Unlock()
		c.end(true)
		return err
	}
	if c.phase == phaseOpen {
		peerGone := c.peerClose || c.peerFinal && c.peerEnd
		if !c.ownFinal && !peerGone {
			c.ownFinal, c.finalDue = true, true
		}
		c.backgroundReadDue = true
		c.endDeadline = now() + lingerLimit
		c.enterPhase(phaseLinger, lingerLimit-closeFrameTimeout)
	}
	// If the transport has no deadlines, a Read that waits in it still holds rmu, and nothing
	// else can read.
	stuck := wakeErr != nil && c.isReading()
	sends := c.mayControl() && c.beginSending()
	c.release()
	if sends { // at once, because a program may exit after Close
		c.sendControlsBriefly()
	}
	if stuck {
		c.shortenLinger()
	}
	return err
}

// isReading reports whether a Read is in progress.
func (c *Conn) isReading() bool {
	if !c.rmu.TryLock() {
		return true
	}
	c.rmu.Unlock()
	return false
}

// isGone reports whether err says that the transport has been reset, or was closed below
// the Conn.
func isGone(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// unconfirmed returns the error of a transport that has ended after both directions were
// final, but before the peer has confirmed ours. mu is held.
func (c *Conn) unconfirmed() error {
	switch {
	case !c.peerEnd && c.phase <= phaseLinger, !c.ownFinal, !c.peerFinal, c.finalPing > 0 && c.ponged >= c.finalPing:
		return nil
	case c.cause != nil:
		return c.opError("close", &unconfirmedError{c.cause})
	case c.readErr != nil:
		return c.opError("close", &unconfirmedError{c.readErr})
	}
	return c.opError("close", &unconfirmedError{io.ErrUnexpectedEOF})
}

// EndLinger closes the transport at once if it lingers.
func (c *Conn) EndLinger() {
	c.mu.Lock()
	lingers := c.phase > phaseOpen
	c.mu.Unlock()
	if lingers {
		c.end(true)
	}
}

// enterPhase begins phase p, which may last for limit. mu is held.
func (c *Conn) enterPhase(p phase, limit time.Duration) {
	c.flags.Or(due) // sendControls performs the steps of the phase
	if c.endDeadline != 0 {
		limit = min(limit, c.endDeadline-now())
	}
	if c.phase == phaseOpen {
		if c.timer != nil {
			c.timer.Stop()
		}
		c.timer = time.AfterFunc(limit, c.phaseExpired)
	} else {
		c.timer.Reset(limit)
	}
	c.phase = p
}

// shortenLinger reduces the time left for phaseLinger to drainLimit.
func (c *Conn) shortenLinger() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == phaseLinger {
		c.timer.Reset(drainLimit)
	}
}

// phaseExpired runs when the time limit of a phase is reached.
func (c *Conn) phaseExpired() {
	c.mu.Lock()
	if c.phase != phaseLinger {
		c.mu.Unlock()
		c.end(true)
		return
	}
	c.queueNormalClose()
	c.enterPhase(phaseEnd, drainLimit) // or until the end of lingerLimit
	c.release()
}

// queueNormalClose makes a Close frame due: the side that ends a WebSocket sends one.
// mu is held.
func (c *Conn) queueNormalClose() {
	if c.ws != nil && !c.peerClose && !c.peerEnd {
		c.closeDue = websocket.CodeNormal
	}
}

// updatePhase begins the next phase if its conditions are met. mu is held.
func (c *Conn) updatePhase() {
	bothFinal := c.ownFinal && c.peerFinal
	if c.phase > phaseLinger || !c.closed && !bothFinal {
		return
	}
	// A slow peer may still have to answer several PINGs. If the transport is closed before
	// the last PONG has arrived, TCP resets it, and the peer may lose the Close frame.
	answered := c.finalPing > 0 && !c.pingDue && c.ponged >= c.pings
	switch {
	case c.peerClose && !c.peerEnd:
		c.backgroundReadDue = true
		c.enterPhase(phaseDrain, drainLimit)
	case answered && (!c.peerFinal && !c.hasLast || c.peerPinged || c.discarded), c.peerEnd, c.closed && c.controlErr != nil:
		c.queueNormalClose()
		c.enterPhase(phaseEnd, drainLimit)
	case answered && c.phase == phaseLinger && !c.awaitsPing:
		// The peer sends a PING after its FINAL_DATA, which has not arrived yet. If the
		// transport is closed before, the PING resets it. The PONG shows the peer that
		// it has lost nothing. A TLS layer above has read the peer's close_notify, and
		// so does not read the FINAL_DATA that may follow it.
		c.awaitsPing = true
		c.timer.Reset(drainLimit)
	}
}

// release unlocks mu after a change of the state. It then performs the actions that
// follow from the change and that must not run under mu.
func (c *Conn) release() {
	c.updatePhase()
	report := !c.lingerReported && c.phase > phaseOpen && c.phase < phaseClosed
	c.lingerReported = c.lingerReported || report
	startRead := c.backgroundReadDue && !c.backgroundReading && c.phase < phaseEnd
	c.backgroundReading = c.backgroundReading || startRead
	c.mu.Unlock()

	if report && c.owner != nil {
		c.owner.Lingers()
	}
	if startRead {
		go c.backgroundRead()
	}
	c.startControls()
}

// finishPhase performs the last step of phase p, after the controls have been sent.
func (c *Conn) finishPhase(p phase) {
	switch p {
	case phaseDrain:
		if t, ok := c.conn.(interface{ CloseWrite() error }); ok {
			t.CloseWrite()
		}
	case phaseEnd:
		c.end(false)
	}
}

// end closes the transport. If hard is set, it closes the lowest connection first, so
// that nothing waits: a TLS layer does not wait to send close_notify, and the calls
// that are in progress return.
func (c *Conn) end(hard bool) {
	c.mu.Lock()
	if c.phase == phaseClosed {
		c.mu.Unlock()
		return
	}
	c.phase = phaseClosed
	c.flags.Or(readStop | writeStop)
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.idle != nil {
		c.idle.stop()
	}
	reset := c.discarded
	c.mu.Unlock()

	if t := Bottom(c.conn); hard || reset {
		// The peer must learn that its data was not read. A reset says so, as it
		// does when a socket with unread bytes is closed.
		if tcp, ok := t.(interface{ SetLinger(int) error }); ok && reset {
			tcp.SetLinger(0)
		}
		t.Close()
	}
	c.conn.Close()
	if c.owner != nil {
		c.owner.Ended()
	}
}

// Bottom returns the lowest connection that can be reached from c with NetConn.
func Bottom(c net.Conn) net.Conn {
	for {
		layer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		below := layer.NetConn()
		if below == nil {
			return c
		}
		c = below
	}
}

// closedError returns the error of an op that is no longer possible. mu is held.
func (c *Conn) closedError(op string) error {
	switch {
	case c.closed:
		return c.opError(op, net.ErrClosed)
	case c.cause != nil:
		return c.opError(op, c.cause)
	default:
		return c.opError(op, syscall.EPIPE)
	}
}
