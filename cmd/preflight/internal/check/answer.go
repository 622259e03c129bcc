package check

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An outcome is what came of a question.
type outcome string

// The outcomes.
const (
	answered outcome = "answer" // HTTP
	bytesOf  outcome = "bytes"  // anything else
	ended    outcome = "ended"  // the end of the connection, without a byte
	wasReset outcome = "reset"  // a reset, without a byte
	silent   outcome = "silent" // nothing in time
	failed   outcome = "failed" // the question could not be asked
)

// An Answer is what a path answered to one question.
type Answer struct {
	Name     string   `json:"name"`
	About    string   `json:"about"`
	Outcome  outcome  `json:"outcome"`
	Status   int      `json:"status,omitempty"`
	Reason   string   `json:"reason,omitempty"`   // of the listener: its Preflight-Refusal
	Author   string   `json:"author,omitempty"`   // the product that wrote the answer
	Products []string `json:"products,omitempty"` // that the fields of the answer show
	Speaks   string   `json:"speaks,omitempty"`   // the protocol of what is not HTTP/1
	Millis   float64  `json:"ms"`

	header http.Header
	body   []byte
	first  []byte
}

// reasons are the codes of a listener.
var reasons = []string{
	"head", "too-large", "too-slow", "http10", "http2", "no-upgrade", "protocol", "method", "body", "expect", "no-connection",
	"websocket", "subprotocol", "carrier", "tunnel-tls", "unavailable", "proxy-header", "origin", "request", "authorize", "internal",
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// afterHead is how long the body may take.
const afterHead = 500 * time.Millisecond

// exchange sends request on conn, and reads the answer until its end, its bound or the
// deadline of conn.
func exchange(conn net.Conn, request []byte) *Answer {
	begin := time.Now()
	a := new(Answer)
	defer func() { a.Millis = millis(time.Since(begin)) }()
	_, writeErr := conn.Write(request) // an answer may be there all the same
	buffer := make([]byte, 0, maxAnswer)
	var err error
	for err == nil && len(buffer) < cap(buffer) && !whole(buffer) {
		var n int
		n, err = conn.Read(buffer[len(buffer):cap(buffer)])
		if len(buffer) == 0 && n > 0 {
			conn.SetReadDeadline(time.Now().Add(afterHead))
		}
		buffer = buffer[:len(buffer)+n]
	}
	switch {
	case len(buffer) > 0:
		a.parse(buffer)
	case errors.Is(err, os.ErrDeadlineExceeded):
		a.Outcome = silent
	case errors.Is(err, syscall.ECONNRESET), errors.Is(writeErr, syscall.EPIPE), errors.Is(writeErr, syscall.ECONNRESET):
		a.Outcome = wasReset
	case errors.Is(err, io.EOF):
		a.Outcome = ended
	default:
		a.Outcome = failed
	}
	return a
}

// whole reports whether b is an answer whose Content-Length bytes are there, a switch of
// protocols, or a word to go on with the body.
func whole(b []byte) bool {
	head, body, ok := bytes.Cut(b, []byte("\r\n\r\n"))
	if !ok || !bytes.HasPrefix(b, []byte("HTTP/1.")) {
		return false
	}
	if line := head[len("HTTP/1."):]; bytes.HasPrefix(line, []byte("1 101 ")) || bytes.HasPrefix(line, []byte("1 100 ")) {
		return true
	}
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
			return err == nil && len(body) >= n
		}
	}
	return false
}

// parse reads what came. It is lenient: the peer may be anything.
func (a *Answer) parse(b []byte) {
	a.first = b[:min(len(b), 64)]
	if !bytes.HasPrefix(b, []byte("HTTP/1.")) || len(b) < len("HTTP/1.1 200") {
		a.Outcome, a.Speaks = bytesOf, speaks(b)
		return
	}
	a.Outcome = answered
	a.Status, _ = strconv.Atoi(string(b[len("HTTP/1.1 "):len("HTTP/1.1 200")]))
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(b)))
	r.ReadLine()
	fields, _ := r.ReadMIMEHeader()
	a.header = http.Header(fields)
	a.body, _ = io.ReadAll(r.R)
	a.describe()
}

// describe fills what the header and the body show.
func (a *Answer) describe() {
	// A hop that repeats the request could put a secret there, so only known codes are taken.
	if reason := a.header.Get("Preflight-Refusal"); slices.Contains(reasons, reason) {
		a.Reason = reason
	}
	for _, p := range shown(a.header) {
		a.Products = append(a.Products, string(p))
	}
	a.Author = string(author(a.header, strings.ToLower(string(a.body))))
}

// page identifies the body, to compare two answers.
func (a *Answer) page() [sha256.Size]byte { return sha256.Sum256(a.body) }

// is reports whether the answer has one of these statuses. A nil Answer has none.
func (a *Answer) is(status ...int) bool {
	if a == nil || a.Outcome != answered {
		return false
	}
	for _, s := range status {
		if a.Status == s {
			return true
		}
	}
	return false
}

// speaks names the protocol of the first bytes of a peer. "" is not known.
func speaks(b []byte) string {
	s := string(b)
	switch {
	case strings.HasPrefix(s, "\x15\x03"), strings.HasPrefix(s, "\x16\x03"):
		return "TLS"
	case strings.HasPrefix(s, "SSH-"):
		return "SSH"
	case strings.HasPrefix(s, "220"):
		return "mail or FTP"
	case strings.HasPrefix(s, "+PONG"), strings.HasPrefix(s, "-ERR"), strings.HasPrefix(s, "-DENIED"), strings.HasPrefix(s, "-NOAUTH"):
		return "Redis"
	case strings.HasPrefix(s, "INFO {"):
		return "NATS"
	case strings.HasPrefix(s, "E\x00\x00\x00"):
		return "PostgreSQL"
	case len(s) >= 5 && s[2] == 0 && s[3] == 0 && (s[4] == 10 || s[4] == 0xff):
		return "MySQL"
	case len(s) >= 9 && s[0] == 0 && (s[3] == 4 || s[3] == 7) && s[5:9] == "\x00\x00\x00\x00":
		return "HTTP/2"
	case len(s) >= 2 && s[0] == 5 && (s[1] <= 8 || s[1] == 0xff):
		return "SOCKS5"
	}
	return ""
}

func millis(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}
