package capsule

import (
	"encoding/hex"
	"math"
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

// The examples of RFC 9000 §A.1, and the limits of each form.
func TestInt(t *testing.T) {
	for _, c := range []struct {
		wire string
		v    uint64
		own  bool // the encoding is the shortest one
	}{
		{"c2197c5eff14e88c", 151288809941952652, true},
		{"9d7f3e7d", 494878333, true},
		{"7bbd", 15293, true},
		{"25", 37, true},
		{"4025", 37, false},
		{"00", 0, true},
		{"3f", 63, true},
		{"4040", 64, true},
		{"7fff", 1<<14 - 1, true},
		{"80004000", 1 << 14, true},
		{"bfffffff", 1<<30 - 1, true},
		{"c000000040000000", 1 << 30, true},
		{"ffffffffffffffff", 1<<62 - 1, true},
		{"80000000", 0, false},
		{"c000000000000000", 0, false},
	} {
		wire := unhex(t, c.wire)
		for _, after := range []int{0, 1, 20} { // short and long inputs take different code paths
			v, n := parseInt(append(wire[:len(wire):len(wire)], make([]byte, after)...))
			assert.Equal(t, c.v, v, c.wire)
			assert.Equal(t, len(wire), n, c.wire)
		}
		for cut := range wire {
			_, n := parseInt(wire[:cut])
			assert.Zero(t, n, "%s cut at %d", c.wire, cut)
		}
		if c.own {
			assert.Equal(t, wire, appendInt(nil, c.v))
			assert.Equal(t, len(wire), intLen(c.v))
		}
	}
	assert.Panics(t, func() { appendInt(nil, 1<<62) })
}

// TestAppend compares the encoding, byte by byte.
func TestAppend(t *testing.T) {
	assert.Equal(t, unhex(t, "ad70f100 05"), AppendHeader(nil, Header{Data, 5}))
	assert.Equal(t, unhex(t, "ad70f100 4200"), AppendHeader(nil, Header{Data, 512}))
	assert.Equal(t, unhex(t, "ad70f100 80008000"), AppendHeader(nil, Header{Data, 32768}))
	assert.Equal(t, unhex(t, "ad70f101 00"), AppendHeader(nil, Header{FinalData, 0}))
	assert.Equal(t, unhex(t, "ad70f104 08 0000000000000001"), AppendControl(nil, Ping, 1))
	assert.Equal(t, unhex(t, "ad70f105 08 0102030405060708"), AppendControl(nil, Pong, 0x0102030405060708))
	for _, h := range []Header{{0, 0}, {Data, 63}, {Data, 64}, {Ping, 8}, {1 << 61, math.MaxInt64 >> 1}} {
		b := AppendHeader(nil, h)
		assert.Equal(t, h.Len(), len(b))
		got, n, err := ParseHeader(b)
		require.NoError(t, err)
		assert.Equal(t, len(b), n)
		assert.Equal(t, h, got)
	}
}

func TestParseHeader(t *testing.T) {
	for _, c := range []struct {
		wire string
		want Header
		err  error
	}{
		{"ad70f100 05", Header{Data, 5}, nil},
		// A length may have any form.
		{"ad70f100 4005", Header{Data, 5}, nil},
		{"ad70f100 80000005", Header{Data, 5}, nil},
		{"ad70f100 c000000000000005", Header{Data, 5}, nil},
		{"ad70f100 ffffffffffffffff", Header{Data, 1<<62 - 1}, nil},
		{"00 00", Header{0, 0}, nil},
		{"c000000040000000 07", Header{1 << 30, 7}, nil},
		// A type may not, whether it is known or not.
		{"c00000002d70f100 05", Header{}, errTypeForm},
		{"4000 00", Header{}, errTypeForm},
		{"403f 00", Header{}, errTypeForm},
		{"80003fff 00", Header{}, errTypeForm},
		{"c00000003fffffff 00", Header{}, errTypeForm},
	} {
		wire := unhex(t, c.wire)
		h, n, err := ParseHeader(wire)
		assert.Equal(t, c.err, err, c.wire)
		assert.Equal(t, c.want, h, c.wire)
		if err != nil {
			continue
		}
		assert.Equal(t, len(wire), n, c.wire)
		for cut := range wire {
			_, n, err := ParseHeader(wire[:cut])
			assert.NoError(t, err)
			assert.Zero(t, n, "%s cut at %d", c.wire, cut)
		}
	}
}
