package wire

// Verdict says what the first bytes of a connection are.
type Verdict uint8

const (
	// More: the bytes so far may still become an HTTP/1.x request line.
	More Verdict = iota
	// HTTP: the bytes begin with `token SP target SP HTTP/1.`
	HTTP
	// Plain: no continuation of the bytes is an HTTP/1.x request line.
	Plain
)

// Sniffer decides whether a connection begins with an HTTP/1.x request line
// (RFC 9112 §3), at the first byte that settles it. The zero value is ready;
// it remembers how far it has read, so feeding a head byte by byte costs no
// more than feeding it whole.
type Sniffer struct {
	pos    int
	target int // where the target begins, 0 while in the method
	proto  int // where the protocol begins, 0 before it
}

// Next looks at the bytes of b that it has not seen. b holds everything read
// from the connection so far, and grows from call to call.
//
// It is laxer than [ParseRequest] on purpose: a target may hold any byte above
// SP, because nginx passes a client's raw bytes >= 0x80 on. Were they a
// contradiction, anyone could have the body of an HTTP request that came
// through such a proxy taken for the first bytes of a plain connection.
func (s *Sniffer) Next(b []byte) Verdict {
	const http = "HTTP/1."
	for ; s.pos < len(b); s.pos++ {
		c := b[s.pos]
		switch {
		case s.proto > 0:
			i := s.pos - s.proto
			if c != http[i] {
				return Plain
			}
			if i == len(http)-1 {
				return HTTP
			}
		case s.target > 0:
			if c == ' ' && s.pos > s.target {
				s.proto = s.pos + 1
			} else if c <= ' ' {
				return Plain
			}
		case c == ' ' && s.pos > 0:
			s.target = s.pos + 1
		case !isToken(c):
			return Plain
		}
	}
	return More
}

// AtLimit settles a first line that is still undecided when no more of it will
// be buffered: a target of the forms that reverse proxies forward (RFC 9112
// §3.2.1, §3.2.2) makes it HTTP, anything else a plain protocol with a long line.
func (s *Sniffer) AtLimit(b []byte) Verdict {
	if s.target > 0 && s.target < len(b) {
		t := b[s.target:]
		if t[0] == '/' || hasPrefixFold(t, "http://") || hasPrefixFold(t, "https://") {
			return HTTP
		}
	}
	return Plain
}
