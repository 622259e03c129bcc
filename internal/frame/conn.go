package frame

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight/internal/capsule"
	"github.com/preflight-go/preflight/internal/websocket"
)

// Config configures a [Conn].
type Config struct {
	// WebSocket puts each capsule into a binary WebSocket message. If it is
	// false, capsules are written directly to the transport.
	WebSocket bool

	// Client is set on the side that sent the upgrade request. The client masks
	// its WebSocket frames. The server does not.
	Client bool

	// TLS is set if the transport is a TLS connection, or is layered over one. If a
	// write deadline expires, such a connection cannot be written to again. For
	// this reason control capsules have no deadline there, and the goroutine that
	// sends them waits.
	TLS bool

	// Rest holds the bytes that were read from the transport after the handshake.
	// They are the beginning of the stream. Conn keeps the slice until it has
	// been read.
	Rest []byte

	// KeepAlivePeriod is the longest time in which this side writes nothing. A
	// PING is sent before a longer silence. Zero or a negative value disables PINGs.
	KeepAlivePeriod time.Duration

	// MaxIdleTimeout ends the connection if a Read waits for this time and no byte
	// of a capsule arrives. Zero or a negative value disables the timeout.
	MaxIdleTimeout time.Duration

	// Owner is told how the transport ends. It may be nil.
	Owner Owner
}

// An Owner is told how the transport of a [Conn] ends. Its methods are called without a
// lock held, and must not block.
type Owner interface {
	// Lingers is called once if the transport stays open after [Conn.Close], after
	// the end of both directions, or after a protocol error.
	Lingers()

	// Ended is called once, when the transport has been closed.
	Ended()
}

// Conn is the net.Conn of a framed tunnel. Its methods are safe for concurrent use.
//
// There are four locks. rmu is held while the transport reads, and wmu while it
// writes. No goroutine holds both, so reading does not wait for writing. mu guards
// the state that readers and writers share. It may be locked while rmu or wmu is
// held. dmu guards the deadlines. It is always locked last.
type Conn struct {
	conn   net.Conn
	client bool
	tls    bool
	vector bool // conn writes net.Buffers in one call

	flags  atomic.Uint32
	writes atomic.Int32 // the Writes that are in progress or wait for wmu

	// The state of the reader. rmu guards it. After the last Read, only the
	// goroutine of backgroundRead uses it.
	rmu         sync.Mutex
	final       bool // the peer's FINAL_DATA was seen
	ignoreInput bool // further input is dropped: it cannot be parsed, or has no meaning
	received    bool // bytes of a capsule have arrived since recordReceived
	unrecorded  uint8
	capsules    capsule.Decoder
	ws          *webSocket // nil without WebSocket
	buffered    []byte     // read from the transport but not parsed yet
	bufferedErr error      // the error that the transport returned with the bytes in buffered
	readBuf     [readBufSize]byte

	// The state of the writer. wmu guards it.
	wmu            sync.Mutex
	unsent         string        // headers and controls that must be written first
	key            websocket.Key // the key for the next byte of the open capsule
	capsuleLeft    uint16        // the data bytes that the open capsule still needs; 0: none is open
	wroteSinceTick bool          // something was written since the last tick

	mu sync.Mutex
	state

	dmu             sync.Mutex
	readDeadline    instant // set by the application
	writeDeadline   instant
	controlDeadline time.Duration // when the write deadline of the controls expires, since epoch

	idle         *idleTimer   // nil without MaxIdleTimeout
	lastReceived atomic.Int64 // when bytes of a capsule last arrived, since epoch

	owner Owner // may be nil
}

// webSocket is the additional state of a Conn that uses WebSocket.
type webSocket struct {
	websocket.Decoder          // used by the reader
	ping              *payload // of the newest Ping frame of the peer; nil: it is empty; guarded by mu
}

// A payload is the short value of a capsule or frame. Few connections have one, so it is
// not a part of Conn.
type payload struct {
	n     int
	bytes [maxPayload]byte
}

// maxPayload is the length of the longest payload. It is not less than websocket.MaxControl.
const maxPayload = 128

func (p *payload) value() []byte {
	if p == nil {
		return nil
	}
	return p.bytes[:p.n]
}

// The flags let Read and Write find out with one atomic load whether they have
// anything to do besides moving data.
const (
	readStop    = 1 << iota // Read must return readError; set under mu
	writeStop               // Write must return writeError; set under mu
	closing                 // Close was called; set under mu
	due                     // there are controls to send, or a step of a phase to take; set under mu
	openCapsule             // capsuleLeft is not 0; set under wmu
	hasUnsent               // unsent is not empty; set under wmu
	writeFailed             // the last Write failed; set under wmu

	sending           // a goroutine is sending controls
	ownsReadDeadline  // the Conn has set the transport's read deadline for itself; set under dmu
	ownsWriteDeadline // the same for the write deadline
)

// noWriteFlags are the flags that a Write does not depend on.
const noWriteFlags = readStop | sending | ownsReadDeadline | ownsWriteDeadline

// setFlag sets or clears a flag.
func (c *Conn) setFlag(flag uint32, set bool) {
	if set {
		c.flags.Or(flag)
	} else if c.flags.Load()&flag != 0 {
		c.flags.And(^flag)
	}
}

func (c *Conn) hasFlag(flag uint32) bool { return c.flags.Load()&flag != 0 }

// readBufSize is the size of the buffer that Read uses if the buffer of the caller is smaller.
// A small message and its headers fit into it.
const readBufSize = 80

// New returns a Conn over transport. The Conn then owns the transport: the caller must
// not read, write or close it.
func New(transport net.Conn, cfg Config) *Conn {
	c := allocate(cfg)
	c.conn, c.client, c.tls = transport, cfg.Client, cfg.TLS
	c.buffered, c.owner = cfg.Rest, cfg.Owner
	c.vector = gathers(transport)
	c.lastReceived.Store(int64(now()))
	if cfg.MaxIdleTimeout > 0 {
		c.idle = newIdleTimer(c, cfg.MaxIdleTimeout)
	}
	if cfg.KeepAlivePeriod > 0 {
		c.startKeepAlive(cfg.KeepAlivePeriod)
	}
	return c
}

// allocate returns a Conn with the state of its WebSocket, if it uses one. It is one
// allocation: two would take more memory.
func allocate(cfg Config) *Conn {
	if !cfg.WebSocket {
		return new(Conn)
	}
	both := new(struct {
		conn Conn
		ws   webSocket
	})
	both.ws.Decoder = websocket.NewDecoder(!cfg.Client)
	both.conn.ws = &both.ws
	return &both.conn
}

// LocalAddr returns the local address of the transport.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr returns the remote address of the transport.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// NetConn returns the transport. It is only for socket options. Reading, writing or
// closing the transport breaks the tunnel.
func (c *Conn) NetConn() net.Conn { return c.conn }

// epoch is the start of the times that this package stores. A time.Duration takes a
// third of the memory of a time.Time.
var epoch = time.Now()

func now() time.Duration { return time.Since(epoch) }
