package preflight

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
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
	protocols   []string // in order of preference
	answers     [][]byte // the 101 of each, as it is without further fields
	authorize   func(*http.Request) (http.Header, error)
	refusePlain bool
	plainAfter  time.Duration // 0: a silent client is plain at the deadline
	maxHeader   int
	tls         *tls.Config // for clients that speak TLS first, and in tunnels of tokenTLS
	proxies     proxies
	handler     bool            // ordinary requests are served, not refused
	draining    *atomic.Bool    // nothing new is let in; nil: never
	goesOn      func(*exchange) // before work in the midst of sorting; nil: nobody cares
	role        *role
}

func (p *policy) isDraining() bool { return p.draining != nil && p.draining.Load() }

var zeroPolicy = policy{
	protocols: []string{defaultToken},
	answers:   answers(defaultToken),
	maxHeader: defaultMaxHeader,
}

// answers makes the 101 of each protocol once, for all connections to share.
func answers(protocols ...string) (all [][]byte) {
	for _, p := range protocols {
		all = append(all, wire.AppendSwitching(nil, p, nil))
	}
	return all
}

var (
	errPlain   = errors.New("the client sends no upgrade request, and plain connections are refused")
	errEvicted = errors.New("closed to make room for another handshake")
	errClosing = errors.New("the listener is shutting down")
)

// A handover is a connection that has been sorted: the application's, or one
// with an ordinary request for the Handler.
type handover struct {
	heads    heads
	rest     []byte        // arrived behind the head; not to be kept
	watch    *watch        // of what may yet turn out to be HTTP
	req      *http.Request // nil if nobody has looked at it
	ordinary bool          // rest begins with an ordinary request
	secure   bool          // TLS is yet to begin inside the tunnel
}

// kind is what the handshake has come to.
func (h *handover) kind() string {
	switch {
	case h.ordinary:
		return kindHTTP
	case h.heads.answer != nil:
		return kindUpgraded
	}
	return kindPlain
}

func (h *handover) conn(c net.Conn, remote *net.TCPAddr, seen *observation) *Conn {
	if h.ordinary {
		seen = nil // what Handler does with the connection is not ours to show
	}
	conn := seen.newConn(c, remote, h.heads, bytes.Clone(h.rest), h.watch)
	if h.req != nil {
		conn.req.Store(h.req)
		seen.forget()
	}
	return conn
}

// serve plays the server's part: it finds out what the client speaks, and
// answers what is HTTP. The head of an upgrade request is kept in dst.
func (x *exchange) serve(p *policy, dst []byte) (h handover, err error) {
	n, watch, err := x.sort(p)
	err = x.sorted(p, n, watch, err, dst, &h)
	return h, err
}

// sorted goes on with the result of sort. It fills in h, which is empty: returned
// from call to call, it would have the stack of each handshake grow.
func (x *exchange) sorted(p *policy, n int, watch *watch, err error, dst []byte, h *handover) error {
	x.settle()
	switch {
	case err != nil:
		return err
	case n > 0:
		protocol, err := x.choose(p, x.buf[:n])
		if err != nil {
			return err
		}
		return x.answer(p, n, protocol, nil, dst, h)
	case p.refusePlain:
		return errPlain
	case p.isDraining():
		return errClosing
	}
	h.rest, h.watch = x.buf, watch
	return nil
}

// choose finds the protocol that a request asks for, and who its client is. There
// is none in an ordinary request that is Handler's.
func (x *exchange) choose(p *policy, head []byte) (protocol string, err error) {
	if len(head) > p.maxHeader { // net/http lets a little more pass
		return "", x.refuseHead(tooLarge(head), p)
	}
	var request wire.Request
	if broken := request.Parse(head); broken != nil {
		return "", x.refuseHead(broken, p)
	}
	protocol, broken := request.Protocol(p.protocols)
	if broken == nil && protocol == "" {
		if p.handler {
			return "", nil
		}
		broken = ordinary(&request)
	}
	x.ctx = x.seen.arrive(x.ctx, request.Method, head)
	if broken != nil {
		return "", x.refuseHead(broken, p)
	}
	if p.isDraining() {
		return "", x.refuse(unavailable(whyDraining), p)
	}
	if broken := x.findClient(p, head); broken != nil {
		return "", x.refuseHead(broken, p)
	}
	return protocol, nil
}

// answer answers the request whose head are the first n bytes of x.buf, with what
// choose has found. req is that request if net/http has read it; its Context is to
// survive then.
func (x *exchange) answer(p *policy, n int, protocol string, req *http.Request, dst []byte, h *handover) error {
	if protocol == "" {
		h.rest, h.ordinary = x.buf, true
		return nil
	}
	head := x.buf[:n]
	h.heads.answer = p.answers[slices.Index(p.protocols, protocol)]
	if req != nil || p.authorize != nil {
		if err := x.permit(p, head, protocol, req, h); err != nil {
			return err
		}
	}
	if req == nil && x.seen == nil {
		h.heads.request = append(dst, head...)
	}
	h.rest, h.secure = x.buf[n:], strings.EqualFold(protocol, tokenTLS)
	if _, err := x.conn.Write(h.heads.answer); err != nil {
		return &stageError{"write the 101", err}
	}
	return nil
}

// permit asks the application, if it wants to be asked. req is as for answer.
func (x *exchange) permit(p *policy, head []byte, protocol string, req *http.Request, h *handover) error {
	h.req = req
	if req != nil {
		req.RemoteAddr = addrString(x.addr())
	}
	if p.authorize == nil {
		outlive(x.ctx, req)
		return nil
	}
	req, header, refusal := x.authorize(p, head, req)
	if refusal != nil {
		return x.refuse(refusal, p)
	}
	h.req = req
	if len(header) > 0 {
		h.heads.answer = wire.AppendSwitching(nil, protocol, header)
	}
	return nil
}

// findClient goes on from the peer to the client, as far as the proxies on the
// way are believed.
func (x *exchange) findClient(p *policy, head []byte) *wire.Error {
	if !p.proxies.any() || x.unknown {
		return nil
	}
	peer := x.addr()
	if !p.proxies.trust(peer) {
		return nil
	}
	var lines []string
	for name, value := range wire.Header(head) {
		if strings.EqualFold(string(name), p.proxies.field) {
			lines = append(lines, string(value))
		}
	}
	client, err := p.proxies.client(peer, lines)
	if err != nil {
		return &wire.Error{Status: http.StatusBadRequest, Offset: -1, Rule: err.Error()}
	}
	if client, ok := client.(*net.TCPAddr); ok { // else the peer itself
		x.remote = client
	}
	return nil
}

const whyDraining = "the server is shutting down"

// unavailable is the refusal of a client that is welcome another time.
func unavailable(why string) *StatusError {
	e := refusal(http.StatusServiceUnavailable, why)
	e.Header = http.Header{"Retry-After": {"1"}} // seconds; by then there may be room, or another server
	return e
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
	body := e.complete(p)
	b := wire.AppendRefusal(nil, e.StatusCode, http.StatusText(e.StatusCode), e.Header, len(body))
	// Also a head that could not be parsed may be that of a HEAD (RFC 9110 §9.3.2).
	if !bytes.HasPrefix(x.buf, []byte("HEAD ")) && e.StatusCode != http.StatusNotModified {
		b = append(b, body...)
	}
	x.settle()
	defer x.finishBy(time.Now().Add(drainTime))()
	_, err := x.conn.Write(b)
	x.seen.fail(x.ctx, e)
	if err != nil {
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

// complete gives e the fields that every refusal has, and returns its body.
func (e *StatusError) complete(p *policy) (body []byte) {
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
	e.Header = header
	if len(e.Body) == 0 {
		return []byte(reason + "\n")
	}
	return e.Body
}

func isHopField(name string) bool {
	return slices.ContainsFunc(hopFields, func(f string) bool { return strings.EqualFold(f, name) })
}

// authorize asks the application. Its answer is not trusted: a field that would
// break the exchange, a status that is no refusal and a panic are all 500.
func (x *exchange) authorize(p *policy, head []byte, req *http.Request) (*http.Request, http.Header, *StatusError) {
	if req == nil {
		var err error
		if req, err = newRequest(x.ctx, head, x.conn, x.addr()); err != nil {
			return nil, nil, refusal(http.StatusBadRequest, "the request is malformed")
		}
	}
	ctx, cancel := context.WithDeadline(x.ctx, x.deadline)
	defer cancel()
	*req = *req.WithContext(ctx)
	header, err := x.callAuthorize(p, req)
	outlive(req.Context(), req)

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
	log.Printf("preflight: Authorize answered what cannot be sent to %v: %v", x.addr(), err)
	return nil, nil, refusal(http.StatusInternalServerError, "the server failed to authorize the request")
}

// outlive gives a request, which lives as long as its Conn, a context that the
// end of the handshake does not end. Inlined, it would have each handshake copy its
// stack to a larger one, for the requests in it.
//
//go:noinline
func outlive(ctx context.Context, req *http.Request) {
	*req = *req.WithContext(context.WithoutCancel(ctx))
}

var errPanic = errors.New("panic in a function of the application")

func (x *exchange) callAuthorize(p *policy, req *http.Request) (header http.Header, err error) {
	defer func() {
		if v := recover(); v != nil {
			if !x.seen.panicked(v) {
				log.Printf("preflight: panic in Authorize for %s: %v\n%s", req.RemoteAddr, v, debug.Stack())
			}
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
