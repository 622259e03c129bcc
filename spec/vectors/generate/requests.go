package main

import (
	"strings"

	"github.com/preflight-go/preflight/spec/vectors"
)

const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ==" // of RFC 6455 §1.3
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// lines joins lines, and ends them and the head.
func lines(l ...string) string { return strings.Join(l, "\r\n") + "\r\n\r\n" }

// tcp is a request for the carrier upgrade with more field lines.
func tcp(more ...string) string {
	return lines(append([]string{"GET /path HTTP/1.1", "Host: example.com", "Connection: Upgrade", "Upgrade: tcp"}, more...)...)
}

// withLine is that request with another first line.
func withLine(first string) string {
	return lines(first, "Host: example.com", "Connection: Upgrade", "Upgrade: tcp")
}

// withHost is that request with other lines for Host.
func withHost(host ...string) string {
	return lines(append(append([]string{"GET /path HTTP/1.1"}, host...), "Connection: Upgrade", "Upgrade: tcp")...)
}

// lists is that request with other lists.
func lists(connection, upgrade string) string {
	return lines("GET /path HTTP/1.1", "Host: example.com", "Connection: "+connection, "Upgrade: "+upgrade)
}

// ws is a request for the carrier websocket with more field lines.
func ws(more ...string) string {
	return wsOf(append([]string{"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + sampleKey, "Sec-WebSocket-Protocol: preflight.v1"}, more...)...)
}

// wsOf is a request for the token websocket with field lines.
func wsOf(more ...string) string {
	return lines(append([]string{"GET /path HTTP/1.1", "Host: example.com", "Connection: Upgrade", "Upgrade: websocket"}, more...)...)
}

// accept expects a tunnel.
func accept(carrier, protocol string) vectors.Vector {
	return vectors.Vector{Expect: "accept", Carrier: carrier, Protocol: protocol, Data: []byte{}, End: "open", Transport: "open"}
}

// holds is a tunnel with bytes and an end.
func holds(v vectors.Vector, data string) vectors.Vector {
	v.Data, v.End, v.Transport = []byte(data), "clean", "end"
	return v
}

// refuse expects a refusal.
func refuse(status int, code string) vectors.Vector {
	return vectors.Vector{Expect: "refuse", Status: status, Code: code, Transport: "open"}
}

// serves sets the carriers that a server serves.
func serves(v vectors.Vector, carriers ...string) vectors.Vector {
	v.Carriers = carriers
	return v
}

// speaks sets the protocols that a server serves, or the one that a client asks for.
func speaks(v vectors.Vector, protocols ...string) vectors.Vector {
	v.Protocols = protocols
	return v
}

// allows sets the origins that a server allows.
func allows(v vectors.Vector, origins ...string) vectors.Vector {
	v.Origins = origins
	return v
}

// withTLS serves TLS inside.
func withTLS(v vectors.Vector) vectors.Vector {
	v.TLS = true
	return v
}

// inside serves TLS inside, or asks for it, and expects it.
func inside(v vectors.Vector) vectors.Vector {
	v.TLS, v.Tunnel = true, true
	return v
}

// limit sets the limit of a server on heads.
func limit(v vectors.Vector, n int) vectors.Vector {
	v.MaxHead = n
	return v
}

var (
	head400   = refuse(400, "head")
	plainTCP  = accept("upgrade", "tcp")
	framedTCP = accept("framed", "tcp")
	webSocket = accept("websocket", "tcp")
)

// requests returns the vectors of request heads.
func requests() (all []vectors.Vector) {
	var rows []row
	rows = append(rows, syntax()...)
	rows = append(rows, fields()...)
	rows = append(rows, upgrades()...)
	rows = append(rows, carriers()...)
	rows = append(rows, origins()...)
	for _, r := range rows {
		all = append(all, r.vector(vectors.RequestHead, "server"))
	}
	return all
}

// syntax are heads whose lines are in order or not.
func syntax() []row {
	return []row{
		{"plain", "M5 M17", "the plain upgrade", tcp(), plainTCP},
		{"plain-data", "M6 M7", "bytes behind the head are the tunnel's", tcp() + "hello", holds(plainTCP, "hello")},
		{"plain-data-like-http", "M6 M7", "bytes behind the head are not read as HTTP", tcp() + tcp(), holds(plainTCP, tcp())},
		{"query", "M8", "a path with a query", withLine("GET /a/b%20c?x=y&z HTTP/1.1"), plainTCP},
		{"absolute", "M8", "an absolute target", withLine("GET http://other.example:8080/path HTTP/1.1"), plainTCP},
		{"absolute-https", "M8", "an absolute https target without a path", withLine("GET https://other.example HTTP/1.1"), plainTCP},
		{"empty-lines", "M8", "two empty lines in front", "\r\n\r\n" + tcp(), plainTCP},
		{"target-relative", "M8", "the target is no path", withLine("GET path HTTP/1.1"), head400},
		{"target-fragment", "M8", "the target has a fragment", withLine("GET /path#part HTTP/1.1"), head400},
		{"target-percent", "M8", "the target has a percent sign without digits", withLine("GET /%zz HTTP/1.1"), head400},
		{"target-utf8", "M8", "the target has a byte above ASCII", withLine("GET /\xc3\xa9 HTTP/1.1"), head400},
		{"target-space", "M8", "the target has a space", withLine("GET /a b HTTP/1.1"), head400},
		{"target-userinfo", "M8", "the absolute target has userinfo", withLine("GET http://user@example.com/ HTTP/1.1"), head400},
		{"target-scheme", "M8", "the absolute target has another scheme", withLine("GET ftp://example.com/ HTTP/1.1"), head400},
		{"method-not-token", "M8", "the method is not a token", withLine("G(T /path HTTP/1.1"), head400},
		{"version-lower-case", "M8", "the version in lower case", withLine("GET /path http/1.1"), head400},
		{"version-two-digits", "M8", "the version has two digits", withLine("GET /path HTTP/1.10"), head400},
		{"version-then-space", "M8", "a space behind the version", withLine("GET /path HTTP/1.1 "), head400},

		{"lf-everywhere", "M9", "each line ends with a bare LF", strings.ReplaceAll(tcp(), "\r", ""), head400},
		{"lf-in-first-line", "M9", "the first line ends with a bare LF", strings.Replace(tcp(), "\r\n", "\n", 1), head400},
		{"lf-hides-field", "M9", "a bare LF hides a field", tcp("X: y\nContent-Length: 5"), head400},
		{"lf-at-end", "M9", "the empty line is a bare LF", cut(tcp(), 2) + "\n", head400},
		{"cr-in-value", "M9", "a bare CR in a value", tcp("X: y\rz"), head400},
		{"cr-before-crlf", "M9", "a CR more before the CRLF", tcp("X: y\r"), head400},
		{"nul-in-value", "M9", "a NUL in a value", tcp("X: \x00"), head400},
		{"escape-in-value", "M9", "an escape in a value", tcp("X: \x1b[2J"), head400},
		{"del-in-value", "M9", "a DEL in a value", tcp("X: y\x7f"), head400},
		{"control-in-target", "M9", "a control character in the target", withLine("GET /\x01 HTTP/1.1"), head400},
		{"tab-in-value", "M9", "a tab in a value is allowed", tcp("X: y\tz"), plainTCP},
		{"bytes-above-ascii-in-value", "M9 M14", "bytes above ASCII in an unknown value are allowed", tcp("X: \xc3\xa9\xff"), plainTCP},

		{"space-before-colon", "M10", "a space before the colon", tcp("X : y"), head400},
		{"tab-before-colon", "M10", "a tab before the colon", tcp("Content-Length\t: 5"), head400},
		{"folding", "M10", "a line begins with a space", tcp("X: y", " z"), head400},
		{"folding-first", "M10", "the first field begins with a space", strings.Replace(tcp(), "Host", " Host", 1), head400},
		{"name-empty", "M10", "a field without a name", tcp(": y"), head400},
		{"name-not-token", "M10", "a name with a parenthesis", tcp("X(Y): z"), head400},
		{"colon-missing", "M10", "a field without a colon", tcp("Xyz"), head400},
		{"space-around-value", "M10", "white space around a value is allowed", tcp("X:  y \t"), plainTCP},
		{"space-missing", "M10", "no white space before a value is allowed", strings.ReplaceAll(tcp(), ": ", ":"), plainTCP},

		{"host-missing", "M11", "Host is missing", withHost(), head400},
		{"host-twice", "M11", "Host stands twice", withHost("Host: example.com", "Host: example.com"), head400},
		{"host-empty", "M11", "Host is empty", withHost("Host:"), head400},
		{"host-two-in-one", "M11", "Host is a list", withHost("Host: a, b"), head400},
		{"host-userinfo", "M11", "Host has userinfo", withHost("Host: user@example.com"), head400},
		{"host-path", "M11", "Host has a path", withHost("Host: example.com/path"), head400},
		{"host-port-name", "M11", "the port is a name", withHost("Host: example.com:http"), head400},
		{"host-ipv6-open", "M11", "an IPv6 address without its bracket", withHost("Host: [::1"), head400},
		{"host-ipv6", "M11", "an IPv6 address with a port", withHost("Host: [::1]:8080"), plainTCP},
		{"host-absolute-missing", "M11", "Host is missing beside an absolute target", lines("GET http://example.com/ HTTP/1.1", "Connection: Upgrade", "Upgrade: tcp"), head400},

		{"max-head", "M16", "a head of 8 KiB", tcp("X: " + bytesOf(8192-len(tcp("X: ")))), plainTCP},
		{"too-large", "M16 M21", "a head above the limit", tcp("X: " + bytesOf(16384)), limit(refuse(431, "too-large"), 16384)},
		{"too-large-line", "M16 M21", "a first line above the limit", withLine("GET /" + strings.Repeat("p", 16384) + " HTTP/1.1"), limit(refuse(414, "too-large"), 16384)},
		{"too-slow", "M16 M21", "a head without its end", cut(tcp(), 2), refuse(408, "too-slow")},
	}
}
