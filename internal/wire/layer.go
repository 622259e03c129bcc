package wire

import (
	"bytes"
	"encoding/binary"
)

// A Match is the result of a search for a layer at the beginning of a connection.
type Match uint8

const (
	// Maybe: the bytes so far may be the beginning of the layer, and more are needed.
	Maybe Match = iota
	// No: the bytes are not the beginning of the layer.
	No
	// Yes: the bytes begin with the layer.
	Yes
)

const (
	proxyV1 = "PROXY "
	proxyV2 = "\r\n\r\n\x00\r\nQUIT\n"
	// maxProxyV1 is the longest header of version 1 (PROXY protocol §2.1).
	maxProxyV1 = 107
)

// ProxyHeader reports whether b begins with a header of the PROXY protocol, of either
// version. If so, n is its length: 0 as long as the length is unknown, negative if the header
// cannot end.
//
// A request whose method is PROXY is not a header, although `PROXY UNKNOWN HTTP/1.1` has the
// form of one. A client can send it through an HTTP proxy that is trusted, and the bytes after
// it would be taken for the beginning of a connection. A line of version 1 may show only near its
// end that it is a request. The answer then changes from Yes with n = 0 to No.
func ProxyHeader(b []byte) (m Match, n int) {
	switch {
	case bytes.HasPrefix(b, []byte(proxyV1)):
		line := b[:min(len(b), maxProxyV1)]
		n = bytes.IndexByte(line, '\n') + 1
		if n > 0 {
			line = line[:n]
		}
		var s Sniffer
		verdict := s.Feed(line)
		if n == 0 && len(line) == maxProxyV1 {
			n = -1
			if verdict == More {
				verdict = s.AtLimit()
			}
		}
		if verdict == HTTP {
			return No, 0
		}
		return Yes, n
	case bytes.HasPrefix(b, []byte(proxyV2)):
		// Signature, version and command, family, length of the rest (§2.2).
		const fixed = len(proxyV2) + 4
		if len(b) >= fixed {
			n = fixed + int(binary.BigEndian.Uint16(b[fixed-2:]))
		}
		return Yes, n
	case begins(b, proxyV1) || begins(b, proxyV2):
		return Maybe, 0
	}
	return No, 0
}

// begins reports whether b, which may be empty, is the beginning of s.
func begins(b []byte, s string) bool {
	return len(b) < len(s) && string(b) == s[:len(b)]
}

// proxyHeader looks for the end of a header of the PROXY protocol. The bytes after it are
// sniffed like the beginning of a connection.
func (s *Sniffer) proxyHeader(c byte) Verdict {
	var ended bool
	switch s.state {
	case inHeader:
		if ended = c == '\n'; !ended && s.n > maxProxyV1 {
			return Plain
		}
		s.n++
	case inSignature:
		i := s.n - len(proxyV2)
		if i < 0 && c != proxyV2[s.n] {
			return Plain
		}
		s.n++
		if i < 0 {
			break
		}
		// Version and command, family, length of the rest (PROXY protocol §2.2).
		if s.first[i] = c; i == 3 {
			s.enter(inAddresses)
			s.n = int(binary.BigEndian.Uint16(s.first[2:]))
			ended = s.n == 0
		}
	case inAddresses:
		s.n--
		ended = s.n == 0
	}
	if ended {
		*s = Sniffer{seen: s.seen, doubt: true, behind: true}
	}
	return Doubt
}

// ClientHello reports whether b begins with a TLS record that holds a ClientHello (RFC 8446
// §5.1, §4.1.2). If so, n is the length of that record.
func ClientHello(b []byte) (m Match, n int) {
	const (
		handshake   = 22
		clientHello = 1
		header      = 5       // type, legacy_record_version, length
		maxRecord   = 1 << 14 // of plaintext
	)
	const need = header + 1
	for i, c := range b[:min(len(b), need)] {
		ok := true
		switch i {
		case 0:
			ok = c == handshake
		case 1, 2: // 3.1 or 3.3 in TLS 1.0 to 1.3; crypto/tls refuses other versions of TLS itself
			ok = c == 3 || i == 2 && c <= 4
		case 3:
			ok = c <= maxRecord>>8
		case 4: // the length is now known: the record must be neither empty nor too long
			n = header + int(binary.BigEndian.Uint16(b[3:]))
			ok = n >= need && n <= header+maxRecord
		case 5:
			ok = c == clientHello
		}
		if !ok {
			return No, 0
		}
	}
	if len(b) < need {
		return Maybe, 0
	}
	return Yes, n
}
