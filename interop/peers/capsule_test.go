package peers

import (
	"encoding/binary"
	"slices"
)

// The types of capsules.
const (
	data      = 0x2d70f100
	finalData = 0x2d70f101
	ping      = 0x2d70f104
	pong      = 0x2d70f105
)

// encode returns a capsule. Its length is not in its shortest form, which is allowed.
func encode(kind uint32, value []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0x8000_0000|kind)
	b = binary.BigEndian.AppendUint64(b, 0xc000_0000_0000_0000|uint64(len(value)))
	return append(b, value...)
}

// decode parses the first capsule in b. ok is false if the capsule is not complete.
func decode(b []byte) (kind uint64, value, rest []byte, ok bool) {
	kind, b, ok = varint(b)
	length, b, more := varint(b)
	if !ok || !more || uint64(len(b)) < length {
		return 0, nil, nil, false
	}
	return kind, b[:length], b[length:], true
}

func varint(b []byte) (v uint64, rest []byte, ok bool) {
	if len(b) == 0 || len(b) < 1<<(b[0]>>6) {
		return 0, nil, false
	}
	n := 1 << (b[0] >> 6)
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, b[n:], true
}

// encodeAll returns all bytes of one direction: capsules of many sizes, FINAL_DATA and a PING.
func encodeAll(b []byte) (stream []byte) {
	for n := 1; len(b) > 0; n = n * 7 % 50021 {
		n = min(n, len(b))
		stream = append(stream, encode(data, b[:n])...)
		b = b[n:]
	}
	return slices.Concat(stream, encode(finalData, nil), encode(ping, make([]byte, 8)))
}

// cuts are the sizes of messages. Their boundaries can be anywhere, because they have no meaning.
var cuts = []int{0, 1, 7, 125, 126, 127, 3000, 65535, 65536, 70000}
