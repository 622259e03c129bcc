package wire

import "bytes"

// A Response is the head of an answer. The slices point into the head.
type Response struct {
	Status int
	Minor  byte   // HTTP/1.Minor
	Reason []byte // may be empty (RFC 9112 §4)

	protocol   []byte
	protocols  int
	connection bool

	// What the two ends agree on besides the protocol.
	tunnel, framing, inner         agreement // Preflight-Tunnel, -Framing, -Protocol
	accept, subprotocol, extension agreement // Sec-WebSocket-Accept, -Protocol, -Extensions
}

// An agreement is a field by which the peer agrees to something.
type agreement struct {
	value []byte // the value of the last line
	lines int
}

func (a *agreement) add(value []byte) {
	a.value = value
	a.lines++
}

// is reports whether there is exactly one line, with this value.
func (a *agreement) is(value string) bool { return a.lines == 1 && string(a.value) == value }

// NotHTTP reports whether b cannot be the beginning of an HTTP/1.x answer.
func NotHTTP(b []byte) bool {
	const http = "HTTP/1."
	return !bytes.HasPrefix([]byte(http), b[:min(len(b), len(http))])
}

// ResponseEnd looks for the end of an answer's head in b. An earlier call has inspected b[:from].
// It returns the length of the head, or 0 if more bytes are needed. A bare LF ends a line too (RFC
// 9112 §2.2).
func ResponseEnd(b []byte, from int) int {
	for i := from; ; i++ {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0
		}
		i += n
		// The line that ends here is empty when only a CR, or nothing,
		// stands between this LF and the one before it.
		if i >= 1 && b[i-1] == '\n' || i >= 2 && b[i-1] == '\r' && b[i-2] == '\n' {
			return i + 1
		}
	}
}

// Parse parses a head whose end [ResponseEnd] has found. r must be zero. It is a receiver and
// not a result, because to copy it takes as long as to parse a field.
func (r *Response) Parse(head []byte) *Error {
	pos := lineEnd(head, 0)
	line := trim(head[:pos])
	// HTTP-version SP status-code [SP reason-phrase] (RFC 9112 §4). The SP
	// before an empty reason is often missing: nginx forwards `HTTP/1.1 101`.
	if len(line) < len("HTTP/1.1 200") || NotHTTP(head) || !digits(line[7:8]) ||
		line[8] != ' ' || !digits(line[9:12]) || line[9] == '0' || len(line) > 12 && line[12] != ' ' {
		return bad(0, "the status line is not `HTTP/1.x SP code SP reason`: RFC 9112 §4")
	}
	r.Minor = line[7] - '0'
	r.Status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
	r.Reason = trim(line[12:])
	if badText(r.Reason) {
		return bad(0, "a control character in the reason phrase: RFC 9112 §4")
	}
	for {
		name, value, next, err := foldedField(head, pos)
		if err != nil {
			return err
		}
		if next == pos {
			return nil
		}
		// Content-Length and Transfer-Encoding are ignored: on a 101 they have
		// no meaning (RFC 9112 §6.3), and old devices send them.
		if badText(value) {
			return bad(pos, "a control character in a field value: RFC 9110 §5.5")
		}
		switch {
		case equalFold(name, "Upgrade"):
			for e, rest := nextElement(value); e != nil; e, rest = nextElement(rest) {
				r.protocol = e
				r.protocols++
			}
		case equalFold(name, "Connection"):
			r.connection = r.connection || lists(value, "upgrade")
		case equalFold(name, TunnelField):
			r.tunnel.add(value)
		case equalFold(name, FramingField):
			r.framing.addFraming(value)
		case equalFold(name, ProtocolField):
			r.inner.add(value)
		case equalFold(name, "Sec-WebSocket-Accept"):
			r.accept.add(value)
		case equalFold(name, "Sec-WebSocket-Protocol"):
			r.subprotocol.add(value)
		case equalFold(name, "Sec-WebSocket-Extensions"):
			r.extension.add(value)
		}
		pos = next
	}
}

// AsksFraming reports whether the lines of a Preflight-Framing field ask for framing. If not, the
// field is malformed.
func AsksFraming(lines []string) bool {
	var a agreement
	for _, line := range lines {
		a.addFraming([]byte(line))
	}
	return string(a.value) == framingCapsule
}

// addFraming adds a line of Preflight-Framing, which is a list. It keeps an unknown member, if
// there is one.
func (a *agreement) addFraming(value []byte) {
	a.lines++
	for e, rest := nextElement(value); e != nil; e, rest = nextElement(rest) {
		if a.value == nil || string(a.value) == framingCapsule {
			a.value = e
		}
	}
}

// badText reports a control character, which an error would carry to a log or a terminal (RFC
// 9110 §5.5), or a CR that is not part of a folded line.
func badText(b []byte) bool {
	for i, c := range b {
		if class[c]&ctl != 0 || c == '\r' && b[i+1] != '\n' {
			return true
		}
	}
	return false
}

// Names reports whether the answer names the protocol in Upgrade, and no other. nginx,
// lighttpd, Squid and Varnish forward a 101 with a wrong token or without one.
func (r *Response) Names(protocol string) bool {
	return r.protocols == 1 && equalFold(r.protocol, protocol)
}

// The codes of what a 101 lacks.
const (
	LacksUpgrade    = "upgrade"
	LacksConnection = "connection"
	LacksTunnel     = "tunnel"
	LacksFraming    = "framing"
	LacksWebSocket  = "websocket"
	LacksProtocol   = "protocol"
)

func lacks(code, rule string) *Error { return &Error{Status: 400, Rule: rule, Code: code} }

// Switched returns the reason why a 101 does not agree to terms. nil means that it does. accept
// is the Sec-WebSocket-Accept that a WebSocket needs. All of it is verified before a byte is
// sent (RFC 9110 §7.8, RFC 6455 §4.1): otherwise one end would take the frames or the TLS of
// the other for data of the application.
func (r *Response) Switched(terms *Terms, accept string) *Error {
	switch {
	case r.protocols == 0:
		return lacks(LacksUpgrade, "the 101 has no Upgrade field: RFC 9110 §7.8")
	case !r.Names(terms.Token()):
		return lacks(LacksUpgrade, "the 101 names another protocol in Upgrade than the one asked for, or several: RFC 9110 §7.8")
	case !r.connection:
		return lacks(LacksConnection, "the 101 does not list upgrade in Connection: RFC 9110 §7.6.1")
	}
	var broken *Error
	if terms.WebSocket {
		broken = r.webSocket(terms, accept)
	} else {
		broken = r.framed(terms.Framed)
	}
	if broken != nil {
		return broken
	}
	switch {
	case r.tunnel.lines > 0 && !r.tunnel.is(tunnelTLS):
		return lacks(LacksTunnel, "the Preflight-Tunnel field of the 101 is repeated, or its value is not tls")
	case terms.TunnelTLS && r.tunnel.lines == 0:
		return lacks(LacksTunnel, "the 101 does not confirm TLS inside the tunnel, which was asked for: its Preflight-Tunnel field is missing")
	case !terms.TunnelTLS && r.tunnel.lines > 0:
		return lacks(LacksTunnel, "the 101 announces TLS inside the tunnel by Preflight-Tunnel, which was not asked for")
	}
	return nil
}

// framed checks the framing of a tunnel without WebSocket, for Switched.
func (r *Response) framed(asked bool) *Error {
	switch found := r.framing.lines > 0; {
	case found && string(r.framing.value) != framingCapsule:
		return lacks(LacksFraming, "the Preflight-Framing field of the 101 is empty, or has another member than capsule")
	case asked && !found:
		return lacks(LacksFraming, "the 101 does not confirm the framing, which was asked for: its Preflight-Framing field is missing")
	case !asked && found:
		return lacks(LacksFraming, "the 101 announces framing by Preflight-Framing, which was not asked for")
	}
	return nil
}

// webSocket checks the fields of a WebSocket (RFC 6455 §4.1) and the protocol inside, for
// Switched.
func (r *Response) webSocket(terms *Terms, accept string) *Error {
	switch {
	case r.accept.lines == 0:
		return lacks(LacksWebSocket, "the 101 has no Sec-WebSocket-Accept: RFC 6455 §4.1")
	case !r.accept.is(accept):
		return lacks(LacksWebSocket, "the Sec-WebSocket-Accept of the 101 does not answer the key of the request, or is repeated: RFC 6455 §4.1")
	case r.subprotocol.lines == 0:
		return lacks(LacksWebSocket, "the 101 has no Sec-WebSocket-Protocol")
	case !r.subprotocol.is(Subprotocol):
		return lacks(LacksWebSocket, "the Sec-WebSocket-Protocol of the 101 is not preflight.v1, or is repeated: RFC 6455 §4.1")
	case r.extension.lines > 1:
		return lacks(LacksWebSocket, "the Sec-WebSocket-Extensions field of the 101 is repeated: RFC 6455 §11.3.2")
	case len(r.extension.value) > 0:
		return lacks(LacksWebSocket, "the 101 names a WebSocket extension, and none was offered: RFC 6455 §9.1")
	}
	switch asked := terms.inner(); {
	case r.inner.lines == 0 && asked == "", r.inner.lines == 1 && asked != "" && equalFold(r.inner.value, asked):
		return nil
	case r.inner.lines == 0:
		return lacks(LacksProtocol, "the 101 does not confirm the protocol inside the WebSocket: its Preflight-Protocol field is missing")
	case asked == "":
		return lacks(LacksProtocol, "the 101 names a protocol inside the WebSocket by Preflight-Protocol, which was not asked for")
	}
	return lacks(LacksProtocol, "the Preflight-Protocol field of the 101 is repeated, or names another protocol than the one asked for")
}
