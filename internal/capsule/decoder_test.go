package capsule

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// decode passes the stream through a Decoder in the given pieces, as a reader
// would use it, and returns the result. Adjacent application bytes are one
// item.
func decode(pieces ...[]byte) (items []string, ended bool, err error) {
	var d Decoder
	var data []byte
	flush := func() {
		if len(data) > 0 {
			items = append(items, fmt.Sprintf("%q", data))
			data = nil
		}
	}
	for _, b := range pieces {
		for len(b) > 0 {
			if left := d.Data(); left > 0 {
				n := int(min(left, uint64(len(b))))
				data = append(data, b[:n]...)
				d.Take(n)
				b = b[n:]
				continue
			}
			n, event, err := d.Next(b)
			if err != nil {
				flush()
				return items, d.Ended(), err
			}
			b = b[n:]
			switch event {
			case PingPassed:
				flush()
				items = append(items, fmt.Sprintf("ping %x", d.Value()))
			case PongPassed:
				flush()
				items = append(items, fmt.Sprintf("pong %x", d.Value()))
			}
		}
	}
	flush()
	return items, d.Ended(), nil
}

func TestDecoder(t *testing.T) {
	const (
		data  = "ad70f100"
		final = "ad70f101"
		ping  = "ad70f104"
		pong  = "ad70f105"
	)
	value := strings.Repeat
	for _, c := range []struct {
		name, wire string
		want       string
		ended      bool
		err        error
	}{
		{"data", data + "02 6869", `"hi"`, false, nil},
		{"two of data", data + "01 68" + data + "01 69", `"hi"`, false, nil},
		{"data without end", data + "05 6869", `"hi"`, false, nil},
		{"the longest data", data + "ffffffffffffffff 6869", `"hi"`, false, nil},
		{"empty data", data + "00" + data + "01 68", `"h"`, false, nil},
		{"length in a longer form", data + "c000000000000002 6869", `"hi"`, false, nil},
		{"final", data + "02 6869" + final + "00", `"hi"`, true, nil},
		{"final alone", final + "00", ``, true, nil},
		{"final with data", final + "02 6869", `"hi"`, true, nil},
		{"final without its data", final + "02 68", `"h"`, false, nil},
		{"ping first", ping + "08 0102030405060708" + data + "01 68", `ping 102030405060708|"h"`, false, nil},
		{"pong first", pong + "08 0102030405060708", `pong 102030405060708`, false, nil},
		{"pings after final", final + "00" + ping + "08 0000000000000001" + pong + "08 0000000000000002", `ping 1|pong 2`, true, nil},
		{"ping in a longer form of length", ping + "4008 0000000000000001", `ping 1`, false, nil},
		{"half a ping", ping + "08 00000000", ``, false, nil},
		{"unknown after data", data + "01 68" + "01 03 ffffff" + data + "01 69", `"hi"`, false, nil},
		{"unknown, empty", data + "00" + "2000" + data + "01 69", `"i"`, false, nil},
		{"unknown after final", final + "00" + "ad70f102 01 ff" + "c000000040000000 02 ffff", ``, true, nil},
		{"reserved after data", data + "00" + "ad70f103 00", ``, false, nil},
		{"unknown, the longest", data + "00" + "01 80010000" + value("ff", 65536) + data + "01 69", `"i"`, false, nil},

		{"nothing of ours first", "48545450", ``, false, errFirst},
		{"first byte wrong", "ae", ``, false, errFirst},
		{"second byte wrong", "ad71", ``, false, errFirst},
		{"third byte wrong", "ad70f2", ``, false, errFirst},
		{"reserved first", "ad70f103 00", ``, false, errFirst},
		{"grease first", "ad70f102 00", ``, false, errFirst},
		{"unknown first", "01 00", ``, false, errFirst},
		{"long form first", "c00000002d70f100 00", ``, false, errFirst},
		{"type in a longer form", data + "00" + "c00000002d70f100 00", ``, false, errTypeForm},
		{"unknown type in a longer form", data + "00" + "4001", ``, false, errTypeForm},
		{"data after final", final + "00" + data + "01", ``, true, errAfterFinal},
		{"empty data after final", final + "00" + data + "00", ``, true, errAfterFinal},
		{"final after final", final + "00" + final + "00", ``, true, errAfterFinal},
		{"long ping", ping + "09", ``, false, errControl},
		{"short pong", pong + "07", ``, false, errControl},
		{"empty ping", ping + "00", ``, false, errControl},
		{"huge ping", ping + "ffffffffffffffff", ``, false, errControl},
		{"unknown, too long", data + "00" + "01 80010001", ``, false, errUnknown},
		{"unknown, huge", data + "00" + "01 ffffffffffffffff", ``, false, errUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			wire := unhex(t, c.wire)
			check := func(pieces ...[]byte) {
				t.Helper()
				items, ended, err := decode(pieces...)
				assert.Equal(t, c.want, strings.Join(items, "|"))
				assert.Equal(t, c.ended, ended)
				assert.Equal(t, c.err, err)
			}
			check(wire)
			var bytewise [][]byte
			for i := range wire {
				bytewise = append(bytewise, wire[i:i+1])
				if len(wire) < 100 {
					check(wire[:i], wire[i:])
				}
			}
			check(bytewise...)
		})
	}
}

// An error is reported at the first byte that makes it certain. The Decoder
// does not wait for the bytes of a value that it refuses.
func TestDecoderErrsEarly(t *testing.T) {
	for _, wire := range []string{"47", "ad70f10440", "ad70f104ff"} {
		_, _, err := decode(unhex(t, wire))
		if len(wire) == 2 {
			assert.Equal(t, errFirst, err)
		} else {
			assert.NoError(t, err, "the length is not complete")
		}
	}
}

// Decoding never allocates, however long the stream is.
func TestDecoderAllocations(t *testing.T) {
	wire := AppendControl(nil, Ping, 7)
	wire = append(AppendHeader(wire, Header{Data, 3}), "abc"...)
	wire = append(AppendHeader(wire, Header{1, 100}), make([]byte, 100)...)
	var d Decoder
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		for step := 1; step < 12; step++ {
			for b := wire; len(b) > 0; {
				n := min(step, len(b))
				if left := d.Data(); left > 0 {
					n = int(min(left, uint64(n)))
					d.Take(n)
				} else {
					n, _, _ = d.Next(b[:n])
				}
				b = b[n:]
			}
		}
	}))
}

// reference decodes the same protocol in the simplest way, with the whole
// stream in memory. It returns the data, the controls and whether the stream
// was refused.
func reference(b []byte) (data []byte, controls []string, ended, refused bool) {
	integer := func() (v uint64, n int, ok bool) {
		if len(b) == 0 || len(b) < 1<<(b[0]>>6) {
			return 0, 0, false
		}
		n = 1 << (b[0] >> 6)
		v = uint64(b[0] & 63)
		for _, c := range b[1:n] {
			v = v*256 + uint64(c)
		}
		b = b[n:]
		return v, n, true
	}
	final := false
	for first := true; ; first = false {
		if first {
			for i, c := range []byte{0xad, 0x70, 0xf1} {
				if i < len(b) && b[i] != c {
					return data, controls, false, true
				}
			}
		}
		t, n, ok := integer()
		if !ok {
			return data, controls, final, false
		}
		if n > 1 && t < 1<<(4*n-2) {
			return data, controls, final, true
		}
		length, _, ok := integer()
		if !ok {
			return data, controls, final, false
		}
		known := t == 0x2d70f100 || t == 0x2d70f101 || t == 0x2d70f104 || t == 0x2d70f105
		switch {
		case first && !known,
			final && t <= 0x2d70f101 && known,
			known && t >= 0x2d70f104 && length != 8,
			!known && length > 65536:
			return data, controls, final, true
		}
		value := b[:min(length, uint64(len(b)))]
		b = b[len(value):]
		short := uint64(len(value)) < length
		switch t {
		case 0x2d70f100, 0x2d70f101:
			data = append(data, value...)
			final = t == 0x2d70f101 && !short
			if short {
				return data, controls, false, false
			}
		case 0x2d70f104, 0x2d70f105:
			if !short {
				controls = append(controls, fmt.Sprintf("%x %x", t&1, binary.BigEndian.Uint64(value)))
			}
		}
	}
}

// For every input and every split into pieces, the Decoder returns the same as
// the reference.
func FuzzDecoder(f *testing.F) {
	stream := AppendControl(nil, Ping, 1)
	stream = append(AppendHeader(stream, Header{Data, 5}), "hello"...)
	stream = append(AppendHeader(stream, Header{77, 3}), "xyz"...)
	stream = AppendHeader(stream, Header{FinalData, 0})
	stream = AppendControl(stream, Pong, 2)
	f.Add(stream, uint64(1))
	f.Add([]byte("HTTP/1.1 200 OK\r\n"), uint64(2))
	f.Add(stream[:9], uint64(3))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		data, controls, ended, refused := reference(stream)
		random := rand.New(rand.NewPCG(seed, 0))
		var pieces [][]byte
		for b := stream; len(b) > 0; {
			n := 1 + random.IntN(min(len(b), 1+random.IntN(40)))
			pieces = append(pieces, b[:n])
			b = b[n:]
		}
		var gotData []byte
		var gotControls []string
		items, gotEnded, err := decode(pieces...)
		for _, item := range items {
			switch {
			case strings.HasPrefix(item, "ping "):
				gotControls = append(gotControls, "0 "+item[5:])
			case strings.HasPrefix(item, "pong "):
				gotControls = append(gotControls, "1 "+item[5:])
			default:
				var s string
				fmt.Sscanf(item, "%q", &s)
				gotData = append(gotData, s...)
			}
		}
		if !bytes.Equal(data, gotData) {
			t.Errorf("data %q, want %q", gotData, data)
		}
		assert.Equal(t, controls, gotControls)
		assert.Equal(t, ended, gotEnded)
		assert.Equal(t, refused, err != nil, "%v", err)
	})
}
