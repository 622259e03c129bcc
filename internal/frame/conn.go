package frame

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight/internal/capsule"
	"github.com/preflight-go/preflight/internal/websocket"
)

// Config says how a [Conn] frames, and whom it tells of its end.
type Config struct {
	// WebSocket puts each capsule into a binary WebSocket message. Without it
	// the capsules stand on the bare stream.
	WebSocket bool

	// Client is set on the side that sent the upgrade request. It decides who
	// masks WebSocket frames.
	Client bool

	// TLS is set where the transport is a TLS connection, or has one
	// underneath. A write deadline that expires ruins such a connection for
	// good, so control capsules set none.
	TLS bool

	// Rest is what has been read from the transport behind the handshake. It is
	// the beginning of the stream. Conn keeps the slice until it has been read.
	Rest []byte

	// KeepAlivePeriod is the longest silence of this side: after it, a PING is
	// sent. Zero or a negative value disables PINGs.
	KeepAlivePeriod time.Duration

	// MaxIdleTimeout ends the connection if a Read waits for so long and not a
	// byte of a capsule comes. Zero or a negative value disables it.
	MaxIdleTimeout time.Duration

	// OnLinger is called once, when the transport begins to outlive the
	// connection: see [Conn.Close]. It is not called if the transport is closed
	// at once.
	OnLinger func()

	// OnClosed is called once, when the transport has been closed for good.
	// No method of Conn uses it from then on. That may be before Close is called.
	OnClosed func()
}

// Conn is the net.Conn of a framed tunnel. All methods are safe for concurrent
// use.
//
// Locks are taken in this order: rmu or wmu, then mu, then dmu. No lock but rmu
// and wmu is held while the transport reads or writes. rmu and wmu are never
// held together, so that a Read never waits for a Write.
type Conn struct {
	conn   net.Conn
	client bool
	tls    bool
	vector bool // conn writes net.Buffers in one call

	flags   atomic.Uint32 // what Read and Write must look at
	writes  atomic.Int32  // calls of Write that are under way
	sending atomic.Bool   // somebody runs sendControl

	// The reader.
	rmu       sync.Mutex
	caps      capsule.Decoder
	ws        *websocket.Decoder // nil without WebSocket
	rest      []byte             // read from the transport and not yet taken apart
	late      error              // of the transport, which it returned beside the rest
	hold      [holdSize]byte
	fresh     bool  // bytes of capsules have come that heard does not know of
	unstamped uint8 // how many buffers of them
	final     bool  // the peer's FINAL_DATA was seen
	deaf      bool  // nothing that comes can be understood, or means anything

	// The writer.
	wmu   sync.Mutex
	tail  []byte        // what the transport did not take of headers and control capsules
	left  int           // bytes that the open capsule lacks; 0: none is open
	key   websocket.Key // for the next of them
	wrote bool          // since the last tick

	// The state that both share.
	mu sync.Mutex
	state

	// The application's deadlines, and who uses those of the transport.
	dmu           sync.Mutex
	readDeadline  time.Time
	writeDeadline time.Time
	readTaken     bool // the layer reads by itself, or nobody reads any more
	controlling   bool // a control capsule is being written

	keepAlive time.Duration
	idle      *idleTimer // nil without MaxIdleTimeout
	born      time.Time
	heard     atomic.Int64 // when the last byte of a capsule came, since born

	onLinger, onClosed func()
}

// The flags of a Conn. They repeat what is known under mu or wmu, so that a Read
// and a Write find out with one load that there is nothing to look at.
const (
	readStop    = 1 << iota // Read must return readError
	writeStop               // Write must return writeError
	due                     // there is something for sendControl to do
	openCapsule             // a capsule has begun and is not complete
	tailLeft                // there is a tail
	writeFailed             // the last Write failed
	closing                 // Close has been called
)

// holdSize is how many bytes Read takes from the transport where the caller
// asks for fewer: room for a header and a small message.
const holdSize = 128

// New returns a Conn above transport, which it owns from now on: nobody else may
// read, write or close it.
func New(transport net.Conn, cfg Config) *Conn {
	c := &Conn{
		conn:      transport,
		client:    cfg.Client,
		tls:       cfg.TLS,
		rest:      cfg.Rest,
		keepAlive: cfg.KeepAlivePeriod,
		born:      time.Now(),
		onLinger:  cfg.OnLinger,
		onClosed:  cfg.OnClosed,
	}
	switch transport.(type) {
	case *net.TCPConn, *net.UnixConn:
		c.vector = true
	}
	if cfg.WebSocket {
		ws := websocket.NewDecoder(!cfg.Client)
		c.ws = &ws
	}
	if cfg.MaxIdleTimeout > 0 {
		c.idle = newIdleTimer(c, cfg.MaxIdleTimeout)
	}
	c.startKeepAlive()
	return c
}

// LocalAddr returns the local address of the transport.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr returns the remote address of the transport.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// SetDeadline sets both deadlines, as [net.Conn] says.
func (c *Conn) SetDeadline(t time.Time) error {
	err := c.SetReadDeadline(t)
	if werr := c.SetWriteDeadline(t); err == nil {
		err = werr
	}
	return err
}

// SetReadDeadline sets the deadline of Read, as [net.Conn] says.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	c.readDeadline = t
	if c.flags.Load()&closing != 0 {
		return c.opError("set", net.ErrClosed)
	}
	if c.readTaken {
		return nil
	}
	return c.conn.SetReadDeadline(t)
}

// SetWriteDeadline sets the deadline of Write, as [net.Conn] says. It has no
// effect on control capsules.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.flags.Load()&closing != 0 {
		return c.opError("set", net.ErrClosed)
	}
	c.writeDeadline = t
	if c.controlling && !(c.tls && c.writes.Load() > 0) {
		return nil // endControl sets it
	}
	return c.conn.SetWriteDeadline(t)
}

// readExpired reports whether the deadline of Read has passed.
func (c *Conn) readExpired() bool {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	return !c.readDeadline.IsZero() && !time.Now().Before(c.readDeadline)
}

// takeReads ends the application's use of the transport's reads. A Read that
// waits is woken. The layer may then begin to read with beginReads.
func (c *Conn) takeReads() error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.readTaken {
		return nil
	}
	c.readTaken = true
	return c.conn.SetReadDeadline(past)
}

// beginReads lets the layer itself read, without a deadline.
func (c *Conn) beginReads() {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	c.readTaken = true
	c.conn.SetReadDeadline(time.Time{})
}

// past is a deadline that makes a call under way return.
var past = time.Unix(1, 0)
