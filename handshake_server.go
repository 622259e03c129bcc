package preflight

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight/internal/clientaddr"
	"github.com/preflight-go/preflight/internal/wire"
)

const defaultMaxHeader = 16 << 10

// A policy holds the rules of a server. It does not change.
type policy struct {
	protocols   []string // in order of preference
	answers     []switching
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
}

var zeroPolicy = policy{
	protocols: defaultProtocols,
	answers:   answers(defaultProtocols),
	maxHeader: defaultMaxHeader,
}

var defaultProtocols = []string{defaultToken, secureToken}

// A switching holds the 101 of a protocol without fields of the application, and the 101
// that also confirms TLS inside the tunnel.
type switching struct{ raw, tunnelTLS []byte }

// answers creates the 101 of each protocol once. All connections share them.
func answers(protocols []string) (all []switching) {
	for _, p := range protocols {
		all = append(all, switching{
			raw:       wire.AppendSwitching(nil, p, false, nil),
			tunnelTLS: wire.AppendSwitching(nil, p, true, nil),
		})
	}
	return all
}

// A choice is the decision about a request. The zero value means an ordinary request, which
// is for Handler.
type choice struct {
	protocol  string // of policy.protocols
	tunnelTLS bool
}

var (
	errPlain   = errors.New("the client sends no upgrade request, and plain connections are refused")
	errEvicted = errors.New("closed to make room for another handshake")
	errClosing = errors.New("the listener is shutting down")
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
	ordinary  bool          // rest begins with an ordinary request
	rule      *wire.Error   // that this request breaks, if it carries Upgrade
	tunnelTLS bool          // TLS is yet to begin inside the tunnel
}

// kind is the outcome of the handshake, for telemetry.
func (h *handover) kind() string {
	switch {
	case h.ordinary:
		return kindHTTP
	case h.heads.answer != nil:
		return kindUpgraded
	}
	return kindPlain
}

func (h *handover) conn(c net.Conn, remote *net.TCPAddr, obs *observation) *Conn {
	if h.ordinary {
		obs = nil // telemetry does not cover what Handler does
	}
	conn := obs.newConn(c, remote, h.heads, bytes.Clone(h.leftover), h.watch)
	if h.req != nil {
		conn.req.Store(h.req)
		obs.dropHead()
	}
	return conn
}

// serve performs the server's part: it classifies the connection, and answers HTTP. It
// appends the head of an upgrade request to dst and keeps it.
func (x *exchange) serve(p *policy, dst []byte) (h handover, err error) {
	n, watch, err := x.sort(p)
	err = x.sorted(p, n, watch, err, dst, &h)
	return h, err
}

// sorted continues with the result of sort. It fills in h, which is empty. Returning a
// handover from call to call would make the stack of each handshake grow.
func (x *exchange) sorted(p *policy, n int, watch *watch, err error, dst []byte, h *handover) error {
	x.stopWaiting()
	ordinary, _ := err.(*ordinaryError)
	switch {
	case ordinary != nil:
		h.rule = ordinary.rule
		return x.answer(p, n, choice{}, nil, dst, h)
	case err != nil:
		return err
	case n > 0:
		c, err := x.choose(p, x.buf[:n])
		if err != nil {
			return err
		}
		return x.answer(p, n, c, nil, dst, h)
	case p.refusePlain:
		return errPlain
	case p.isDraining():
		return errClosing
	}
	h.leftover, h.watch = x.buf, watch
	return nil
}

// choose determines what a request asks for, and who its client is.
func (x *exchange) choose(p *policy, head []byte) (c choice, err error) {
	if len(head) > p.maxHeader { // net/http lets a little more pass
		return c, x.refuseHead(tooLarge(head), p)
	}
	var request wire.Request
	if broken := request.Parse(head); broken != nil {
		if p.handler && !wire.MayUpgrade(head) {
			return c, nil
		}
		return c, x.refuseHead(broken, p)
	}
	protocol, broken := request.Protocol(p.protocols)
	switch {
	case broken != nil:
	case protocol != "":
		if request.TunnelTLS && p.tls == nil {
			broken = &wire.Error{Status: http.StatusUpgradeRequired, Offset: -1,
				Rule: "TLS inside the tunnel, which Preflight-Tunnel asks for, is not offered here (PreflightListener.TLSConfig)"}
		}
	case p.handler:
		return c, nil
	default:
		broken = ordinary(&request)
	}
	x.ctx = x.obs.arrive(x.ctx, request.Method, head)
	if broken != nil {
		return c, x.refuseHead(broken, p)
	}
	if p.isDraining() {
		return c, x.refuse(unavailable(whyDraining), p)
	}
	if broken := x.findClient(p, head); broken != nil {
		return c, x.refuseHead(broken, p)
	}
	return choice{protocol, request.TunnelTLS}, nil
}

// answer answers the request whose head is the first n bytes of x.buf, as choose has
// decided. If net/http has read the request, req is that request, and its Context must
// survive.
func (x *exchange) answer(p *policy, n int, c choice, req *http.Request, dst []byte, h *handover) error {
	if c.protocol == "" {
		h.leftover, h.ordinary = x.buf, true
		return nil
	}
	head := x.buf[:n]
	answer := &p.answers[slices.Index(p.protocols, c.protocol)]
	h.heads.answer = answer.raw
	if c.tunnelTLS {
		h.heads.answer = answer.tunnelTLS
	}
	if req != nil || p.authorize != nil {
		if err := x.permit(p, head, c, req, h); err != nil {
			return err
		}
	}
	if req == nil && x.obs == nil {
		h.heads.request = append(dst, head...)
	}
	h.leftover, h.tunnelTLS = x.buf[n:], c.tunnelTLS
	if _, err := x.conn.Write(h.heads.answer); err != nil {
		return &stageError{"write the 101", err}
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
		return &wire.Error{Status: http.StatusBadRequest, Offset: -1, Rule: err.Error()}
	}
	if client, ok := client.(*net.TCPAddr); ok { // else the peer itself
		x.remote = client
	}
	return nil
}
