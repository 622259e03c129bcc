// Package wire parses and writes the heads of HTTP/1.x upgrade requests and of their
// answers. It works on bytes that the caller has read. It does not allocate for a
// valid head. Requests are parsed strictly, because request smuggling needs a head
// that two parties read differently. Answers are parsed tolerantly, because proxies
// rewrite them.
package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
)

// An Error is a broken rule.
type Error struct {
	Status int    // the status of the answer to the request (RFC 9110 §15)
	Offset int    // the byte of the head at which the rule was broken; negative: none
	Rule   string // the rule and its source
	Code   string // the value of Preflight-Refusal; for a 101, what it lacks
}

func (e *Error) Error() string {
	if e.Offset < 0 {
		return e.Rule
	}
	return fmt.Sprintf("%s (byte %d of the head)", e.Rule, e.Offset)
}

func bad(offset int, rule string) *Error { return &Error{400, offset, rule, CodeHead} }

// The classes of bytes in a head.
const (
	ctl   = 1 << iota // never in a head: controls except HTAB, CR, LF (RFC 9110 §5.5)
	token             // tchar (RFC 9110 §5.6.2)
	host              // unreserved / sub-delims (RFC 3986 §2.2, §2.3)
)

var class = func() (t [256]byte) {
	for c := range 256 {
		alnum := '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f {
			t[c] |= ctl
		}
		if alnum || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0 {
			t[c] |= token
		}
		if alnum || bytes.IndexByte([]byte("-._~!$&'()*+,;="), byte(c)) >= 0 {
			t[c] |= host
		}
	}
	return t
}()

// nextControl returns the index of the first control character in b[i:], including HTAB, CR
// and LF, or len(b) without one. Nearly all bytes of a head are not controls, so it inspects
// words of eight bytes.
func nextControl(b []byte, i int) int {
	const ones = 0x01_01_01_01_01_01_01_01 // times a byte is a word of that byte
	for ; len(b)-i >= 8; i += 8 {
		word := binary.LittleEndian.Uint64(b[i:])
		// This sets the high bit of each byte that is below SP, or is DEL. Such a byte
		// may borrow from the next one and set its bit too, so only the first one counts.
		del := word ^ 0x7f*ones
		found := ((word-' '*ones)&^word | (del-ones)&^del) & (0x80 * ones)
		if found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(b) && b[i] >= ' ' && b[i] != 0x7f {
		i++
	}
	return i
}

func isToken(c byte) bool { return class[c]&token != 0 }

func validToken(b []byte) bool {
	for _, c := range b {
		if !isToken(c) {
			return false
		}
	}
	return len(b) > 0
}

// ValidProtocol reports whether s may stand in an Upgrade field:
// protocol-name ["/" protocol-version], both tokens (RFC 9110 §7.8).
func ValidProtocol(s string) bool { return validProtocol([]byte(s)) }

func validProtocol(b []byte) bool {
	if i := bytes.IndexByte(b, '/'); i >= 0 {
		return validToken(b[:i]) && validToken(b[i+1:])
	}
	return validToken(b)
}

// ValidHost reports whether s is a valid Host field of a request for an http
// URI: uri-host [":" port] (RFC 9110 §7.2), which may not be empty (§4.2.1).
func ValidHost(s string) bool { return validHost([]byte(s)) }

// validHost rejects percent-encoding, which names no host that DNS or a routing table knows.
func validHost(b []byte) bool {
	var port []byte
	if len(b) > 0 && b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 {
			return false
		}
		// Only an IPv6 literal costs this conversion.
		ip, err := netip.ParseAddr(string(b[1:end]))
		if err != nil || !ip.Is6() || ip.Zone() != "" {
			return false
		}
		port = b[end+1:]
	} else {
		n := 0
		for n < len(b) && class[b[n]]&host != 0 {
			n++
		}
		if n == 0 {
			return false
		}
		port = b[n:]
	}
	if len(port) == 0 {
		return true
	}
	if port[0] != ':' {
		return false
	}
	return digits(port[1:])
}

func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// ValidTarget reports whether s is a request target in origin-form (RFC 9112
// §3.2.1) that every recipient reads the same way.
func ValidTarget(s string) bool {
	return len(s) > 0 && s[0] == '/' && badTarget(s) < 0
}

// badTarget is the index of the first byte that may not stand in a target, or
// -1. A fragment never goes on the wire (RFC 9110 §4.1), and a "%" begins a
// percent-encoding (RFC 3986 §2.1).
func badTarget[T string | []byte](b T) int {
	for i := range len(b) {
		c := b[i]
		if c <= ' ' || c >= 0x7f || c == '#' {
			return i
		}
		if c == '%' && (i+2 >= len(b) || !isHex(b[i+1]) || !isHex(b[i+2])) {
			return i
		}
	}
	return -1
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// Header returns an iterator over the field lines of a head that was parsed without error,
// first to last. Values are trimmed. A value that an answer folded over several lines (RFC
// 9112 §5.2) still contains the line breaks.
func Header(head []byte) func(yield func(name, value []byte) bool) {
	return func(yield func(name, value []byte) bool) {
		pos := lineEnd(head, 0)
		for {
			name, value, next, err := foldedField(head, pos)
			if err != nil || next == pos || !yield(name, value) {
				return
			}
			pos = next
		}
	}
}

// field reads the field line at pos: field-name ":" OWS field-value OWS
// (RFC 9112 §5). next is where the next line begins; it equals pos at the
// empty line that ends the head.
func field(b []byte, pos int) (name, value []byte, next int, err *Error) {
	if b[pos] == '\r' && b[pos+1] != '\n' {
		return nil, nil, 0, bad(pos, "a bare CR: RFC 9112 §2.2")
	}
	if b[pos] == '\r' || b[pos] == '\n' {
		return nil, nil, pos, nil
	}
	n := pos
	for _, c := range b[pos:] {
		if !isToken(c) {
			break
		}
		n++
	}
	if n == pos || b[n] != ':' {
		return nil, nil, 0, badName(b, pos, n)
	}
	next = lineEnd(b, n)
	return b[pos:n], trim(b[n+1 : next]), next, nil
}

// badName returns the error for a field name b[pos:n] that is not followed by a colon.
func badName(b []byte, pos, n int) *Error {
	switch {
	case n == pos && isBlank(b[n]):
		return bad(n, "a field line begins with white space (obs-fold): RFC 9112 §5.2")
	case n == pos && b[n] == ':':
		return bad(n, "a field has no name: RFC 9110 §5.1")
	case isBlank(b[n]):
		return bad(n, "white space before the colon of a field: RFC 9112 §5.1")
	case b[n] == '\r' || b[n] == '\n':
		return bad(n, "a field line has no colon: RFC 9112 §5")
	}
	return bad(n, "a field name is not a token: RFC 9110 §5.1")
}

// foldedField is field for a value that continues on lines that begin with
// white space (obs-fold: RFC 9112 §5.2).
func foldedField(b []byte, pos int) (name, value []byte, next int, err *Error) {
	name, value, next, err = field(b, pos)
	if err != nil || next == pos || !isBlank(b[next]) {
		return name, value, next, err
	}
	for isBlank(b[next]) {
		next = lineEnd(b, next)
	}
	return name, trim(b[pos+len(name)+1 : next]), next, nil
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// lineEnd returns the index after the next LF. The head is known to end with one.
func lineEnd(b []byte, pos int) int { return pos + bytes.IndexByte(b[pos:], '\n') + 1 }

// trim removes optional white space (RFC 9110 §5.6.3) and line breaks.
func trim(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

func isSpace(c byte) bool { return isBlank(c) || c == '\r' || c == '\n' }

// nextElement cuts the first non-empty element off a comma-separated list
// (RFC 9110 §5.6.1: a recipient ignores empty elements). The element is empty
// when the list is at its end.
func nextElement(list []byte) (element, rest []byte) {
	for len(list) > 0 {
		if i := bytes.IndexByte(list, ','); i >= 0 {
			element, list = list[:i], list[i+1:]
		} else {
			element, list = list, nil
		}
		if element = trim(element); len(element) > 0 {
			return element, list
		}
	}
	return nil, nil
}

// lists reports whether an element of a list is s. It ignores case.
func lists(list []byte, s string) bool {
	for e, rest := nextElement(list); e != nil; e, rest = nextElement(rest) {
		if equalFold(e, s) {
			return true
		}
	}
	return false
}

// equalFold compares and ignores ASCII case only: Unicode folding would make the Kelvin sign
// a k.
func equalFold(b []byte, s string) bool {
	return len(b) == len(s) && hasPrefixFold(b, s)
}

func hasPrefixFold(b []byte, s string) bool {
	if len(b) < len(s) {
		return false
	}
	for i := range len(s) {
		if b[i] != s[i] && lower(b[i]) != lower(s[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
