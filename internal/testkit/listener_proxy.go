package testkit

import (
	"net/netip"
)

// KndTrust is a list of prefixes.
func KndTrust(prefixes ...string) (list []netip.Prefix) {
	for _, p := range prefixes {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

// KndV2 is a header of version 2 by hand.
func KndV2(command, family byte, length int, rest string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{command, family, byte(length >> 8), byte(length)}) + rest
}
