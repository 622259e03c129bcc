package wire

import (
	"github.com/preflight-go/preflight/internal/websocket"
)

// The codes of Preflight-Refusal, in the order in which a listener checks their
// conditions. A refusal has the first code that applies.
const (
	CodeProxyHeader = "proxy-header"

	CodeHead     = "head"
	CodeTooLarge = "too-large"
	CodeTooSlow  = "too-slow"

	CodeHTTP10       = "http10"
	CodeHTTP2        = "http2"
	CodeMethod       = "method"
	CodeBody         = "body"
	CodeExpect       = "expect"
	CodeNoUpgrade    = "no-upgrade"
	CodeNoConnection = "no-connection"
	CodeWebSocket    = "websocket"
	CodeSubprotocol  = "subprotocol"
	CodeCarrier      = "carrier"
	CodeProtocol     = "protocol"
	CodeTunnelTLS    = "tunnel-tls"

	CodeUnavailable = "unavailable"
	CodeOrigin      = "origin"
	CodeRequest     = "request"
	CodeAuthorize   = "authorize"
	CodeInternal    = "internal"
)

// What the body of a refusal by Authorize says of the request, unless Authorize has chosen the
// body.
const (
	NoAuthorization   = "no Authorization arrived"
	WithAuthorization = "Authorization arrived"
)

// The refusals of a well-formed request, in the order in which [Request.Terms] checks
// them. Those of a body are in request.go.
var (
	wrongVersion   = Error{505, -1, "the version is neither HTTP/1.1 nor HTTP/1.0: RFC 9110 §15.6.6", CodeHTTP2}
	noHTTP10       = Error{426, -1, "HTTP/1.0 has no upgrade: RFC 9110 §7.8", CodeHTTP10}
	otherMethod    = Error{405, -1, "an upgrade request is a GET: RFC 9931 §6.1", CodeMethod}
	otherExpect    = Error{417, -1, "Expect knows 100-continue alone: RFC 9110 §10.1.1", CodeExpect}
	noUpgrade      = Error{426, -1, "the request asks for a tunnel but has no Upgrade field, so a proxy on the way removed it (nginx: proxy_set_header Upgrade $http_upgrade, and Connection)", CodeNoUpgrade}
	noConnection   = Error{426, -1, "Upgrade without `Connection: Upgrade`: RFC 9110 §7.8", CodeNoConnection}
	otherWebSocket = Error{426, -1, "Sec-WebSocket-Version is not 13: RFC 6455 §4.2.2", CodeWebSocket}
	badKey         = Error{400, -1, "Sec-WebSocket-Key is not 16 bytes in base64: RFC 6455 §4.2.1", CodeWebSocket}
	noSubprotocol  = Error{400, -1, "Sec-WebSocket-Protocol does not list preflight.v1, so it was not sent or a proxy on the way removed it", CodeSubprotocol}
	otherCarrier   = Error{426, -1, "the carrier that the request asks for is not served here; Preflight-Carriers lists those that are (PreflightListener.Carriers)", CodeCarrier}
	otherProtocol  = Error{426, -1, "the protocol that the request asks for is not served here (PreflightListener.Protocols)", CodeProtocol}
	noTunnelTLS    = Error{426, -1, "TLS inside the tunnel, which Preflight-Tunnel asks for, is not offered here (PreflightListener.TLSConfig)", CodeTunnelTLS}
)

func hasBody(offset int, rule string) *Error { return &Error{400, offset, rule, CodeBody} }

// at returns a copy of e with the offset. It is not inlined, because the copies would
// enlarge the small stack of a handshake.
//
//go:noinline
func (e *Error) at(offset int) *Error {
	return &Error{e.Status, offset, e.Rule, e.Code}
}

// An Offer describes what a server serves.
type Offer struct {
	Protocols                  []string // in order of preference
	Upgrade, Framed, WebSocket bool     // the carriers
	TunnelTLS                  bool     // TLS inside the tunnel
}

func (o *Offer) serves(t Terms) bool {
	switch {
	case t.WebSocket:
		return o.WebSocket
	case t.Framed:
		return o.Framed
	}
	return o.Upgrade
}

const webSocketToken = "websocket"

// Terms returns what a request for a tunnel asks for. The zero Terms mean an ordinary
// request. A request is for a tunnel if Upgrade lists one of the protocols, if it asks for
// the subprotocol, or if it has a Preflight-Carriers or Preflight-Framing field. With one of
// these fields the value of Upgrade does not matter, because a proxy may have removed it.
// The error is the first reason, in the order of the codes, not to accept the request.
func (r *Request) Terms(o *Offer) (Terms, *Error) {
	t := Terms{Protocol: r.token(o.Protocols), Framed: r.framed, TunnelTLS: r.tunnelTLS}
	asks := t.Protocol != "" || r.webSocket || r.carriers || r.framing != 0
	if !asks || len(o.Protocols) == 0 {
		return Terms{}, nil
	}
	// If there are several tokens, the first one that is served is used. WebSocket comes last.
	if (t.Protocol == "" || o.WebSocket && !o.serves(t)) && r.lists(webSocketToken) {
		t.WebSocket, t.Framed = true, false
		t.Protocol = r.insideWebSocket(o.Protocols)
	}
	if broken := r.check(o, t); broken != nil {
		return Terms{}, broken
	}
	return t, nil
}

// token returns the first of protocols that Upgrade lists.
func (r *Request) token(protocols []string) string {
	for _, p := range protocols {
		if r.lists(p) {
			return p
		}
	}
	return ""
}

// insideWebSocket returns the protocol in protocols that Preflight-Protocol names.
func (r *Request) insideWebSocket(protocols []string) string {
	for _, p := range protocols {
		if r.protocol == 0 && equalFold([]byte(p), DefaultProtocol) || equalFold(r.value(r.protocol), p) {
			return p
		}
	}
	return ""
}

// check returns the first reason not to accept a request for t.
func (r *Request) check(o *Offer, t Terms) *Error {
	version := len(r.Method) + len(r.Target) + 2
	switch {
	case r.own != nil:
		return r.own
	case t.WebSocket && r.protocol != 0 && !validProtocol(r.value(r.protocol)):
		return bad(r.protocol.pos(), "Preflight-Protocol is repeated, or its value is not a protocol")
	case r.version != nil:
		return r.version
	case r.Minor == 0:
		return noHTTP10.at(version)
	case string(r.Method) != "GET":
		return otherMethod.at(0)
	case r.body != nil:
		return r.body
	case r.expect != nil:
		return r.expect
	case !r.tokens:
		return &noUpgrade
	case !r.connection:
		return noConnection.at(version)
	}
	if t.WebSocket {
		switch key := r.value(r.key); {
		case string(r.value(r.wsVersion)) != "13":
			return &otherWebSocket
		case len(key) != websocket.KeyLen || !websocket.ValidKey(string(key)):
			return &badKey
		case !r.webSocket:
			return &noSubprotocol
		}
	}
	switch {
	case !o.serves(t):
		return &otherCarrier
	case t.Protocol == "":
		return &otherProtocol
	case t.TunnelTLS && !o.TunnelTLS:
		return &noTunnelTLS
	}
	return nil
}

// Ordinary returns the refusal of a request that is not for a tunnel, for a listener that
// serves only tunnels. Its text describes what the server sees of the most frequent errors
// in the configuration of a proxy.
//
//go:noinline
func (r *Request) Ordinary() *Error {
	switch {
	case r.version != nil:
		return r.version
	case r.Minor == 0:
		return &Error{426, -1, "the request came as HTTP/1.0, which has no upgrade; if the client asked for one, a proxy on the way speaks 1.0 to this server (nginx: proxy_http_version 1.1)", CodeHTTP10}
	case !r.tokens:
		return &Error{426, -1, "the request has no Upgrade field; if the client sent one, a proxy on the way removed it (nginx: proxy_set_header Upgrade $http_upgrade, and Connection)", CodeNoUpgrade}
	}
	rule := "Upgrade names no protocol that is served here: RFC 9110 §7.8"
	if r.lists(webSocketToken) {
		rule = "a WebSocket is served here only as a tunnel, with the subprotocol preflight.v1 in Sec-WebSocket-Protocol"
	}
	return &Error{426, -1, rule, CodeProtocol}
}

// Key returns the Sec-WebSocket-Key of a head that Terms has accepted.
func Key(head []byte) string {
	for name, value := range Header(head) {
		if equalFold(name, "Sec-WebSocket-Key") {
			return string(value)
		}
	}
	return ""
}
