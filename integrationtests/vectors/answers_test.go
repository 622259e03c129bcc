package vectors_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// sent is what a side has sent. Parsing it checks the rules for senders.
type sent struct {
	pongs   []string // values of PONG capsules
	wsPongs []string // payloads of Pong frames
	closes  []string // codes of Close frames, or "none"
	final   bool     // FINAL_DATA was sent
}

// parseSent parses what a side has sent. It requires that no rule for senders is broken.
func parseSent(t *testing.T, b []byte, webSocket, fromClient bool) (s sent) {
	t.Helper()
	for len(b) > 0 {
		if !webSocket {
			b = s.capsule(t, b)
			continue
		}
		var opcode byte
		var payload []byte
		opcode, payload, b = takeFrame(t, b, fromClient)
		switch opcode {
		case 0x2:
			require.Empty(t, s.capsule(t, payload), "one capsule in each message: M53")
		case 0xa:
			s.wsPongs = append(s.wsPongs, string(payload))
		case 0x8:
			code := "none"
			if len(payload) > 0 {
				require.Len(t, payload, 2, "a Close has only a code: M64")
				code = fmt.Sprint(binary.BigEndian.Uint16(payload))
			}
			s.closes = append(s.closes, code)
			require.Empty(t, b, "nothing follows a Close: M64")
		default:
			require.Failf(t, "a frame that must not be sent", "opcode %x", opcode)
		}
	}
	return s
}

// takeFrame parses one frame at the beginning of b.
func takeFrame(t *testing.T, b []byte, fromClient bool) (opcode byte, payload, rest []byte) {
	t.Helper()
	require.GreaterOrEqual(t, len(b), 2)
	require.EqualValues(t, 0x80, b[0]&0xf0, "only FIN is set: M53")
	require.Equal(t, fromClient, b[1]&0x80 != 0, "a client masks: M53")
	opcode = b[0] & 0xf
	length := int(b[1] & 0x7f)
	require.LessOrEqual(t, length, 125, "no answer is longer")
	b = b[2:]
	var key [4]byte
	if fromClient {
		b = b[copy(key[:], b):]
	}
	require.GreaterOrEqual(t, len(b), length)
	for i, c := range b[:length] {
		payload = append(payload, c^key[i%4])
	}
	return opcode, payload, b[length:]
}

// capsule parses one capsule at the beginning of b.
func (s *sent) capsule(t *testing.T, b []byte) (rest []byte) {
	t.Helper()
	require.GreaterOrEqual(t, len(b), 5)
	require.Equal(t, "\xad\x70\xf1", string(b[:3]), "a type of the document")
	length := int(b[4])
	require.Less(t, length, 64, "no answer is longer")
	require.GreaterOrEqual(t, len(b), 5+length)
	value := string(b[5 : 5+length])
	switch b[3] {
	case 0x01:
		require.False(t, s.final, "FINAL_DATA is sent once: M34")
		s.final = true
	case 0x04, 0x05:
		require.Len(t, value, 8, "M36")
		if b[3] == 0x05 {
			s.pongs = append(s.pongs, value)
		}
	default:
		require.Failf(t, "a capsule that must not be sent", "type %x", b[3])
	}
	return b[5+length:]
}
