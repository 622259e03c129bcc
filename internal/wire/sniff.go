package wire

import "bytes"

// Verdict says what the first bytes of a connection are.
type Verdict uint8

const (
	// More: the bytes so far may still become an HTTP/1.x request line.
	More Verdict = iota
	// HTTP: the bytes begin with `token SP target SP HTTP/1.`, or with a line
	// that a careless proxy may have made of a request.
	HTTP
	// Plain: no continuation of the bytes is an HTTP/1.x request line.
	Plain
	// Doubt: as Plain, but the line may still end as one does that a careless
	// proxy made. There is no need to wait for its end, only to watch for it.
	Doubt
)

// Sniffer decides whether a connection begins with an HTTP/1.x request line
// (RFC 9112 §3), at the first byte that settles it. The zero value is ready.
//
// It is laxer than [Request.Parse] on purpose, because the body of whatever it
// takes for plain reaches the application as data. A target may hold any byte
// above SP: nginx passes a client's raw bytes >= 0x80 on. And where the second
// word is a path, a line that ends with ` HTTP/1.x` is HTTP whatever stands
// between: nginx with $uri or a capture in proxy_pass makes `POST /a b HTTP/1.1`
// of /a%20b.
type Sniffer struct {
	seen  int // of the buffer given to Next
	state sniffState
	n     int  // bytes in this state, or of the pattern that it looks for
	path  bool // the target begins with "/"
}

type sniffState uint8

const (
	inMethod sniffState = iota
	inTarget
	inVersion
	inDoubt
)

const (
	version = "HTTP/1."
	ending  = " HTTP/1."
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
	if s.state == inDoubt {
		return Doubt
	}
	return More
}

// unremarkable is how many of the next bytes do no more than go on in this state.
func (s *Sniffer) unremarkable(b []byte) (n int) {
	switch s.state {
	case inMethod:
		for n < len(b) && isToken(b[n]) {
			n++
		}
	case inTarget:
		for s.n > 0 && n < len(b) && b[n] > ' ' {
			n++
		}
	case inVersion:
		for n < len(b) && s.n+n < len(version)-1 && b[n] == version[s.n+n] {
			n++
		}
	}
	return n
}

func (s *Sniffer) feed(c byte) Verdict {
	switch s.state {
	case inMethod:
		if c == ' ' && s.n > 0 {
			s.enter(inTarget)
			return More
		}
		if !isToken(c) {
			return Plain
		}
	case inTarget:
		if c == ' ' && s.n > 0 {
			s.enter(inVersion)
			return More
		}
		if c <= ' ' {
			return s.contradiction(c)
		}
		if s.n == 0 {
			s.path = c == '/'
		}
	case inVersion:
		if c != version[s.n] {
			return s.contradiction(c)
		}
		if s.n == len(version)-1 {
			return HTTP
		}
	case inDoubt:
		return s.doubt(c)
	}
	s.n++
	return More
}

func (s *Sniffer) enter(state sniffState) { s.state, s.n = state, 0 }

// contradiction is where the line has ceased to be a request line.
func (s *Sniffer) contradiction(c byte) Verdict {
	if !s.path {
		return Plain
	}
	s.enter(inDoubt)
	return s.doubt(c)
}

// doubt looks for ending, a digit and the end of the line. n counts the bytes
// of that which stand before c.
func (s *Sniffer) doubt(c byte) Verdict {
	switch {
	case c == '\n':
		if s.n > len(ending) {
			return HTTP
		}
		return Plain
	case s.n < len(ending) && c == ending[s.n],
		s.n == len(ending) && '0' <= c && c <= '9',
		s.n == len(ending)+1 && c == '\r':
		s.n++
	case c == 0: // which no proxy lets through
		return Plain
	case c == ' ': // only the first byte of ending is one
		s.n = 1
	default:
		s.n = 0
	}
	return Doubt
}

// AtLimit settles a first line that is still undecided when no more of it will
// be buffered: a target of the forms that reverse proxies forward (RFC 9112
// §3.2.1, §3.2.2) makes it HTTP, anything else a plain protocol with a long line.
func (s *Sniffer) AtLimit(b []byte) Verdict {
	target := b[bytes.IndexByte(b, ' ')+1:]
	if s.path || hasPrefixFold(target, "http://") || hasPrefixFold(target, "https://") {
		return HTTP
	}
	return Plain
}
