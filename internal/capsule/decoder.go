package capsule

import (
	"encoding/binary"
	"errors"
)

// The faults of a stream. Each is a protocol error. After it, nothing more can
// be decoded.
var (
	errFirst      = errors.New("the stream does not begin with a capsule of ours: the peer does not frame, or not as we do")
	errTypeForm   = errors.New("the type of a capsule is not in its shortest form")
	errControl    = errors.New("the value of a PING or PONG capsule is not 8 bytes long")
	errUnknown    = errors.New("a capsule of an unknown type is longer than 65536 bytes")
	errAfterFinal = errors.New("application data behind FINAL_DATA")
)

// prefix is the beginning of the type of each known capsule. A stream must
// begin with it. So the first byte of a peer that does not frame is noticed at
// once.
const prefix = "\xad\x70\xf1"

// Event is what [Decoder.Next] has found.
type Event uint8

const (
	None       Event = iota
	PingPassed       // a complete PING; [Decoder.Value] is its value
	PongPassed       // a complete PONG; [Decoder.Value] is its value
)

// Decoder decodes one direction of a framed tunnel. The zero value stands at
// the beginning of the stream.
//
// The caller asks [Decoder.Data] how many application bytes come next. It moves
// them to their destination and reports them with [Decoder.Take]. Everything
// else goes through [Decoder.Next]. So application bytes are never copied here,
// and an application can get the bytes of a capsule that is not complete.
type Decoder struct {
	left  uint64 // bytes of the current value that are still to come
	kind  kind   // of the current capsule; undefined while left is 0
	began bool   // at least one capsule has begun
	final bool   // the header of FINAL_DATA has been read
	have  uint8  // bytes in buf
	buf   [MaxHeader]byte
}

// A kind is what a Decoder does with the value of a capsule. A Type would take 8 bytes in
// each Decoder.
type kind uint8

const (
	skipped kind = iota // of an unknown type
	application
	ping
	pong
)

// Data returns how many application bytes come next, without a header among
// them. It is 0 if [Decoder.Next] must see the next byte.
func (d *Decoder) Data() uint64 {
	if d.kind == application {
		return d.left
	}
	return 0
}

// Take reports that the next n application bytes have been taken from the
// stream. n is at most [Decoder.Data].
func (d *Decoder) Take(n int) { d.left -= uint64(n) }

// Ended reports whether FINAL_DATA and all its bytes have been read. Only PING,
// PONG and capsules of unknown types may follow.
func (d *Decoder) Ended() bool { return d.final && d.Data() == 0 }

// Value returns the value of the PING or PONG that Next has reported. It is valid until
// the next call.
func (d *Decoder) Value() uint64 { return binary.BigEndian.Uint64(d.buf[:]) }

// Next consumes bytes that are not application data from the beginning of b and
// returns their number. It stops after each header, and after each PING and
// PONG. It must not be called while [Decoder.Data] is not 0. After an error the
// Decoder must not be used.
func (d *Decoder) Next(b []byte) (n int, event Event, err error) {
	if d.left == 0 {
		n, err = d.header(b)
		return n, None, err
	}
	if d.kind == skipped {
		n = int(min(d.left, uint64(len(b))))
		d.left -= uint64(n)
		return n, None, nil
	}
	n = copy(d.buf[d.have:ControlLen], b)
	d.have += uint8(n)
	d.left -= uint64(n)
	if d.left > 0 {
		return n, None, nil
	}
	d.have = 0
	if d.kind == ping {
		return n, PingPassed, nil
	}
	return n, PongPassed, nil
}

// header consumes the bytes of a header.
func (d *Decoder) header(b []byte) (n int, err error) {
	had := int(d.have)
	if had > 0 {
		b = d.buf[:had+copy(d.buf[had:], b)]
	}
	if n, err = d.parse(b); n > 0 || err != nil {
		d.have = 0
		return n - had, err
	}
	// The header is incomplete, so there is room for it in d.buf.
	d.have = uint8(copy(d.buf[:], b))
	return len(b) - had, nil
}

// parse parses the header at the beginning of b, if b contains all of it, and
// begins the capsule.
func (d *Decoder) parse(b []byte) (n int, err error) {
	if n := min(len(b), len(prefix)); !d.began && string(b[:n]) != prefix[:n] {
		return 0, errFirst
	}
	h, n, err := ParseHeader(b)
	if n == 0 || err != nil {
		return 0, err
	}
	k := kindOf(h.Type)
	switch k {
	case application:
		if d.final {
			return 0, errAfterFinal
		}
		d.final = h.Type == FinalData
	case ping, pong:
		if h.Length != ControlLen {
			return 0, errControl
		}
	default:
		if !d.began {
			return 0, errFirst
		}
		if h.Length > MaxUnknown {
			return 0, errUnknown
		}
	}
	d.began, d.kind, d.left = true, k, h.Length
	return n, nil
}

func kindOf(t Type) kind {
	switch t {
	case Data, FinalData:
		return application
	case Ping:
		return ping
	case Pong:
		return pong
	}
	return skipped
}
