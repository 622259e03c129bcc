package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// This is the TCP protocol of AMPS's clients. A frame is a length of 4 bytes,
// big-endian, a header and a body. The header is a JSON object with scalar values.
// The body is everything behind its closing brace. A frame with the command sow
// carries several records in place of a body, each with its own header.

// firstFrameLimit bounds a frame, in bytes, before the logon.
const firstFrameLimit = 64 << 10

// headerLimit bounds the header of a frame, in bytes.
const headerLimit = 1 << 20

// A wire carries the frames of one client. It is a [tcpWire] or a [webSocketWire].
// One goroutine reads, another one writes.
type wire interface {
	// read returns the next frame, header and body. The caller owns the memory.
	read(limit int) ([]byte, error)
	// more reports whether read would return a frame without waiting.
	more() bool
	// write sends one frame: a header and a body, or a header and then a header and
	// a body for each record.
	write(parts ...[]byte) error
	flush() error
	// finish tells the client that nothing more will come. cause says why.
	finish(cause error)
	// drain reads what the client still sends after finish. Closing a connection
	// with unread bytes would reset it, and a reset destroys what is under way.
	drain()
	// abort closes the connection at once.
	abort()
}

// A malformed error is a violation of the protocol. It ends the connection.
type malformed string

func (e malformed) Error() string { return "malformed input: " + string(e) }

// writeTimeout bounds one write to a client that does not read.
const writeTimeout = 30 * time.Second

// linger bounds the time in which a client must close the connection after finish.
// What it sends until then is still read.
const linger = 5 * time.Second

// A tcpWire is a plain TCP connection, a TLS connection or a tunnel. All carry the
// same bytes.
type tcpWire struct {
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
}

func newTCPWire(conn net.Conn) *tcpWire {
	return &tcpWire{conn: conn, r: bufio.NewReaderSize(conn, 32<<10), w: bufio.NewWriterSize(conn, 32<<10)}
}

func (t *tcpWire) read(limit int) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(t.r, length[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, malformed("the stream ended inside a frame")
		}
		return nil, err // io.EOF between two frames: an orderly end
	}
	n := int64(binary.BigEndian.Uint32(length[:]))
	if n > int64(limit) {
		return nil, malformed(fmt.Sprintf("a frame of %d bytes is above the limit of %d", n, limit))
	}
	// The buffer grows with what arrives, so a length alone takes no memory.
	var frame bytes.Buffer
	if n <= 64<<10 {
		frame.Grow(int(n))
	}
	if _, err := io.CopyN(&frame, t.r, n); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, malformed("the stream ended inside a frame")
		}
		return nil, err
	}
	return frame.Bytes(), nil
}

func (t *tcpWire) more() bool {
	if t.r.Buffered() < 4 {
		return false
	}
	length, _ := t.r.Peek(4)
	return int64(t.r.Buffered()) >= 4+int64(binary.BigEndian.Uint32(length))
}

func (t *tcpWire) write(parts ...[]byte) error {
	var n int
	for _, part := range parts {
		n += len(part)
	}
	if err := t.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	t.w.Write(binary.BigEndian.AppendUint32(t.w.AvailableBuffer(), uint32(n)))
	for _, part := range parts {
		t.w.Write(part) // a bufio.Writer keeps its first error
	}
	return nil
}

func (t *tcpWire) flush() error { return t.w.Flush() }

func (t *tcpWire) finish(error) {
	if half, ok := t.conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	t.conn.SetReadDeadline(time.Now().Add(linger))
}

func (t *tcpWire) drain() { io.Copy(io.Discard, t.conn) }

func (t *tcpWire) abort() { t.conn.Close() }

// A command is a frame from a client.
type command struct {
	name    string // such as "publish"
	id      string // of the command, repeated in its acks
	subID   string
	queryID string
	topic   string
	filter  string
	acks    []string // types of acks that the client wants
	options []string
	body    []byte

	sequence    uint64 // of the client's publish store; 0: none
	bookmark    string
	correlation string
	sowKey      string // chosen by the publisher
	sowKeys     string
	batchSize   int
	topN        int
	orderBy     bool
	expiration  bool

	client, user, messageType string // in a logon
}

// A scalar is a value in a header. Clients write numbers with or without quotes.
type scalar string

func (s *scalar) UnmarshalJSON(b []byte) error {
	switch b[0] {
	case '{', '[':
		return errors.New("a header has no nested values")
	case '"':
		return json.Unmarshal(b, (*string)(s))
	case 'n': // null
		return nil
	}
	*s = scalar(b)
	return nil
}

// parseCommand parses a frame. Its error is a malformed.
func parseCommand(frame []byte) (*command, error) {
	in := json.NewDecoder(bytes.NewReader(frame))
	var header map[string]scalar
	if err := in.Decode(&header); err != nil {
		return nil, malformed("the header is no JSON object with scalar values")
	}
	end := in.InputOffset()
	if end > headerLimit {
		return nil, malformed("the header is too long")
	}
	if !utf8.Valid(frame[:end]) {
		return nil, malformed("the header is not UTF-8")
	}
	var failed error
	get := func(names ...string) string { // the clients use different names
		for _, name := range names {
			if value := string(header[name]); value != "" {
				if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' }) {
					failed = malformed("control characters in " + name)
				}
				return value
			}
		}
		return ""
	}
	number := func(bits int, names ...string) uint64 {
		value := get(names...)
		if value == "" {
			return 0
		}
		n, err := strconv.ParseUint(value, 10, bits)
		if err != nil {
			failed = malformed(names[0] + " is no number")
		}
		return n
	}
	c := &command{
		name:    get("c", "cmd"),
		id:      get("cid", "cmd_id"),
		subID:   get("sub_id"),
		queryID: get("query_id"),
		topic:   get("t", "topic"),
		filter:  get("filter"),
		acks:    list(get("a", "ack", "ack_type")),
		options: list(get("o", "opts")),
		body:    frame[end:],

		sequence:    number(64, "s", "seq"),
		bookmark:    get("bm", "bookmark"),
		correlation: get("x"),
		sowKey:      get("k"),
		sowKeys:     get("sow_keys"),
		batchSize:   int(number(31, "bs", "batch_size")),
		topN:        int(number(31, "top_n")),
		orderBy:     get("orderby") != "",
		expiration:  get("e", "expiration") != "",

		client:      get("client_name"),
		user:        get("user_id"),
		messageType: get("mt"),
	}
	if c.name == "p" {
		c.name = "publish"
	}
	if c.name == "" {
		failed = malformed("the header names no command")
	}
	return c, failed
}

// list splits at commas and spaces, and drops empty elements.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// A head builds a header. The C++ and the Java client only decode the escapes \" and
// \\, so it writes no others.
type head []byte

func newHead(command string) head { return append(head(`{"c":"`), command+`"`...) }

// str adds a field with a string, unless the string is empty.
func (h head) str(name, value string) head {
	if value == "" {
		return h
	}
	h = append(h, `,"`+name+`":"`...)
	for i := range len(value) {
		if value[i] == '"' || value[i] == '\\' {
			h = append(h, '\\')
		}
		h = append(h, value[i])
	}
	return append(h, '"')
}

func (h head) num(name string, value uint64) head {
	h = append(h, `,"`+name+`":`...)
	return strconv.AppendUint(h, value, 10)
}

func (h head) end() []byte { return append(h, '}') }
