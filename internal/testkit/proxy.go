package testkit

import (
	"net/netip"
)

// Prefixes parses a list of prefixes.
func Prefixes(prefixes ...string) (list []netip.Prefix) {
	for _, p := range prefixes {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

// ProxyV2Bytes builds a header of version 2 by hand.
func ProxyV2Bytes(command, family byte, length int, rest string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{command, family, byte(length >> 8), byte(length)}) + rest
}
