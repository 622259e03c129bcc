package wire

// Verdict says what the first bytes of a connection are.
type Verdict uint8

const (
	// More: the bytes so far may still become a request line.
	More Verdict = iota
	// HTTP: the bytes begin with a request line, or with a line that a proxy
	// may have made of one.
	HTTP
	// Plain: no continuation of the bytes is such a line.
	Plain
	// Doubt: no client of HTTP sends these bytes, but a lax proxy may have made
	// them of a request, which the rest of the line will show. There is no need to
	// wait for it, only to watch for it.
	Doubt
)

// Sniffer decides whether a connection begins with an HTTP request, at the
// first byte that settles it. The zero value is ready.
//
// It is laxer than [Request.Parse] on purpose: the body of a request that it
// takes for plain reaches the application as data. A request line is
// `token SP target SP HTTP/…`, with the name of the protocol in any case and
// any version behind it, because HAProxy forwards `POST /x HTTP/0.9` and Varnish
// `POST /x http/1.1`, each with the body. Proxies also forward, or make of what
// they are sent:
//
//   - Targets with any byte above SP: nginx.
//   - An empty target: HAProxy with `replace-path /tunnel(.*) \1` makes
//     `POST  HTTP/1.1` of `POST /tunnel HTTP/1.1`.
//   - Methods with any byte above SP but DEL: Varnish, and Apache with
//     `HttpProtocolOptions Unsafe`.
//   - Targets with white space and controls: nginx with $uri or a capture in
//     proxy_pass makes `POST /a b HTTP/1.1` of /a%20b, and lighttpd without
//     "header-strict" passes a NUL on. So where the target begins as a path or
//     an http URI, the last word of the line decides.
//   - RTSP/1.0 as a version: HAProxy with `option accept-invalid-http-request`.
//   - A header of the PROXY protocol before the line, from a proxy that the
//     listener was not told about.
//
// Up to two empty lines may stand before the line as well (RFC 9112 §2.2).
//
// Two things that begin like a request are plain: the preface of HTTP/2, and a
// request of RTSP with the rtsp URI that its clients send. Two kinds of requests
// cannot be told from plain data: those with any other word for a version, which
// the said option of HAProxy forwards (`PUB /a 5` is a command of NATS), and
// those behind a line break that nginx has decoded.
type Sniffer struct {
	seen  int // of the buffer given to Next
	state sniffState
	n     int     // bytes of the word or of the pattern that this state is in
	first [8]byte // of the word

	empty   uint8 // lines before the request line
	bareLF  bool  // ends one of them
	odd     bool  // the method is no token
	path    bool  // the target is a path or an http URI
	preface bool  // the line begins as that of HTTP/2
	header  bool  // the line begins as a PROXY header of version 1
	doubt   bool  // see Doubt
	behind  bool  // a PROXY header
}

type sniffState uint8

const (
	inEmptyLines sniffState = iota
	inEmptyLine             // behind its CR
	inMethod
	inTarget
	inVersion
	inDoubt
	inPreface
	inHeader    // of the PROXY protocol, version 1
	inSignature // of version 2, and the 4 bytes behind it
	inAddresses // of version 2; n is how many bytes are to come
)

const (
	maxEmptyLines = 2
	version       = "http/" // in lower case
	otherVersion  = "rtsp/"
	preface       = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113 §3.4
)

// Next looks at the bytes of b that it has not seen. b holds everything read
// from the connection so far, and grows from call to call, so that a line that
// trickles in costs no more than one that comes whole.
func (s *Sniffer) Next(b []byte) Verdict {
	v := s.Feed(b[s.seen:])
	s.seen = len(b)
	return v
}

// Feed looks at the bytes that follow those it has seen.
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

// EmptyLines is the length of the empty lines before the request line that
// may be skipped. It is 0 where one of them ends with a bare LF, which is an
// error of the request.
func (s *Sniffer) EmptyLines() int {
	if s.bareLF {
		return 0
	}
	return len("\r\n") * int(s.empty)
}

// BehindHeader reports whether a header of the PROXY protocol stands before the
// request line.
func (s *Sniffer) BehindHeader() bool { return s.behind }

// AtLimit settles a first line that is still undecided when no more of it will
// be buffered: a target of the forms that reverse proxies forward (RFC 9112
// §3.2.1, §3.2.2) makes it HTTP, anything else a plain protocol with a long line.
func (s *Sniffer) AtLimit() Verdict {
	if s.path || s.state == inTarget && s.isPath() {
		return HTTP
	}
	return Plain
}

// unremarkable is how many of the next bytes do no more than go on in this state.
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

// is reports whether the word is w, which is shorter than 8 bytes.
func (s *Sniffer) is(w string) bool { return s.n == len(w) && string(s.first[:s.n]) == w }

// isPath tells the targets that reverse proxies forward from others.
func (s *Sniffer) isPath() bool {
	target := s.first[:min(s.n, len(s.first))]
	return s.n > 0 && target[0] == '/' || hasPrefixFold(target, "http://") || hasPrefixFold(target, "https://")
}

// feed looks at one byte. What it returns means nothing if it is More or Doubt.
func (s *Sniffer) feed(c byte) Verdict {
	switch s.state {
	case inEmptyLines, inEmptyLine:
		return s.emptyLine(c)
	case inMethod:
		switch {
		case c == ' ' && s.n > 0:
			s.preface, s.header = s.is("PRI"), s.is("PROXY")
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
	case inTarget: // unremarkable has seen what is above SP
		s.path = s.isPath()
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
	case '0' <= c && c <= '9': // behind `HTTP/1` there may still come nothing
	case !s.odd && (c == '.' || c <= ' '):
		return HTTP
	default:
		return s.suspect(slash, c)
	}
	s.n++
	return More
}

// contradiction is where the line has ceased to be a request line.
func (s *Sniffer) contradiction(c byte) Verdict {
	switch {
	case s.header:
		s.enter(inHeader)
		s.doubt = true
		return s.proxyHeader(c)
	case !s.path:
		return Plain
	case s.state == inVersion && s.n == 0: // RTSP/ may begin here
		return s.suspect(space, c)
	}
	return s.suspect(nothing, c)
}

// What doubtful has seen of ` HTTP/1.1` and CR at the end of the line.
const (
	nothing = 0
	space   = 1
	slash   = space + len(version) // and letters, digits, dots and slashes behind it
	cr      = slash + 1
)

// suspect goes on with doubtful, which has seen so much.
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
	default:
		s.n = nothing
	}
	return Doubt
}
