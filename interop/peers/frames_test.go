package peers

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	gorillaws "github.com/gorilla/websocket"
	"github.com/preflight-go/preflight/internal/websocket"
	"github.com/stretchr/testify/require"
)

var frameStreams = flag.Int("streams", 5_000, "the number of generated streams of frames to compare")

// A reading is the result of a parser for a stream of frames.
type reading struct {
	events []string // data, Pings and the Close; adjacent data is one event
	fault  string   // why the stream was refused; "" if it was not
}

func (r *reading) data(b []byte) {
	if len(b) == 0 {
		return
	}
	if n := len(r.events); n > 0 && strings.HasPrefix(r.events[n-1], "data ") {
		r.events[n-1] += string(b)
		return
	}
	r.events = append(r.events, "data "+string(b))
}

// begins reports whether the events of r are the beginning of those of other.
func (r reading) begins(other reading) bool {
	n := len(r.events)
	return n == 0 || len(other.events) >= n && slices.Equal(r.events[:n-1], other.events[:n-1]) &&
		strings.HasPrefix(other.events[n-1], r.events[n-1])
}

// stricter lists the faults for which only this library refuses a frame. gorilla accepts text. It
// also accepts lengths that are not in their shortest form, which RFC 6455 §5.2 forbids, and a
// Close with a body of one byte, which §5.5.1 forbids.
var stricter = []string{"text message", "not in its shortest form", "one byte"}

// TestFrames compares the decoder with that of gorilla on generated streams of frames. Both must
// accept and refuse the same streams, and return the same bytes.
func TestFrames(t *testing.T) {
	outcomes := map[string]int{}
	for seed := range uint64(*frameStreams) {
		random := rand.New(rand.NewPCG(seed, 6455))
		fromClient := seed%2 == 0
		stream := generateFrames(random, fromClient)
		ours, theirs := readOurs(random, stream, fromClient), readGorilla(t, stream, fromClient)
		outcome := compare(random, stream, fromClient, ours, theirs)
		if outcome == "" {
			t.Fatalf("seed %d, from a client: %v\n%x\nours:    %.300q\ngorilla: %.300q", seed, fromClient, stream, ours, theirs)
		}
		outcomes[outcome]++
	}
	t.Log(outcomes)
	for _, outcome := range []string{"taken", "refused", "stricter"} {
		require.Greater(t, outcomes[outcome], *frameStreams/20, "streams that were %s", outcome)
	}
}

// compare returns the outcome of a stream, or "" if the parsers disagree.
func compare(random *rand.Rand, stream []byte, fromClient bool, ours, theirs reading) (outcome string) {
	strict := func(phrase string) bool { return strings.Contains(ours.fault, phrase) }
	same := slices.Equal(ours.events, theirs.events)
	switch {
	case slices.ContainsFunc(stricter, strict) && ours.begins(theirs):
		return "stricter"
	case same && ours.fault != "" && theirs.fault != "":
		return "refused"
	case same && ours.fault == "" && theirs.fault == "":
		return "taken"
	case ours.fault == "" && strings.Contains(theirs.fault, "bad close code 1014") && slices.Equal(ours.events, append(theirs.events, "close 1014")):
		return "laxer" // gorilla is older than the registration of the code
	case same && ours.fault == "" && strings.Contains(theirs.fault, "limit exceeded"):
		// gorilla refuses a negative length before the mask has arrived.
		if again := readOurs(random, append(stream, 0, 0, 0, 0), fromClient); strings.Contains(again.fault, "negative") {
			return "refused"
		}
	}
	return ""
}

// generateFrames returns a few frames. Most of them are valid. The last one may be incomplete.
func generateFrames(random *rand.Rand, fromClient bool) (stream []byte) {
	chance := func(n int) bool { return random.IntN(n) == 0 }
	inMessage := false
	for range 1 + random.IntN(7) {
		opcode, fin := byte(2), !chance(3)
		if inMessage {
			opcode = 0
		}
		size := random.IntN(40)
		if chance(15) {
			size = []int{125, 126, 127, 65535, 65536, 70000}[random.IntN(6)]
		}
		if chance(4) {
			opcode, fin, size = 8+byte(random.IntN(3)), true, random.IntN(126)
		}
		payload := make([]byte, size)
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		if opcode == 8 {
			payload = generateClose(random)
		}
		if chance(25) {
			opcode = byte(random.IntN(16))
		}
		if chance(40) {
			fin = !fin
		}
		var rsv byte
		if chance(40) {
			rsv = byte(random.IntN(8)) << 4
		}
		if opcode < 8 {
			inMessage = !fin
		}
		first := rsv | opcode
		if fin {
			first |= 0x80
		}
		masked := fromClient != chance(40)
		stream = appendFrame(random, stream, first, payload, masked, chance(30))
	}
	if chance(4) {
		stream = stream[:random.IntN(len(stream)+1)]
	}
	return stream
}

func generateClose(random *rand.Rand) []byte {
	switch random.IntN(8) {
	case 0:
		return nil
	case 1:
		return []byte{3}
	}
	code := []int{1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000, random.IntN(65536)}[random.IntN(16)]
	reason := []string{"", "bye", "κόσμε", "\xed\xa0\x80", strings.Repeat("x", 123)}[random.IntN(5)]
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...)
}

func appendFrame(random *rand.Rand, b []byte, first byte, payload []byte, masked, longer bool) []byte {
	var mask byte
	if masked {
		mask = 0x80
	}
	form := 2
	switch n := len(payload); {
	case n <= 125:
		form = 0
	case n <= 65535:
		form = 1
	}
	if longer {
		form = min(2, form+1+random.IntN(2))
	}
	switch form {
	case 0:
		b = append(b, first, mask|byte(len(payload)))
	case 1:
		b = binary.BigEndian.AppendUint16(append(b, first, mask|126), uint16(len(payload)))
	case 2:
		length := uint64(len(payload))
		if random.IntN(10) == 0 {
			length |= 1 << 63
		}
		b = binary.BigEndian.AppendUint64(append(b, first, mask|127), length)
	}
	if !masked {
		return append(b, payload...)
	}
	key := binary.BigEndian.AppendUint32(nil, random.Uint32())
	b = append(b, key...)
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}

// readOurs passes the stream through the decoder, in pieces of random sizes.
func readOurs(random *rand.Rand, stream []byte, fromClient bool) (r reading) {
	d := websocket.NewDecoder(fromClient)
	stream = bytes.Clone(stream)
	for len(stream) > 0 {
		piece := stream[:1+random.IntN(min(len(stream), 1+random.IntN(5000)))]
		stream = stream[len(piece):]
		for len(piece) > 0 {
			if n := d.Data(); n > 0 {
				b := piece[:min(n, uint64(len(piece)))]
				piece = piece[len(b):]
				if fromClient {
					d.Unmask(b, b)
				} else {
					d.Skip(len(b))
				}
				r.data(b)
				continue
			}
			n, event, err := d.Next(piece)
			if err != nil {
				r.fault = err.Error()
				return r
			}
			piece = piece[n:]
			switch event {
			case websocket.PingPassed:
				r.events = append(r.events, "ping "+string(d.Control()))
			case websocket.ClosePassed:
				r.events = append(r.events, fmt.Sprintf("close %d", d.Code()))
				return r
			}
		}
	}
	return r
}

// readGorilla passes the stream through gorilla.
func readGorilla(t *testing.T, stream []byte, fromClient bool) (r reading) {
	c := openGorilla(t, stream, fromClient)
	c.SetPingHandler(func(payload string) error {
		r.events = append(r.events, "ping "+payload)
		return nil
	})
	c.SetCloseHandler(func(code int, _ string) error {
		r.events = append(r.events, fmt.Sprintf("close %d", code))
		return nil
	})
	buf := make([]byte, 5000)
	for {
		_, message, err := c.NextReader()
		for err == nil {
			var n int
			n, err = message.Read(buf)
			r.data(buf[:n])
		}
		_, closed := errors.AsType[*gorillaws.CloseError](err)
		switch {
		case err == io.EOF: // the end of a message
		case closed, errors.Is(err, io.ErrUnexpectedEOF): // a Close, or the end of the stream
			return r
		default:
			r.fault = err.Error()
			return r
		}
	}
}

// openGorilla returns gorilla's end of a WebSocket that receives the stream.
func openGorilla(t *testing.T, stream []byte, fromClient bool) *gorillaws.Conn {
	t.Helper()
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	transport := &recording{in: bytes.NewReader(stream)}
	if fromClient {
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		for name, value := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": key,
		} {
			request.Header.Set(name, value)
		}
		c, err := new(gorillaws.Upgrader).Upgrade(hijacked{transport}, request, nil)
		require.NoError(t, err)
		return c
	}
	transport.answer = true
	dialer := gorillaws.Dialer{NetDial: func(string, string) (net.Conn, error) { return transport, nil }}
	c, _, err := dialer.Dial("ws://h.example/", nil)
	require.NoError(t, err)
	return c
}

// A recording is a connection that returns the bytes of in. If answer is set, it first returns
// the answer to the request.
type recording struct {
	net.Conn
	in      io.Reader
	request bytes.Buffer
	answer  bool
}

func (c *recording) Write(b []byte) (int, error) {
	if c.answer {
		c.request.Write(b)
	}
	return len(b), nil
}

func (c *recording) Read(b []byte) (int, error) {
	if c.answer {
		c.answer = false
		request, err := http.ReadRequest(bufio.NewReader(&c.request))
		if err != nil {
			return 0, err
		}
		sum := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
			base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"
		c.in = io.MultiReader(strings.NewReader(head), c.in)
	}
	return c.in.Read(b)
}

func (c *recording) Close() error                { return nil }
func (c *recording) SetDeadline(time.Time) error { return nil }

func (c *recording) SetWriteDeadline(time.Time) error { return nil }

// hijacked is a ResponseWriter whose Hijack method returns c.
type hijacked struct{ c net.Conn }

func (h hijacked) Header() http.Header         { return http.Header{} }
func (h hijacked) Write(b []byte) (int, error) { return len(b), nil }
func (h hijacked) WriteHeader(int)             {}
func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.c, bufio.NewReadWriter(bufio.NewReader(h.c), bufio.NewWriter(h.c)), nil
}
