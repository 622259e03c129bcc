package frame

import (
	"net"
	"syscall"
	"time"

	"github.com/preflight-go/preflight/internal/websocket"
)

const (
	// lingerLimit bounds how long the transport outlives Close: the peer must
	// have read everything by then.
	lingerLimit = 60 * time.Second

	// drainLimit bounds how long the transport outlives a connection that the
	// peer has given up, or has broken.
	drainLimit = 2 * time.Second

	// lastWord is the time for a Close frame at the end of lingerLimit.
	lastWord = 50 * time.Millisecond
)

// A phase of the life of a transport. It only grows.
type phase uint8

const (
	// phaseOpen: the application has the connection.
	phaseOpen phase = iota

	// phaseLinger: the application has closed it. The layer waits until the
	// peer has read everything, and discards what the peer sends.
	phaseLinger

	// phaseDrain: the peer reads no more, or nothing that it sends can be
	// understood. The layer ends its own direction and reads to the end of
	// the other. A transport that is closed with unread bytes is reset, and
	// then the peer may lose what was sent to it: the Close frame that says why.
	phaseDrain

	// phaseEnd: the transport is closed as soon as controls have been sent.
	phaseEnd

	// phaseClosed: the transport is closed.
	phaseClosed
)

// state is what reader, writer and the end of a connection share.
type state struct {
	controls
	phase phase

	closed       bool // Close has been called
	readClosed   bool // CloseRead has been called
	ownFinal     bool // FINAL_DATA was sent, or is due
	peerFinal    bool // the peer's FINAL_DATA and all its data have come
	peerAsked    bool // the peer's PING behind it has come
	awaits       bool // for no longer than drainLimit
	peerClose    bool // the peer has sent a Close frame
	peerEnd      bool // the transport has come to its end
	finalWritten bool // the transport has taken FINAL_DATA
	threw        bool // DATA of the peer was discarded
	told         bool // onLinger was called
	tendDue      bool // the layer is to read by itself
	tending      bool // it does

	pings     uint64 // the value of our last PING: they are counted
	finalPing uint64 // the value of the PING behind FINAL_DATA; 0: not sent
	ponged    uint64 // the highest value that a PONG had

	cause      error // why the connection failed: a protocol error, or silence
	readErr    error // what Read returns at the end, if that is not io.EOF
	controlErr error // the first error of the transport that controls met

	ticker *time.Timer   // of KeepAlivePeriod
	limit  *time.Timer   // of phaseLinger, phaseDrain and phaseEnd
	until  time.Duration // when the phases of the end must be over, since epoch; 0: no limit
}

// CloseWrite ends the direction to the peer. It sends FINAL_DATA, which is not
// under the deadline of Write. It waits at most 2 s for room in the transport;
// what is left is sent when there is room. Behind a Write that was cut short
// inside a capsule it is an error, until another Write has completed the capsule.
func (c *Conn) CloseWrite() error {
	if err := c.queueFinal(); err != nil {
		return err
	}
	if c.tls {
		c.kick() // without a deadline, only a goroutine may wait for room
		return nil
	}
	if c.sending.CompareAndSwap(false, true) {
		c.flush()
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

// queueFinal makes FINAL_DATA due, behind the Writes that are under way.
func (c *Conn) queueFinal() error {
	if c.writes.Load() > 0 {
		c.wmu.Lock()
		defer c.wmu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := c.flags.Load(); {
	case c.closed, !c.ownFinal && f&writeStop != 0:
		return c.whyNo("close")
	case f&openCapsule != 0:
		return c.opError("close", errOpenCapsule)
	case !c.ownFinal:
		c.ownFinal, c.finalDue = true, true
		c.flags.Or(writeStop | due)
	}
	return nil
}

// CloseRead ends the direction from the peer, for this side alone: the peer does
// not hear of it. What it goes on to send is not read, and then blocks it.
func (c *Conn) CloseRead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.whyNo("close")
	}
	c.readClosed = true
	c.flags.Or(readStop)
	return c.wakeRead()
}

// Close closes the connection. If all that was written has its place on the wire,
// it returns at once, and the transport outlives the connection until the peer
// has read everything, for at most 60 s: Close sends FINAL_DATA unless CloseWrite
// has, and discards what comes. If a Write is under way or the last one failed,
// the transport is closed at once, and the peer sees that data is missing.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		defer c.mu.Unlock()
		return c.whyNo("close")
	}
	c.closed = true
	c.flags.Or(closing | readStop | writeStop)
	if c.writes.Load() > 0 || c.marked(openCapsule|writeFailed) {
		c.mu.Unlock()
		c.end(true)
		return nil
	}
	if c.phase == phaseOpen {
		gone := c.peerClose || c.peerFinal && c.peerEnd
		if !c.ownFinal && !gone {
			c.ownFinal, c.finalDue = true, true
		}
		c.tendDue = true
		c.until = now() + lingerLimit
		c.enter(phaseLinger, lingerLimit-lastWord)
	}
	c.release()
	if c.wakeRead() != nil {
		// A Read that cannot be woken still has the reader.
		c.hasten()
	}
	return nil
}

// EndLinger closes the transport at once if it outlives the connection.
func (c *Conn) EndLinger() {
	c.mu.Lock()
	lingers := c.phase > phaseOpen
	c.mu.Unlock()
	if lingers {
		c.end(true)
	}
}

// enter begins a phase. mu is held.
func (c *Conn) enter(p phase, limit time.Duration) {
	c.phase = p
	c.flags.Or(due) // sendControls takes the steps of the phase
	if c.ticker != nil {
		c.ticker.Stop()
	}
	if c.until != 0 {
		limit = min(limit, c.until-now())
	}
	if c.limit == nil {
		c.limit = time.AfterFunc(limit, c.expire)
	} else {
		c.limit.Reset(limit)
	}
}

// hasten shortens phaseLinger.
func (c *Conn) hasten() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == phaseLinger {
		c.limit.Reset(drainLimit)
	}
}

// expire is the end of the time that a phase may take.
func (c *Conn) expire() {
	c.mu.Lock()
	if c.phase != phaseLinger {
		c.mu.Unlock()
		c.end(true)
		return
	}
	c.sayNormal()
	c.enter(phaseEnd, drainLimit) // or until the end of lingerLimit
	c.release()
}

// sayNormal makes a Close frame due, as whoever ends a WebSocket sends one. mu is
// held.
func (c *Conn) sayNormal() {
	if c.ws != nil && !c.peerClose && !c.peerEnd {
		c.closeDue = websocket.CodeNormal
	}
}

// settle begins the next phase if its time has come. mu is held.
func (c *Conn) settle() {
	bothFinal := c.ownFinal && c.peerFinal
	if c.phase > phaseLinger || !c.closed && !bothFinal {
		return
	}
	// A transport that is closed under the PONGs of a peer, which answers PINGs that have
	// piled up, is reset, and then the peer may lose the Close frame.
	answered := c.finalPing > 0 && !c.pingDue && c.ponged >= c.pings
	switch {
	case c.peerClose && !c.peerEnd:
		c.tendDue = true
		c.enter(phaseDrain, drainLimit)
	case answered && (!c.peerFinal || c.peerAsked || c.threw), c.peerEnd, c.closed && c.controlErr != nil:
		c.sayNormal()
		c.enter(phaseEnd, drainLimit)
	case answered && c.phase == phaseLinger && !c.awaits:
		// The peer's PING behind its FINAL_DATA is under way. A transport that is
		// closed before it is reset, and the PONG tells the peer that it has lost
		// nothing.
		c.awaits = true
		c.limit.Reset(drainLimit)
	}
}

// release releases mu behind a change of the state, and does what follows from
// the change but must not be done under mu.
func (c *Conn) release() {
	c.settle()
	tell := !c.told && c.phase > phaseOpen && c.phase < phaseClosed
	c.told = c.told || tell
	tend := c.tendDue && !c.tending && c.phase < phaseEnd
	c.tending = c.tending || tend
	c.mu.Unlock()

	if tell && c.onLinger != nil {
		c.onLinger()
	}
	if tend {
		go c.tend()
	}
	c.kick()
}

// advance takes the step of phase p that comes behind its controls.
func (c *Conn) advance(p phase) {
	switch p {
	case phaseDrain:
		if t, ok := c.conn.(interface{ CloseWrite() error }); ok {
			t.CloseWrite()
		}
	case phaseEnd:
		c.end(false)
	}
}

// end closes the transport. If hard is set, what lies at the bottom is closed
// first, so that nothing waits: neither a TLS layer that would take its leave nor
// the calls that are under way.
func (c *Conn) end(hard bool) {
	c.mu.Lock()
	if c.phase == phaseClosed {
		c.mu.Unlock()
		return
	}
	c.phase = phaseClosed
	c.flags.Or(readStop | writeStop)
	if c.ticker != nil {
		c.ticker.Stop()
	}
	if c.limit != nil {
		c.limit.Stop()
	}
	threw := c.threw
	c.mu.Unlock()

	if t := bottom(c.conn); hard || threw {
		// The peer must see that what it sent was not read, as it does when a
		// socket is closed that has unread bytes.
		if tcp, ok := t.(interface{ SetLinger(int) error }); ok && threw {
			tcp.SetLinger(0)
		}
		t.Close()
	}
	c.conn.Close()
	if c.onClosed != nil {
		c.onClosed()
	}
}

// bottom returns the connection below all layers of c that name what is below.
func bottom(c net.Conn) net.Conn {
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

// whyNo returns the error of an op that cannot be done any more. mu is held.
func (c *Conn) whyNo(op string) error {
	switch {
	case c.closed:
		return c.opError(op, net.ErrClosed)
	case c.cause != nil:
		return c.opError(op, c.cause)
	default:
		return c.opError(op, syscall.EPIPE)
	}
}
