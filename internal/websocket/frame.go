// Package websocket encodes and decodes the part of the WebSocket protocol (RFC
// 6455) that a tunnel uses: binary messages without extensions, and control
// frames.
//
// The package works only on bytes: it reads no connection, keeps no buffer for
// data and does not allocate for it. [Decoder] takes a stream in pieces of any
// size. It is strict. If a peer breaks a rule, the result is an [*Error], which
// holds the code for the Close frame.
package websocket

import (
	"encoding/binary"
	"math"
)

// Opcode is the type of a frame (RFC 6455 §5.2).
type Opcode uint8

const (
	Continuation Opcode = 0x0
	Text         Opcode = 0x1
	Binary       Opcode = 0x2
	Close        Opcode = 0x8
	Ping         Opcode = 0x9
	Pong         Opcode = 0xa
)

// isControl reports whether o is the opcode of a control frame, known or not.
func (o Opcode) isControl() bool { return o&0x8 != 0 }

// isReserved reports whether o is reserved, so that no frame may have it.
func (o Opcode) isReserved() bool { return o&^0x8 > 2 }

const (
	// MaxHeader is the length of the longest header of a frame.
	MaxHeader = 14

	// MaxControl is the length of the longest payload of a control frame
	// (RFC 6455 §5.5).
	MaxControl = 125

	finBit    = 0x80
	rsvBits   = 0x70
	opcodeBit = 0x0f
	maskBit   = 0x80
	lengthBit = 0x7f

	length16 = 126 // the length follows in 2 bytes
	length64 = 127 // the length follows in 8 bytes
)

// Header is the header of a frame.
type Header struct {
	Opcode Opcode
	Fin    bool   // the last frame of a message
	RSV    uint8  // the three reserved bits, at their place in the first byte
	Masked bool   // the payload is masked by Key
	Key    Key    // the mask; zero unless Masked
	Length uint64 // of the payload

	form uint8 // the form of Length: 0, length16 or length64
}

// AppendHeader appends h to b, with Length in its shortest form.
func AppendHeader(b []byte, h Header) []byte {
	first := byte(h.Opcode) | h.RSV
	if h.Fin {
		first |= finBit
	}
	var mask byte
	if h.Masked {
		mask = maskBit
	}
	switch {
	case h.Length <= MaxControl:
		b = append(b, first, mask|byte(h.Length))
	case h.Length <= math.MaxUint16:
		b = append(b, first, mask|length16)
		b = binary.BigEndian.AppendUint16(b, uint16(h.Length))
	default:
		b = append(b, first, mask|length64)
		b = binary.BigEndian.AppendUint64(b, h.Length)
	}
	if h.Masked {
		b = binary.LittleEndian.AppendUint32(b, uint32(h.Key))
	}
	return b
}

// ParseHeader parses the header at the beginning of b and returns its length,
// which is 0 if b ends inside the header. It checks no rule: see
// [Header.Check].
func ParseHeader(b []byte) (h Header, n int) {
	if len(b) < 2 {
		return Header{}, 0
	}
	h = parseFlags(b)
	n = 2
	switch h.form {
	case length16:
		if len(b) < n+2 {
			return Header{}, 0
		}
		h.Length = uint64(binary.BigEndian.Uint16(b[n:]))
		n += 2
	case length64:
		if len(b) < n+8 {
			return Header{}, 0
		}
		h.Length = binary.BigEndian.Uint64(b[n:])
		n += 8
	}
	if h.Masked {
		if len(b) < n+4 {
			return Header{}, 0
		}
		h.Key = Key(binary.LittleEndian.Uint32(b[n:]))
		n += 4
	}
	return h, n
}

// parseFlags parses the first two bytes of a header. Length is 0 if it follows
// in a longer form.
func parseFlags(b []byte) Header {
	h := Header{
		Opcode: Opcode(b[0] & opcodeBit),
		Fin:    b[0]&finBit != 0,
		RSV:    b[0] & rsvBits,
		Masked: b[1]&maskBit != 0,
	}
	if length := b[1] & lengthBit; length >= length16 {
		h.form = length
	} else {
		h.Length = uint64(length)
	}
	return h
}
