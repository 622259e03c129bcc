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
	tunnels    int  // fields that speak of TLS inside the tunnel
	tunnelTLS  bool // the last of them does so in order
}

// NotHTTP reports whether b cannot be the beginning of an HTTP/1.x answer.
func NotHTTP(b []byte) bool {
	const http = "HTTP/1."
	return !bytes.HasPrefix([]byte(http), b[:min(len(b), len(http))])
}

// ResponseEnd looks for the end of an answer's head in b, of which b[:from] has been inspected
// before. It returns the length of the head, or 0 if more bytes are needed. A bare LF ends a
// line too (RFC 9112 §2.2).
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

// ParseResponse parses a head whose end [ResponseEnd] has found.
func ParseResponse(head []byte) (Response, *Error) {
	var r Response
	pos := lineEnd(head, 0)
	line := trim(head[:pos])
	// HTTP-version SP status-code [SP reason-phrase] (RFC 9112 §4). The SP
	// before an empty reason is often missing: nginx hands on `HTTP/1.1 101`.
	if len(line) < len("HTTP/1.1 200") || NotHTTP(head) || !digits(line[7:8]) ||
		line[8] != ' ' || !digits(line[9:12]) || line[9] == '0' || len(line) > 12 && line[12] != ' ' {
		return r, bad(0, "the status line is not `HTTP/1.x SP code SP reason`: RFC 9112 §4")
	}
	r.Minor = line[7] - '0'
	r.Status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
	r.Reason = trim(line[12:])
	if badText(r.Reason) {
		return r, bad(0, "a control character in the reason phrase: RFC 9112 §4")
	}
	for {
		name, value, next, err := foldedField(head, pos)
		if err != nil {
			return r, err
		}
		if next == pos {
			return r, nil
		}
		// Content-Length and Transfer-Encoding are not looked at: on a 101
		// they mean nothing (RFC 9112 §6.3), and old devices send them.
		if badText(value) {
			return r, bad(pos, "a control character in a field value: RFC 9110 §5.5")
		}
		switch {
		case equalFold(name, "upgrade"):
			for e, rest := nextElement(value); e != nil; e, rest = nextElement(rest) {
				r.protocol = e
				r.protocols++
			}
		case equalFold(name, "connection"):
			r.connection = r.connection || lists(value, "upgrade")
		case equalFold(name, TunnelField):
			r.tunnels++
			r.tunnelTLS = string(value) == tunnelTLS
		}
		pos = next
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

// Switched returns the reason why a 101 does not switch to the requested protocol, with TLS
// inside the tunnel or without. nil means that it does. nginx, lighttpd, Squid and Varnish
// forward a 101 with a wrong token or without one, so it is verified here: RFC 9110 §7.8. TLS
// inside the tunnel is verified because otherwise one end would take the TLS of the other for
// data of the application.
func (r *Response) Switched(protocol string, tunnelTLS bool) *Error {
	switch {
	case r.protocols == 0:
		return bad(0, "the 101 has no Upgrade field: RFC 9110 §7.8")
	case r.protocols > 1 || !equalFold(r.protocol, protocol):
		return bad(0, "the 101 names another protocol in Upgrade than the one asked for, or several: RFC 9110 §7.8")
	case !r.connection:
		return bad(0, "the 101 does not list upgrade in Connection: RFC 9110 §7.6.1")
	case r.tunnels > 1 || r.tunnels == 1 && !r.tunnelTLS:
		return bad(0, "the Preflight-Tunnel field of the 101 is repeated, or its value is not tls")
	case tunnelTLS && r.tunnels == 0:
		return bad(0, "the 101 does not confirm TLS inside the tunnel, which was asked for: its Preflight-Tunnel field is missing, so the server does not know it, or a proxy on the way removed it")
	case !tunnelTLS && r.tunnels > 0:
		return bad(0, "the 101 announces TLS inside the tunnel by Preflight-Tunnel, which was not asked for, so a proxy on the way added the field, or the server is at fault")
	}
	return nil
}
