// Package capsule encodes and decodes the capsules of a framed tunnel.
//
// A capsule (RFC 9297 §3.2) is a type, a length and a value. Type and length are
// variable-length integers (RFC 9000 §16). A framed tunnel knows four types:
//
//	DATA        application bytes
//	FINAL_DATA  the last application bytes of a direction, often none
//	PING        8 bytes that the peer repeats in a PONG
//	PONG        the 8 bytes of a PING
//
// The package works only on bytes: it reads no connection, keeps no buffer and
// allocates nothing. [Decoder] takes a stream in pieces of any size.
package capsule

import "encoding/binary"

// Type is the type of a capsule.
type Type uint64

// The numbers are private. 0x2d70f103 is reserved. 0x2d70f102 is a number that
// RFC 9297 §5.4 sets aside for types without a meaning, and is never used.
const (
	Data      Type = 0x2d70f100
	FinalData Type = 0x2d70f101
	Ping      Type = 0x2d70f104
	Pong      Type = 0x2d70f105
)

const (
	// MaxHeader is the length of the longest header: two integers of 8 bytes.
	MaxHeader = 16

	// ControlLen is the length of the value of a PING and of a PONG.
	ControlLen = 8

	// MaxUnknown is the longest value of a capsule of an unknown type. Such a
	// capsule is skipped. Without a limit, one capsule could hide the end of
	// the stream forever.
	MaxUnknown = 65536
)

// Header is the header of a capsule.
type Header struct {
	Type   Type
	Length uint64 // of the value
}

// AppendHeader appends h to b. Both integers are in their shortest form. It
// panics if one of them is larger than 2^62-1, which no integer can express.
func AppendHeader(b []byte, h Header) []byte {
	return appendInt(appendInt(b, uint64(h.Type)), h.Length)
}

// Len returns the length of h as [AppendHeader] writes it.
func (h Header) Len() int { return intLen(uint64(h.Type)) + intLen(h.Length) }

// AppendControl appends a whole PING or PONG to b.
func AppendControl(b []byte, t Type, value uint64) []byte {
	b = AppendHeader(b, Header{Type: t, Length: ControlLen})
	return binary.BigEndian.AppendUint64(b, value)
}

// ParseHeader parses the header at the beginning of b and returns its length.
// The length is 0 if b ends inside the header. A type that is not in its
// shortest form is an error, so that each type has one encoding. A length may
// have any form.
func ParseHeader(b []byte) (h Header, n int, err error) {
	t, n := parseInt(b)
	if n == 0 {
		return Header{}, 0, nil
	}
	// The forms of 2, 4 and 8 bytes begin at the limit of the shorter form.
	if n > 1 && t>>(4*n-2) == 0 {
		return Header{}, 0, errTypeForm
	}
	length, m := parseInt(b[n:])
	if m == 0 {
		return Header{}, 0, nil
	}
	return Header{Type: Type(t), Length: length}, n + m, nil
}

// appendInt appends a variable-length integer in its shortest form.
func appendInt(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(v)|0x4000)
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(b, uint32(v)|0x8000_0000)
	case v < 1<<62:
		return binary.BigEndian.AppendUint64(b, v|0xc000_0000_0000_0000)
	}
	panic("capsule: integer above 2^62-1")
}

// parseInt parses the variable-length integer at the beginning of b. The length
// is 0 if b ends inside the integer.
func parseInt(b []byte) (v uint64, n int) {
	if len(b) >= 8 {
		// The usual case needs no branch: the two upper bits of the first byte
		// are the logarithm of the length.
		v = binary.BigEndian.Uint64(b)
		n = 1 << (v >> 62)
		return v << 2 >> 2 >> (64 - 8*uint(n)), n
	}
	if len(b) == 0 || len(b) < 1<<(b[0]>>6) {
		return 0, 0
	}
	n = 1 << (b[0] >> 6)
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, n
}

// intLen returns the length of the shortest form of v.
func intLen(v uint64) int {
	switch {
	case v < 1<<6:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<30:
		return 4
	}
	return 8
}
