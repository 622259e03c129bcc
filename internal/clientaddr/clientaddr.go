// Package clientaddr finds the address of a client behind a chain of trusted
// proxies. Its functions are pure: they read addresses and the values of one
// header field, and they do no I/O.
package clientaddr

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// DefaultField is the header field that is read if none is configured.
const DefaultField = "X-Forwarded-For"

// Proxies are the trusted proxies, and the header field in which they report
// the client's address. Every other field can be forged by the client, because
// many proxies forward fields that they do not maintain. The zero value trusts
// no proxy. Proxies is safe for concurrent use.
type Proxies struct {
	prefixes []netip.Prefix // masked; IPv4 is not mapped into IPv6
	field    string
}

// New checks and normalises the prefixes of the proxies and the name of their
// field. Without prefixes no proxy is trusted. An empty field means
// [DefaultField]. The errors begin with TrustedProxies or ClientAddrHeader, the
// names of the two settings.
func New(prefixes []netip.Prefix, field string) (Proxies, error) {
	if field != "" && !httpguts.ValidHeaderFieldName(field) {
		return Proxies{}, fmt.Errorf("ClientAddrHeader: %q is not a field name", field)
	}
	if field != "" && len(prefixes) == 0 {
		return Proxies{}, errors.New("ClientAddrHeader has no effect without TrustedProxies")
	}
	p := Proxies{field: field}
	if field == "" {
		p.field = DefaultField
	}
	for i, prefix := range prefixes {
		if !prefix.IsValid() {
			return Proxies{}, fmt.Errorf("TrustedProxies[%d] is an invalid netip.Prefix (zero, or with a length out of range); make one with netip.MustParsePrefix(\"10.0.0.0/8\")", i)
		}
		if a := prefix.Addr(); a.Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(a.Unmap(), prefix.Bits()-96)
		}
		p.prefixes = append(p.prefixes, prefix.Masked())
	}
	return p, nil
}

// Any reports whether any proxy is trusted.
func (p *Proxies) Any() bool { return len(p.prefixes) > 0 }

// Field is the name of the header field that the proxies maintain.
func (p *Proxies) Field() string { return p.field }

// TrustsPeer reports whether peer, which is on the other side of c, is a trusted
// proxy.
//
// A peer on a Unix socket is trusted if the socket has a file, because the
// permissions of the file decide who may connect. An abstract socket (unix(7))
// has no file; package net writes its name with an "@". A socket of socketpair(2)
// has no name at all. Neither is trusted.
func (p *Proxies) TrustsPeer(c net.Conn, peer net.Addr) bool {
	if _, unix := peer.(*net.UnixAddr); unix {
		local, ok := c.LocalAddr().(*net.UnixAddr)
		if !ok || local == nil || local.Name == "" || local.Name[0] == '@' {
			return false
		}
	}
	return p.trusts(peer)
}

// trusts reports whether a is the address of a trusted proxy. Every Unix address
// is; TrustsPeer looks at the socket.
func (p *Proxies) trusts(a net.Addr) bool {
	if !p.Any() {
		return false
	}
	switch a := a.(type) {
	case nil:
		return false
	case *net.UnixAddr:
		return a != nil
	case *net.TCPAddr:
		if a == nil {
			return false
		}
		ip, _ := netip.AddrFromSlice(a.IP)
		return p.trustsIP(plainIP(ip))
	default:
		ap, err := netip.ParseAddrPort(a.String())
		return err == nil && p.trustsIP(plainIP(ap.Addr()))
	}
}

// plainIP is ip in the form of the prefixes. A dual-stack listener sees IPv4 as
// ::ffff:192.0.2.1, and no prefix contains an address with a zone.
func plainIP(ip netip.Addr) netip.Addr { return ip.Unmap().WithZone("") }

func (p *Proxies) trustsIP(ip netip.Addr) bool {
	for _, prefix := range p.prefixes {
		if prefix.Contains(ip) {
			return true
		}
	}
	return false
}

// Client returns the client's address. It starts at peer and follows the field
// from right to left, because each proxy appends the address of its own peer. An
// entry is used only if the address to its right is trusted: the client can write
// everything beyond that point.
//
// lines are the values of the field, one for each field line, in the order in
// which they arrived. Client returns peer itself if peer is not trusted or the
// field says nothing more. It returns an error if a trusted proxy sent a field
// that is malformed: the address of the proxy would give the client the rights
// of the proxy.
func (p *Proxies) Client(peer net.Addr, lines []string) (net.Addr, error) {
	if !p.trusts(peer) {
		return peer, nil
	}
	addr := peer
	bare := !strings.EqualFold(p.field, "Forwarded")
	// The lines form one list, in their order (RFC 9110 §5.3). Each line is parsed
	// alone, so that a quote that the client opens cannot reach into the next line.
	for _, line := range slices.Backward(lines) {
		nodes, err := p.nodes(line, len(lines))
		if err != nil {
			return nil, p.malformed(err)
		}
		for _, s := range slices.Backward(nodes) {
			node, err := parseNode(s, bare)
			if err != nil {
				return nil, p.malformed(err)
			}
			if !node.IsValid() {
				return addr, nil
			}
			addr = net.TCPAddrFromAddrPort(node)
			if !p.trustsIP(node.Addr()) {
				return addr, nil
			}
		}
	}
	return addr, nil
}

// malformed does not include the value, which may be personal data.
func (p *Proxies) malformed(err error) error {
	return fmt.Errorf("the field %s of a trusted proxy is malformed: %w", p.field, err)
}

// nodes splits one line of the field into the entries that name a node. It does
// not check the names. lines is the number of lines of the field.
func (p *Proxies) nodes(line string, lines int) (nodes []string, err error) {
	if strings.EqualFold(p.field, "Forwarded") {
		return forwardedNodes(line)
	}
	if !strings.EqualFold(p.field, "X-Forwarded-For") && (lines > 1 || strings.Contains(line, ",")) {
		return nil, errors.New("it holds more than one address")
	}
	for s := range strings.SplitSeq(line, ",") {
		// A recipient ignores empty elements: RFC 9110 §5.6.1.2.
		if s = strings.Trim(s, " \t"); s != "" {
			nodes = append(nodes, s)
		}
	}
	return nodes, nil
}

// forwardedNodes parses a whole line of Forwarded = 1#forwarded-element (RFC 7239
// §4) from the left. A client can open a quote to swallow what a proxy appends. A
// parser that starts at the right takes that for a quoted string. From the left,
// such a line is malformed.
func forwardedNodes(line string) (nodes []string, err error) {
	const empty = ", \t" // elements: RFC 9110 §5.6.1.2
	for line = strings.TrimLeft(line, empty); line != ""; line = strings.TrimLeft(line, empty) {
		var node string
		if node, line, err = cutElement(line); err != nil {
			return nil, err
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// cutElement cuts one element off a line of Forwarded: pairs separated by
// semicolons. The grammar has no white space around a pair. Some proxies write it
// and its meaning is clear, so it is accepted.
func cutElement(s string) (node, rest string, err error) {
	const space = " \t"
	node = "unknown" // an element without "for" does not name the client
	seen := false
	for {
		s = strings.TrimLeft(s, space)
		if s != "" && s[0] != ';' && s[0] != ',' {
			name, value, _ := strings.Cut(s, "=")
			if !httpguts.ValidHeaderFieldName(name) {
				return "", "", errors.New("the name of a parameter is not a token: RFC 7239 §4")
			}
			if value, s, err = cutValue(value); err != nil {
				return "", "", err
			}
			if strings.EqualFold(name, "for") {
				if seen {
					return "", "", errors.New("an element has two for parameters: RFC 7239 §4")
				}
				node, seen = value, true
			}
			s = strings.TrimLeft(s, space)
		}
		switch {
		case s == "":
			return node, "", nil
		case s[0] == ',':
			return node, s[1:], nil
		case s[0] != ';':
			return "", "", errors.New("a value does not end where it should: RFC 7239 §4")
		}
		s = s[1:]
	}
}

// cutValue cuts a token or a quoted-string off s (RFC 9110 §5.6.2, §5.6.4).
func cutValue(s string) (value, rest string, err error) {
	if s == "" || s[0] != '"' {
		n := 0
		for n < len(s) && httpguts.IsTokenRune(rune(s[n])) {
			n++
		}
		if n == 0 {
			return "", "", errors.New("a value is neither a token nor a quoted string: RFC 7239 §4")
		}
		return s[:n], s[n:], nil
	}
	var b []byte
	for i := 1; i < len(s); i++ {
		if s[i] == '"' {
			return string(b), s[i+1:], nil
		}
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b = append(b, s[i])
	}
	return "", "", errors.New("a quoted string has no end: RFC 7239 §4")
}

// parseNode parses nodename [ ":" node-port ] (RFC 7239 §6). Other fields use the
// same form, except that an IPv6 address may stand without brackets: bare allows
// that. The node is invalid, without an error, if the proxy hides it. Its port is
// 0 if the proxy does not report one.
func parseNode(s string, bare bool) (node netip.AddrPort, err error) {
	name, after := s, ""
	bracketed, closed := strings.HasPrefix(s, "["), false
	if bracketed {
		name, after, closed = strings.Cut(s[1:], "]")
	} else if strings.Count(s, ":") == 1 { // more are a bare IPv6 address
		i := strings.IndexByte(s, ':')
		name, after = s[:i], s[i:]
	}
	var port uint64
	if number, ok := strings.CutPrefix(after, ":"); after != "" && !(ok && obfuscated(number)) {
		if port, err = strconv.ParseUint(number, 10, 16); !ok || err != nil {
			return node, errors.New("a port is malformed or out of range: RFC 7239 §6")
		}
	}
	if !bracketed && (strings.EqualFold(name, "unknown") || obfuscated(name)) {
		return node, nil
	}
	ip, err := netip.ParseAddr(name)
	if err != nil || bracketed && !(closed && ip.Is6()) || !bracketed && !bare && !ip.Is4() {
		return node, errors.New("an address is malformed: RFC 7239 §6")
	}
	return netip.AddrPortFrom(plainIP(ip), uint16(port)), nil
}

// obfuscated reports whether s is an identifier that hides an address or a port
// (RFC 7239 §6.3).
func obfuscated(s string) bool {
	const chars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return len(s) > 1 && s[0] == '_' && strings.TrimLeft(s, chars) == ""
}
