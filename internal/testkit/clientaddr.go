package testkit

import (
	"net"
)

const (
	Stranger = "127.0.0.9"
	XFF      = "X-Forwarded-For: "
)

// TrustedPrefixes are the trusted proxies of the chain tests: the peer, and
// three sources.
var TrustedPrefixes = Prefixes("127.0.0.1/32", "10.0.0.0/8", "2001:db8:a::/48")

var (
	Inside  = &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 4711}
	Inside6 = &net.TCPAddr{IP: net.ParseIP("2001:db8:a::7"), Port: 4711}
)
