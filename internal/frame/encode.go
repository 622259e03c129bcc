package frame

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"

	"github.com/preflight-go/preflight/internal/capsule"
	"github.com/preflight-go/preflight/internal/websocket"
)

const (
	// maxData is the longest value of a DATA capsule that is sent. With its
	// headers the message is shorter than 65535 bytes. Some gateways that parse
	// messages refuse longer ones.
	maxData = 32768

	// maxHeader is the length of the longest header that is sent: that of a masked
	// frame of up to 64 KiB, and that of a capsule.
	maxHeader = 4 + 4 + 8

	// maxControls is the length of all control capsules and frames that can be
	// due at once, on the side that masks: PONG, Pong, FINAL_DATA, PING, Close.
	maxControls = (6 + 13) + (6 + websocket.MaxControl) + (8 + 6 + maxPayload) + (6 + 13) + (6 + 2)

	// maxCopy is the longest data that is copied after its header. Longer data is
	// written from its own place, if the transport can gather buffers.
	maxCopy = 4096

	// maxCapsules is how many capsules one call writes if the transport can gather
	// buffers, and maxCopied if it cannot.
	maxCapsules = 8
	maxCopied   = 2
)

// A smallBuffer holds controls and headers, and a small Write.
type smallBuffer struct {
	bytes [maxControls + maxCapsules*maxHeader + maxCopy]byte

	// For a call that gathers headers and data from several buffers. net.Buffers
	// removes its elements as they are written, so it needs its own array.
	vector  net.Buffers
	vectors [2 * maxCapsules][]byte
}

// A largeBuffer holds the data of the largest call that does not gather buffers: controls
// and two full capsules. Its size is a multiple of the page size.
type largeBuffer [72 << 10]byte

// A hugeBuffer holds the data of the largest call.
type hugeBuffer [8<<10 + maxCapsules*maxData]byte

// This does not compile if a buffer is too small.
const (
	_ = uint(len(largeBuffer{}) - maxControls - maxCopied*(maxHeader+maxData))
	_ = uint(len(hugeBuffer{}) - maxControls - maxCapsules*(maxHeader+maxData))
)

var (
	smallBuffers = sync.Pool{New: func() any { return new(smallBuffer) }}
	largeBuffers = sync.Pool{New: func() any { return new(largeBuffer) }}
	hugeBuffers  = sync.Pool{New: func() any { return new(hugeBuffer) }}
)

// A copyBuffer is the buffer of ReadFrom and WriteTo. It is huge only as long as each read
// fills it. Then fewer calls move the same data, and a connection that falls silent does not
// hold much.
type copyBuffer struct {
	large *largeBuffer // nil if huge is in use
	huge  *hugeBuffer  // nil if large is in use
}

func newCopyBuffer() copyBuffer {
	return copyBuffer{large: largeBuffers.Get().(*largeBuffer)}
}

func (b *copyBuffer) bytes() []byte {
	if b.huge != nil {
		return b.huge[:]
	}
	return b.large[:]
}

// adapt chooses the buffer for the next read. n is what the last one has returned.
func (b *copyBuffer) adapt(n int) {
	switch {
	case b.huge == nil && n >= maxCopied*maxData:
		b.free()
		b.huge = hugeBuffers.Get().(*hugeBuffer)
	case b.huge != nil && n < maxCapsules*maxData:
		b.free()
		b.large = largeBuffers.Get().(*largeBuffer)
	}
}

func (b *copyBuffer) free() {
	if b.huge != nil {
		hugeBuffers.Put(b.huge)
	} else {
		largeBuffers.Put(b.large)
	}
	b.huge, b.large = nil, nil
}

// newKey returns the key that masks the next message. RFC 6455 §5.3 requires that it is
// unpredictable, so that a page in a browser cannot choose the bytes on the wire.
func (c *Conn) newKey() websocket.Key {
	if c.ws == nil || !c.client {
		return 0
	}
	return websocket.Key(rand.Uint32())
}

// appendHeader appends the header of a capsule. With WebSocket, it appends the header
// of the message that contains the capsule first. It returns the key for the capsule's
// value.
func (c *Conn) appendHeader(b []byte, h capsule.Header, key websocket.Key) ([]byte, websocket.Key) {
	if c.ws == nil {
		return capsule.AppendHeader(b, h), 0
	}
	b = c.appendFrameHeader(b, websocket.Binary, uint64(h.Len())+h.Length, key)
	start := len(b)
	b = capsule.AppendHeader(b, h)
	if c.client {
		key = websocket.Mask(b[start:], b[start:], key)
	}
	return b, key
}

// appendControl appends a PING or PONG.
func (c *Conn) appendControl(b []byte, t capsule.Type, value uint64) []byte {
	b, key := c.appendHeader(b, capsule.Header{Type: t, Length: capsule.ControlLen}, c.newKey())
	var v [capsule.ControlLen]byte
	binary.BigEndian.PutUint64(v[:], value)
	b, _ = c.appendMasked(b, v[:], key)
	return b
}

// appendFrame appends a WebSocket control frame.
func (c *Conn) appendFrame(b []byte, op websocket.Opcode, payload []byte) []byte {
	key := c.newKey()
	b = c.appendFrameHeader(b, op, uint64(len(payload)), key)
	b, _ = c.appendMasked(b, payload, key)
	return b
}

func (c *Conn) appendFrameHeader(b []byte, op websocket.Opcode, length uint64, key websocket.Key) []byte {
	return websocket.AppendHeader(b, websocket.Header{
		Opcode: op, Fin: true, Masked: c.client, Key: key, Length: length,
	})
}

// appendMasked appends p, which is part of the payload of a message. It returns the key
// for the bytes that follow. The capacity of b is sufficient.
func (c *Conn) appendMasked(b, p []byte, key websocket.Key) ([]byte, websocket.Key) {
	if !c.masks() {
		return append(b, p...), 0
	}
	start := len(b)
	b = b[:start+len(p)]
	return b, websocket.Mask(b[start:], p, key)
}

// masks reports whether this side must mask its frames.
func (c *Conn) masks() bool { return c.ws != nil && c.client }
