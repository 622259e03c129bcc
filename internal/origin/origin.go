// Package origin decides which web pages may open tunnels. It compares the Origin field of a
// request with a list. It does no I/O.
//
// A browser lets any page open a WebSocket to any server, and sends the origin of the page
// with the request (RFC 6454 §7). The Host field says nothing about the page: with DNS
// rebinding a page of an attacker reaches a server under the attacker's own name.
package origin

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// A List holds the allowed origins. The zero List allows none.
type List struct {
	any     bool     // the list contains "*"
	exact   []string // the origins without a wildcard, and null
	subsets []subset
}

// A subset is an entry whose host begins with "*.".
type subset struct {
	scheme string // the scheme with ://
	suffix string // the dot, the rest of the host and the port
}

// New returns a list of the entries. The error names the entry that is wrong.
func New(entries []string) (List, error) {
	var l List
	for _, entry := range entries {
		if entry == "*" {
			l.any = true
			continue
		}
		scheme, host, _ := strings.Cut(entry, "://")
		if below, ok := strings.CutPrefix(host, "*."); ok {
			err := check(scheme + "://" + below)
			if strings.HasPrefix(below, "[") {
				err = errors.New("must not have \"*.\" in front of an address")
			}
			if err != nil {
				return List{}, fmt.Errorf("the origin %q %w", entry, err)
			}
			l.subsets = append(l.subsets, subset{scheme + "://", "." + below})
			continue
		}
		if err := check(entry); err != nil && entry != "null" {
			return List{}, fmt.Errorf("the origin %q %w", entry, err)
		}
		l.exact = append(l.exact, entry)
	}
	return l, nil
}

// Allows reports whether the value of an Origin field is the serialization of an origin
// that is listed. "*" does not include null, because a page of any origin can make a
// browser send null.
func (l *List) Allows(value string) bool {
	for _, entry := range l.exact {
		if value == entry {
			return true
		}
	}
	if !l.any && len(l.subsets) == 0 || check(value) != nil {
		return false
	}
	for _, s := range l.subsets {
		host, ok := strings.CutPrefix(value, s.scheme)
		if labels, found := strings.CutSuffix(host, s.suffix); ok && found && labels != "" {
			return true
		}
	}
	return l.any
}

// check returns an error if s is not the serialization of an origin that a browser sends
// (RFC 6454 §6.2): scheme "://" host [":" port], in lower case, with an internationalized
// name in ASCII, and without the default port of the scheme.
func check(s string) error {
	scheme, host, ok := strings.Cut(s, "://")
	if !ok || !isScheme(scheme) {
		return errors.New("must begin with a scheme, such as https://, in lower case")
	}
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name, port = host[:i], host[i+1:]
		if !isPort(port) {
			return errors.New("must have a port from 1 to 65535 behind the colon, without leading zeros")
		}
	}
	switch {
	case !isName(name) && !isIPv6(name):
		return errors.New("must have only a host behind the scheme, in lower case and ASCII, and no path")
	case port == "443" && (scheme == "https" || scheme == "wss"), port == "80" && (scheme == "http" || scheme == "ws"):
		return errors.New("must not name the default port of its scheme, which browsers leave out")
	}
	return nil
}

// isScheme reports whether s is a scheme (RFC 3986 §3.1) in lower case.
func isScheme(s string) bool {
	return s != "" && isLetter(s[0]) && only(s, func(c byte) bool {
		return isLetter(c) || isDigit(c) || c == '+' || c == '-' || c == '.'
	})
}

func isPort(s string) bool {
	if s == "" || len(s) > 5 || s[0] == '0' || !only(s, isDigit) {
		return false
	}
	return len(s) < 5 || s <= "65535"
}

// isName reports whether s is a name or an IPv4 address. No label may be empty.
func isName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || !only(label, func(c byte) bool {
			return isLetter(c) || isDigit(c) || c == '-' || c == '_'
		}) {
			return false
		}
	}
	return true
}

// isIPv6 reports whether s is an IPv6 address in the form that browsers send (RFC 5952).
func isIPv6(s string) bool {
	if len(s) < 2 || s[0] != '[' || s[len(s)-1] != ']' {
		return false
	}
	ip, err := netip.ParseAddr(s[1 : len(s)-1])
	return err == nil && ip.Is6() && ip.Zone() == "" && (ip.Is4In6() || ip.String() == s[1:len(s)-1])
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func only(s string, class func(byte) bool) bool {
	for i := range len(s) {
		if !class(s[i]) {
			return false
		}
	}
	return true
}
