package wire

import "bytes"

// A Verdict is the classification of the first bytes of a connection.
type Verdict uint8

const (
	// More: the bytes so far may still become a request line.
	More Verdict = iota
	// HTTP: the bytes begin with a request line, or with a line that a proxy
	// may have made from one.
	HTTP
	// Plain: the bytes cannot become such a line.
	Plain
	// Doubt: no HTTP client sends these bytes, but a lax proxy may have made
	// them from a request. The rest of the line will show it. The caller need
	// not wait for the rest, but must inspect it when it arrives.
	Doubt
)

// A Sniffer decides whether a connection begins with an HTTP request, at the first byte
// that settles it. The zero value is ready to use.
//
// It is laxer than [Request.Parse] on purpose. If it took a request for plain, the body
// of the request would reach the application as data. A request line is `token SP target
// SP HTTP/...`, with the name of the protocol in any case and any version after it, because
// HAProxy forwards `POST /x HTTP/0.9` and Varnish `POST /x http/1.1`, each with the body.
// It accepts more, because proxies forward it:
//
//   - A target may contain any byte above SP: nginx forwards a client's raw bytes >=
//     0x80.
//   - A target may be empty: HAProxy with `replace-path /tunnel(.*) \1` turns
//     `POST /tunnel HTTP/1.1` into `POST  HTTP/1.1`.
//   - A method may contain the same bytes except DEL. Varnish forwards any method, and so
//     does Apache with `HttpProtocolOptions Unsafe`.
//   - If the target is a path or an http URI, the line is HTTP if its last word is HTTP/...
//     or RTSP/..., with any bytes between them. nginx with $uri or a capture in proxy_pass
//     turns /a%20b into `POST /a b HTTP/1.1`, lighttpd without "header-strict" forwards a
//     NUL, and HAProxy with `option accept-invalid-http-request` forwards `POST /a RTSP/1.0`.
//   - With any other target, RTSP/... as the third word is HTTP too: that HAProxy rewrites
//     /tunnela to `POST a RTSP/1.0`.
//   - A header of the PROXY protocol may stand before the line: a proxy may send one that
//     the server does not expect.
//
// Up to two empty lines may stand before the line as well (RFC 9112 §2.2).
//
// Two things that begin like a request are plain: the preface of HTTP/2, and RTSP as its
// clients send it, with an rtsp URI or as OPTIONS *. Two kinds of requests cannot be
// distinguished from plain data. The first have another word in the place of the version, which
// that option of HAProxy accepts (NATS has commands such as `PUB /a 5`). The second are those
// after a line break that nginx has decoded.
type Sniffer struct {
	seen  int // bytes of the buffer given to Next
	state sniffState
	rtsp  bool    // the line begins like that of an RTSP client
	third bool    // the line is HTTP if its third word is RTSP/…, and plain otherwise
	n     int     // how many bytes of the current word or pattern have been seen
	first [8]byte // the first bytes of the word

	empty   uint8 // the number of empty lines before the request line
	bareLF  bool  // one of them ends with a bare LF
	odd     bool  // the method is not a token
	path    bool  // the target is a path or an http URI
	preface bool  // the line begins like that of HTTP/2
	header  bool  // the line begins like a PROXY header of version 1
	doubt   bool  // see Doubt
	behind  bool  // a PROXY header stands before the line
}

type sniffState uint8

const (
	inEmptyLines sniffState = iota
	inEmptyLine             // after its CR
	inMethod
	inTarget
	inVersion
	inDoubt
	inPreface
	inHeader    // a header of the PROXY protocol, version 1
	inSignature // version 2: the signature, and the 4 bytes after it
	inAddresses // version 2: the addresses; n is the number of bytes still to come
)

const (
	maxEmptyLines = 2
	version       = "http/" // in lower case
	otherVersion  = "rtsp/"
	preface       = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113 §3.4
)

// Next inspects the bytes of b that it has not seen. b holds everything read from the
// connection so far and grows from call to call, so a line that arrives in small pieces
// costs no more than a line that arrives at once.
func (s *Sniffer) Next(b []byte) Verdict {
	seen := s.seen
	s.seen = len(b)
	if seen == 0 && isUsualLine(b) {
		return HTTP
	}
	return s.Feed(b[seen:])
}

// isUsualLine reports whether b begins like nearly every upgrade request. Feed has the same
// verdict, but needs several times as long.
func isUsualLine(b []byte) bool {
	const start, protocol = "GET /", "HTTP/1."
	if !bytes.HasPrefix(b, []byte(start)) {
		return false
	}
	for i, c := range b[len(start):] {
		if c <= ' ' {
			return c == ' ' && bytes.HasPrefix(b[len(start)+i+1:], []byte(protocol))
		}
	}
	return false
}

// Feed inspects the bytes that follow those it has seen.
func (s *Sniffer) Feed(b []byte) Verdict {
	for len(b) > 0 {
		n := s.unremarkable(b)
		if s.n, b = s.n+n, b[n:]; len(b) == 0 {
			break
		}
		if v := s.feed(b[0]); v == HTTP || v == Plain {
			return v
		}
		b = b[1:]
	}
	if s.doubt {
		return Doubt
	}
	return More
}

// EmptyLines returns the length of the empty lines before the request line that may be
// skipped. It is 0 if one of them ends with a bare LF, which is an error of the request.
func (s *Sniffer) EmptyLines() int {
	if s.bareLF {
		return 0
	}
	return len("\r\n") * int(s.empty)
}

// BehindHeader reports whether a header of the PROXY protocol stands before the request
// line.
func (s *Sniffer) BehindHeader() bool { return s.behind }

// AtLimit settles a first line that is still undecided when no more of it will be buffered.
// With a target in a form that reverse proxies forward (RFC 9112 §3.2.1, §3.2.2) it is HTTP.
// Otherwise it is a plain protocol with a long line.
func (s *Sniffer) AtLimit() Verdict {
	if s.path || s.state == inTarget && s.isPath() {
		return HTTP
	}
	return Plain
}

// unremarkable returns how many of the next bytes do not change the state.
func (s *Sniffer) unremarkable(b []byte) (n int) {
	switch s.state {
	case inEmptyLines:
		if !isToken(b[0]) {
			return 0
		}
		s.enter(inMethod)
		fallthrough
	case inMethod:
		for n < len(b) && isToken(b[n]) {
			n++
		}
	case inTarget:
		for n < len(b) && b[n] > ' ' {
			n++
		}
	case inVersion:
		for n < len(b) && s.n+n < len(version) && lower(b[n]) == version[s.n+n] {
			n++
		}
		return n
	default:
		return 0
	}
	switch {
	case s.n == 0 && len(b) >= len(s.first): // the usual case, in one instruction
		s.first = [8]byte(b)
	case s.n < len(s.first):
		copy(s.first[s.n:], b[:n])
	}
	return n
}

// is reports whether the word is w, which must be shorter than 8 bytes.
func (s *Sniffer) is(w string) bool { return s.n == len(w) && string(s.first[:s.n]) == w }

// isPath reports whether the target is of a form that reverse proxies forward.
func (s *Sniffer) isPath() bool {
	target := s.first[:min(s.n, len(s.first))]
	return s.n > 0 && (target[0] == '/' || target[0] == '?') || hasPrefixFold(target, "http://") || hasPrefixFold(target, "https://")
}

// feed inspects one byte. The caller must ignore a result of More or Doubt.
func (s *Sniffer) feed(c byte) Verdict {
	switch s.state {
	case inEmptyLines, inEmptyLine:
		return s.emptyLine(c)
	case inMethod:
		switch {
		case c == ' ' && s.n > 0:
			s.preface, s.header, s.rtsp = s.is("PRI"), s.is("PROXY"), s.is("OPTIONS")
			s.enter(inTarget)
			return More
		case c <= ' ' || c == 0x7f:
			return Plain
		}
		if !isToken(c) {
			s.odd, s.doubt = true, true
		}
		if s.n < len(s.first) {
			s.first[s.n] = c
		}
	case inTarget: // unremarkable has seen the bytes above SP
		s.path = s.isPath()
		s.rtsp = s.rtsp && s.is("*") || hasPrefixFold(s.first[:min(s.n, len(s.first))], "rtsp")
		s.preface = s.preface && s.is("*")
		s.header = s.header && (s.is("TCP4") || s.is("TCP6") || s.is("UNKNOWN"))
		if c != ' ' {
			return s.contradiction(c)
		}
		s.doubt = s.doubt || s.n == 0
		s.enter(inVersion)
		return More
	case inVersion:
		return s.version(c)
	case inDoubt:
		return s.doubtful(c)
	case inPreface:
		if c != preface[s.n] {
			return HTTP
		}
		if s.n == len(preface)-1 {
			return Plain
		}
	case inHeader, inSignature, inAddresses:
		return s.proxyHeader(c)
	}
	s.n++
	return More
}

func (s *Sniffer) enter(state sniffState) { s.state, s.n = state, 0 }

// emptyLine looks for the first byte of the request line.
func (s *Sniffer) emptyLine(c byte) Verdict {
	switch {
	case s.state == inEmptyLine && c != '\n':
		return Plain
	case s.state == inEmptyLine:
		s.state = inEmptyLines
		s.empty++
	case c == 0 && s.empty == maxEmptyLines && !s.bareLF:
		s.enter(inSignature)
		s.n, s.doubt = len("\r\n\r\n\x00"), true
	case c != '\r' && c != '\n':
		s.enter(inMethod)
		return s.feed(c)
	case s.empty == maxEmptyLines:
		return Plain
	case c == '\r':
		s.state = inEmptyLine
	default:
		s.empty++
		s.bareLF = true
	}
	return More
}

// version looks for HTTP/ as the third word.
func (s *Sniffer) version(c byte) Verdict {
	switch {
	case s.n < len(version):
		if lower(c) != version[s.n] {
			return s.contradiction(c)
		}
	case s.preface && s.n == len(version) && c == '2':
		s.enter(inPreface)
		s.n, s.doubt = len("PRI * HTTP/2"), true
		return Doubt
	case '0' <= c && c <= '9': // nothing may follow `HTTP/1`
	case !s.odd && (c == '.' || c <= ' '):
		return HTTP
	default:
		return s.suspect(slash, c)
	}
	s.n++
	return More
}

// contradiction handles a byte that cannot belong to a request line.
func (s *Sniffer) contradiction(c byte) Verdict {
	switch {
	case s.header:
		s.enter(inHeader)
		s.doubt = true
		return s.proxyHeader(c)
	case s.state == inVersion && s.n == 0 && s.path: // RTSP/ may begin here
		return s.suspect(space, c)
	case s.state == inVersion && s.n == 0 && !s.rtsp && lower(c) == otherVersion[0]:
		s.third = true
		return s.suspect(space, c)
	case !s.path:
		return Plain
	}
	return s.suspect(nothing, c)
}

// The states of doubtful: how much it has seen of ` HTTP/1.1` and CR at the end
// of the line.
const (
	nothing = 0
	space   = 1
	slash   = space + len(version) // and the letters, digits, dots and slashes after it
	cr      = slash + 1
)

// suspect continues with doubtful, from the state seen.
func (s *Sniffer) suspect(seen int, c byte) Verdict {
	s.enter(inDoubt)
	s.n, s.doubt = seen, true
	return s.doubtful(c)
}

// doubtful looks for a last word that is HTTP/… or RTSP/…, and the end of the line.
func (s *Sniffer) doubtful(c byte) Verdict {
	switch {
	case c == '\n':
		if s.n >= slash {
			return HTTP
		}
		return Plain
	case c == ' ':
		s.n = space
	case s.n == slash && ('.' <= c && c <= '9' || 'a' <= lower(c) && lower(c) <= 'z'):
	case s.n == slash && c == '\r':
		s.n = cr
	case space <= s.n && s.n < slash && (lower(c) == version[s.n-space] || lower(c) == otherVersion[s.n-space]):
		s.n++
	case s.third:
		return Plain
	default:
		s.n = nothing
	}
	return Doubt
}
