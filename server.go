package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/preflight-go/preflight/internal/wire"
)

const (
	defaultMaxHeader = 16 << 10

	// What a refused client still sends is read and dropped, so that closing
	// does not reset the connection and take the answer with it (RFC 9112
	// §9.6), but not more than this.
	drainBytes = 64 << 10
	drainTime  = time.Second
)

// A policy is how a server decides. It does not change.
type policy struct {
	protocols   []string          // in order of preference
	answers     map[string][]byte // the 101 of each, as it is without further fields
	authorize   func(*http.Request) (http.Header, error)
	refusePlain bool
	plainAfter  time.Duration // 0: a silent client is plain at the deadline
	maxHeader   int
}

var zeroPolicy = policy{
	protocols: []string{defaultToken},
	answers:   answers(defaultToken),
	maxHeader: defaultMaxHeader,
}

// answers makes the 101 of each protocol once, for all connections to share.
func answers(protocols ...string) map[string][]byte {
	m := make(map[string][]byte, len(protocols))
	for _, p := range protocols {
		m[p] = wire.AppendSwitching(nil, p, nil)
	}
	return m
}

var (
	errPlain   = errors.New("the client sends no upgrade request, and plain connections are refused")
	errEvicted = errors.New("closed to make room for another handshake")
)

// A handover is a connection that is the application's.
type handover struct {
	heads heads
	rest  []byte        // arrived behind the head; not to be kept
	watch *watch        // of what may yet turn out to be HTTP
	req   *http.Request // nil if nobody has looked at it
}

func (h *handover) conn(c net.Conn) *Conn {
	conn := newConn(c, h.heads, bytes.Clone(h.rest), h.watch)
	if h.req != nil {
		conn.req.Store(h.req)
	}
	return conn
}

// serve plays the server's part: it finds out what the client speaks, and
// answers what is HTTP. The head of an upgrade request is kept in dst.
func (x *exchange) serve(p *policy, dst []byte) (handover, error) {
	n, watch, err := x.sort(p)
	x.settle()
	if err != nil {
		return handover{}, err
	}
	if n == 0 {
		if p.refusePlain {
			return handover{}, errPlain
		}
		return handover{rest: x.buf, watch: watch}, nil
	}
	request, broken := wire.ParseRequest(x.buf[:n])
	if broken != nil {
		return handover{}, x.refuseHead(broken, p)
	}
	protocol, broken := request.Protocol(p.protocols)
	if broken == nil && protocol == "" {
		broken = ordinary(&request)
	}
	if broken != nil {
		return handover{}, x.refuseHead(broken, p)
	}
	h := handover{rest: x.buf[n:]}
	var header http.Header
	if p.authorize != nil {
		var refusal *StatusError
		if h.req, header, refusal = x.authorize(p, x.buf[:n]); refusal != nil {
			return handover{}, x.refuse(refusal, p)
		}
	}
	h.heads = heads{append(dst, x.buf[:n]...), p.answers[protocol]}
	if len(header) > 0 {
		h.heads.answer = wire.AppendSwitching(nil, protocol, header)
	}
	if _, err := x.conn.Write(h.heads.answer); err != nil {
		return handover{}, &stageError{"write the 101", err}
	}
	return h, nil
}

// sort reads until it is known what the client speaks. It returns the length
// of the HTTP head that x.buf begins with, or 0 for a plain connection: with a
// watch if the client has not said enough to be sure. A reverse proxy may
// connect long before it has a request to send.
func (x *exchange) sort(p *policy) (int, *watch, error) {
	// A TLS layer below us shakes hands now, under the whole deadline: left
	// to the first Read, it would fail for good at the earlier deadline of
	// PlainAfter.
	if below, ok := x.conn.(interface{ HandshakeContext(context.Context) error }); ok {
		if err := below.HandshakeContext(x.ctx); err != nil {
			return 0, nil, &stageError{stageTLS, err}
		}
	}
	brief := p.plainAfter > 0 && !p.refusePlain
	if brief {
		x.readBy(earlier(x.deadline, time.Now().Add(p.plainAfter)))
	}
	var sniffer wire.Sniffer
	verdict := wire.More
	for verdict == wire.More {
		if err := x.read(p.maxHeader); err != nil {
			return 0, watchOf(sniffer), x.unread(err, verdict, p)
		}
		if brief {
			brief = false
			x.readBy(x.deadline)
		}
		verdict = sniffer.Next(x.buf)
		if verdict == wire.More && len(x.buf) == p.maxHeader {
			if verdict = sniffer.AtLimit(x.buf); verdict == wire.Plain {
				verdict = wire.Doubt
			}
		}
	}
	switch verdict {
	case wire.Plain:
		return 0, nil, nil
	case wire.Doubt:
		return 0, watchOf(sniffer), nil
	}
	n, err := x.requestHead(p)
	return n, nil, err
}

// watchOf goes on where the sniffer has come to.
func watchOf(s wire.Sniffer) *watch { return &watch{sniffer: s} }

// requestHead reads until x.buf begins with a head, and returns its length.
func (x *exchange) requestHead(p *policy) (int, error) {
	for scanned := 0; ; {
		n, broken := wire.RequestEnd(x.buf, scanned)
		scanned = len(x.buf)
		if broken == nil && n == 0 && scanned == p.maxHeader {
			broken = tooLarge(x.buf)
		}
		if broken != nil {
			return 0, x.refuseHead(broken, p)
		}
		if n > 0 {
			return n, nil
		}
		if err := x.read(p.maxHeader); err != nil {
			return 0, x.unread(err, wire.HTTP, p)
		}
	}
}

// unread decides what to do with a client of whom no more can be read. nil
// stands for a plain connection.
func (x *exchange) unread(err error, verdict wire.Verdict, p *policy) error {
	failed := &stageError{"read the upgrade request", err}
	x.mu.Lock()
	evicted := x.evicted
	x.mu.Unlock()
	switch {
	case x.ctx.Err() != nil:
		return failed
	case evicted:
		// Room is made at the cost of a client that is silent, which an
		// application whose server speaks first knows how to serve.
		if len(x.buf) > 0 || p.refusePlain || !isTimeout(err) {
			return errEvicted
		}
		return nil
	case err == io.EOF && verdict == wire.HTTP:
		return x.refuseHead(&wire.Error{Status: 400, Offset: len(x.buf), Rule: "the request ends inside its head: RFC 9112 §8"}, p)
	case isTimeout(err) && verdict == wire.HTTP:
		return x.refuseHead(&wire.Error{Status: 408, Offset: len(x.buf), Rule: "the head of the request did not arrive in time: RFC 9110 §15.5.9"}, p)
	case err == io.EOF || isTimeout(err):
		return nil
	}
	return failed
}

// tooLarge is the error of a head that does not fit.
func tooLarge(head []byte) *wire.Error {
	if bytes.IndexByte(head, '\n') < 0 {
		return &wire.Error{Status: 414, Offset: len(head), Rule: "the request line is too long: RFC 9112 §3"}
	}
	return &wire.Error{Status: 431, Offset: len(head), Rule: "the head of the request is too large: RFC 6585 §5"}
}

// ordinary is the refusal of a request that asks for none of our protocols. It
// tells the one who reads it what every misconfigured proxy looks like from here.
func ordinary(r *wire.Request) *wire.Error {
	e := &wire.Error{Status: 426, Offset: -1, Rule: "Upgrade names no protocol that is served here: RFC 9110 §7.8"}
	switch {
	case r.Minor == 0:
		e.Rule = "the request came as HTTP/1.0, which has no upgrade; if the client asked for one, a proxy on the way speaks 1.0 to this server (nginx: proxy_http_version 1.1)"
	case !r.Upgrade:
		e.Rule = "the request has no Upgrade field; if the client sent one, a proxy on the way removed it (nginx: proxy_set_header Upgrade $http_upgrade, and Connection)"
	}
	return e
}

// refuseHead refuses a request for a broken rule.
func (x *exchange) refuseHead(broken *wire.Error, p *policy) error {
	e := refusal(broken.Status, broken.Error())
	if broken.Status == http.StatusMethodNotAllowed {
		e.Header = http.Header{"Allow": {"GET"}} // RFC 9110 §15.5.6
	}
	return x.refuse(e, p)
}

// refusal makes the answer that says why.
func refusal(status int, why string) *StatusError {
	return &StatusError{StatusCode: status, Body: []byte(why + "\n"), cause: why}
}

// refuse answers with e, which it completes and returns, and gives the client
// the time to read it. Not another byte of the connection is interpreted.
func (x *exchange) refuse(e *StatusError, p *policy) error {
	reason := http.StatusText(e.StatusCode)
	e.Status = statusText(e.StatusCode, reason)
	header := make(http.Header)
	for name, values := range e.Header {
		if !isHopField(name) {
			name = http.CanonicalHeaderKey(name)
			header[name] = append(header[name], values...)
		}
	}
	if e.StatusCode == http.StatusUpgradeRequired {
		header["Upgrade"] = []string{strings.Join(p.protocols, ", ")} // RFC 9110 §15.5.22
	}
	body := e.Body
	if len(body) == 0 {
		body = []byte(reason + "\n")
	}
	for name, value := range map[string]string{
		"Date":                   time.Now().UTC().Format(http.TimeFormat), // RFC 9110 §6.6.1
		"Cache-Control":          "no-store",
		"Content-Type":           "text/plain; charset=utf-8",
		"X-Content-Type-Options": "nosniff",
	} {
		if _, ok := header[name]; !ok {
			header[name] = []string{value}
		}
	}
	b := wire.AppendRefusal(nil, e.StatusCode, reason, header, len(body))
	// Also a head that could not be parsed may be that of a HEAD (RFC 9110 §9.3.2).
	if !bytes.HasPrefix(x.buf, []byte("HEAD ")) && e.StatusCode != http.StatusNotModified {
		b = append(b, body...)
	}
	e.Header = header
	x.settle()
	defer x.finishBy(time.Now().Add(drainTime))()
	if _, err := x.conn.Write(b); err != nil {
		return e
	}
	if c, ok := x.conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	for dropped := 0; dropped < drainBytes; {
		n, err := x.conn.Read(x.first[:])
		if err != nil {
			break
		}
		dropped += max(n, 1)
	}
	return e
}

func isHopField(name string) bool {
	return slices.ContainsFunc(hopFields, func(f string) bool { return strings.EqualFold(f, name) })
}

// authorize asks the application. Its answer is not trusted: a field that would
// break the exchange, a status that is no refusal and a panic are all 500.
func (x *exchange) authorize(p *policy, head []byte) (*http.Request, http.Header, *StatusError) {
	req, err := newRequest(head, x.conn)
	if err != nil {
		return nil, nil, refusal(http.StatusBadRequest, "the request is malformed")
	}
	ctx, cancel := context.WithDeadline(x.ctx, x.deadline)
	defer cancel()
	*req = *req.WithContext(ctx)
	header, err := p.callAuthorize(req)
	// The request lives as long as its Conn; the deadline was the handshake's.
	*req = *req.WithContext(context.WithoutCancel(req.Context()))

	var chosen *StatusError
	switch {
	case err == nil:
		err = checkHeader(header, hopFields)
		if err == nil {
			return req, header, nil
		}
	case errors.Is(err, errPanic):
		return nil, nil, refusal(http.StatusInternalServerError, "the server failed to authorize the request")
	case !errors.As(err, &chosen) || chosen == nil:
		return nil, nil, refusal(http.StatusForbidden, "the request is not authorized")
	case chosen.StatusCode < 300 || chosen.StatusCode > 599:
		err = fmt.Errorf("the status %d is no refusal", chosen.StatusCode)
	default:
		answer := *chosen // which may be a variable of the application's, used again and again
		err = checkHeader(answer.Header, nil)
		if err == nil {
			return nil, nil, &answer
		}
	}
	log.Printf("preflight: Authorize answered what cannot be sent to %v: %v", x.conn.RemoteAddr(), err)
	return nil, nil, refusal(http.StatusInternalServerError, "the server failed to authorize the request")
}

var errPanic = errors.New("panic in Authorize")

func (p *policy) callAuthorize(req *http.Request) (header http.Header, err error) {
	defer func() {
		if v := recover(); v != nil {
			log.Printf("preflight: panic in Authorize for %s: %v\n%s", req.RemoteAddr, v, debug.Stack())
			err = errPanic
		}
	}()
	return p.authorize(req)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
