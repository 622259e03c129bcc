package attack_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// The server of these tests sends no PINGs, so that it does nothing by itself.
var _ = attackFrame()

func attackFrame() bool {
	attackTune["framed"] = func(l *preflight.PreflightListener) { l.KeepAlivePeriod = -1 }
	return true
}

// An attackCarrier is how the capsules of a tunnel travel, as an attacker sends them.
type attackCarrier struct {
	name      string
	webSocket bool
	request   string
}

var attackCarriers = []attackCarrier{
	{"framed", false, "GET /t HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Framing: capsule\r\n\r\n"},
	{"websocket", true, "GET /t HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: preflight.v1\r\n\r\n"},
}

// Types of capsules. The last one is unknown.
const (
	attackData    = 0x2d70f100
	attackFinal   = 0x2d70f101
	attackPing    = 0x2d70f104
	attackUnknown = 0x2d70f0ff
)

// capsule encodes a capsule and its message. The length is that of value, unless it is given.
func (a attackCarrier) capsule(kind uint32, value string, length ...uint64) string {
	b := binary.BigEndian.AppendUint32(nil, 0x8000_0000|kind)
	n := uint64(len(value))
	if len(length) > 0 {
		n = length[0]
	}
	b = binary.BigEndian.AppendUint64(b, 0xc000_0000_0000_0000|n)
	return a.message(string(b) + value)
}

// message puts bytes into a message, if there are messages. Its mask changes nothing.
func (a attackCarrier) message(b string) string {
	if !a.webSocket {
		return b
	}
	return attackFrameOf(0x82, b, uint64(len(b)))
}

func attackFrameOf(first byte, payload string, length uint64) string {
	head := []byte{first, 0x80}
	switch {
	case length > 65535:
		head[1] |= 127
		head = binary.BigEndian.AppendUint64(head, length)
	case length > 125:
		head[1] |= 126
		head = binary.BigEndian.AppendUint16(head, uint16(length))
	default:
		head[1] |= byte(length)
	}
	return string(head) + "\x00\x00\x00\x00" + payload
}

// byByte puts each byte of a capsule into a frame of its own.
func (a attackCarrier) byByte(capsule string) string {
	if !a.webSocket {
		return capsule
	}
	var b strings.Builder
	for i := range len(capsule) {
		b.WriteString(a.message(capsule[i : i+1]))
	}
	return b.String()
}

// An attackTunnel is a tunnel of an attacker.
type attackTunnel struct {
	*net.TCPConn
	attackCarrier
	r *bufio.Reader
}

// attackTunnels opens n tunnels. A tunnel sends what send returns for it.
func (s *attackServer) attackTunnels(t testing.TB, a attackCarrier, n int, send string) []*attackTunnel {
	t.Helper()
	tunnels := make([]*attackTunnel, n)
	conns := s.flood(t, n, a.request)
	attackEach(t, n, 16, func(i int) error {
		p := &attackTunnel{TCPConn: conns[i], attackCarrier: a, r: bufio.NewReaderSize(conns[i], 512)}
		tunnels[i] = p
		line, err := p.r.ReadString('\n')
		if err == nil && !strings.HasPrefix(line, "HTTP/1.1 101 ") {
			err = fmt.Errorf("the server sent %q", line)
		}
		for err == nil && line != "\r\n" {
			line, err = p.r.ReadString('\n')
		}
		if err == nil {
			_, err = io.WriteString(p, send)
		}
		return err
	})
	return tunnels
}

// next reads a capsule, or a frame that is no message, of which it returns the first byte.
func (p *attackTunnel) next() (first byte, kind uint32, value string, err error) {
	var head [4]byte
	if p.webSocket {
		if _, err := io.ReadFull(p.r, head[:2]); err != nil {
			return 0, 0, "", err
		}
		first = head[0]
		length := int(head[1])
		if length == 126 {
			if _, err := io.ReadFull(p.r, head[:2]); err != nil {
				return 0, 0, "", err
			}
			length = int(binary.BigEndian.Uint16(head[:]))
		}
		if first != 0x82 {
			b := make([]byte, length)
			_, err := io.ReadFull(p.r, b)
			return first, 0, string(b), err
		}
	}
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return 0, 0, "", err
	}
	form, err := p.r.ReadByte()
	if err != nil {
		return 0, 0, "", err
	}
	length := int(form & 0x3f)
	for range 1<<(form>>6) - 1 {
		c, err := p.r.ReadByte()
		if err != nil {
			return 0, 0, "", err
		}
		length = length<<8 | int(c)
	}
	b := make([]byte, length)
	_, err = io.ReadFull(p.r, b)
	return first, binary.BigEndian.Uint32(head[:]) & 0x3fff_ffff, string(b), err
}

// echoed requires that the application sends text back. Answers to PINGs may stand before.
func (p *attackTunnel) echoed(text string) error {
	for text != "" {
		_, kind, value, err := p.next()
		if err != nil {
			return err
		}
		if kind != attackData {
			continue
		}
		if !strings.HasPrefix(text, value) {
			return fmt.Errorf("the echo is %q", value)
		}
		text = text[len(value):]
	}
	return nil
}

// talk requires that the application answers.
func (p *attackTunnel) talk() error {
	const text = "\x00hello"
	if _, err := io.WriteString(p, p.capsule(attackData, text)); err != nil {
		return err
	}
	return p.echoed(text)
}

// refused requires that the server ends the connection, with a Close frame on WebSocket, and
// without a word of the application.
func (p *attackTunnel) refused() error {
	closed := false
	for {
		first, kind, value, err := p.next()
		switch {
		case err == io.EOF && closed == p.webSocket:
			return nil
		case err != nil:
			return err
		case first == 0x88 && value == "\x03\xea":
			closed = true
		default:
			return fmt.Errorf("the server sent %x %x %q", first, kind, value)
		}
	}
}

func eachAttackCarrier(t *testing.T, test func(t *testing.T, s *attackServer, a attackCarrier)) {
	for _, a := range attackCarriers {
		t.Run(a.name, func(t *testing.T) {
			test(t, attackStart(t, attackConfig{Tune: "framed", MaxPending: 2 * attackers, HandshakeTimeout: attackLong}), a)
		})
	}
}

// Ten thousand tunnels whose bytes come one by one, each in a frame of its own, are served,
// and disturb no other client.
func TestAttackTinyFrames(t *testing.T) {
	const text = "one by one"
	eachAttackCarrier(t, func(t *testing.T, s *attackServer, a attackCarrier) {
		bare := attackCarrier{}
		var send strings.Builder
		for i := range len(text) {
			send.WriteString(a.byByte(bare.capsule(attackData, text[i:i+1])))
		}
		tunnels := s.attackTunnels(t, a, attackers, send.String())
		attackEach(t, 50, 4, func(int) error { return s.good() })
		attackEach(t, attackers, 16, func(i int) error { return tunnels[i].echoed(text) })
		s.holds(t, attackers)
		attackEach(t, attackers, 16, func(i int) error { return tunnels[i].Close() })
		s.forgets(t)
	})
}

// Clients that stop inside a header of a frame or of a capsule are kept, because a tunnel may
// be silent, and disturb no other client.
func TestAttackHalfHeaders(t *testing.T) {
	const clients = 1000
	eachAttackCarrier(t, func(t *testing.T, s *attackServer, a attackCarrier) {
		whole := a.capsule(attackData, strings.Repeat("x", 200))
		header := len(whole) - 200
		tunnels := s.attackTunnels(t, a, clients, "")
		for at := range header {
			attackEach(t, clients, 16, func(i int) error {
				if i%header <= at {
					return nil // it goes no further
				}
				_, err := io.WriteString(tunnels[i], whole[at:at+1])
				return err
			})
			require.NoError(t, s.good())
		}
		s.holds(t, clients)
		attackEach(t, clients, 16, func(i int) error {
			if _, err := io.WriteString(tunnels[i], whole[i%header:]); err != nil {
				return err
			}
			return tunnels[i].echoed(strings.Repeat("x", 200))
		})
		attackEach(t, clients, 16, func(i int) error { return tunnels[i].Close() })
		s.forgets(t)
	})
}

// Clients that ping without end, and read no answer, get one goroutine each beside that of
// the application, and delay nobody.
func TestAttackPings(t *testing.T) {
	const clients, pings = 100, 5_000
	eachAttackCarrier(t, func(t *testing.T, s *attackServer, a attackCarrier) {
		for _, ping := range a.pings() {
			tunnels := s.attackTunnels(t, a, clients, a.capsule(attackData, ""))
			many := strings.Repeat(ping, 1000)
			attackEach(t, clients, 16, func(i int) error {
				for range pings / 1000 {
					if _, err := io.WriteString(tunnels[i], many); err != nil {
						return err
					}
				}
				return nil
			})
			now := s.stats(t, "stats")
			require.LessOrEqual(t, now.Goroutines, s.base.Goroutines+2*clients)
			attackEach(t, 20, 4, func(int) error { return s.good() })
			attackEach(t, clients, 16, func(i int) error { return tunnels[i].talk() })
			attackEach(t, clients, 16, func(i int) error { return tunnels[i].Close() })
			s.forgets(t)
		}
	})
}

// pings are the PINGs of the carrier.
func (a attackCarrier) pings() []string {
	pings := []string{a.capsule(attackPing, "12345678")}
	if a.webSocket {
		pings = append(pings, attackFrameOf(0x89, strings.Repeat("p", 125), 125))
	}
	return pings
}

// Capsules of unknown types are skipped without end. One that is too long, and would hide the
// end of the stream, ends the connection when its header has come.
func TestAttackUnknownCapsules(t *testing.T) {
	const clients, capsules = 100, 8
	eachAttackCarrier(t, func(t *testing.T, s *attackServer, a attackCarrier) {
		unknown := a.capsule(attackUnknown, strings.Repeat("u", 1<<16))
		tunnels := s.attackTunnels(t, a, clients, a.capsule(attackData, ""))
		attackEach(t, clients, 16, func(i int) error {
			for range capsules {
				if _, err := io.WriteString(tunnels[i], unknown); err != nil {
					return err
				}
			}
			return tunnels[i].talk()
		})
		attackEach(t, clients, 16, func(i int) error {
			if _, err := io.WriteString(tunnels[i], a.capsule(attackUnknown, "", 1<<16+1)); err != nil {
				return err
			}
			return tunnels[i].refused()
		})
		require.NoError(t, s.good())
		attackEach(t, clients, 16, func(i int) error { return tunnels[i].Close() })
		s.forgets(t)
	})
}

// A length that is declared reserves nothing, however large it is. What comes of it is passed
// on, and the end of the connection is an early end.
func TestAttackGiantLengths(t *testing.T) {
	const clients = 1000
	eachAttackCarrier(t, func(t *testing.T, s *attackServer, a attackCarrier) {
		giant := a.capsule(attackData, "x", 1<<62-1)
		if a.webSocket {
			giant = attackFrameOf(0x82, attackCarrier{}.capsule(attackData, "x", 1<<62-1), 1<<63-1)
		}
		before := s.stats(t, "memory")
		tunnels := s.attackTunnels(t, a, clients, giant)
		attackEach(t, clients, 16, func(i int) error {
			if err := tunnels[i].echoed("x"); err != nil {
				return err
			}
			if _, err := io.WriteString(tunnels[i], "more"); err != nil {
				return err
			}
			return tunnels[i].echoed("more")
		})
		after := s.stats(t, "memory")
		require.Less(t, after.Heap-before.Heap, clients*8<<10)
		require.NoError(t, s.good())
		attackEach(t, clients, 16, func(i int) error { return tunnels[i].Close() })
		s.forgets(t)
	})
}

// Peers that end their direction and then neither read nor answer keep the transport after
// the application has closed. At most MaxPending of them do.
func TestAttackPeersThatNeverRead(t *testing.T) {
	const clients, most = 1000, 64
	for _, a := range attackCarriers {
		t.Run(a.name, func(t *testing.T) {
			s := attackStart(t, attackConfig{Tune: "framed", MaxPending: most, HandshakeTimeout: attackLong})
			tunnels := s.attackTunnels(t, a, clients, a.capsule(attackData, "x")+a.capsule(attackFinal, ""))
			s.until(t, "the oldest have been ended", func(now attackStats) bool {
				return now.Descriptors <= s.base.Descriptors+most && now.Goroutines <= s.base.Goroutines+most
			})
			now := s.stats(t, "stats")
			require.Equal(t, s.base.Descriptors+most, now.Descriptors, "the others may still read")
			attackEach(t, 20, 4, func(int) error { return s.good() })
			// Every one of them has had everything in its buffers.
			attackEach(t, clients, 16, func(i int) error { return tunnels[i].echoed("x") })
			attackEach(t, clients, 16, func(i int) error { return tunnels[i].Close() })
			s.forgets(t)
		})
	}
}

// A flood of requests for WebSockets, each with its key, by clients that leave at once, leaves
// nothing behind.
func TestAttackUpgradeFlood(t *testing.T) {
	s := attackStart(t, attackConfig{Tune: "framed", HandshakeTimeout: attackLong})
	request := attackCarriers[1].request
	flood := func(n int) {
		attackEach(t, n, 32, func(i int) error {
			c, err := s.dial()
			if err != nil {
				return err
			}
			_, err = io.WriteString(c, request[:len(request)-i%3]) // some are not complete
			return errors.Join(err, c.Close())
		})
	}
	flood(1000)
	require.NoError(t, s.good())
	s.forgets(t)
	before := s.stats(t, "memory")
	flood(attackers)
	attackEach(t, 20, 4, func(int) error { return s.good() })
	s.forgets(t)
	after := s.stats(t, "memory")
	require.Less(t, after.Heap-before.Heap, 1<<20)
}
