package carriers_test

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A wsFrame is a frame that a peer sends. The tests have their own code to write and read
// frames. They do not use the codec of the library.
type wsFrame struct {
	first   byte // FIN, the reserved bits and the opcode
	payload string
	form    byte   // the form of the length: 126 or 127; 0: the shortest one
	length  uint64 // the length in the header, with form 127; 0: the length of payload
	flip    bool   // the frame is masked if it must not be, and not masked if it must be
}

// bytes encodes the frame as a client or a server does.
func (f wsFrame) bytes(client bool) []byte {
	form, length := f.form, f.length
	if length == 0 {
		length = uint64(len(f.payload))
	}
	if form == 0 {
		switch {
		case length > 65535:
			form = 127
		case length > 125:
			form = 126
		default:
			form = byte(length)
		}
	}
	masked := client != f.flip
	b := []byte{f.first, form}
	if masked {
		b[1] |= 0x80
	}
	switch form {
	case 126:
		b = binary.BigEndian.AppendUint16(b, uint16(length))
	case 127:
		b = binary.BigEndian.AppendUint64(b, length)
	}
	if !masked {
		return append(b, f.payload...)
	}
	key := [4]byte{0x11, 0x82, 0xf3, 0x04}
	b = append(b, key[:]...)
	for i := range len(f.payload) {
		b = append(b, f.payload[i]^key[i%4])
	}
	return b
}

// capsuleOf encodes a capsule with a type of 4 bytes, and its length in 8.
func capsuleOf(kind uint32, value string) string {
	b := binary.BigEndian.AppendUint32(nil, 0x8000_0000|kind)
	b = binary.BigEndian.AppendUint64(b, 0xc000_0000_0000_0000|uint64(len(value)))
	return string(b) + value
}

const (
	capsuleData  = 0x2d70f100
	capsuleFinal = 0x2d70f101
	capsulePing  = 0x2d70f104
	capsulePong  = 0x2d70f105
)

// wsSeen is what a peer has received.
type wsSeen struct {
	data   string
	final  bool
	pongs  []string // the payloads of Pong frames
	closed string   // the payload of the Close frame
	frames []string // all frames, for the message of a failure
}

// wsPeer sends frames in pieces, and reads until the connection ends. It answers PINGs.
func wsPeer(c net.Conn, client bool, pieces [][]byte) (seen wsSeen, err error) {
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for _, piece := range pieces {
			if _, err := c.Write(piece); err != nil {
				return // the other side has ended the connection
			}
		}
	}()
	defer func() { <-wrote }()
	defer c.Close()
	for r := bufio.NewReader(c); ; {
		first, payload, err := readFrame(r, !client)
		if err == io.EOF {
			return seen, nil
		}
		if err != nil {
			return seen, err
		}
		seen.frames = append(seen.frames, fmt.Sprintf("%x %.30q", first, payload))
		switch first {
		case 0x82:
			kind, value, err := readCapsule(payload)
			if err != nil {
				return seen, err
			}
			switch kind {
			case capsuleData:
				seen.data += value
			case capsuleFinal:
				seen.final = true
			case capsulePing:
				<-wrote
				c.Write(wsFrame{first: 0x82, payload: capsuleOf(capsulePong, value)}.bytes(client))
			case capsulePong:
				if value != "finished" {
					return seen, fmt.Errorf("a PONG with %q", value)
				}
			default:
				return seen, fmt.Errorf("a capsule of type %x", kind)
			}
		case 0x88:
			seen.closed = payload
			if payload == "" {
				seen.closed = "no code"
			}
		case 0x8a:
			seen.pongs = append(seen.pongs, payload)
		default:
			return seen, fmt.Errorf("a frame that begins with %x", first)
		}
	}
}

// readFrame reads a frame of a client or a server. Its length must have its shortest form,
// and it must be masked exactly if a client has sent it.
func readFrame(r io.Reader, client bool) (first byte, payload string, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, "", err
	}
	length := uint64(head[1] & 0x7f)
	rest := make([]byte, map[uint64]int{126: 2, 127: 8}[length])
	if client {
		rest = append(rest, 0, 0, 0, 0) // the key
	}
	if _, err := io.ReadFull(r, rest); err != nil {
		return 0, "", err
	}
	if length == 126 {
		length = uint64(binary.BigEndian.Uint16(rest))
	}
	switch {
	case head[1]&0x7f == 127:
		return 0, "", errors.New("a frame above 64 KiB")
	case head[1]&0x7f == 126 && length < 126:
		return 0, "", errors.New("the length of a frame is not in its shortest form")
	case client != (head[1]&0x80 != 0):
		return 0, "", errors.New("a client must mask its frames, and a server must not")
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, "", err
	}
	if client {
		for i, key := 0, rest[len(rest)-4:]; i < len(b); i++ {
			b[i] ^= key[i%4]
		}
	}
	return head[0], string(b), nil
}

// readCapsule parses a message, which must contain one capsule.
func readCapsule(message string) (kind uint32, value string, err error) {
	b := []byte(message)
	if len(b) < 5 || len(b) < 4+1<<(b[4]>>6) {
		return 0, "", fmt.Errorf("the message %q is no capsule", message)
	}
	n := 1 << (b[4] >> 6)
	length := int(b[4] & 0x3f)
	for _, c := range b[5 : 4+n] {
		length = length<<8 | int(c)
	}
	if len(b) != 4+n+length {
		return 0, "", fmt.Errorf("a message of %d bytes with a capsule of %d", len(b), length)
	}
	return binary.BigEndian.Uint32(b) & 0x3fff_ffff, message[4+n:], nil
}

// cutFrames are the ways to split the bytes of frames. Autobahn has separate cases for them.
var cutFrames = map[string]func(frames [][]byte) [][]byte{
	"in one piece": func(frames [][]byte) [][]byte { return [][]byte{slices.Concat(frames...)} },
	"by frame":     func(frames [][]byte) [][]byte { return frames },
	"by octet": func(frames [][]byte) [][]byte {
		all := slices.Concat(frames...)
		size := 1
		if len(all) > 3000 {
			size = 997
		}
		return slices.Collect(slices.Chunk(all, size))
	},
}

// TestAutobahn runs the cases of Autobahn on both sides of a tunnel.
func TestAutobahn(t *testing.T) {
	sides := map[string]func(t *testing.T, frames []wsFrame, pieces func([][]byte) [][]byte) (*preflight.Conn, func() (wsSeen, error)){
		"listener": autobahnListener, "dialer": autobahnDialer,
	}
	for side, start := range sides {
		for cut, pieces := range cutFrames {
			for _, c := range autobahnCases {
				t.Run(side+"/"+cut+"/"+c.name, func(t *testing.T) {
					t.Parallel()
					frames := c.frames
					if c.ends() {
						// With the PING behind it, so that the other side need not wait for one.
						frames = append(slices.Clip(frames), message(capsuleOf(capsuleFinal, "")), message(capsuleOf(capsulePing, "finished")))
					}
					conn, result := start(t, frames, pieces)
					c.verify(t, conn, result)
				})
			}
		}
	}
}

// verify compares what the application reads, and what the peer has received.
func (c autobahnCase) verify(t *testing.T, conn *preflight.Conn, result func() (wsSeen, error)) {
	got, err := io.ReadAll(conn)
	require.Equal(t, c.data, string(got))
	switch {
	case c.fails != "":
		require.ErrorContains(t, err, c.fails)
		require.NotErrorIs(t, err, io.ErrUnexpectedEOF)
	case c.closes != "":
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	default:
		require.NoError(t, err)
	}
	require.NoError(t, conn.Close())
	seen, err := result()
	require.NoError(t, err, "%q", seen.frames)
	require.Equal(t, c.answer(), seen.closed, "%q", seen.frames)
	require.True(t, c.gone || c.ends() == seen.final, "%q", seen.frames)
	require.Empty(t, seen.data)
	if c.pong == nil {
		require.Empty(t, seen.pongs)
		return
	}
	// The newest Ping must be answered. A Pong for each is allowed (RFC 6455 §5.5.3).
	require.NotEmpty(t, seen.pongs)
	require.LessOrEqual(t, len(seen.pongs), c.pings())
	require.Equal(t, *c.pong, seen.pongs[len(seen.pongs)-1])
}

// frameBytes encodes frames and splits the bytes.
func frameBytes(frames []wsFrame, client bool, pieces func([][]byte) [][]byte) [][]byte {
	var b [][]byte
	for _, f := range frames {
		b = append(b, f.bytes(client))
	}
	return pieces(b)
}

// autobahnListener opens a tunnel to a PreflightListener with the client of this test.
func autobahnListener(t *testing.T, frames []wsFrame, pieces func([][]byte) [][]byte) (*preflight.Conn, func() (wsSeen, error)) {
	l := testkit.Listen(t, &preflight.PreflightListener{KeepAlivePeriod: -1})
	accepted := testkit.AcceptAll(t, l)
	c := testkit.DialTCP(t, l.Addr())
	_, err := io.WriteString(c, requests[preflight.CarrierWebSocket]+"\r\n")
	require.NoError(t, err)
	answer := switched[preflight.CarrierWebSocket] + "\r\n"
	require.Equal(t, answer, testkit.GoldenRead(t, c, len(answer)))
	conn := testkit.NextConn(t, accepted)
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	return conn, inBackground(func() (wsSeen, error) { return wsPeer(c, true, frameBytes(frames, true, pieces)) })
}

// autobahnDialer lets a PreflightDialer dial the server of this test.
func autobahnDialer(t *testing.T, frames []wsFrame, pieces func([][]byte) [][]byte) (*preflight.Conn, func() (wsSeen, error)) {
	l := testkit.ListenTCP(t)
	result := inBackground(func() (wsSeen, error) {
		c, err := l.Accept()
		if err != nil {
			return wsSeen{}, err
		}
		c.SetDeadline(time.Now().Add(testkit.Patience))
		request, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return wsSeen{}, err
		}
		if err := switchToWebSocket(c, request); err != nil {
			return wsSeen{}, err
		}
		return wsPeer(c, false, frameBytes(frames, false, pieces))
	})
	d := &preflight.PreflightDialer{Carriers: []preflight.Carrier{preflight.CarrierWebSocket}, KeepAlivePeriod: -1}
	conn, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	return conn.(*preflight.Conn), result
}

// switchToWebSocket sends the 101 of a server (RFC 6455 §4.2.2).
func switchToWebSocket(c io.Writer, request *http.Request) error {
	sum := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err := fmt.Fprintf(c, strings.ReplaceAll(switched[preflight.CarrierWebSocket], sampleAccept, "%s")+"\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	return err
}

// inBackground runs f, and returns a function that waits for its result.
func inBackground[T any](f func() (T, error)) func() (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	return func() (T, error) {
		r := <-done
		return r.v, r.err
	}
}
