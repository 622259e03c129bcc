package preflight

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight/internal/clientaddr"
	"github.com/preflight-go/preflight/internal/origin"
	"github.com/preflight-go/preflight/internal/websocket"
	"github.com/preflight-go/preflight/internal/wire"
)

const defaultMaxHeader = 16 << 10

// A policy holds the rules of a server. It does not change.
type policy struct {
	offer       wire.Offer
	answers     []switching
	receipt     receipt
	origins     origin.List // of the pages that may open tunnels
	periods     periods
	authorize   func(*http.Request) (http.Header, error)
	refusePlain bool
	plainAfter  time.Duration // 0: a silent client is plain at the deadline
	maxHeader   int
	tls         *tls.Config // for clients that speak TLS first, and inside tunnels that ask for it
	proxies     clientaddr.Proxies
	handler     bool         // ordinary requests are served, not refused
	draining    *atomic.Bool // nothing new is let in; nil: never
	keeper      keeper       // nil: there is no limit on handshakes
	role        *role
	logger      *slog.Logger
}

var zeroPolicy = func() (p policy) {
	p.maxHeader = defaultMaxHeader
	p.periods.keepAlive = defaultKeepAlive
	p.serve(defaultProtocols, allCarriers)
	return p
}()

var defaultProtocols = []string{defaultToken, secureToken}

// serve sets what is offered, and prepares the answers that depend on it.
func (p *policy) serve(protocols []string, carriers []Carrier) {
	p.offer = wire.Offer{
		Protocols: protocols,
		Upgrade:   slices.Contains(carriers, CarrierUpgrade),
		Framed:    slices.Contains(carriers, CarrierFramed),
		WebSocket: slices.Contains(carriers, CarrierWebSocket),
		TunnelTLS: p.tls != nil,
	}
	p.receipt = newReceipt(&p.offer)
	for _, protocol := range protocols {
		p.answers = append(p.answers, newSwitching(protocol))
	}
}

// A switching holds the answers 101 for a protocol without fields of the application, by
// whether TLS follows inside the tunnel. All connections share them. Those of a WebSocket
// lack the value of Sec-WebSocket-Accept, which depends on the request. That saves 176 bytes
// for each tunnel.
type switching struct{ raw, framed, webSocket [2][]byte }

func newSwitching(protocol string) switching {
	answers := func(t wire.Terms) (of [2][]byte) {
		t.Protocol = protocol
		of[0] = wire.AppendSwitching(nil, t, "", nil)
		t.TunnelTLS = true
		of[1] = wire.AppendSwitching(nil, t, "", nil)
		return of
	}
	return switching{answers(wire.Terms{}), answers(wire.Terms{Framed: true}), answers(wire.Terms{WebSocket: true})}
}

// shared returns the shared answer that agrees to t.
func (p *policy) shared(t wire.Terms) []byte {
	s := &p.answers[slices.Index(p.offer.Protocols, t.Protocol)]
	of := &s.raw
	switch {
	case t.WebSocket:
		of = &s.webSocket
	case t.Framed:
		of = &s.framed
	}
	if t.TunnelTLS {
		return of[1]
	}
	return of[0]
}

// webSocketAnswer is the length of the usual 101 that agrees to a WebSocket.
const webSocketAnswer = 176

// switching returns the 101 that agrees to t. It may use the space behind dst. It is not
// inlined, because the hash that answers a WebSocket needs more than the small stack of a
// handshake.
//
//go:noinline
func (p *policy) switching(dst, head []byte, t wire.Terms, header http.Header) []byte {
	switch {
	case t.WebSocket:
		return wire.AppendSwitching(slices.Grow(dst, webSocketAnswer), t, websocket.Accept(wire.Key(head)), header)
	case len(header) > 0:
		return wire.AppendSwitching(nil, t, "", header)
	}
	return p.shared(t)
}

var (
	errPlain      = &plainError{reasonPlain, "the client sends no upgrade request, and plain connections are refused"}
	errPlainTLS   = &plainError{reasonClientHello, "the client speaks TLS, TLSConfig is not set, and plain connections are refused"}
	errPlainHTTP2 = &plainError{reasonHTTP2, "the client speaks HTTP/2 with prior knowledge, and plain connections are refused"}
	errEvicted    = errors.New("closed to make room for another handshake")
	errClosing    = errors.New("the listener is shutting down")
)

// An ordinaryError ends sorting if net/http is to judge a request for Handler.
type ordinaryError struct {
	rule *wire.Error // the request breaks it, and may yet turn out to carry Upgrade; or nil
}

func (*ordinaryError) Error() string { return "a request that net/http is to judge" }

// A handover is a connection after sorting. It belongs to the application, or carries an
// ordinary request for Handler.
type handover struct {
	heads     heads
	leftover  []byte        // arrived behind the head; not to be kept
	watch     *watch        // of what may yet turn out to be HTTP
	req       *http.Request // nil if neither net/http nor Authorize has seen it
	rule      *wire.Error   // that this request breaks, if it carries Upgrade
	ordinary  bool          // rest begins with an ordinary request
	tunnelTLS bool          // TLS is yet to begin inside the tunnel
	framed    bool          // capsules are yet to begin in the tunnel
	webSocket bool          // they are in the messages of a WebSocket
}

// carrier is that of the tunnel; "" for any other connection.
func (h *handover) carrier() Carrier {
	if h.heads.answer == nil {
		return ""
	}
	return carrierFor(wire.Terms{Framed: h.framed, WebSocket: h.webSocket})
}

// outcome is that of the handshake, for telemetry.
func (h *handover) outcome() outcomeKey {
	switch {
	case h.ordinary:
		return outcomeKey{kind: kindHTTP}
	case h.heads.answer != nil:
		return outcomeKey{kind: kindUpgraded, carrier: h.carrier()}
	}
	return outcomeKey{kind: kindPlain, reason: plainReason(h.leftover)}
}

func (h *handover) conn(c net.Conn, remote *net.TCPAddr, obs *observation) *Conn {
	if h.ordinary {
		obs = nil // telemetry does not cover what Handler does
	}
	var leftover []byte
	if len(h.leftover) > 0 {
		leftover = cloned(h.leftover)
	}
	conn := obs.newConn(c, remote, &h.heads, leftover, h.watch)
	if h.req != nil {
		conn.req.Store(h.req)
		obs.dropHead()
	}
	return conn
}

// cloned is bytes.Clone, on a stack frame of its own.
//
//go:noinline
func cloned(b []byte) []byte { return bytes.Clone(b) }

// serve performs the server's part: it classifies the connection, and answers HTTP. It
// appends the head of an upgrade request to dst and keeps it.
func (x *exchange) serve(p *policy, dst []byte) (h handover, err error) {
	n, watch, err := x.sort(p)
	err = x.sorted(p, n, watch, err, &h)
	h.heads.request = append(dst, h.heads.request...)
	return h, err
}

// sorted continues with the result of sort. It fills in h, which is empty. Returning a
// handover from call to call would make the stack of each handshake grow. The head in h is
// still in x.buf: where it is copied, less of the stack is in use.
func (x *exchange) sorted(p *policy, n int, watch *watch, err error, h *handover) error {
	x.stopWaiting()
	ordinary, _ := err.(*ordinaryError)
	switch {
	case ordinary != nil:
		h.rule = ordinary.rule
		return x.answer(p, n, wire.Terms{}, nil, h)
	case err != nil:
		return err
	case n > 0:
		t, err := x.choose(p, x.buf[:n])
		if err != nil {
			return err
		}
		return x.answer(p, n, t, nil, h)
	case p.refusePlain:
		err := errPlainFor(x.buf)
		if err == errPlainTLS {
			x.say(x.conn, needsPlain)
		}
		return err
	case p.isDraining():
		return errClosing
	}
	h.leftover, h.watch = x.buf, watch
	return nil
}

// choose determines what a request asks for, and who its client is. The zero Terms mean an
// ordinary request, which is for Handler.
func (x *exchange) choose(p *policy, head []byte) (t wire.Terms, err error) {
	if len(head) > p.maxHeader { // net/http lets a little more pass
		return t, x.refuseHead(tooLarge(head), p)
	}
	var request wire.Request
	if broken := request.Parse(head); broken != nil {
		if p.handler && !wire.MayUpgrade(head) {
			return t, nil
		}
		return t, x.refuseHead(broken, p)
	}
	t, broken := request.Terms(&p.offer)
	switch {
	case broken != nil || t.Protocol != "":
	case p.handler:
		return t, nil
	default:
		x.ctx = x.obs.arrive(x.ctx, request.Method, head)
		return t, x.refuseOrdinary(&request, head, p)
	}
	x.ctx = x.obs.arrive(x.ctx, request.Method, head)
	if broken == nil && p.isDraining() {
		return t, x.refuse(unavailable(whyDraining), p)
	}
	if broken == nil {
		x.obs.tries(carrierFor(t))
		broken = p.checkOrigin(&request)
	}
	if broken == nil {
		broken = x.findClient(p, head)
	}
	if broken != nil {
		return t, x.refuseHead(broken, p)
	}
	return t, nil
}

const wrongOrigin = "the web page that sent the request may not open tunnels here: PreflightListener.AllowedOrigins does not list the Origin of the request, or the field is repeated"

// checkOrigin refuses what a web page sends, unless its origin is allowed.
//
//go:noinline
func (p *policy) checkOrigin(r *wire.Request) *wire.Error {
	if origin, ok := r.Origin(); !ok || p.origins.Allows(string(origin)) {
		return nil
	}
	return &wire.Error{Status: http.StatusForbidden, Offset: -1, Rule: wrongOrigin, Code: wire.CodeOrigin}
}

// answer answers the request whose head is the first n bytes of x.buf, as choose has
// decided. If net/http has read the request, req is that request, and its Context must
// survive.
func (x *exchange) answer(p *policy, n int, t wire.Terms, req *http.Request, h *handover) error {
	if t.Protocol == "" {
		h.leftover, h.ordinary = x.buf, true
		return nil
	}
	head := x.buf[:n]
	if req != nil || p.authorize != nil {
		if err := x.permit(p, head, t, req, h); err != nil {
			return err
		}
	} else {
		h.heads.answer = p.switching(x.buf[len(x.buf):], head, t, nil)
	}
	if h.req == nil && x.obs == nil {
		h.heads.request = head
	}
	h.leftover, h.tunnelTLS = x.buf[n:], t.TunnelTLS
	h.framed, h.webSocket = t.Framed || t.WebSocket, t.WebSocket
	n, err := x.conn.Write(h.heads.answer)
	if n < len(h.heads.answer) && err == nil {
		err = io.ErrShortWrite
	}
	if err != nil {
		return &stageError{stage: "write the 101", err: err}
	}
	if h.req == nil {
		h.heads.answer = p.shared(t) // Conn.Response adds what it lacks
	}
	return nil
}

// findClient determines the client's address from the field of the trusted proxies.
func (x *exchange) findClient(p *policy, head []byte) *wire.Error {
	if !p.proxies.Any() || x.unknown {
		return nil
	}
	peer := x.addr()
	if !p.proxies.TrustsPeer(x.conn, peer) {
		return nil
	}
	var lines []string
	for name, value := range wire.Header(head) {
		if strings.EqualFold(string(name), p.proxies.Field()) {
			lines = append(lines, string(value))
		}
	}
	client, err := p.proxies.Client(peer, lines)
	if err != nil {
		return &wire.Error{Status: http.StatusBadRequest, Offset: -1, Rule: err.Error(), Code: wire.CodeRequest}
	}
	if client, ok := client.(*net.TCPAddr); ok { // else the peer itself
		x.remote = client
	}
	return nil
}
