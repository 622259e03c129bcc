package wire

import "bytes"

// A Request is a request head that [Request.Parse] has accepted. The slices point into the
// head.
type Request struct {
	Method, Target []byte
	Host           []byte // the target's authority in absolute-form (RFC 9112 §3.2.2)
	Minor          byte   // HTTP/1.Minor
	Upgrade        bool   // an Upgrade field is present, whatever it says
	TunnelTLS      bool   // TLS inside the tunnel is asked for

	head       []byte
	upgrade    []byte // the value of the first Upgrade field
	others     int    // where to look for more of them; 0: nowhere
	connection bool   // Connection lists upgrade
	own        *Error // in a field of the exchange's own
	body       *Error
	expect     *Error
}

// RequestEnd looks for the end of a request head in b, of which b[:from] has been inspected
// before. It returns the length of the head, or 0 if more bytes are needed. Lines must end with
// CRLF. RFC 9112 §2.2 allows a recipient to accept a bare LF, but an attacker can exploit two
// parties that differ about it. Control characters are rejected everywhere (RFC 9110 §5.5).
func RequestEnd(b []byte, from int) (int, *Error) {
	for i := max(from-1, 0); ; i++ { // the last one may have been a CR
		i += nextControl(b[i:])
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
		case '\n': // behind its CR only if it is the last byte looked at before
			if i == 0 || b[i-1] != '\r' {
				return 0, bad(i, "a line ends with a bare LF: RFC 9112 §2.2")
			}
		default:
			return 0, bad(i, "a control character: RFC 9110 §5.5")
		}
	}
}

// Parse parses a head whose end [RequestEnd] has found. r must be zero. It is a receiver and
// not a result, because a copy would need room on the small stack of a handshake.
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
	const unsupported = "the version is neither HTTP/1.1 nor HTTP/1.0: RFC 9110 §15.6.6"
	if v[5] != '1' {
		return 0, &Error{505, target + 6, unsupported}
	}
	if r.Minor = v[7] - '0'; r.Minor > 1 {
		return 0, &Error{505, target + 8, unsupported}
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
		// Userinfo in a target is how hosts are disguised (RFC 9110 §4.2.4);
		// it holds an "@", which no host does.
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

// fields checks every field line, and keeps what decides about the upgrade.
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
		case equalFold(name, "host"):
			if hosts++; hosts > 1 {
				return bad(pos, "Host is repeated: RFC 9112 §3.2")
			}
			if !validHost(value) {
				return bad(pos, "Host is not valid: RFC 9110 §7.2")
			}
			if r.Host == nil {
				r.Host = value
			}
		case equalFold(name, "connection"):
			for e, rest := nextElement(value); e != nil; e, rest = nextElement(rest) {
				if !validToken(e) {
					return bad(pos, "Connection is not a list of tokens: RFC 9110 §7.6.1")
				}
				r.connection = r.connection || equalFold(e, "upgrade")
			}
		case equalFold(name, "upgrade"):
			switch {
			case !r.Upgrade:
				r.Upgrade, r.upgrade = true, value
			case r.others == 0:
				r.others = pos
			}
			for e, rest := nextElement(value); e != nil; e, rest = nextElement(rest) {
				if !validProtocol(e) {
					return bad(pos, "Upgrade is not a list of protocols: RFC 9110 §7.8")
				}
			}
		case equalFold(name, TunnelField):
			if r.TunnelTLS || string(value) != tunnelTLS {
				r.own = bad(pos, "Preflight-Tunnel is repeated, or its value is not tls")
			}
			r.TunnelTLS = true
		case equalFold(name, "content-length"):
			// Repeated or listed lengths may be rejected even where they agree.
			if lengths++; lengths > 1 || len(value) == 0 || !digits(value) {
				return bad(pos, "Content-Length is not one number: RFC 9112 §6.3")
			}
			if len(bytes.Trim(value, "0")) > 0 {
				r.body = bad(pos, "an upgrade request has no body: Content-Length is not 0")
			}
		case equalFold(name, "transfer-encoding"):
			coding = bad(pos, "an upgrade request has no body: Transfer-Encoding is present")
		case equalFold(name, "trailer"):
			r.body = bad(pos, "an upgrade request has no body: Trailer is present")
		case equalFold(name, "expect"):
			if !equalFold(value, "100-continue") {
				r.expect = &Error{417, pos, "Expect knows 100-continue alone: RFC 9110 §10.1.1"}
			}
		}
		pos = next
	}
	if coding != nil {
		if lengths > 0 {
			return bad(coding.Offset, "Transfer-Encoding beside Content-Length: RFC 9112 §6.3")
		}
		if r.Minor == 0 {
			return bad(coding.Offset, "Transfer-Encoding in an HTTP/1.0 request: RFC 9112 §6.1")
		}
		r.body = coding
	}
	if hosts == 0 && r.Minor == 1 {
		return bad(len(r.head)-2, "Host is missing: RFC 9112 §3.2")
	}
	return nil
}

// Protocol returns the upgrade that a request asks for: the first of protocols, which are in
// the server's order of preference, that its Upgrade fields list. It returns "" for a request
// that asks for none of them, which is ordinary HTTP. It returns an error for a request that
// names a protocol but may not be upgraded.
func (r *Request) Protocol(protocols []string) (string, *Error) {
	chosen := r.choose(protocols)
	if chosen == "" {
		return "", nil
	}
	offset := len(r.Method) + len(r.Target) + 2
	switch {
	case r.own != nil:
		return "", r.own
	case r.Minor == 0:
		// RFC 9110 §7.8: Upgrade in an HTTP/1.0 request is ignored.
		return "", &Error{426, offset, "HTTP/1.0 has no upgrade: RFC 9110 §7.8"}
	case !r.connection:
		return "", &Error{426, offset, "Upgrade without `Connection: Upgrade`: RFC 9110 §7.8"}
	case string(r.Method) != "GET":
		return "", &Error{405, 0, "an upgrade request is a GET: RFC 9931 §6.1"}
	case r.body != nil:
		return "", r.body
	case r.expect != nil:
		return "", r.expect
	}
	return chosen, nil
}

func (r *Request) choose(protocols []string) string {
	for _, p := range protocols {
		if lists(r.upgrade, p) {
			return p
		}
		// Not Header: its closure would be the one allocation of a request.
		for pos := r.others; pos > 0; {
			name, value, next, _ := field(r.head, pos)
			if next == pos {
				break
			}
			if equalFold(name, "upgrade") && lists(value, p) {
				return p
			}
			pos = next
		}
	}
	return ""
}

// MayUpgrade reports whether the head of a request, which may be malformed or cut off, has a
// line that some recipient may take for an Upgrade field. It allows a bare CR at the end of a
// line, and white space and control characters around the name.
func MayUpgrade(head []byte) bool {
	const name = "upgrade"
	for {
		end := bytes.IndexAny(head, "\r\n")
		if end < 0 {
			return false
		}
		head = skipControls(head[end:])
		if hasPrefixFold(head, name) && bytes.HasPrefix(skipControls(head[len(name):]), []byte(":")) {
			return true
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
