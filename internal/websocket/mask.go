package websocket

import (
	"encoding/binary"
	"math/bits"
)

// Key is the key of a mask. Its lowest byte is applied first.
type Key uint32

// At returns the key that applies from the byte at offset n of the payload.
func (k Key) At(n int) Key { return Key(bits.RotateLeft32(uint32(k), -8*(n&3))) }

// Mask writes src, masked or unmasked by k (RFC 6455 §5.3 uses one operation
// for both), to dst, and returns the key for the byte behind src. dst must be
// as long as src. The two may overlap if dst begins where src does or before:
// so a payload can be moved forward in its buffer as it is unmasked.
func Mask(dst, src []byte, k Key) Key {
	rest := k.At(len(src))
	key := uint64(k)<<32 | uint64(k)
	// The conversions to arrays tell the compiler once that all the bytes are
	// there. A block is loaded before it is stored, and what is stored lies
	// before what is loaded next.
	for len(src) >= 64 && len(dst) >= 64 {
		s, d := (*[64]byte)(src), (*[64]byte)(dst)
		a := binary.LittleEndian.Uint64(s[0:]) ^ key
		b := binary.LittleEndian.Uint64(s[8:]) ^ key
		c := binary.LittleEndian.Uint64(s[16:]) ^ key
		e := binary.LittleEndian.Uint64(s[24:]) ^ key
		f := binary.LittleEndian.Uint64(s[32:]) ^ key
		g := binary.LittleEndian.Uint64(s[40:]) ^ key
		h := binary.LittleEndian.Uint64(s[48:]) ^ key
		i := binary.LittleEndian.Uint64(s[56:]) ^ key
		binary.LittleEndian.PutUint64(d[0:], a)
		binary.LittleEndian.PutUint64(d[8:], b)
		binary.LittleEndian.PutUint64(d[16:], c)
		binary.LittleEndian.PutUint64(d[24:], e)
		binary.LittleEndian.PutUint64(d[32:], f)
		binary.LittleEndian.PutUint64(d[40:], g)
		binary.LittleEndian.PutUint64(d[48:], h)
		binary.LittleEndian.PutUint64(d[56:], i)
		src, dst = src[64:], dst[64:]
	}
	for len(src) >= 8 && len(dst) >= 8 {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(src)^key)
		src, dst = src[8:], dst[8:]
	}
	for i := range src {
		dst[i] = src[i] ^ byte(key)
		key = bits.RotateLeft64(key, -8)
	}
	return rest
}
