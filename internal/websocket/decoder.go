package websocket

// Event is what [Decoder.Next] has found.
type Event uint8

const (
	None        Event = iota
	PingPassed        // a complete Ping; [Decoder.Control] is its payload
	ClosePassed       // a complete Close; [Decoder.Code] is its code
)

// Decoder decodes the frames of one direction. The payloads of its binary
// messages are one stream. The boundaries of messages and frames mean nothing,
// because gateways may change them.
//
// The caller asks [Decoder.Data] how many bytes of payload come next. It takes
// them with [Decoder.Unmask], or with [Decoder.Skip] if they are not masked or
// not needed. Everything else goes through [Decoder.Next].
type Decoder struct {
	left       uint64            // bytes of the current payload that are still to come
	control    *[MaxControl]byte // the payload of a control frame; allocated when the first one has a payload
	key        Key               // the key for the next byte of the payload
	fromClient bool
	inMessage  bool   // the message of the last data frame is not complete
	opcode     Opcode // of the current frame
	gathered   uint8  // the number of bytes in control
	have       uint8  // the number of bytes in header
	header     [MaxHeader]byte
}

// NewDecoder returns a Decoder for the bytes of a client, or of a server.
func NewDecoder(fromClient bool) Decoder { return Decoder{fromClient: fromClient, opcode: Binary} }

// Data returns how many bytes of a binary message come next, without a header
// among them. It is 0 if [Decoder.Next] must see the next byte.
func (d *Decoder) Data() uint64 {
	if d.opcode.isControl() {
		return 0
	}
	return d.left
}

// Unmask consumes the next len(src) bytes of payload and writes them to dst
// without their mask. len(src) is at least 1 and at most [Decoder.Data]. dst
// may be src, or overlap it from below: see [MaskMove].
func (d *Decoder) Unmask(dst, src []byte) {
	d.left -= uint64(len(src))
	if &dst[0] == &src[0] {
		d.key = Mask(dst, src, d.key)
	} else {
		d.key = MaskMove(dst, src, d.key)
	}
}

// Peek writes the next len(src) bytes of payload to dst without their mask, and
// does not consume them.
func (d *Decoder) Peek(dst, src []byte) { Mask(dst, src, d.key) }

// Skip consumes the next n bytes of payload.
func (d *Decoder) Skip(n int) {
	d.left -= uint64(n)
	d.key = d.key.At(n)
}

// Control returns the payload of the Ping that Next has reported. It is valid
// until the next call.
func (d *Decoder) Control() []byte {
	if d.gathered == 0 {
		return nil
	}
	return d.control[:d.gathered]
}

// Code returns the code of the Close that Next has reported. It is valid until the next
// call.
func (d *Decoder) Code() uint16 {
	code, _ := ParseClose(d.Control())
	return code
}

// Next consumes bytes that are not in binary messages from the beginning of b
// and returns their number. It stops after each header and after each control
// frame. It must not be called while [Decoder.Data] is not 0. After an error,
// and after [ClosePassed], the Decoder must not be used.
func (d *Decoder) Next(b []byte) (n int, event Event, err error) {
	if d.left == 0 {
		if n, err = d.parse(b); err != nil {
			return n, None, err
		}
	} else {
		n = d.gather(b)
	}
	if d.left > 0 || d.have > 0 || !d.opcode.isControl() {
		return n, None, nil
	}
	event, err = d.passed()
	return n, event, err
}

// parse consumes the bytes of a header. The header is complete when have is 0
// again.
func (d *Decoder) parse(b []byte) (n int, err error) {
	had := int(d.have)
	if had > 0 {
		b = d.header[:had+copy(d.header[had:], b)]
	}
	if h, n := ParseHeader(b); n > 0 {
		d.have = 0
		return n - had, d.begin(h)
	}
	// The header is incomplete, so there is room for it in d.header.
	d.have = uint8(copy(d.header[:], b))
	return len(b) - had, d.checkBegun()
}

// checkBegun checks an incomplete header as far as it goes.
func (d *Decoder) checkBegun() error {
	if d.have < 2 {
		return nil
	}
	return parseFlags(d.header[:]).checkFlags(d.fromClient, d.inMessage)
}

func (d *Decoder) begin(h Header) error {
	if err := h.Check(d.fromClient, d.inMessage); err != nil {
		return err
	}
	if !h.Opcode.isControl() {
		d.inMessage = !h.Fin
	}
	d.opcode, d.left, d.key = h.Opcode, h.Length, h.Key
	d.gathered = 0
	return nil
}

// gather consumes bytes of the payload of a control frame.
func (d *Decoder) gather(b []byte) int {
	if d.control == nil {
		d.control = new([MaxControl]byte)
	}
	b = b[:min(d.left, uint64(len(b)))]
	d.key = Mask(d.control[d.gathered:], b, d.key)
	d.gathered += uint8(len(b))
	d.left -= uint64(len(b))
	return len(b)
}

// passed reports the control frame that is now complete. A Pong is ignored,
// because no Ping was sent.
func (d *Decoder) passed() (Event, error) {
	switch d.opcode {
	case Ping:
		return PingPassed, nil
	case Close:
		if _, err := ParseClose(d.Control()); err != nil {
			return None, err
		}
		return ClosePassed, nil
	}
	return None, nil
}
