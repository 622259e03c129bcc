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
	// the capsules stand on the bare transport.
	WebSocket bool

	// Client is set on the side that sent the upgrade request. It masks its
	// WebSocket frames, and the other side does not.
	Client bool

	// TLS is set where the transport is a TLS connection, or lies above one. A
	// write deadline that expires ruins such a connection for good. So control
	// capsules have no deadline there, and whoever sends them waits.
	TLS bool

	// Rest is what has been read from the transport behind the handshake. It is
	// the beginning of the stream. Conn keeps the slice until it has been read.
	Rest []byte

	// KeepAlivePeriod is the longest silence of this side: then a PING is sent.
	// Zero or a negative value disables PINGs.
	KeepAlivePeriod time.Duration

	// MaxIdleTimeout ends the connection when a Read has waited for so long and
	// no byte of a capsule has come. Zero or a negative value disables it.
	MaxIdleTimeout time.Duration

	// OnLinger is called once if the transport outlives the connection: see
	// [Conn.Close]. It may be nil.
	OnLinger func()

	// OnClosed is called once, when the transport has been closed. It may be nil.
	OnClosed func()
}

// Conn is the net.Conn of a framed tunnel. All methods may be called at the same
// time.
//
// There are four locks. rmu and wmu are held while the transport reads or writes,
// and never both, so that reading does not wait for writing. mu guards the state
// that both share, and may be taken under either. dmu guards the deadlines, and
// comes last.
type Conn struct {
	conn   net.Conn
	client bool
	tls    bool
	vector bool // conn writes net.Buffers in one call

	flags   atomic.Uint32
	writes  atomic.Int32 // Writes that are under way, or wait for wmu
	sending atomic.Bool  // sendControls is running

	// The reader: rmu, or the goroutine of tend when Read has ended.
	rmu       sync.Mutex
	final     bool // the peer's FINAL_DATA was seen
	deaf      bool // what comes can no longer be understood, or means nothing
	fresh     bool // capsules were heard of since stamp
	unstamped uint8
	capsules  capsule.Decoder
	ws        *webSocket // nil without WebSocket
	rest      []byte     // read from the transport and not taken apart yet
	late      error      // what the transport returned beside rest
	hold      [holdSize]byte

	// The writer: wmu.
	wmu   sync.Mutex
	tail  []byte        // headers and controls that must be written before all else
	left  int           // data that the open capsule lacks; 0: none is open
	key   websocket.Key // that masks the next byte of it
	wrote bool          // since the last tick

	mu sync.Mutex
	state

	dmu           sync.Mutex
	readDeadline  time.Time // the application's
	writeDeadline time.Time
	readTaken     bool          // the transport's read deadline is the layer's
	writeTaken    bool          // its write deadline is
	controlsUntil time.Duration // when that passes, since epoch

	keepAlive time.Duration
	idle      *idleTimer   // nil without MaxIdleTimeout
	heard     atomic.Int64 // when capsules were last heard of: see now

	onLinger, onClosed func()
}

// webSocket is what a Conn needs besides for WebSocket.
type webSocket struct {
	websocket.Decoder        // the reader's
	ping              []byte // the payload of the newest Ping frame of the peer; under mu
}

// Flags tell a Read or a Write with one load that there is nothing to see to.
const (
	readStop    = 1 << iota // Read must return readError; set under mu
	writeStop               // Write must return writeError; set under mu
	closing                 // Close was called; set under mu
	due                     // there are controls to send, or a phase to go on with; mu
	openCapsule             // left is not 0; set under wmu
	tailLeft                // tail is not empty; set under wmu
	writeFailed             // the last Write was cut short; set under wmu
)

// mark sets or clears a flag.
func (c *Conn) mark(flag uint32, set bool) {
	if set {
		c.flags.Or(flag)
	} else if c.flags.Load()&flag != 0 {
		c.flags.And(^flag)
	}
}

func (c *Conn) marked(flag uint32) bool { return c.flags.Load()&flag != 0 }

// holdSize is how much Read asks the transport for where the caller asks for less.
// It is room for a small message with its headers.
const holdSize = 80

// New returns a Conn above transport, which then belongs to it: nobody else may
// read, write or close it.
func New(transport net.Conn, cfg Config) *Conn {
	c := &Conn{
		conn:      transport,
		client:    cfg.Client,
		tls:       cfg.TLS,
		rest:      cfg.Rest,
		keepAlive: cfg.KeepAlivePeriod,
		onLinger:  cfg.OnLinger,
		onClosed:  cfg.OnClosed,
	}
	switch transport.(type) {
	case *net.TCPConn, *net.UnixConn:
		c.vector = true
	}
	if cfg.WebSocket {
		c.ws = &webSocket{Decoder: websocket.NewDecoder(!cfg.Client)}
	}
	c.heard.Store(int64(now()))
	if cfg.MaxIdleTimeout > 0 {
		c.idle = newIdleTimer(c, cfg.MaxIdleTimeout)
	}
	if cfg.KeepAlivePeriod > 0 {
		c.startKeepAlive()
	}
	return c
}

// LocalAddr returns the local address of the transport.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr returns the remote address of the transport.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// NetConn returns the transport, for socket options alone: who reads it, writes it or
// closes it breaks the tunnel.
func (c *Conn) NetConn() net.Conn { return c.conn }

// epoch is what the times of this package count from. They take a third of the
// room of a time.Time.
var epoch = time.Now()

func now() time.Duration { return time.Since(epoch) }
