package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	// What a refused client still sends is read and dropped, so that closing
	// does not reset the connection and take the answer with it (RFC 9112
	// §9.6), but not more than this.
	drainBytes = 64 << 10
	drainTime  = time.Second
)

const (
	whyDraining = "the server is shutting down"
	whyFull     = "too many handshakes are under way"
)

// A receipt is what every refusal has beside its code: it tells the client that a listener
// was reached, and what that serves.
type receipt struct {
	carriers string // Preflight-Carriers
	tokens   string // Upgrade of a 426 (RFC 9110 §15.5.22)
}

func newReceipt(o *wire.Offer) receipt {
	var carriers, tokens []string
	if o.Upgrade {
		carriers = append(carriers, string(CarrierUpgrade))
	}
	if o.Framed {
		carriers = append(carriers, string(CarrierFramed))
	}
	if o.Upgrade || o.Framed {
		tokens = slices.Clone(o.Protocols)
	}
	if o.WebSocket {
		carriers, tokens = append(carriers, string(CarrierWebSocket)), append(tokens, string(CarrierWebSocket))
	}
	return receipt{strings.Join(carriers, ", "), strings.Join(tokens, ", ")}
}

// unavailable is the refusal of a client that may try again later.
//
//go:noinline
func unavailable(why string) *StatusError {
	e := refusal(http.StatusServiceUnavailable, wire.CodeUnavailable, why)
	e.Header = http.Header{"Retry-After": {"1"}} // seconds; by then there may be room, or another server
	if e.finer = reasonFull; why == whyDraining {
		e.finer = reasonDraining
	}
	return e
}

// tooLarge is the error of a head that exceeds the limit.
func tooLarge(head []byte) *wire.Error {
	if bytes.IndexByte(head, '\n') < 0 {
		return &wire.Error{Status: 414, Offset: len(head), Rule: "the request line is too long: RFC 9112 §3", Code: wire.CodeTooLarge}
	}
	return &wire.Error{Status: 431, Offset: len(head), Rule: "the head of the request is too large: RFC 6585 §5", Code: wire.CodeTooLarge}
}

// refuseHead refuses a request that breaks a rule.
//
//go:noinline
func (x *exchange) refuseHead(broken *wire.Error, p *policy) error {
	return x.refuse(refusalOf(broken), p)
}

// refuseOrdinary refuses a request that asks for nothing that is served.
//
//go:noinline
func (x *exchange) refuseOrdinary(r *wire.Request, head []byte, p *policy) error {
	return x.refuse(refusalOf(r.Ordinary()).refine(head), p)
}

// refusalOf creates the answer to a request that breaks a rule.
func refusalOf(broken *wire.Error) *StatusError {
	e := refusal(broken.Status, broken.Code, broken.Error())
	switch {
	case broken.Status == http.StatusMethodNotAllowed:
		e.Header = http.Header{"Allow": {"GET"}} // RFC 9110 §15.5.6
	case broken.Status == http.StatusUpgradeRequired && broken.Code == wire.CodeWebSocket:
		e.Header = http.Header{"Sec-Websocket-Version": {"13"}} // RFC 6455 §4.4
	case broken.Code == wire.CodeRequest:
		e.finer = reasonClientAddress
	}
	return e
}

// refusal creates an answer with its code and its reason.
func refusal(status int, code, why string) *StatusError {
	return &StatusError{StatusCode: status, Body: []byte(why + "\n"), Reason: code, cause: why}
}

// refuse sends e, which it completes and returns, and gives the client time to read it. It
// interprets no further byte of the connection.
func (x *exchange) refuse(e *StatusError, p *policy) error {
	body := e.complete(p)
	b := wire.AppendRefusal(nil, e.StatusCode, http.StatusText(e.StatusCode), e.Header, len(body))
	// Also a head that could not be parsed may be that of a HEAD (RFC 9110 §9.3.2).
	if !bytes.HasPrefix(x.buf, []byte("HEAD ")) && e.StatusCode != http.StatusNotModified {
		b = append(b, body...)
	}
	x.stopWaiting()
	defer x.finishBy(time.Now().Add(drainTime))()
	_, err := write(x.conn, b)
	x.failed(x.ctx, p, e)
	if err == nil {
		x.drain(x.conn)
	}
	return e
}

// What is said to clients that speak on another layer than this side.
const (
	needsTLS   = "Client sent an HTTP request to an HTTPS server." // the words of net/http, which clients know
	needsPlain = "Client sent a TLS handshake to a port without TLS."
)

// say sends a last answer on c, which is x.conn or below it, and gives the client time to
// read it. It has no receipt, because no request has been read.
//
//go:noinline
func (x *exchange) say(c net.Conn, what string) {
	x.stopWaiting()
	defer x.finishBy(time.Now().Add(drainTime))()
	body := what + "\n"
	header := make(http.Header)
	addCommon(header)
	b := wire.AppendRefusal(nil, http.StatusBadRequest, http.StatusText(http.StatusBadRequest), header, len(body))
	if _, err := write(c, append(b, body...)); err == nil {
		x.drain(c)
	}
}

// drain ends the direction to the client, and drops what the client still sends.
func (x *exchange) drain(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	// Not into buf, which may be as small as what a stalled client has sent.
	if x.buf = nil; x.scratch == nil {
		x.borrow()
	}
	for dropped := 0; dropped < drainBytes; {
		n, err := c.Read(x.scratch.bytes)
		if err != nil {
			break
		}
		dropped += max(n, 1)
	}
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
	if e.StatusCode == http.StatusUpgradeRequired && p.receipt.tokens != "" {
		header["Upgrade"] = []string{p.receipt.tokens}
	}
	header[wire.RefusalField] = []string{e.Reason}
	header[wire.CarriersField] = []string{p.receipt.carriers}
	addCommon(header)
	e.Header = header
	if len(e.Body) == 0 {
		return []byte(reason + "\n")
	}
	return e.Body
}

// sayArrived says in e, a 401 or 403 whose body is reason unless Authorize has chosen one,
// whether r had Authorization. Its client then knows whether a proxy on the way has removed
// the field.
func (e *StatusError) sayArrived(r *http.Request, reason string) *StatusError {
	if len(e.Body) > 0 || e.StatusCode != http.StatusUnauthorized && e.StatusCode != http.StatusForbidden {
		return e
	}
	what := wire.NoAuthorization
	if len(r.Header["Authorization"]) > 0 {
		what = wire.WithAuthorization
	}
	e.Body = []byte(reason + "; " + what + "\n")
	return e
}

// addCommon adds what every refusal has, unless it is there.
func addCommon(header http.Header) {
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
}

func isHopField(name string) bool {
	return slices.ContainsFunc(hopFields, func(f string) bool { return strings.EqualFold(f, name) })
}

// permit asks the application, if Authorize is set. req is as in answer.
func (x *exchange) permit(p *policy, head []byte, t wire.Terms, req *http.Request, h *handover) error {
	var header http.Header
	if req != nil {
		req.RemoteAddr = addrString(x.addr())
	}
	if p.authorize == nil {
		detachContext(x.ctx, req)
	} else {
		var refusal *StatusError
		if req, header, refusal = x.authorize(p, head, req); refusal != nil {
			return x.refuse(refusal, p)
		}
	}
	h.req, h.heads.answer = req, p.switching(nil, head, t, header)
	return nil
}

const notAuthorized = "the request is not authorized"

// authorize asks the application. It does not trust the answer: a field that would break
// the exchange, a status that is not a refusal, and a panic are all answered 500.
func (x *exchange) authorize(p *policy, head []byte, req *http.Request) (*http.Request, http.Header, *StatusError) {
	if req == nil {
		var err error
		if req, err = newRequest(x.ctx, head, x.conn, x.addr()); err != nil {
			return nil, nil, refusal(http.StatusBadRequest, wire.CodeHead, "the request is malformed")
		}
	}
	client := x.watchClient(p)
	defer client.end() // also where Authorize ends the goroutine
	*req = *req.WithContext(client.ctx)
	header, err := x.callAuthorize(p, req)
	gone := client.end()
	detachContext(req.Context(), req)

	var chosen *StatusError
	switch {
	case err == nil:
		err = checkHeader(header, hopFields)
		if err == nil {
			return req, header, nil
		}
	case errors.Is(err, errPanic):
		e := refusal(http.StatusInternalServerError, wire.CodeInternal, "the server failed to authorize the request")
		e.finer = reasonPanic
		return nil, nil, e
	case gone != nil && errors.Is(err, context.Canceled):
		// Not refused: Authorize has come to no answer. It is sent all the
		// same, for a client that has only ended its direction.
		x.failed(x.ctx, p, &stageError{stage: stageAuthorize, err: gone})
		return nil, nil, refusal(http.StatusBadRequest, wire.CodeAuthorize, "the client ended its direction before the request was authorized; it must keep the connection open until the 101")
	case errors.Is(err, context.Canceled) && x.ctx.Err() == context.Canceled:
		x.failed(x.ctx, p, &stageError{stage: stageAuthorize, err: err})
		return nil, nil, unavailable(whyDraining)
	case !errors.As(err, &chosen) || chosen == nil || chosen.what != "":
		// A refusal that a dial of the application has received is not its answer:
		// fields and body of it are not for this client.
		e := &StatusError{StatusCode: http.StatusForbidden, Reason: wire.CodeAuthorize, cause: notAuthorized}
		return nil, nil, e.sayArrived(req, notAuthorized)
	case chosen.StatusCode < 300 || chosen.StatusCode > 599:
		err = fmt.Errorf("the status %d is no refusal", chosen.StatusCode)
	default:
		// A copy, because the application may use its variable again.
		answer := StatusError{StatusCode: chosen.StatusCode, Header: chosen.Header, Body: chosen.Body, Reason: wire.CodeAuthorize}
		err = checkHeader(answer.Header, nil)
		if err == nil {
			return nil, nil, answer.sayArrived(req, http.StatusText(answer.StatusCode))
		}
	}
	log.Printf("preflight: Authorize answered what cannot be sent to %v: %v", x.addr(), err)
	return nil, nil, refusal(http.StatusInternalServerError, wire.CodeInternal, "the server failed to authorize the request")
}

// detachContext gives a request, which lives as long as its Conn, a context that does not
// end with the handshake. If it were inlined, each handshake would copy its stack to a
// larger one.
//
//go:noinline
func detachContext(ctx context.Context, req *http.Request) {
	*req = *req.WithContext(context.WithoutCancel(ctx))
}

func (x *exchange) callAuthorize(p *policy, req *http.Request) (header http.Header, err error) {
	defer func() {
		if v := recover(); v != nil {
			if !x.obs.panicked(v) {
				log.Printf("preflight: panic in Authorize for %s: %v\n%s", req.RemoteAddr, v, debug.Stack())
			}
			err = errPanic
		}
	}()
	return p.authorize(req)
}

// clientWatchDelay is how long Authorize may run before a clientWatch begins to read. An
// Authorize that needs no I/O has returned by then, and costs no Read.
const clientWatchDelay = 100 * time.Millisecond

// A clientWatch reads from the connection while Authorize runs, so that Authorize is told
// when its client has left, and can stop its work. Only a Read can notice the end of a
// connection. Bytes that arrive are kept as the first bytes of the tunnel.
//
// An orderly end counts like a reset. It may be a half-close, after which a client could
// still read the 101. But nearly always it is a client, or a proxy on its behalf, that has
// given up. net/http decides the same. Only the context ends: if Authorize still answers,
// the answer is sent.
type clientWatch struct {
	x       *exchange
	keeper  keeper
	ctx     context.Context // of the request
	cancel  context.CancelCauseFunc
	release context.CancelFunc
	timer   *time.Timer   // begins to look; nil: it never does, or has ended
	done    chan struct{} // closed when it has looked
	gone    error         // why the client has gone
	yielded bool          // the place is free for others
}

// watchClient begins a clientWatch. end must be called, by a deferred call too: Authorize
// may end its goroutine.
func (x *exchange) watchClient(p *policy) *clientWatch {
	l := &clientWatch{x: x, keeper: p.keeper, done: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(x.ctx)
	l.cancel = cancel
	l.ctx, l.release = context.WithDeadline(ctx, x.contextDeadline())
	if x.timer == nil { // else the transport has no deadlines, and its Read cannot be ended
		l.timer = time.AfterFunc(clientWatchDelay, l.read)
	}
	return l
}

// read reads until the connection ends, or until end interrupts it. A client that sends
// before it has the 101 must not make us keep any amount: reading stops after firstRead
// bytes.
func (l *clientWatch) read() {
	defer close(l.done)
	defer contain("a transport")
	var err error
	for limit := len(l.x.buf) + firstRead; err == nil && len(l.x.buf) < limit; {
		err = l.x.read(limit)
	}
	if err == nil || hasExpired(err) {
		return
	}
	l.gone = fmt.Errorf("the client has gone: %w", err)
	l.cancel(l.gone)
	l.yielded = l.keeper != nil && l.keeper.yield()
}

// end ends the watch. It returns why the client has left, or nil if it has not. It may be
// called again.
func (l *clientWatch) end() error {
	if l.timer != nil && !l.timer.Stop() {
		l.x.setReadDeadline(aLongTimeAgo)
		<-l.done
		l.x.setReadDeadline(l.x.deadline)
	}
	if l.yielded {
		l.keeper.reclaim()
	}
	l.timer, l.yielded = nil, false
	l.cancel(nil)
	l.release()
	return l.gone
}

func (p *policy) isDraining() bool { return p.draining != nil && p.draining.Load() }
