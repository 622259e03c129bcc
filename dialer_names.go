package preflight

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// hostField is the Host field of the request to a dialed address.
func (d *PreflightDialer) hostField(network, address string) string {
	if d.Host != "" {
		return asciiHost(d.Host)
	}
	host, defaultPort := hostOf(network, address), ":80"
	if d.TLSConfig != nil {
		defaultPort = ":443"
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		return host // which has no port to leave out
	}
	// Proxies that choose by an exact Host expect it without the default port,
	// as other HTTP clients send it.
	return strings.TrimSuffix(host, defaultPort)
}

// tlsName is the name of the server for TLS. Host has it where the address is
// that of a machine.
func (d *PreflightDialer) tlsName(network, address string) string {
	if d.Host == "" {
		return serverName(network, address)
	}
	u := url.URL{Host: asciiHost(d.Host)}
	return u.Hostname()
}

// hostOf is the host and the port, as HTTP writes them, of an address that package
// net can dial. What it cannot make valid, upgrade.check refuses.
func hostOf(network, address string) string {
	if strings.HasPrefix(network, "unix") {
		return "localhost"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	name, number := host, port
	// A zone means nothing to another machine (RFC 6874 §1), and package net
	// dials the local system where there is no host.
	if name, _, _ = strings.Cut(name, "%"); name == "" {
		name = "localhost"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || port[0] == '0' {
		// Package net knows services by name, and numbers that begin with
		// zeros. A Host field has neither.
		if n, err := net.LookupPort("tcp", port); err == nil {
			number = strconv.Itoa(n)
		}
	}
	if name == host && number == port && address[0] != '[' {
		return address // as it would be put together again
	}
	return net.JoinHostPort(name, number)
}

// asciiHost is a host, with or without a port, as DNS, HTTP and TLS take it: an
// internationalized name is converted to ASCII (RFC 5891 §5). One conversion
// serves all three. That of httpguts.PunycodeHostPort maps no upper case, and
// would make another name of it than DNS has. What cannot be converted stays as
// it is, and is refused where it is no valid host.
func asciiHost(hostPort string) string {
	if isASCII(hostPort) {
		return hostPort
	}
	host, port, noPort := net.SplitHostPort(hostPort)
	if noPort != nil {
		host = hostPort
	}
	name, err := idna.Lookup.ToASCII(host)
	switch {
	case err != nil || !utf8.ValidString(host): // of which idna makes U+FFFD
		return hostPort
	case noPort != nil:
		return name
	}
	return net.JoinHostPort(name, port)
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// isIPAddress reports whether the host of a host:port is an IP address.
func isIPAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}
