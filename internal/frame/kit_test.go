package frame

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
)

// A kind is a carrier and the role of the Conn under test.
type kind struct{ webSocket, client bool }

func (k kind) String() string {
	return map[bool]string{false: "capsules", true: "websocket"}[k.webSocket] + "/" +
		map[bool]string{false: "server", true: "client"}[k.client]
}

var kinds = []kind{{false, false}, {false, true}, {true, false}, {true, true}}

// eachKind runs a test for each kind, each in its own synctest bubble.
func eachKind(t *testing.T, test func(t *testing.T, k kind)) {
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, k) })
		})
	}
}

// window is the window of a link for tests in which its size does not matter.
const window = 1 << 20

// pair returns a Conn over a link, and the peer at its other end.
func (k kind) pair(t *testing.T, window int, cfg Config) (*Conn, *peer) {
	a, b := newLink(window)
	return k.above(a, cfg), newPeer(t, k, b)
}

func (k kind) above(transport net.Conn, cfg Config) *Conn {
	cfg.WebSocket, cfg.Client = k.webSocket, k.client
	return New(transport, cfg)
}

// A peer is the other side of a Conn. It is an independent implementation, written from the
// description of the protocol. It records what it receives, and sends what the test gives it.
type peer struct {
	t    *testing.T
	kind // of the Conn at the other end
	link *link
	out  chan []byte

	mu      sync.Mutex
	got     []string
	answers bool // it answers PINGs
}

func newPeer(t *testing.T, k kind, l *link) *peer {
	p := &peer{t: t, kind: k, link: l, out: make(chan []byte, 1000), answers: true}
	done := make(chan bool)
	go p.write(done)
	go p.read()
	t.Cleanup(func() {
		p.resume()
		l.Close()
		close(done) // out is not closed, because the peer may be sending an answer to it
		synctest.Wait()
	})
	return p
}

func (p *peer) write(done chan bool) {
	for {
		select {
		case b := <-p.out:
			p.link.Write(b)
		case <-done:
			return
		}
	}
}

// stall makes the peer stop reading. A read that is already in progress returns nothing
// either.
func (p *peer) stall() { p.setStall(true) }

// resume makes the peer read again.
func (p *peer) resume() { p.setStall(false) }

func (p *peer) setStall(stall bool) {
	d := p.link.in
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stall = stall
	d.change.Broadcast()
}

// stopAnswering makes the peer stop answering PINGs.
func (p *peer) stopAnswering() {
	p.mu.Lock()
	p.answers = false
	p.mu.Unlock()
}

func (p *peer) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, fmt.Sprintf(format, args...))
}

// received waits until nothing more can arrive. It returns what has arrived since the last
// call.
func (p *peer) received() string {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	got := strings.Join(p.got, ", ")
	p.got = nil
	return got
}

func (p *peer) read() {
	var r io.Reader = bufio.NewReaderSize(p.link, 16) // a stall takes effect soon with a small buffer
	var err error
	for err == nil {
		if p.webSocket {
			err = p.readFrame(r)
		} else {
			err = p.readCapsule(r)
		}
	}
	switch {
	case err == io.EOF:
		p.note("end")
	case errors.Is(err, io.ErrUnexpectedEOF):
		p.note("end inside")
	case errors.Is(err, syscall.ECONNRESET):
		p.note("reset")
	case errors.Is(err, net.ErrClosed):
	default:
		p.note("error: %v", err)
	}
}

func (p *peer) readFrame(r io.Reader) error {
	var h [2]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return err
	}
	length := int64(h[1] & 0x7f)
	if length >= 126 {
		ext := make([]byte, map[int64]int{126: 2, 127: 8}[length])
		if _, err := io.ReadFull(r, ext); err != nil {
			return noEOF(err)
		}
		form := length
		length = 0
		for _, b := range ext {
			length = length<<8 | int64(b)
		}
		assert.Greater(p.t, length, map[int64]int64{126: 125, 127: 65535}[form], "the shortest length")
	}
	assert.Equal(p.t, p.client, h[1]&0x80 != 0, "a client masks, a server does not")
	var key [4]byte
	if p.client {
		if _, err := io.ReadFull(r, key[:]); err != nil {
			return noEOF(err)
		}
	}
	assert.LessOrEqual(p.t, length, int64(32776))
	payload := io.LimitReader(&unmask{r: r, key: key}, length)
	if h[0] == 0x82 {
		// Each message contains exactly one capsule.
		if err := p.readCapsule(payload); err != nil {
			return noEOF(err)
		}
		if n, err := io.Copy(io.Discard, payload); n != 0 || err != nil {
			p.note("%d bytes after the capsule", n)
		}
		return nil
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(payload, b); err != nil {
		return noEOF(err)
	}
	switch h[0] {
	case 0x88:
		if len(b) == 0 {
			p.note("close")
		} else {
			p.note("close %d%s", binary.BigEndian.Uint16(b), b[2:])
		}
	case 0x89:
		p.note("frame ping %s", b)
	case 0x8a:
		p.note("frame pong %s", b)
	default:
		p.note("frame %x", h[0])
	}
	return nil
}

type unmask struct {
	r   io.Reader
	key [4]byte
	at  int
}

func (u *unmask) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	for i := range p[:n] {
		p[i] ^= u.key[u.at%4]
		u.at++
	}
	return n, err
}

func (p *peer) readCapsule(r io.Reader) error {
	t, err := readInt(r)
	if err != nil {
		return err
	}
	length, err := readInt(r)
	if err != nil {
		return noEOF(err)
	}
	assert.LessOrEqual(p.t, length, uint64(32768))
	value := make([]byte, length)
	if n, err := io.ReadFull(r, value); err != nil {
		p.note("half of %x: %s", t, value[:n])
		return noEOF(err)
	}
	switch t {
	case 0x2d70f100:
		assert.NotEmpty(p.t, value, "an empty DATA capsule is allowed, but useless")
		p.note("data %s", value)
	case 0x2d70f101:
		p.note("%s", strings.TrimSuffix("final "+string(value), " "))
	case 0x2d70f104:
		p.note("ping %d", binary.BigEndian.Uint64(value))
		p.mu.Lock()
		answers := p.answers
		p.mu.Unlock()
		if answers {
			p.send(p.control(0x2d70f105, binary.BigEndian.Uint64(value)))
		}
	case 0x2d70f105:
		p.note("pong %d", binary.BigEndian.Uint64(value))
	default:
		p.note("type %x", t)
	}
	return nil
}

func readInt(r io.Reader) (v uint64, err error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return 0, err
	}
	n := 1 << (b[0] >> 6)
	if _, err := io.ReadFull(r, b[1:n]); err != nil {
		return 0, noEOF(err)
	}
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// send sends b in one piece, without waiting. In several pieces, the Conn could act on the
// first one before it has read the next.
func (p *peer) send(b ...[]byte) { p.out <- join(b...) }

// The functions below return the messages of the peer as bytes.

func (p *peer) data(s string) []byte     { return p.capsule(0x2d70f100, s) }
func (p *peer) final(s string) []byte    { return p.capsule(0x2d70f101, s) }
func (p *peer) ping(value uint64) []byte { return p.control(0x2d70f104, value) }
func (p *peer) pong(value uint64) []byte { return p.control(0x2d70f105, value) }

func (p *peer) control(t uint32, value uint64) []byte {
	return p.capsule(t, string(binary.BigEndian.AppendUint64(nil, value)))
}

// capsule returns a capsule whose length takes 4 bytes. With WebSocket, it is in a message.
func (p *peer) capsule(t uint32, value string) []byte {
	b := binary.BigEndian.AppendUint32(nil, t|0x80000000)
	b = binary.BigEndian.AppendUint32(b, uint32(len(value))|0x80000000)
	return p.message(append(b, value...))
}

// message returns b, with WebSocket in a message.
func (p *peer) message(b []byte) []byte {
	if !p.webSocket {
		return b
	}
	return p.frame(0x82, b)
}

// frame returns a frame, which is masked if the peer is the client.
func (p *peer) frame(first byte, payload []byte) []byte {
	b := []byte{first, 0}
	switch {
	case len(payload) < 126:
		b[1] = byte(len(payload))
	case len(payload) < 65536:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(len(payload)))
	}
	if p.client {
		return append(b, payload...)
	}
	b[1] |= 0x80
	key := [4]byte{0xa1, 0xb2, 0xc3, 0xd4}
	b = append(b, key[:]...)
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}

func (p *peer) closeFrame(code uint16) []byte {
	return p.frame(0x88, binary.BigEndian.AppendUint16(nil, code))
}

func join(b ...[]byte) []byte {
	var all []byte
	for _, b := range b {
		all = append(all, b...)
	}
	return all
}
