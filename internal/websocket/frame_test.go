package websocket

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

// The examples of RFC 6455 §5.7, and the limits of each form of the length.
func TestHeader(t *testing.T) {
	const key = 0x3d21fa37 // the key as it stands on the wire: 37 fa 21 3d
	for _, c := range []struct {
		wire string
		want Header
	}{
		{"81 05", Header{Opcode: Text, Fin: true, Length: 5}},
		{"81 85 37fa213d", Header{Opcode: Text, Fin: true, Masked: true, Key: key, Length: 5}},
		{"01 03", Header{Opcode: Text, Length: 3}},
		{"80 02", Header{Opcode: Continuation, Fin: true, Length: 2}},
		{"89 05", Header{Opcode: Ping, Fin: true, Length: 5}},
		{"8a 85 37fa213d", Header{Opcode: Pong, Fin: true, Masked: true, Key: key, Length: 5}},
		{"82 7e 0100", Header{Opcode: Binary, Fin: true, Length: 256, form: length16}},
		{"82 7f 0000000000010000", Header{Opcode: Binary, Fin: true, Length: 65536, form: length64}},
		{"82 7d", Header{Opcode: Binary, Fin: true, Length: 125}},
		{"82 7e 007e", Header{Opcode: Binary, Fin: true, Length: 126, form: length16}},
		{"82 7e ffff", Header{Opcode: Binary, Fin: true, Length: 65535, form: length16}},
		{"82 fe 8000 37fa213d", Header{Opcode: Binary, Fin: true, Masked: true, Key: key, Length: 32768, form: length16}},
		{"82 ff 7fffffffffffffff 37fa213d", Header{Opcode: Binary, Fin: true, Masked: true, Key: key, Length: 1<<63 - 1, form: length64}},
		{"f8 00", Header{Opcode: Close, Fin: true, RSV: 0x70}},
	} {
		wire := unhex(t, c.wire)
		got, n := ParseHeader(append(wire[:len(wire):len(wire)], 0xff))
		assert.Equal(t, len(wire), n, c.wire)
		assert.Equal(t, c.want, got, c.wire)
		assert.Equal(t, wire, AppendHeader(nil, c.want), c.wire)
		for cut := range wire {
			_, n := ParseHeader(wire[:cut])
			assert.Zero(t, n, "%s cut at %d", c.wire, cut)
		}
	}
}

func TestAccept(t *testing.T) {
	// RFC 6455 §1.3.
	assert.Equal(t, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", Accept("dGhlIHNhbXBsZSBub25jZQ=="))
	for key, valid := range map[string]bool{
		"dGhlIHNhbXBsZSBub25jZQ==":     true,
		"dGhlIHNhbXBsZSBub25jZ===":     false,
		"dGhlIHNhbXBsZSBub25jZQ=":      false,
		"dGhlIHNhbXBsZSBub25jZQ":       false,
		"dGhlIHNhbXBsZSBub25jZQAA":     false, // 18 bytes
		"dGhlIHNhbXBsZSBub25jZQ======": false,
		"dGhlIHNhbXBsZSBub25j ZQ=":     false,
		"":                             false,
	} {
		assert.Equal(t, valid, ValidKey(key), key)
	}
	a, b := NewKey(), NewKey()
	assert.True(t, ValidKey(a))
	assert.NotEqual(t, a, b)
}

func TestClose(t *testing.T) {
	assert.Empty(t, AppendClose(nil, CodeNone))
	assert.Equal(t, []byte{0x03, 0xe8}, AppendClose(nil, CodeNormal))
	for code := range 1 << 16 {
		got, err := ParseClose([]byte{byte(code >> 8), byte(code)})
		// RFC 6455 §7.4 and IANA's registry: 1004 is reserved, 1005, 1006 and
		// 1015 are never sent, 1016 to 2999 are not assigned.
		may := code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006 || code >= 3000 && code <= 4999
		if may {
			require.NoError(t, err, code)
			require.Equal(t, uint16(code), got)
		} else {
			require.Equal(t, errCloseCode, err, code)
		}
	}
}

func TestMask(t *testing.T) {
	const k = Key(0xa1b2c3d4)
	onWire := [4]byte{0xd4, 0xc3, 0xb2, 0xa1}
	for _, length := range []int{0, 1, 3, 4, 5, 7, 8, 9, 31, 32, 33, 63, 100, 2047, 2048, 2049, 3071, 5000} {
		for start := range 4 {
			src := make([]byte, length)
			want := make([]byte, length)
			for i := range src {
				src[i] = byte(i * 7)
				want[i] = src[i] ^ onWire[(start+i)%4]
			}
			given := bytes.Clone(src)
			dst := make([]byte, length)
			next := Mask(dst, src, k.At(start))
			assert.Equal(t, want, dst)
			assert.Equal(t, given, src, "src is as it was")
			assert.Equal(t, k.At(start+length), next)

			Mask(src, src, k.At(start))
			assert.Equal(t, want, src, "in place")

			for _, by := range []int{1, 6, 8, 14, 40} {
				buf := append(make([]byte, by), given...)
				next := MaskMove(buf[:length], buf[by:], k.At(start))
				assert.Equal(t, want, buf[:length], "moved by %d", by)
				assert.Equal(t, k.At(start+length), next)
			}
		}
	}
}
