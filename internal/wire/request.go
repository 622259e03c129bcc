package wire

import "bytes"

// A Request is a request head that [Request.Parse] has accepted. The slices point into the
// head.
type Request struct {
	Method, Target []byte
	Host           []byte // the target's authority in absolute-form (RFC 9112 §3.2.2)
	Minor          byte   // HTTP/1.Minor
	Upgrade        bool   // an Upgrade field is present, with any value

	connection bool // Connection lists upgrade
	tokens     bool // Upgrade lists something
	carriers   bool // Preflight-Carriers is present
	framed     bool // Preflight-Framing asks for capsules
	webSocket  bool // Sec-WebSocket-Protocol lists Subprotocol
	tunnelTLS  bool // TLS inside the tunnel is asked for
	upgrade    line
	framing    line // Preflight-Framing
	protocol   line // Preflight-Protocol
	key        line // Sec-WebSocket-Key
	wsVersion  line // Sec-WebSocket-Version
	origin     line
	head       []byte
	version    *Error // another version than HTTP/1.0 and HTTP/1.1
	own        *Error // an error in a Preflight field
	body       *Error
	expect     *Error
}

// A line is the position of a field; 0: it is not present. Its value is not stored, because
// the Request is on the small stack of a handshake.
type line uint32

const repeated line = 1 << 31

func (l *line) add(pos int) {
	if *l == 0 {
		*l = line(pos)
	} else {
		*l |= repeated
	}
}

// pos returns the position of the first such field.
func (l line) pos() int { return int(l &^ repeated) }

// value returns the value of a field that is present once, and nil otherwise.
func (r *Request) value(l line) []byte {
	if l == 0 || l&repeated != 0 {
		return nil
	}
	_, value, _, _ := field(r.head, l.pos())
	return value
}

// RequestEnd looks for the end of a request head in b. An earlier call has inspected b[:from]. It
// returns the length of the head, or 0 if more bytes are needed. Lines must end with CRLF. RFC 9112
// §2.2 allows a recipient to accept a bare LF, but an attacker can exploit two parties that differ
// about it. Control characters are rejected everywhere (RFC 9110 §5.5).
func RequestEnd(b []byte, from int) (int, *Error) {
	for i := max(from-1, 0); ; i++ { // the last one may have been a CR
		i = nextControl(b, i)
		if i == len(b) {
			return 0, nil
		}
		switch b[i] {
		case '\t':
		case '\r':
			if i++; i == len(b) {
				return 0, nil
			}
			if b[i] != '\n' {
				return 0, bad(i-1, "a bare CR: RFC 9112 §2.2")
			}
			if i >= 2 && b[i-2] == '\n' {
				return i + 1, nil
			}
		case '\n': // it follows a CR only if that was the last byte inspected before
			if i == 0 || b[i-1] != '\r' {
				return 0, bad(i, "a line ends with a bare LF: RFC 9112 §2.2")
			}
		default:
			return 0, bad(i, "a control character: RFC 9110 §5.5")
		}
	}
}

// Parse parses a head whose end [RequestEnd] has found. r must be zero. It is a receiver and
// not a result, because a copy would enlarge the small stack of a handshake.
func (r *Request) Parse(head []byte) *Error {
	r.head = head
	pos, err := r.requestLine()
	if err != nil {
		return err
	}
	return r.fields(pos)
}

// requestLine parses method SP request-target SP HTTP-version CRLF (RFC 9112 §3).
func (r *Request) requestLine() (int, *Error) {
	end := lineEnd(r.head, 0)
	line := r.head[:end-2]
	method := bytes.IndexByte(line, ' ')
	if method <= 0 || !validToken(line[:method]) {
		return 0, bad(0, "the method is not a token: RFC 9110 §9.1")
	}
	target := bytes.IndexByte(line[method+1:], ' ') + method + 1
	if target <= method+1 {
		return 0, bad(method+1, "the request line is not `method SP target SP version`: RFC 9112 §3")
	}
	r.Method, r.Target = line[:method], line[method+1:target]
	v := line[target+1:]
	if len(v) != 8 || !bytes.HasPrefix(v, []byte("HTTP/")) || !digits(v[5:6]) || v[6] != '.' || !digits(v[7:]) {
		return 0, bad(target+1, "the version is not HTTP/1.x: RFC 9112 §2.3")
	}
	if r.Minor = v[7] - '0'; v[5] != '1' {
		r.version = wrongVersion.at(target + 6)
	} else if r.Minor > 1 {
		r.version = wrongVersion.at(target + 8)
	}
	if i := badTarget(r.Target); i >= 0 {
		return 0, bad(method+1+i, "the target holds a byte that must be percent-encoded: RFC 9112 §3.2")
	}
	if err := r.targetForm(method + 1); err != nil {
		return 0, err
	}
	return end, nil
}

// targetForm distinguishes the four forms of RFC 9112 §3.2 and checks that the method may use
// the form.
func (r *Request) targetForm(offset int) *Error {
	connect := string(r.Method) == "CONNECT"
	switch {
	case connect:
		if !validHost(r.Target) || !bytes.Contains(r.Target, []byte(":")) {
			return bad(offset, "the target of CONNECT is not host:port: RFC 9112 §3.2.3")
		}
	case r.Target[0] == '/':
	case string(r.Target) == "*":
		if string(r.Method) != "OPTIONS" {
			return bad(offset, "the target * is for OPTIONS alone: RFC 9112 §3.2.4")
		}
	default:
		authority, ok := cutScheme(r.Target)
		if !ok {
			return bad(offset, "the target is neither a path nor an http URI: RFC 9112 §3.2")
		}
		if i := bytes.IndexAny(authority, "/?"); i >= 0 {
			authority = authority[:i]
		}
		// Userinfo in a target can disguise a host (RFC 9110 §4.2.4). It
		// contains an "@", which no host contains.
		if !validHost(authority) {
			return bad(offset, "the target's host is not valid: RFC 9110 §4.2")
		}
		r.Host = authority
	}
	return nil
}

func cutScheme(target []byte) (authority []byte, ok bool) {
	for _, scheme := range []string{"http://", "https://"} {
		if hasPrefixFold(target, scheme) {
			return target[len(scheme):], true
		}
	}
	return nil, false
}

// fields checks every field line, and stores what is needed to decide about the upgrade.
func (r *Request) fields(pos int) *Error {
	var hosts, lengths int
	var coding *Error
	for {
		name, value, next, err := field(r.head, pos)
		if err != nil {
			return err
		}
		if next == pos {
			break
		}
		if isBlank(r.head[next]) {
			return badName(r.head, next, next)
		}
		switch {
		case equalFold(name, "Host"):
			if hosts++; hosts > 1 {
				return bad(pos, "Host is repeated: RFC 9112 §3.2")
			}
			if !validHost(value) {
				return bad(pos, "Host is not valid: RFC 9110 §7.2")
			}
			if r.Host == nil {
				r.Host = value
			}
		case equalFold(name, "Connection"):
			for e, rest := nextElement(value); e != nil; e, rest = nextElement(rest) {
				if !validToken(e) {
					return bad(pos, "Connection is not a list of tokens: RFC 9110 §7.6.1")
				}
				r.connection = r.connection || equalFold(e, "upgrade")
			}
		case equalFold(name, "Upgrade"):
			r.Upgrade = true
			r.upgrade.add(pos)
			for e, rest := nextElement(value); e != nil; e, rest = nextElement(rest) {
				if !validProtocol(e) {
					return bad(pos, "Upgrade is not a list of protocols: RFC 9110 §7.8")
				}
				r.tokens = true
			}
		case equalFold(name, "Content-Length"):
			// RFC 9112 §6.3 allows to reject repeated or listed lengths, even if they agree.
			if lengths++; lengths > 1 || len(value) == 0 || !digits(value) {
				return bad(pos, "Content-Length is not one number: RFC 9112 §6.3")
			}
			if len(bytes.Trim(value, "0")) > 0 {
				r.body = hasBody(pos, "an upgrade request has no body: Content-Length is not 0")
			}
		case equalFold(name, "Transfer-Encoding"):
			coding = hasBody(pos, "an upgrade request has no body: Transfer-Encoding is present")
		case equalFold(name, "Trailer"):
			r.body = hasBody(pos, "an upgrade request has no body: Trailer is present")
		case equalFold(name, "Expect"):
			if !equalFold(value, "100-continue") {
				r.expect = otherExpect.at(pos)
			}
		default:
			r.ownField(name, value, pos)
		}
		pos = next
	}
	if coding != nil {
		if lengths > 0 {
			return bad(coding.Offset, "Transfer-Encoding beside Content-Length: RFC 9112 §6.3")
		}
		if r.Minor == 0 && r.version == nil {
			return bad(coding.Offset, "Transfer-Encoding in an HTTP/1.0 request: RFC 9112 §6.1")
		}
		r.body = coding
	}
	if hosts == 0 && r.Minor == 1 && r.version == nil {
		return bad(len(r.head)-2, "Host is missing: RFC 9112 §3.2")
	}
	if r.framing != 0 && !r.framed {
		r.ownError(r.framing.pos(), otherFraming)
	}
	return nil
}

const otherFraming = "Preflight-Framing has no value, or another than capsule"

// ownField records a field that matters only if the request is for a tunnel: a Preflight
// field, a field of RFC 6455 §4.1, or Origin.
func (r *Request) ownField(name, value []byte, pos int) {
	switch {
	case equalFold(name, CarriersField):
		r.carriers = true
	case equalFold(name, FramingField):
		r.framing.add(pos)
		for e, rest := nextElement(value); e != nil; e, rest = nextElement(rest) {
			if string(e) != framingCapsule {
				r.ownError(pos, otherFraming)
			}
			r.framed = true
		}
	case equalFold(name, TunnelField):
		if r.tunnelTLS || string(value) != tunnelTLS {
			r.ownError(pos, "Preflight-Tunnel is repeated, or its value is not tls")
		}
		r.tunnelTLS = true
	case equalFold(name, ProtocolField):
		r.protocol.add(pos)
	case equalFold(name, "Sec-WebSocket-Protocol"):
		for e, rest := nextElement(value); e != nil; e, rest = nextElement(rest) {
			r.webSocket = r.webSocket || string(e) == Subprotocol
		}
	case equalFold(name, "Sec-WebSocket-Key"):
		r.key.add(pos)
	case equalFold(name, "Sec-WebSocket-Version"):
		r.wsVersion.add(pos)
	case equalFold(name, "Origin"):
		r.origin.add(pos)
	}
}

func (r *Request) ownError(pos int, rule string) {
	if r.own == nil {
		r.own = bad(pos, rule)
	}
}

// Origin returns the value of the Origin field, and whether there is such a field. The value
// is nil if the field is repeated.
func (r *Request) Origin() (value []byte, ok bool) { return r.value(r.origin), r.origin != 0 }

// lists reports whether the Upgrade fields list a token.
func (r *Request) lists(token string) bool {
	// Not Header: its closure would be the one allocation of a request.
	for pos := r.upgrade.pos(); pos > 0; {
		name, value, next, _ := field(r.head, pos)
		if next == pos {
			break
		}
		if equalFold(name, "Upgrade") && lists(value, token) {
			return true
		}
		if r.upgrade&repeated == 0 {
			break
		}
		pos = next
	}
	return false
}

// MayUpgrade reports whether the head of a request, which may be malformed or cut off, has a
// line that some recipient may take for a field that makes it a request for an upgrade. It
// allows a bare CR at the end of a line, and white space and control characters around the
// name.
func MayUpgrade(head []byte) bool {
	for {
		end := bytes.IndexAny(head, "\r\n")
		if end < 0 {
			return false
		}
		head = skipControls(head[end:])
		for _, name := range [...]string{"upgrade", CarriersField, FramingField, "sec-websocket-protocol"} {
			if hasPrefixFold(head, name) && bytes.HasPrefix(skipControls(head[len(name):]), []byte(":")) {
				return true
			}
		}
	}
}

// skipControls returns b without the control characters and white space at its beginning.
func skipControls(b []byte) []byte {
	for len(b) > 0 && (b[0] <= ' ' || b[0] == 0x7f) {
		b = b[1:]
	}
	return b
}
