package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/preflight-go/preflight/internal/diagnosis"
	"github.com/preflight-go/preflight/internal/wire"
)

const (
	defaultTimeout = 10 * time.Second
	defaultToken   = "tcp"
	// AMPS clients ask for tcps if they speak TLS to the proxy. It is another name for
	// tcp, and says nothing about TLS inside the tunnel.
	secureToken = "tcps"
)

// errIncomplete replaces a bare EOF in a handshake.
var errIncomplete = fmt.Errorf("the connection ended before the answer: %w", io.ErrUnexpectedEOF)

// Client performs the upgrade on c, as a [PreflightDialer] does on a connection that
// it has dialed. c may be any [net.Conn].
//
// Client sends the target (URL), the Host and the Header of req. The Upgrade field of
// Header is the token. Without one the token is "tcp"; "websocket" is an error. The
// field "Preflight-Framing: capsule" of Header asks for [CarrierFramed], with PINGs
// every 20 seconds; without it the carrier is [CarrierUpgrade]. Client tries no other
// carrier. Method must be GET or "". A Body is an error, and so are the other fields
// that are errors in PreflightDialer.Header. These errors are returned before anything
// is sent. Client does not ask for TLS inside the tunnel. [crypto/tls.Client] on the
// returned Conn works without the listener's consent. req becomes [Conn.Request] and
// must not be modified afterwards. Its own Context is not used.
//
// The handshake ends when ctx ends, or after 10 seconds. After Client has returned,
// ctx does not affect the connection. A refusal is a [*StatusError]. On error the
// caller must close c, which cannot be used for anything else.
func Client(ctx context.Context, c net.Conn, req *http.Request) (*Conn, error) {
	u, err := upgradeOf(req)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	u.tls = tlsState(c) != nil
	h, leftover, err := u.do(ctx, c, time.Now().Add(defaultTimeout), nil)
	if err != nil {
		return nil, err
	}
	c, leftover = defaultPeriods.client(c, u.carriers[0], leftover)
	conn := newConn(c, nil, &h, leftover, nil)
	conn.req.Store(req)
	return conn, nil
}

// Server performs the server's part on c, as the zero [PreflightListener] does for
// each connection that it accepts. A request for a tunnel is answered 101, whatever the
// carrier. Any other HTTP request is refused. A connection that speaks another protocol is
// returned unchanged, and its [Conn.Request] is nil.
//
// The handshake ends when ctx ends, or after 10 seconds. A client that has sent
// nothing by then, or no complete line, does not speak HTTP. After Server has
// returned, ctx does not affect the connection. A refusal, which has been sent to the
// client, is a [*StatusError]. On error the caller must close c.
func Server(ctx context.Context, c net.Conn) (*Conn, error) {
	x := newExchange(c)
	if err := x.begin(ctx, time.Now().Add(defaultTimeout)); err != nil {
		x.free()
		return nil, opError("preflight", c, err)
	}
	h, err := x.serve(&zeroPolicy, nil)
	if ended := x.end(err); ended != nil {
		x.free()
		return nil, failure(c, nil, ended, "refused %s with ")
	}
	if h.framed {
		c = zeroPolicy.periods.frame(c, h.carrier(), false, bytes.Clone(h.leftover), nil)
		h.leftover = nil
	}
	conn := h.conn(c, nil, nil)
	x.free()
	return conn, nil
}

// An upgrade is a validated upgrade request.
type upgrade struct {
	target, host, protocol string
	tunnelTLS              bool      // the request asks for TLS inside the tunnel
	carriers               []Carrier // the one that the request asks for, and those that can still be tried
	header                 http.Header

	// What an error says of the way.
	edge net.Addr // who answers; nil: the remote address of the connection
	tls  bool     // the request is sent over TLS
	sent int      // bytes of the request
	// The dialer tries CarrierWebSocket, now or with another request.
	websocket bool
}

// evidence is what is known of the request, for the diagnosis of its failure.
func (u *upgrade) evidence() diagnosis.Evidence {
	terms := u.terms()
	path, _, _ := strings.Cut(u.target, "?")
	values, authorization := valuesOf(u.header, "Authorization")
	scheme := ""
	if len(values) == 1 {
		if before, _, ok := strings.Cut(values[0], " "); ok { // else it is a credential
			scheme = before
		}
	}
	return diagnosis.Evidence{
		Stage: diagnosis.Upgrade, Token: terms.Token(), Host: u.host, Path: path,
		TLS: u.tls, Authorization: authorization, Scheme: scheme, HeadSize: u.sent, WebSocket: u.websocket,
	}
}

// terms are what the request asks for.
func (u *upgrade) terms() wire.Terms {
	return wire.Terms{
		Protocol:  u.protocol,
		Framed:    u.carriers[0] == CarrierFramed,
		WebSocket: u.carriers[0] == CarrierWebSocket,
		TunnelTLS: u.tunnelTLS,
	}
}

func (u *upgrade) check() error {
	if !wire.ValidTarget(u.target) {
		path, _, _ := strings.Cut(u.target, "?") // a query may hold a secret
		return fmt.Errorf("the path %q and its query must begin with \"/\", be percent-encoded where RFC 3986 wants it, and have no fragment", path)
	}
	if !wire.ValidHost(u.host) {
		host := u.host[strings.LastIndex(u.host, "@")+1:] // before it stands a password
		return fmt.Errorf("the host %q is not valid in a Host field: it must be a name or an address, with or without a port", host)
	}
	if err := checkProtocol(u.protocol); err != nil {
		return err
	}
	return checkHeader(u.header, reserved)
}

// checkProtocol reports why a token cannot be that of a tunnel.
func checkProtocol(token string) error {
	if !wire.ValidProtocol(token) {
		return fmt.Errorf("the protocol %q is not a token that Upgrade can hold", token)
	}
	if name, _, _ := strings.Cut(token, "/"); strings.EqualFold(name, "websocket") {
		return fmt.Errorf("the protocol %q is that of WebSocket, whose bytes are frames; a tunnel of raw bytes needs another token, such as tcp", token)
	}
	return nil
}

// upgradeOf validates the request given to Client and converts it to an upgrade.
func upgradeOf(req *http.Request) (*upgrade, error) {
	switch {
	case req == nil || req.URL == nil:
		return nil, errors.New("the request has no URL")
	case req.Method != "" && req.Method != http.MethodGet:
		return nil, fmt.Errorf("the method of an upgrade request is GET, not %q", req.Method)
	case req.Body != nil && req.Body != http.NoBody || req.ContentLength > 0 || len(req.TransferEncoding) > 0 || len(req.Trailer) > 0:
		return nil, errors.New("an upgrade request has no body")
	}
	u := &upgrade{
		target: req.URL.RequestURI(), host: req.Host, protocol: defaultToken,
		carriers: allCarriers[:1:1], header: req.Header,
	}
	if u.host == "" {
		u.host = req.URL.Host
	}
	u.host = asciiHost(u.host)
	tokens, connection := req.Header.Values("Upgrade"), req.Header.Values("Connection")
	if len(tokens) > 1 || len(connection) > 1 || len(connection) == 1 && !strings.EqualFold(connection[0], "upgrade") {
		return nil, errors.New("the request may hold one Upgrade field with one token, and no Connection but Upgrade")
	}
	if len(tokens) == 1 {
		u.protocol = tokens[0]
	}
	if len(tokens)+len(connection) > 0 {
		u.header = req.Header.Clone()
		u.header.Del("Upgrade")
		u.header.Del("Connection")
	}
	if framing, ok := valuesOf(req.Header, wire.FramingField); ok {
		if !wire.AsksFraming(framing) {
			return nil, fmt.Errorf("the %s field of the request may only hold capsule", wire.FramingField)
		}
		u.carriers = []Carrier{CarrierFramed}
		u.header = without(u.header, wire.FramingField)
	}
	return u, u.check()
}

// do performs the client's part on c until deadline, which may be zero. leftover is
// what arrived after the answer.
func (u *upgrade) do(ctx context.Context, c net.Conn, deadline time.Time, obs *observation) (h heads, leftover []byte, err error) {
	x := newExchange(c)
	x.obs = obs
	if err := x.begin(ctx, deadline); err != nil {
		x.free()
		return h, nil, failure(c, u.edge, err, "")
	}
	h, err = x.request(u)
	err = x.end(err)
	leftover = bytes.Clone(x.buf)
	x.free()
	if err != nil {
		return h, nil, failure(c, u.edge, explain(err, u.evidence()), "%s answered ")
	}
	return h, leftover, nil
}

// failure is the error of a handshake with peer; nil means the peer of c. The format what
// describes how a refusal came about; its argument is the address of the peer.
func failure(c net.Conn, peer net.Addr, err error, what string) error {
	if peer == nil {
		peer = c.RemoteAddr()
	}
	if e, ok := err.(*StatusError); ok {
		e.what = fmt.Sprintf(what, addrString(peer))
		return e
	}
	op := opError("preflight", c, err)
	op.Addr = peer
	return op
}

// explain adds to err, if it ended a stage, what it shows. known is what is known beside it.
func explain(err error, known diagnosis.Evidence) error {
	at, ok := err.(*stageError)
	if !ok {
		return err
	}
	var foreign *foreignError
	if errors.As(at.err, &foreign) {
		known.First = foreign.first
	}
	known.Err = at.err
	at.found = diagnosis.Of(&known)
	return at
}

// printable escapes the characters of s that a terminal may interpret or hide:
// control characters, and format characters such as those that change the direction
// of text. A peer may put them into the names in its certificate, for example.
func printable(s string) string {
	odd := func(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }
	if strings.IndexFunc(s, odd) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if odd(r) {
			quoted := strconv.Quote(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// A stageError tells in which stage a handshake failed.
type stageError struct {
	stage string
	err   error
	found diagnosis.Finding
}

func (e *stageError) Error() string {
	text := e.stage + ": " + printable(withoutAddresses(e.err).Error())
	if e.found.Text != "" {
		text += ": " + e.found.Text
	}
	return text
}
func (e *stageError) Unwrap() error { return e.err }

// withoutAddresses returns the cause of an error of Read or Write. Such an error names both
// addresses, and the error of a handshake around it names them too.
func withoutAddresses(err error) error {
	for {
		op, ok := err.(*net.OpError)
		if !ok || op.Op != "read" && op.Op != "write" || op.Err == nil {
			return err
		}
		err = op.Err
	}
}

// Timeout serves net.OpError, which looks only at its direct Err.
func (e *stageError) Timeout() bool { return isTimeout(e.err) }

// Temporary serves net.OpError too. Where nothing is found, a connection that ended or said
// nothing may do better later.
func (e *stageError) Temporary() bool {
	if e.found.Code != "" {
		return e.found.Temporary
	}
	return e.Timeout() || errors.Is(e.err, io.ErrUnexpectedEOF) || errors.Is(e.err, syscall.ECONNRESET) || errors.Is(e.err, syscall.EPIPE)
}
