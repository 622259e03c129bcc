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

// pattern is a repeated key. subtle.XORBytes uses vector instructions, so applying
// a pattern takes two thirds of the time of a loop over words. It refuses slices
// that overlap, so MaskMove cannot use it.
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
	done := 0
	if len(src) >= usePattern {
		done = maskPattern(dst, src, k)
	}
	maskWords(dst[done:], src[done:], k)
	return k.At(len(src))
}

// maskPattern masks as much of src as whole patterns fill, and returns its length.
func maskPattern(dst, src []byte, k Key) (n int) {
	p := newPattern(k)
	for ; len(src)-n >= len(p); n += len(p) {
		subtle.XORBytes(dst[n:n+len(p)], src[n:n+len(p)], p[:])
	}
	patterns.Put(p)
	return n
}

// MaskMove is Mask for a dst that begins before src and overlaps it. It moves a
// payload forward in its buffer and overwrites src.
func MaskMove(dst, src []byte, k Key) Key {
	maskWords(dst, src, k)
	return k.At(len(src))
}

// maskWords masks src word by word. Each block is loaded before it is stored, and
// stored before the next one is loaded, so dst may overlap src from below.
func maskWords(dst, src []byte, k Key) {
	key := uint64(k)<<32 | uint64(k)
	le := binary.LittleEndian
	// The conversions to arrays let the compiler check the bounds once.
	for len(src) >= 64 && len(dst) >= 64 {
		s, d := (*[64]byte)(src), (*[64]byte)(dst)
		w0, w1 := le.Uint64(s[0:])^key, le.Uint64(s[8:])^key
		w2, w3 := le.Uint64(s[16:])^key, le.Uint64(s[24:])^key
		w4, w5 := le.Uint64(s[32:])^key, le.Uint64(s[40:])^key
		w6, w7 := le.Uint64(s[48:])^key, le.Uint64(s[56:])^key
		le.PutUint64(d[0:], w0)
		le.PutUint64(d[8:], w1)
		le.PutUint64(d[16:], w2)
		le.PutUint64(d[24:], w3)
		le.PutUint64(d[32:], w4)
		le.PutUint64(d[40:], w5)
		le.PutUint64(d[48:], w6)
		le.PutUint64(d[56:], w7)
		src, dst = src[64:], dst[64:]
	}
	for len(src) >= 8 && len(dst) >= 8 {
		le.PutUint64(dst, le.Uint64(src)^key)
		src, dst = src[8:], dst[8:]
	}
	for i, b := range src {
		dst[i] = b ^ byte(key>>(8*i))
	}
}
