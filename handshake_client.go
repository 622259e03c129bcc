package preflight

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/preflight-go/preflight/internal/diagnosis"
	"github.com/preflight-go/preflight/internal/websocket"
	"github.com/preflight-go/preflight/internal/wire"
)

const (
	// maxAnswer bounds all heads of an answer together, the interim ones
	// included; proxies add fields, but not 64 KiB of them.
	maxAnswer  = 64 << 10
	maxInterim = 8
	maxBody    = 4 << 10
	// bodyWait is how long the body of a refusal may take: it explains the
	// error and is not worth the caller's deadline.
	bodyWait = time.Second
)

// request sends the upgrade request and waits for the 101. Afterwards x.buf holds the bytes
// after it. Nothing is sent ahead of the 101 (RFC 9931 §3): Go's ReverseProxy and Caddy 2.6
// silently lose early bytes, and a server that refuses the upgrade would read them as its
// next request.
func (x *exchange) request(u *upgrade) (heads, error) {
	terms := u.terms()
	var key string
	if terms.WebSocket {
		key = websocket.NewKey()
	}
	var own buffer
	own.borrow()
	defer own.release()
	b := wire.AppendRequest(own.buf, u.target, u.host, &terms, key, u.carriers)
	b = x.obs.inject(b, u.header)
	b = wire.AppendFields(b, u.header)
	u.sent = len(b)
	var r wire.Response
	n, err := x.roundTrip(b, stageUpgrade, &r)
	if err != nil {
		return heads{}, err
	}
	if r.Status != http.StatusSwitchingProtocols {
		return heads{}, x.refused(&r, n, b, u.evidence())
	}
	var accept string
	if terms.WebSocket {
		accept = websocket.Accept(key)
	}
	if broken := r.Switched(&terms, accept); broken != nil {
		e := x.refusal(&r, n, b)
		e.Reason = reasonOf(e.Header)
		e.otherToken = !r.Names(terms.Token())
		e.diagnose(broken, u.evidence())
		return heads{}, e
	}
	x.obs.event(eventUpgraded)
	both := append(append(make([]byte, 0, len(b)+n), b...), x.buf[:n]...) // one allocation
	x.buf = x.buf[n:]
	return heads{both[:len(b):len(b)], both[len(b):]}, nil
}

// A stage names the steps of a request, for errors.
type stage struct{ write, wait, read string }

var (
	stageUpgrade = &stage{"write the upgrade request", "wait for the 101", "read the answer"}
	stageConnect = &stage{
		"write CONNECT to the forward proxy", "wait for the forward proxy's answer to CONNECT", "read the forward proxy's answer to CONNECT",
	}
)

// roundTrip sends a request and parses the final answer into r, which is zero; a 101 is final.
// Its head is the first n bytes of x.buf.
func (x *exchange) roundTrip(request []byte, at *stage, r *wire.Response) (n int, err error) {
	if _, err := write(x.conn, request); err != nil {
		// A proxy may refuse a head that it has not read to its end (400,
		// 431): then the answer, if it arrived, is the better error.
		defer x.finishBy(x.bodyDeadline())()
		if n, readFailed := x.response(request, at, r); readFailed == nil && r.Status >= 300 {
			return n, nil
		}
		return 0, &stageError{stage: at.write, err: err}
	}
	x.obs.event(eventWritten)
	return x.response(request, at, r)
}

// response reads until there is a final answer to request, and parses it into r.
func (x *exchange) response(request []byte, at *stage, r *wire.Response) (n int, err error) {
	limit := maxAnswer
	for range maxInterim + 1 {
		if n, err = x.responseHead(request, limit); err != nil {
			stage := at.wait
			if len(x.buf) > 0 {
				stage = at.read
			}
			return 0, &stageError{stage: stage, err: err}
		}
		*r = wire.Response{}
		if broken := r.Parse(x.buf[:n]); broken != nil {
			return 0, &stageError{stage: at.read, err: fmt.Errorf("the answer is malformed: %w", broken)}
		}
		if r.Status == http.StatusSwitchingProtocols || r.Status >= 200 {
			return n, nil
		}
		// Interim answers may come unasked (RFC 9110 §15.2) and have no body.
		x.buf = x.buf[n:]
		limit -= n
	}
	return 0, &stageError{stage: at.read, err: fmt.Errorf("more than %d interim (1xx) answers", maxInterim)}
}

// responseHead reads until x.buf begins with a head, of at most limit bytes, and
// returns its length.
func (x *exchange) responseHead(request []byte, limit int) (int, error) {
	for scanned := 0; ; {
		if wire.NotHTTP(x.buf) {
			return 0, notHTTP(x.buf, request)
		}
		if n := wire.ResponseEnd(x.buf, scanned); n > 0 {
			return n, nil
		}
		scanned = len(x.buf)
		if len(x.buf) >= limit {
			return 0, fmt.Errorf("the head of the answer is larger than %d bytes", maxAnswer)
		}
		first := len(x.buf) == 0 && limit == maxAnswer
		err := x.read(limit)
		if first && err == nil {
			x.obs.event(eventFirstByte)
		}
		switch {
		case err == io.EOF:
			return 0, errIncomplete
		case errors.Is(err, syscall.ECONNRESET):
			return 0, fmt.Errorf("the connection was reset before the answer: %w", withoutAddresses(err))
		case err != nil:
			return 0, err
		}
	}
}

// A foreignError is an answer that is not HTTP/1.x.
type foreignError struct {
	first []byte // its first bytes
	shown string // what of them may be shown
}

func (e *foreignError) Error() string {
	if e.shown == "" {
		return "the answer is not HTTP/1.x"
	}
	return fmt.Sprintf("the answer is not HTTP/1.x, it begins with %q", e.shown)
}

// notHTTP is the error of an answer that begins with b. A server that is not an HTTP server
// may send our own request back, with a credential in it. Then nothing of it is shown.
func notHTTP(b, request []byte) error {
	e := &foreignError{first: bytes.Clone(b[:min(len(b), 32)])}
	if shown := string(e.first); !echoes(shown, request) {
		e.shown = shown
	}
	return e
}

// refused is the error of a final answer other than the expected one.
func (x *exchange) refused(r *wire.Response, n int, request []byte, known diagnosis.Evidence) *StatusError {
	e := x.refusal(r, n, request)
	e.Body = x.body()
	if known.Stage == diagnosis.Connect {
		e.ForwardProxy = true
	} else {
		e.Reason = reasonOf(e.Header)
	}
	e.diagnose(nil, known)
	return e
}

// refusal is the error of the answer to request. Its head is the first n bytes of x.buf.
func (x *exchange) refusal(r *wire.Response, n int, request []byte) *StatusError {
	return &StatusError{
		StatusCode: r.Status, Status: statusLine(r), Header: newHeader(x.buf[:n]),
		echo: echoes(string(r.Reason), request),
	}
}

// body reads the body of a refusal. net/http handles its framing. A body that it cannot
// read does not explain anything, and is dropped.
func (x *exchange) body() []byte {
	defer x.finishBy(x.bodyDeadline())()
	r, err := http.ReadResponse(bufio.NewReader(io.MultiReader(bytes.NewReader(x.buf), x.conn)), nil)
	if err != nil {
		return nil
	}
	// Closing the body would read it to its end.
	b, _ := io.ReadAll(io.LimitReader(r.Body, maxBody))
	return b
}

func (x *exchange) bodyDeadline() time.Time {
	t := time.Now().Add(bodyWait)
	if x.deadline.IsZero() {
		return t
	}
	return earlier(x.deadline, t)
}

// echoes reports whether text, which a peer wrote, may repeat a secret of the request that
// it received: of the query, of a field value, or of what these encode. Such a text does
// not belong in an error. Case does not matter. Any four bytes in common count as a
// repetition, because peers cut what they quote. A shorter secret must occur as a whole.
func echoes(text string, request []byte) bool {
	const run = 4
	text = strings.ToLower(text)
	for _, secret := range secrets(request) {
		secret = strings.ToLower(secret)
		if len(secret) < run {
			if secret != "" && strings.Contains(text, secret) {
				return true
			}
			continue
		}
		for i := range len(text) - run + 1 {
			if strings.Contains(secret, text[i:i+run]) {
				return true
			}
		}
	}
	return false
}

// secrets returns the parts of a request that must not be shown. Host, the fields of the
// upgrade and the path are not secret.
func secrets(request []byte) (all []string) {
	line, fields, _ := strings.Cut(string(request), "\r\n")
	target, _, _ := strings.Cut(line, " HTTP/")
	if _, query, ok := strings.Cut(target, "?"); ok {
		all = append(all, query)
		if decoded, err := url.QueryUnescape(query); err == nil {
			all = append(all, decoded)
		}
	}
	for field := range strings.SplitSeq(fields, "\r\n") {
		name, value, _ := strings.Cut(field, ": ")
		switch name {
		case "Host", "Connection", "Upgrade":
			continue
		}
		if ownPrefix(name) != "" {
			continue
		}
		all = append(all, value)
		scheme, credentials, _ := strings.Cut(value, " ")
		if strings.EqualFold(scheme, "Basic") { // RFC 7617 §2
			if decoded, err := base64.StdEncoding.DecodeString(credentials); err == nil {
				user, password, _ := strings.Cut(string(decoded), ":")
				all = append(all, user, password)
			}
		}
	}
	return all
}
