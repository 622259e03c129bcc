package preflight

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

// proxies are the peers that are believed about the client's address, and the
// field in which they tell it. Any other field is the client's to forge: many
// proxies pass on untouched what they do not maintain.
type proxies struct {
	prefixes []netip.Prefix // masked, and without IPv4 in IPv6
	field    string
}

// newProxies checks and normalises PreflightListener.TrustedProxies and
// ClientAddrHeader.
func newProxies(prefixes []netip.Prefix, field string) (proxies, error) {
	if field != "" && !httpguts.ValidHeaderFieldName(field) {
		return proxies{}, fmt.Errorf("preflight: PreflightListener.ClientAddrHeader: %q is not a field name", field)
	}
	if field != "" && len(prefixes) == 0 {
		return proxies{}, errors.New("preflight: PreflightListener.ClientAddrHeader has no effect without TrustedProxies")
	}
	p := proxies{field: field}
	if field == "" {
		p.field = "X-Forwarded-For"
	}
	for i, prefix := range prefixes {
		if !prefix.IsValid() {
			return proxies{}, fmt.Errorf("preflight: PreflightListener.TrustedProxies[%d] is an invalid netip.Prefix (zero, or with a length out of range); make one with netip.MustParsePrefix(\"10.0.0.0/8\")", i)
		}
		if a := prefix.Addr(); a.Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(a.Unmap(), prefix.Bits()-96)
		}
		p.prefixes = append(p.prefixes, prefix.Masked())
	}
	return p, nil
}

// any reports whether anybody is trusted at all.
func (p *proxies) any() bool { return len(p.prefixes) > 0 }

func (p *proxies) trust(a net.Addr) bool {
	if !p.any() {
		return false
	}
	switch a := a.(type) {
	case nil:
		return false
	case *net.UnixAddr:
		return a != nil // see trusts
	case *net.TCPAddr:
		if a == nil {
			return false
		}
		ip, _ := netip.AddrFromSlice(a.IP)
		return p.trustIP(plainIP(ip))
	default:
		ap, err := netip.ParseAddrPort(a.String())
		return err == nil && p.trustIP(plainIP(ap.Addr()))
	}
}

// trusts reports whether the peer of the connection, or the client that its PROXY
// header has named, is one of the TrustedProxies. A Unix socket is trusted for the
// permissions of its file. An abstract one (unix(7)) has none, and package net
// writes its name with an "@"; nor has one without a name, of socketpair(2).
func (x *exchange) trusts(p *policy) bool {
	peer := x.addr()
	if _, unix := peer.(*net.UnixAddr); unix {
		own, ok := x.conn.LocalAddr().(*net.UnixAddr)
		if !ok || own == nil || own.Name == "" || own.Name[0] == '@' {
			return false
		}
	}
	return p.proxies.trust(peer)
}

// plainIP is ip as the prefixes have it: a listener for both versions sees
// IPv4 as ::ffff:192.0.2.1, and no prefix contains an address with a zone.
func plainIP(ip netip.Addr) netip.Addr { return ip.Unmap().WithZone("") }

func (p *proxies) trustIP(ip netip.Addr) bool {
	for _, prefix := range p.prefixes {
		if prefix.Contains(ip) {
			return true
		}
	}
	return false
}

// client returns the client's address as far as the chain behind peer can be
// believed. Each proxy adds the address of its own peer at the right, so each
// step to the left is believed only while the address so far is trusted; what
// stands beyond is the client's to write. lines are the values of the field,
// one for each field line, in the order received. client returns peer itself
// where nothing more is known, and an error where a trusted proxy cannot be
// understood: to fall back to its address would promote the client.
func (p *proxies) client(peer net.Addr, lines []string) (net.Addr, error) {
	if !p.trust(peer) {
		return peer, nil
	}
	addr := peer
	bare := !strings.EqualFold(p.field, "Forwarded")
	// The lines are one list in their order (RFC 9110 §5.3). They are read one
	// at a time, so that an opening quote of the client's ends with its line.
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
			if !p.trustIP(node.Addr()) {
				return addr, nil
			}
		}
	}
	return addr, nil
}

// malformed never repeats a value, which may be personal data.
func (p *proxies) malformed(err error) error {
	return fmt.Errorf("the field %s of a trusted proxy is malformed: %w", p.field, err)
}

// nodes splits one of so many lines of the field into what names a client,
// without judging the names.
func (p *proxies) nodes(line string, lines int) (nodes []string, err error) {
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

// forwardedNodes reads a whole line of Forwarded = 1#forwarded-element (RFC
// 7239 §4) from the left. From the right a quoted string could not be told
// from a quote that the client has opened to swallow what a proxy appends; from
// the left, such a line is malformed.
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

// cutElement cuts an element off a line of Forwarded: pairs with semicolons
// between them. White space around a pair is not in the grammar; it is written
// nevertheless, and can mean only one thing.
func cutElement(s string) (node, rest string, err error) {
	const space = " \t"
	node = "unknown" // which is what an element without for tells
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

// parseNode reads nodename [ ":" node-port ] (RFC 7239 §6). What other fields
// hold is the same, but that an IPv6 address may be bare. The node is not valid
// where the proxy does not tell it, and its port is 0 where that is not told.
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

// obfuscated reports whether s is an identifier that a proxy made up in place
// of an address or a port (RFC 7239 §6.3).
func obfuscated(s string) bool {
	const chars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return len(s) > 1 && s[0] == '_' && strings.TrimLeft(s, chars) == ""
}
