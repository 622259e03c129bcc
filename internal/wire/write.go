package wire

import (
	"slices"
	"strconv"
)

// AppendRequest appends an upgrade request that asks for terms. Host comes first (RFC 9110
// §7.2). Upgrade contains a single token: HAProxy, Apache, Caddy and Go's ReverseProxy fail if
// two are offered and one is chosen. The fields of the exchange follow. carriers lists the
// carrier that terms describe, and those that the client can still try. key is the
// Sec-WebSocket-Key. The caller has validated all arguments, and appends the user's fields
// with AppendField and AppendFields.
func AppendRequest[C ~string](b []byte, target, host string, terms *Terms, key string, carriers []C) []byte {
	b = append(b, "GET "...)
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\nConnection: Upgrade\r\nUpgrade: "...)
	b = append(b, terms.Token()...)
	b = append(b, "\r\n"...)
	if terms.WebSocket {
		b = append(b, "Sec-WebSocket-Version: 13\r\n"...)
		b = AppendField(b, "Sec-WebSocket-Key", key)
		b = AppendField(b, "Sec-WebSocket-Protocol", Subprotocol)
	}
	if terms.WebSocket || terms.Framed {
		// On a WebSocket, this field shows the server if a proxy has removed the subprotocol.
		b = AppendField(b, FramingField, framingCapsule)
	}
	b = append(b, CarriersField+": "...)
	for i, c := range carriers {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, c...)
	}
	b = append(b, "\r\n"...)
	if inner := terms.inner(); inner != "" {
		b = AppendField(b, ProtocolField, inner)
	}
	return appendTunnel(b, terms.TunnelTLS)
}

// Token returns the value of Upgrade.
func (t *Terms) Token() string {
	if t.WebSocket {
		return webSocketToken
	}
	return t.Protocol
}

// inner returns the value of Preflight-Protocol, or "" if the field is not sent.
func (t *Terms) inner() string {
	if !t.WebSocket || equalFold([]byte(t.Protocol), DefaultProtocol) {
		return ""
	}
	return t.Protocol
}

func appendTunnel(b []byte, asked bool) []byte {
	if !asked {
		return b
	}
	return AppendField(b, TunnelField, tunnelTLS)
}

// AppendHead appends a head with startLine, which has no line end.
func AppendHead(b []byte, startLine string, header map[string][]string) []byte {
	b = append(b, startLine...)
	b = append(b, "\r\n"...)
	return AppendFields(b, header)
}

// AppendSwitching appends the 101 that agrees to t. It always carries Upgrade and Connection,
// because proxies answer 502 or hang if one is missing. It carries neither Content-Length nor
// Transfer-Encoding (RFC 9110 §8.6, RFC 9112 §6.1). accept is used only for a WebSocket, on
// which the subprotocol confirms the framing.
func AppendSwitching(b []byte, t Terms, accept string, header map[string][]string) []byte {
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "...)
	if t.WebSocket {
		b = append(b, webSocketToken...)
	} else {
		b = append(b, t.Protocol...)
	}
	b = append(b, "\r\nConnection: Upgrade\r\n"...)
	switch {
	case t.WebSocket:
		b = AppendField(b, "Sec-WebSocket-Accept", accept)
		b = AppendField(b, "Sec-WebSocket-Protocol", Subprotocol)
		if !equalFold([]byte(t.Protocol), DefaultProtocol) {
			b = AppendField(b, ProtocolField, t.Protocol)
		}
	case t.Framed:
		b = AppendField(b, FramingField, framingCapsule)
	}
	return AppendFields(appendTunnel(b, t.TunnelTLS), header)
}

// AppendRefusal appends an answer that ends the connection. It always carries Content-Length,
// because nginx and lighttpd withhold a body of unknown length.
func AppendRefusal(b []byte, status int, reason string, header map[string][]string, length int) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, reason...)
	b = append(b, "\r\nConnection: close"...)
	if _, ok := header["Upgrade"]; ok {
		// RFC 9110 §7.8: a sender of Upgrade must list it in Connection.
		b = append(b, ", Upgrade"...)
	}
	if status != 304 { // its Content-Length would describe the body of a 200 (RFC 9110 §8.6)
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(length), 10)
	}
	b = append(b, "\r\n"...)
	return AppendFields(b, header)
}

// AppendFields appends field lines in the order of their names, and then the empty line. The
// order is fixed, so that the same configuration always produces the same bytes.
func AppendFields(b []byte, header map[string][]string) []byte {
	names := make([]string, 0, 16)
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range header[name] {
			b = AppendField(b, name, value)
		}
	}
	return append(b, "\r\n"...)
}

// AppendField appends one field line.
func AppendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}
