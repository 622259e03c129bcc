package websocket

import (
	"crypto/subtle"
	"encoding/binary"
	"math/bits"
	"sync"
)

// Key is the key of a mask. Its lowest byte is applied first.
type Key uint32

// At returns the key that applies from the byte at offset n of the payload.
func (k Key) At(n int) Key { return Key(bits.RotateLeft32(uint32(k), -8*(n&3))) }

// pattern is a repeated key. subtle.XORBytes uses vector instructions, so
// applying a pattern is twice as fast as a loop over words.
type pattern [1024]byte

var patterns = sync.Pool{New: func() any { return new(pattern) }}

func newPattern(k Key) *pattern {
	p := patterns.Get().(*pattern)
	binary.LittleEndian.PutUint32(p[:], uint32(k))
	for n := 4; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
	return p
}

// usePattern is the length from which building a pattern saves time.
const usePattern = 2048

// Mask writes src, masked or unmasked by k, to dst. RFC 6455 §5.3 defines one
// operation for both. It returns the key for the byte after src. dst is at
// least as long as src. It is src itself, or does not overlap it.
func Mask(dst, src []byte, k Key) Key {
	rest := k.At(len(src))
	if len(src) >= usePattern {
		p := newPattern(k)
		for len(src) >= len(p) {
			subtle.XORBytes(dst, src[:len(p)], p[:])
			src, dst = src[len(p):], dst[len(p):]
		}
		patterns.Put(p)
	}
	maskWords(dst, src, k)
	return rest
}

// MaskMove is Mask for a dst that begins before src and overlaps it. It moves a
// payload forward in its buffer and overwrites src.
func MaskMove(dst, src []byte, k Key) Key {
	rest := k.At(len(src))
	if len(src) >= usePattern {
		p := newPattern(k)
		for len(src) >= len(p) {
			s := src[:len(p)]
			subtle.XORBytes(s, s, p[:])
			copy(dst, s)
			src, dst = src[len(p):], dst[len(p):]
		}
		patterns.Put(p)
	}
	maskWords(dst, src, k)
	return rest
}

// maskWords masks src word by word. Each word is loaded before it is stored,
// and stored before the next one is loaded, so dst may overlap src from below.
func maskWords(dst, src []byte, k Key) {
	key := uint64(k)<<32 | uint64(k)
	// The conversions to arrays let the compiler check the bounds once.
	for len(src) >= 32 && len(dst) >= 32 {
		s, d := (*[32]byte)(src), (*[32]byte)(dst)
		w0 := binary.LittleEndian.Uint64(s[0:]) ^ key
		w1 := binary.LittleEndian.Uint64(s[8:]) ^ key
		w2 := binary.LittleEndian.Uint64(s[16:]) ^ key
		w3 := binary.LittleEndian.Uint64(s[24:]) ^ key
		binary.LittleEndian.PutUint64(d[0:], w0)
		binary.LittleEndian.PutUint64(d[8:], w1)
		binary.LittleEndian.PutUint64(d[16:], w2)
		binary.LittleEndian.PutUint64(d[24:], w3)
		src, dst = src[32:], dst[32:]
	}
	for len(src) >= 8 && len(dst) >= 8 {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(src)^key)
		src, dst = src[8:], dst[8:]
	}
	for i, b := range src {
		dst[i] = b ^ byte(key>>(8*i))
	}
}
