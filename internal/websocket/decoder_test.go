package websocket

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// decode passes the stream through a Decoder in the given pieces, as a reader
// would use it. Adjacent data is one item.
func decode(fromClient bool, pieces ...[]byte) (items []string, err error) {
	d := NewDecoder(fromClient)
	var data []byte
	flush := func() {
		if len(data) > 0 {
			items = append(items, fmt.Sprintf("%q", data))
			data = nil
		}
	}
	defer func() { flush() }()
	for _, piece := range pieces {
		b := bytes.Clone(piece)
		for len(b) > 0 {
			if left := d.Data(); left > 0 {
				src := b[:min(left, uint64(len(b)))]
				dst := make([]byte, len(src))
				if fromClient {
					d.Peek(dst, src)
					seen := bytes.Clone(dst)
					d.Unmask(dst, src)
					if !bytes.Equal(seen, dst) {
						panic("Peek and Unmask differ")
					}
				} else {
					copy(dst, src)
					d.Skip(len(src))
				}
				data = append(data, dst...)
				b = b[len(src):]
				continue
			}
			n, event, err := d.Next(b)
			if err != nil {
				return items, err
			}
			b = b[n:]
			switch event {
			case PingPassed:
				flush()
				items = append(items, fmt.Sprintf("ping %q", d.Control()))
			case ClosePassed:
				flush()
				items = append(items, fmt.Sprintf("close %d", d.Code()))
				return items, nil
			}
		}
	}
	return items, nil
}

// masked converts the frames of a server to those of a client.
func masked(t *testing.T, wire []byte) []byte {
	t.Helper()
	var out []byte
	for len(wire) > 0 {
		h, n := ParseHeader(wire)
		if n == 0 {
			return append(out, wire...)
		}
		wire = wire[n:]
		form := h.form
		h.Masked, h.Key = true, 0x11223344
		b := AppendHeader(nil, h)
		if form != 0 && len(b) != n+4 {
			// A length that is not in its shortest form stays as it is.
			b = []byte{b[0], 0x80 | form}
			if form == length16 {
				b = append(b, byte(h.Length>>8), byte(h.Length))
			} else {
				for i := 56; i >= 0; i -= 8 {
					b = append(b, byte(h.Length>>i))
				}
			}
			b = append(b, 0x44, 0x33, 0x22, 0x11)
		}
		out = append(out, b...)
		payload := wire[:min(h.Length, uint64(len(wire)))]
		masked := make([]byte, len(payload))
		Mask(masked, payload, h.Key)
		out = append(out, masked...)
		wire = wire[len(payload):]
	}
	return out
}

// These are the cases of Autobahn's test suite that apply to a tunnel, with
// their numbers, and with bytes instead of text. The cases of compression (12,
// 13) are covered by 3: no extension is negotiated, so every reserved bit is
// refused. Those of the contents of text (6) are covered by 1.1: text is
// refused.
func TestAutobahn(t *testing.T) {
	repeat := strings.Repeat
	big := func(n int) string { return fmt.Sprintf("827f%016x", n) + repeat("fe", n) }
	quoted := func(n int) string { return fmt.Sprintf("%q", bytes.Repeat([]byte{0xfe}, n)) }
	for _, c := range []struct {
		name, wire string // the frames of a server; the client's are the same, masked
		want       string
		err        *Error
	}{
		{"1.1.1 text", "8100", ``, errText},
		{"1.1.2 text", "8101 2a", ``, errText},
		{"1.2.1 empty message", "8200 820141", `"A"`, nil},
		{"1.2.2 125 bytes", "827d" + repeat("fe", 125), quoted(125), nil},
		{"1.2.3 126 bytes", "827e007e" + repeat("fe", 126), quoted(126), nil},
		{"1.2.4 127 bytes", "827e007f" + repeat("fe", 127), quoted(127), nil},
		{"1.2.5 128 bytes", "827e0080" + repeat("fe", 128), quoted(128), nil},
		{"1.2.6 65535 bytes", "827effff" + repeat("fe", 65535), quoted(65535), nil},
		{"1.2.7 65536 bytes", big(65536), quoted(65536), nil},
		{"2.1 ping without payload", "8900", `ping ""`, nil},
		{"2.2 ping with payload", "8904 70696e67", `ping "ping"`, nil},
		{"2.3 ping with binary payload", "8903 00ff80", `ping "\x00\xff\x80"`, nil},
		{"2.4 ping of 125 bytes", "897d" + repeat("fe", 125), "ping " + quoted(125), nil},
		{"2.5 ping of 126 bytes", "897e007e" + repeat("fe", 126), ``, errControlLong},
		{"2.7 unsolicited pong", "8a00", ``, nil},
		{"2.8 unsolicited pong with payload", "8a02 ffff 820141", `"A"`, nil},
		{"2.9 pong, then ping", "8a01ff 890161", `ping "a"`, nil},
		{"2.10 ten pings", repeat("890161", 10), strings.TrimSuffix(repeat(`ping "a"|`, 10), "|"), nil},
		{"3.1 reserved bit 3", "9201 41", ``, errRSV},
		{"3.2 reserved bit 2 after data", "820141 a20141", `"A"`, errRSV},
		{"3.3 reserved bits 2 and 3", "b20141", ``, errRSV},
		{"3.4 reserved bit 1", "c20141", ``, errRSV},
		{"3.5 reserved bits 1 and 3", "d20141", ``, errRSV},
		{"3.6 reserved bits 1 and 2, ping", "e900", ``, errRSV},
		{"3.7 all reserved bits, close", "f800", ``, errRSV},
		{"4.1.1 opcode 3", "8300", ``, errOpcode},
		{"4.1.2 opcode 4", "840141", ``, errOpcode},
		{"4.1.3 opcode 5 after data", "820141 8500", `"A"`, errOpcode},
		{"4.1.4 opcode 6", "8600", ``, errOpcode},
		{"4.1.5 opcode 7", "8700", ``, errOpcode},
		{"4.2.1 opcode 11", "8b00", ``, errOpcode},
		{"4.2.2 opcode 12", "8c0141", ``, errOpcode},
		{"4.2.3 opcode 13 after data", "820141 8d00", `"A"`, errOpcode},
		{"4.2.4 opcode 14", "8e00", ``, errOpcode},
		{"4.2.5 opcode 15", "8f00", ``, errOpcode},
		{"5.1 ping in two fragments", "090161 800162", ``, errFragmented},
		{"5.2 pong in two fragments", "0a0161 800162", ``, errFragmented},
		{"5.3 message in two fragments", "020141 800142", `"AB"`, nil},
		{"5.6 ping between fragments", "020141 890161 800142", `"A"|ping "a"|"B"`, nil},
		{"5.9 continuation of nothing", "800141 820142", ``, errContinuation},
		{"5.10 continuation of nothing, not final", "000141", ``, errContinuation},
		{"5.12 continuation after a message", "820141 000142", `"A"`, errContinuation},
		{"5.15 continuation after fragments", "020141 800142 000143", `"AB"`, errContinuation},
		{"5.18 message inside a message", "020141 820142", `"A"`, errInterleaved},
		{"5.18b fragment of another message inside a message", "020141 020142", `"A"`, errInterleaved},
		{"5.18c text inside a message", "020141 810142", `"A"`, errInterleaved},
		{"5.19 five fragments, two pings", "020141 000142 890161 000143 890162 000144 800145", `"AB"|ping "a"|"C"|ping "b"|"DE"`, nil},
		{"5.x empty fragments", "0200 0000 000141 8000 820142", `"AB"`, nil},
		{"5.x fragmented text", "010141", ``, errText},
		{"7.1.1 close", "820141 880203e8", `"A"|close 1000`, nil},
		{"7.1.2 two closes", "880203e8 880203e8", `close 1000`, nil},
		{"7.1.3 ping after close", "880203e8 8900", `close 1000`, nil},
		{"7.1.4 data after close", "880203e8 820141", `close 1000`, nil},
		{"7.1.5 close inside a message", "020141 880203e8", `"A"|close 1000`, nil},
		{"7.3.1 close without payload", "8800", `close 1005`, nil},
		{"7.3.2 close with one byte", "880103", ``, errCloseLength},
		{"7.3.3 close with code", "880203e8", `close 1000`, nil},
		{"7.3.4 close with reason", "880703e8 48656c6c6f", `close 1000`, nil},
		{"7.3.5 close with the longest reason", "887d03e8" + repeat("2a", 123), `close 1000`, nil},
		{"7.3.6 close with a longer reason", "887e007e03e8" + repeat("2a", 124), ``, errControlLong},
		{"7.5.1 reason beyond ASCII", "880403e8ceba", `close 1000`, nil},
		{"7.5.1 reason cut inside a character", "880303e8ce", ``, errCloseReason},
		{"7.5.1 reason with a surrogate", "880503e8eda080", ``, errCloseReason},
		{"7.7.x code 1001", "880203e9", `close 1001`, nil},
		{"7.7.x code 1002", "880203ea", `close 1002`, nil},
		{"7.7.x code 1003", "880203eb", `close 1003`, nil},
		{"7.7.x code 1007", "880203ef", `close 1007`, nil},
		{"7.7.x code 1008", "880203f0", `close 1008`, nil},
		{"7.7.x code 1009", "880203f1", `close 1009`, nil},
		{"7.7.x code 1010", "880203f2", `close 1010`, nil},
		{"7.7.x code 1011", "880203f3", `close 1011`, nil},
		{"7.7.x code 3000", "88020bb8", `close 3000`, nil},
		{"7.7.x code 3999", "88020f9f", `close 3999`, nil},
		{"7.7.x code 4000", "88020fa0", `close 4000`, nil},
		{"7.7.x code 4999", "88021387", `close 4999`, nil},
		{"7.9.1 code 0", "88020000", ``, errCloseCode},
		{"7.9.2 code 999", "880203e7", ``, errCloseCode},
		{"7.9.3 code 1004", "880203ec", ``, errCloseCode},
		{"7.9.4 code 1005", "880203ed", ``, errCloseCode},
		{"7.9.5 code 1006", "880203ee", ``, errCloseCode},
		{"7.9.6 code 1016", "880203f8", ``, errCloseCode},
		{"7.9.7 code 1100", "8802044c", ``, errCloseCode},
		{"7.9.8 code 2000", "880207d0", ``, errCloseCode},
		{"7.9.9 code 2999", "88020bb7", ``, errCloseCode},
		{"7.13.1 code 5000", "88021388", ``, errCloseCode},
		{"7.13.2 code 65535", "8802ffff", ``, errCloseCode},
		{"9.2.1 64 KiB", big(65536), quoted(65536), nil},
		{"9.4 message in fragments of 64 bytes", "0240" + repeat("fe", 64) + repeat("0040"+repeat("fe", 64), 10) + "8000", quoted(11 * 64), nil},
		{"10.1 beyond the suite: 125 bytes in 2 bytes of length", "827e007d" + repeat("fe", 125), ``, errLengthForm},
		{"10.1 beyond the suite: 65535 bytes in 8 bytes of length", "827f000000000000ffff", ``, errLengthForm},
		{"10.1 beyond the suite: a negative length", "827f8000000000000000", ``, errLengthSign},
		{"10.1 beyond the suite: the longest length", "827f7fffffffffffffff 41", `"A"`, nil},
		{"10.1 beyond the suite: control frame in 8 bytes of length", "897f0000000000000001", ``, errControlLong},
		{"10.1 beyond the suite: fragmented close", "080203e8", ``, errFragmented},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, fromClient := range []bool{false, true} {
				wire := unhex(t, c.wire)
				if fromClient {
					wire = masked(t, wire)
				}
				check := func(pieces ...[]byte) {
					t.Helper()
					items, err := decode(fromClient, pieces...)
					assert.Equal(t, c.want, strings.Join(items, "|"))
					if c.err != nil {
						assert.Equal(t, c.err, err)
					} else {
						assert.NoError(t, err)
					}
				}
				check(wire)
				var bytewise [][]byte
				for i := range wire {
					bytewise = append(bytewise, wire[i:i+1])
					if len(wire) < 300 {
						check(wire[:i], wire[i:])
					}
				}
				check(bytewise...)
			}
		})
	}
}

// The client must mask, and the server must not.
func TestMaskingByRole(t *testing.T) {
	_, err := decode(true, unhex(t, "8201"))
	assert.Equal(t, errUnmasked, err)
	_, err = decode(true, unhex(t, "8900"))
	assert.Equal(t, errUnmasked, err)
	_, err = decode(false, unhex(t, "8281"))
	assert.Equal(t, errMasked, err)
	_, err = decode(false, unhex(t, "8880"))
	assert.Equal(t, errMasked, err)
}

// A fault in the first two bytes of a header is reported before the rest
// arrives.
func TestDecoderErrsEarly(t *testing.T) {
	for wire, want := range map[string]*Error{
		"c27f": errRSV, "837f": errOpcode, "82ff": errMasked, "897f": errControlLong, "817e": errText, "807e": errContinuation,
	} {
		_, err := decode(false, unhex(t, wire))
		assert.Equal(t, want, err, wire)
	}
}

func TestErrorCodes(t *testing.T) {
	assert.Equal(t, uint16(CodeUnsupported), errText.Code)
	for _, e := range []*Error{errRSV, errOpcode, errUnmasked, errMasked, errFragmented, errControlLong, errContinuation,
		errInterleaved, errLengthForm, errLengthSign, errCloseLength, errCloseCode, errCloseReason} {
		assert.Equal(t, uint16(CodeProtocol), e.Code, e.Error())
	}
}

// Decoding allocates only once, for the payloads of control frames.
func TestDecoderAllocations(t *testing.T) {
	wire := masked(t, unhex(t, "890470696e67 020141 0005 4142434445 8a00 8000 827e0100"+strings.Repeat("41", 256)))
	d := NewDecoder(true)
	dst := make([]byte, 512)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		for step := 1; step < 20; step++ {
			for b := wire; len(b) > 0; {
				n := min(step, len(b))
				if left := d.Data(); left > 0 {
					n = int(min(left, uint64(n)))
					d.Peek(dst[:n], b[:n])
					d.Skip(n)
				} else {
					n, _, _ = d.Next(b[:n])
				}
				b = b[n:]
			}
		}
	}))
}

// For every input, the pieces do not change the result.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte("\x82\x05hello\x89\x01a\x88\x02\x03\xe8"), false, uint64(1))
	f.Add([]byte("\x02\x81\x01\x02\x03\x04\x40\x80\x80\x01\x02\x03\x04"), true, uint64(2))
	f.Add([]byte("\x82\x7e\x01\x00"+strings.Repeat("x", 256)), false, uint64(3))
	f.Fuzz(func(t *testing.T, stream []byte, fromClient bool, seed uint64) {
		want, wantErr := decode(fromClient, stream)
		random := rand.New(rand.NewPCG(seed, 0))
		var pieces [][]byte
		for b := stream; len(b) > 0; {
			n := 1 + random.IntN(min(len(b), 1+random.IntN(40)))
			pieces = append(pieces, b[:n])
			b = b[n:]
		}
		got, err := decode(fromClient, pieces...)
		assert.Equal(t, want, got)
		assert.Equal(t, wantErr, err)
	})
}

// Decoding an encoded message returns the same message.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("hello"), uint32(7), true, uint8(2))
	f.Fuzz(func(t *testing.T, payload []byte, key uint32, fromClient bool, fragments uint8) {
		var wire []byte
		rest := payload
		for i := range fragments {
			n := len(rest) / int(fragments-i)
			h := Header{Opcode: Continuation, Fin: i == fragments-1, Masked: fromClient, Length: uint64(n)}
			if i == 0 {
				h.Opcode = Binary
			}
			if fromClient {
				h.Key = Key(key + uint32(i))
			}
			wire = AppendHeader(wire, h)
			wire = append(wire, rest[:n]...)
			Mask(wire[len(wire)-n:], rest[:n], h.Key)
			rest = rest[n:]
		}
		items, err := decode(fromClient, wire)
		assert.NoError(t, err)
		if fragments > 0 && len(payload) > 0 {
			assert.Equal(t, []string{fmt.Sprintf("%q", payload)}, items)
		}
	})
}
