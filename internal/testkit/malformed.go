package testkit

import (
	"strings"

	"github.com/preflight-go/preflight/internal/wire"
)

// Smuggled is sent after every malformed head. A server that parses it upgrades
// the connection for a request that a proxy has not seen.
const Smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nsmuggled payload"

// malformedHead is a head that must not become a tunnel.
type malformedHead struct {
	Name string
	Head string
	// Status is the status of the refusal. It is BadPlain if the head is not
	// HTTP at all, or BadLate.
	Status int
	// the text that the body of the refusal contains: the rule, and the byte
	// where it was broken
	Text string
}

const (
	BadPlain = 0
	BadLate  = -1 // plain when it is delivered, HTTP later
)

// UpgradeWith returns an upgrade request with more field lines.
func UpgradeWith(fields string) string {
	return "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" + fields + "\r\n"
}

// badLine returns an upgrade request with another first line.
func badLine(line string) string {
	return line + "\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
}

// badHost returns an upgrade request with another Host, or none.
func badHost(field string) string {
	return "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" + field + "\r\n"
}

// badLists returns an upgrade request with other lists.
func badLists(connection, upgrade string) string {
	return "GET / HTTP/1.1\r\nHost: h\r\nConnection: " + connection + "\r\nUpgrade: " + upgrade + "\r\n\r\n"
}

var MalformedHeads = []malformedHead{
	// Lines: RFC 9112 §2.2.
	{"bare LF everywhere", strings.ReplaceAll(UpgradeWith(""), "\r", ""), 400, "a bare LF: RFC 9112 §2.2 (byte 14 of the head)"},
	{"bare LF behind the request line", strings.Replace(UpgradeWith(""), "\r\n", "\n", 1), 400, "a bare LF: RFC 9112 §2.2 (byte 14 of the head)"},
	{"bare LF in the fields", "GET / HTTP/1.1\r\nHost: h\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 400, "a bare LF: RFC 9112 §2.2 (byte 23 of the head)"},
	{"bare LF for the empty line", strings.TrimSuffix(UpgradeWith(""), "\r\n") + "\n", 400, "a bare LF: RFC 9112 §2.2 (byte 60 of the head)"},
	{"bare LF hides a field", UpgradeWith("X: y\nContent-Length: 5\r\n"), 400, "a bare LF: RFC 9112 §2.2 (byte 64 of the head)"},
	{"LF CR", UpgradeWith("X: y\n\r"), 400, "a bare LF"},
	{"bare CR behind the request line", strings.Replace(UpgradeWith(""), "\r\n", "\r", 1), 400, "a bare CR: RFC 9112 §2.2 (byte 14 of the head)"},
	{"bare CR in a value", UpgradeWith("X: y\rz\r\n"), 400, "a bare CR: RFC 9112 §2.2 (byte 64 of the head)"},
	{"bare CR hides a field", UpgradeWith("X: y\rContent-Length: 5\r\n"), 400, "a bare CR"},
	{"bare CR in a name", UpgradeWith("X\rY: z\r\n"), 400, "a bare CR"},
	{"bare CR in front of a field", UpgradeWith("\rX: y\r\n"), 400, "a bare CR"},
	{"CR CR LF", UpgradeWith("X: y\r\r\n"), 400, "a bare CR"},
	{"CR CR LF for the empty line", strings.TrimSuffix(UpgradeWith(""), "\r\n") + "\r\r\n", 400, "a bare CR"},

	// Field lines: RFC 9112 §5.
	{"obs-fold", UpgradeWith("X: y\r\n z\r\n"), 400, "(obs-fold): RFC 9112 §5.2 (byte 66 of the head)"},
	{"obs-fold with a tab", UpgradeWith("X: y\r\n\tz\r\n"), 400, "(obs-fold): RFC 9112 §5.2"},
	{"obs-fold of nothing", UpgradeWith("X: y\r\n \r\n"), 400, "(obs-fold): RFC 9112 §5.2"},
	{"obs-fold of Host", badHost("Host:\r\n h\r\n"), 400, "(obs-fold): RFC 9112 §5.2"},
	{"obs-fold of Upgrade", "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade:\r\n tcp\r\n\r\n", 400, "(obs-fold): RFC 9112 §5.2"},
	{"obs-fold of the request line", strings.Replace(UpgradeWith(""), "Host", " Host", 1), 400, "(obs-fold): RFC 9112 §5.2 (byte 16 of the head)"},
	{"obs-fold of the request line with a tab", strings.Replace(UpgradeWith(""), "Host", "\tHost", 1), 400, "(obs-fold): RFC 9112 §5.2 (byte 16 of the head)"},
	{"space before the colon", UpgradeWith("X : y\r\n"), 400, "white space before the colon of a field: RFC 9112 §5.1 (byte 61 of the head)"},
	{"tab before the colon", UpgradeWith("X\t: y\r\n"), 400, "white space before the colon"},
	{"space before the colon of Host", badHost("Host : h\r\n"), 400, "white space before the colon"},
	{"space before the colon of Content-Length", UpgradeWith("Content-Length : 5\r\n"), 400, "white space before the colon"},
	{"space in a name", UpgradeWith("X Y: z\r\n"), 400, "white space before the colon"},
	{"no name", UpgradeWith(": y\r\n"), 400, "a field has no name: RFC 9110 §5.1 (byte 60 of the head)"},
	{"no colon", UpgradeWith("Xyz\r\n"), 400, "a field line has no colon: RFC 9112 §5 (byte 63 of the head)"},
	{"no colon, but a value", UpgradeWith("Xyz y\r\n"), 400, "white space before the colon"},
	{"a second request line", UpgradeWith("GET /other HTTP/1.1\r\n"), 400, "white space before the colon"},
	{"separator in a name", UpgradeWith("X(Y): z\r\n"), 400, "a field name is not a token: RFC 9110 §5.1 (byte 61 of the head)"},
	{"raw UTF-8 in a name", UpgradeWith("Xé: z\r\n"), 400, "a field name is not a token"},
	{"quoted name", UpgradeWith("\"X\": z\r\n"), 400, "a field name is not a token"},

	// Controls: RFC 9110 §5.5.
	{"NUL in a name", UpgradeWith("X\x00: y\r\n"), 400, "a control character: RFC 9110 §5.5 (byte 61 of the head)"},
	{"NUL in a value", UpgradeWith("X: \x00\r\n"), 400, "a control character: RFC 9110 §5.5 (byte 63 of the head)"},
	{"escape in a value", UpgradeWith("X: \x1b[2J\r\n"), 400, "a control character"},
	{"vertical tab in a value", UpgradeWith("X: y\v\r\n"), 400, "a control character"},
	{"form feed before the colon", UpgradeWith("X\f: y\r\n"), 400, "a control character"},
	{"DEL in a name", UpgradeWith("X\x7f: y\r\n"), 400, "a control character"},
	{"DEL in a value", UpgradeWith("X: y\x7f\r\n"), 400, "a control character"},
	{"DEL in the target", badLine("GET /\x7f HTTP/1.1"), 400, "a control character: RFC 9110 §5.5 (byte 5 of the head)"},
	{"NUL behind the version", badLine("GET / HTTP/1.1\x00"), 400, "a control character"},
	{"backspace in Upgrade", badLists("Upgrade", "tcp\b"), 400, "a control character"},

	// Host: RFC 9112 §3.2, RFC 9110 §7.2.
	{"no Host", badHost(""), 400, "Host is missing: RFC 9112 §3.2 (byte 51 of the head)"},
	{"Host in a name like it", badHost("X-Host: h\r\nHosts: h\r\n"), 400, "Host is missing"},
	{"Host twice", badHost("Host: h\r\nHost: h\r\n"), 400, "Host is repeated: RFC 9112 §3.2 (byte 60 of the head)"},
	{"two Hosts", badHost("Host: h\r\nhOST: other\r\n"), 400, "Host is repeated"},
	{"Host, then an empty one", badHost("Host: h\r\nHost:\r\n"), 400, "Host is repeated"},
	{"empty Host", badHost("Host:\r\n"), 400, "Host is not valid: RFC 9110 §7.2 (byte 51 of the head)"},
	{"Host of white space", badHost("Host: \t \r\n"), 400, "Host is not valid"},
	{"Host with a space", badHost("Host: a b\r\n"), 400, "Host is not valid"},
	{"merged Hosts", badHost("Host: a, b\r\n"), 400, "Host is not valid"},
	{"Host with userinfo", badHost("Host: user@h\r\n"), 400, "Host is not valid"},
	{"Host with a path", badHost("Host: h/path\r\n"), 400, "Host is not valid"},
	{"Host that is a URL", badHost("Host: http://h\r\n"), 400, "Host is not valid"},
	{"Host with a query", badHost("Host: h?q\r\n"), 400, "Host is not valid"},
	{"Host with a fragment", badHost("Host: h#f\r\n"), 400, "Host is not valid"},
	{"Host with a backslash", badHost("Host: h\\x\r\n"), 400, "Host is not valid"},
	{"Host percent-encoded", badHost("Host: h%2e\r\n"), 400, "Host is not valid"},
	{"Host in raw UTF-8", badHost("Host: hé\r\n"), 400, "Host is not valid"},
	{"Host of a port alone", badHost("Host: :80\r\n"), 400, "Host is not valid"},
	{"Host with a port by name", badHost("Host: h:http\r\n"), 400, "Host is not valid"},
	{"Host with a signed port", badHost("Host: h:-1\r\n"), 400, "Host is not valid"},
	{"Host with two ports", badHost("Host: h:80:81\r\n"), 400, "Host is not valid"},
	{"Host IPv6 without brackets", badHost("Host: ::1\r\n"), 400, "Host is not valid"},
	{"Host IPv6 without an end", badHost("Host: [::1\r\n"), 400, "Host is not valid"},
	{"Host IPv6 with letters", badHost("Host: [::g]\r\n"), 400, "Host is not valid"},
	{"Host IPv6 with a tail", badHost("Host: [::1]x\r\n"), 400, "Host is not valid"},
	{"Host IPv6 with a zone", badHost("Host: [fe80::1%eth0]\r\n"), 400, "Host is not valid"},
	{"Host IPv6 with an encoded zone", badHost("Host: [fe80::1%25eth0]\r\n"), 400, "Host is not valid"},
	{"Host IPv4 in brackets", badHost("Host: [192.0.2.1]\r\n"), 400, "Host is not valid"},
	{"Host of empty brackets", badHost("Host: []\r\n"), 400, "Host is not valid"},
	{"Host invalid in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 400, "Host is not valid"},

	// Bodies: RFC 9112 §6.
	{"Content-Length negative", UpgradeWith("Content-Length: -1\r\n"), 400, "Content-Length is not one number: RFC 9112 §6.3 (byte 60 of the head)"},
	{"Content-Length +0", UpgradeWith("Content-Length: +0\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length hexadecimal", UpgradeWith("Content-Length: a\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length 0x0", UpgradeWith("Content-Length: 0x0\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length 0.0", UpgradeWith("Content-Length: 0.0\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length 0 0", UpgradeWith("Content-Length: 0 0\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length listed", UpgradeWith("Content-Length: 0, 0\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length quoted", UpgradeWith("Content-Length: \"0\"\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length empty", UpgradeWith("Content-Length:\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length repeated", UpgradeWith("Content-Length: 0\r\nContent-Length: 0\r\n"), 400, "Content-Length is not one number: RFC 9112 §6.3 (byte 79 of the head)"},
	{"Content-Length differing", UpgradeWith("Content-Length: 0\r\ncontent-length: 45\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length differing, ordinary request", "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 45\r\n\r\n", 400, "Content-Length is not one number"},
	{"Content-Length of a body", UpgradeWith("Content-Length: 45\r\n"), 400, "Content-Length is not 0 (byte 60 of the head)"},
	{"Content-Length huge", UpgradeWith("Content-Length: 18446744073709551616\r\n"), 400, "Content-Length is not 0"},
	{"Content-Length 2^64 beside its digits", UpgradeWith("Content-Length: 00000000000000000000000000000000001\r\n"), 400, "Content-Length is not 0"},
	{"Content-Length and chunked", UpgradeWith("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400, "Transfer-Encoding beside Content-Length: RFC 9112 §6.3 (byte 79 of the head)"},
	{"chunked and Content-Length 0", UpgradeWith("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), 400, "Transfer-Encoding beside Content-Length"},
	{"chunked and Content-Length, POST", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400, "Transfer-Encoding beside Content-Length"},
	{"Transfer-Encoding chunked", UpgradeWith("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400, "Transfer-Encoding is present (byte 60 of the head)"},
	{"Transfer-Encoding identity", UpgradeWith("Transfer-Encoding: identity\r\n"), 400, "Transfer-Encoding is present"},
	{"Transfer-Encoding empty", UpgradeWith("Transfer-Encoding:\r\n"), 400, "Transfer-Encoding is present"},
	{"Transfer-Encoding unknown", UpgradeWith("Transfer-Encoding: xchunked\r\n"), 400, "Transfer-Encoding is present"},
	{"Transfer-Encoding twice", UpgradeWith("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), 400, "Transfer-Encoding is present"},
	{"Transfer-Encoding in HTTP/1.0", "GET / HTTP/1.0\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "Transfer-Encoding in an HTTP/1.0 request: RFC 9112 §6.1"},
	{"Trailer", UpgradeWith("Trailer: X\r\n"), 400, "Trailer is present"},
	{"Expect of another", UpgradeWith("Expect: 200-ok\r\n"), 417, "Expect knows 100-continue alone: RFC 9110 §10.1.1 (byte 60 of the head)"},
	{"Expect of two", UpgradeWith("Expect: 100-continue, x\r\n"), 417, "Expect knows 100-continue alone"},
	{"Expect and a body", UpgradeWith("Expect: 100-continue\r\nContent-Length: 5\r\n"), 400, "Content-Length is not 0"},

	// The version: RFC 9112 §2.3.
	{"HTTP/1.2", badLine("GET / HTTP/1.2"), 505, "the version is neither HTTP/1.1 nor HTTP/1.0: RFC 9110 §15.6.6 (byte 13 of the head)"},
	{"HTTP/1.9", badLine("GET / HTTP/1.9"), 505, "the version is neither"},
	{"HTTP/1.10", badLine("GET / HTTP/1.10"), 400, "the version is not HTTP/1.x: RFC 9112 §2.3 (byte 6 of the head)"},
	{"HTTP/1.01", badLine("GET / HTTP/1.01"), 400, "the version is not HTTP/1.x"},
	{"HTTP/1.x", badLine("GET / HTTP/1.x"), 400, "the version is not HTTP/1.x"},
	{"HTTP/1.", badLine("GET / HTTP/1."), 400, "the version is not HTTP/1.x"},
	{"space behind the version", badLine("GET / HTTP/1.1 "), 400, "the version is not HTTP/1.x"},
	{"tab behind the version", badLine("GET / HTTP/1.1\t"), 400, "the version is not HTTP/1.x"},
	{"a word behind the version", badLine("GET / HTTP/1.1 HTTP/1.1"), 400, "the version is not HTTP/1.x"},
	{"HTTP/2.0", badLine("GET / HTTP/2.0"), 505, "the version is neither HTTP/1.1 nor HTTP/1.0: RFC 9110 §15.6.6 (byte 11 of the head)"},
	{"HTTP/0.9", badLine("GET / HTTP/0.9"), 505, "the version is neither"},
	{"HTTP/2", badLine("GET / HTTP/2"), 400, "the version is not HTTP/1.x"},
	{"HTTP/", badLine("GET / HTTP/"), 400, "the version is not HTTP/1.x"},
	{"HTTP/11", badLine("GET / HTTP/11"), 400, "the version is not HTTP/1.x"},
	{"HTTP/x.1", badLine("GET / HTTP/x.1"), 400, "the version is not HTTP/1.x"},
	{"version in lower case", badLine("GET / http/1.1"), 400, "the version is not HTTP/1.x: RFC 9112 §2.3 (byte 6 of the head)"},
	{"RTSP", badLine("GET / RTSP/1.0"), 400, "the version is not HTTP/1.x"},
	{"another protocol", badLine("GET / SIP/2.0"), BadPlain, ""},
	{"no version", badLine("GET /"), BadPlain, ""},

	// The method: RFC 9110 §9.1, RFC 9931 §6.1.
	{"method in lower case", badLine("get / HTTP/1.1"), 405, "an upgrade request is a GET: RFC 9931 §6.1"},
	{"POST", badLine("POST / HTTP/1.1"), 405, "an upgrade request is a GET"},
	{"POST with a body", "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 5\r\n\r\nhello", 405, "an upgrade request is a GET"},
	{"PUT", badLine("PUT / HTTP/1.1"), 405, "an upgrade request is a GET"},
	{"TRACE", badLine("TRACE / HTTP/1.1"), 405, "an upgrade request is a GET"},
	{"HEAD", badLine("HEAD / HTTP/1.1"), 405, ""}, // no body: RFC 9110 §9.3.2
	{"HEAD of HTTP/1.2", badLine("HEAD / HTTP/1.2"), 505, ""},
	{"HEAD without Upgrade", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", 426, ""},
	{"HEAD with a bare LF", strings.Replace(badLine("HEAD / HTTP/1.1"), "\r\n", "\n", 1), 400, ""},
	{"HEAD too large", "HEAD / HTTP/1.1\r\nX: " + strings.Repeat("y", 16<<10), 431, ""},
	{"HEAD too long", "HEAD /" + strings.Repeat("y", 16<<10), 414, ""},
	{"OPTIONS *", badLine("OPTIONS * HTTP/1.1"), 405, "an upgrade request is a GET"},
	{"CONNECT", badLine("CONNECT h:443 HTTP/1.1"), 405, "an upgrade request is a GET"},
	{"a method nobody knows", badLine("GET! / HTTP/1.1"), 405, "an upgrade request is a GET"},
	{"method not a token", badLine("G(T / HTTP/1.1"), 400, "the method is not a token: RFC 9110 §9.1 (byte 0 of the head)"},
	{"method with a byte >= 0x80", badLine("G\xffT / HTTP/1.1"), 400, "the method is not a token"},
	{"method of a control", badLine("G\x01T / HTTP/1.1"), BadPlain, ""},
	{"no method", badLine(" / HTTP/1.1"), BadPlain, ""},

	// The target: RFC 9112 §3.2.
	{"CONNECT of a path", badLine("CONNECT / HTTP/1.1"), 400, "the target of CONNECT is not host:port: RFC 9112 §3.2.3 (byte 8 of the head)"},
	{"CONNECT without a port", badLine("CONNECT h HTTP/1.1"), 400, "the target of CONNECT is not host:port"},
	{"CONNECT of a URL", badLine("CONNECT http://h:443/ HTTP/1.1"), 400, "the target of CONNECT is not host:port"},
	{"GET *", badLine("GET * HTTP/1.1"), 400, "the target * is for OPTIONS alone: RFC 9112 §3.2.4 (byte 4 of the head)"},
	{"authority-form", badLine("GET h:80 HTTP/1.1"), 400, "the target is neither a path nor an http URI: RFC 9112 §3.2 (byte 4 of the head)"},
	{"relative path", badLine("GET path HTTP/1.1"), 400, "the target is neither"},
	{"query alone", badLine("GET ?q HTTP/1.1"), 400, "the target is neither"},
	{"dots alone", badLine("GET ../ HTTP/1.1"), 400, "the target is neither"},
	{"scheme ftp", badLine("GET ftp://h/ HTTP/1.1"), 400, "the target is neither"},
	{"scheme tcp", badLine("GET tcp://h/ HTTP/1.1"), 400, "the target is neither"},
	{"scheme with one slash", badLine("GET http:/h/ HTTP/1.1"), 400, "the target is neither"},
	{"scheme without a host", badLine("GET http:h HTTP/1.1"), 400, "the target is neither"},
	{"URL with userinfo", badLine("GET http://user:pass@h/ HTTP/1.1"), 400, "the target's host is not valid: RFC 9110 §4.2 (byte 4 of the head)"},
	{"URL with a user", badLine("GET http://h@evil/ HTTP/1.1"), 400, "the target's host is not valid"},
	{"URL of an empty host", badLine("GET http:///path HTTP/1.1"), 400, "the target's host is not valid"},
	{"URL of nothing", badLine("GET http:// HTTP/1.1"), 400, "the target's host is not valid"},
	{"URL of a port", badLine("GET http://:80/ HTTP/1.1"), 400, "the target's host is not valid"},
	{"URL with a bad port", badLine("GET http://h:x/ HTTP/1.1"), 400, "the target's host is not valid"},
	{"URL with bad IPv6", badLine("GET http://[::1/ HTTP/1.1"), 400, "the target's host is not valid"},
	{"URL with a backslash", badLine("GET http://h\\@evil/ HTTP/1.1"), 400, "the target's host is not valid"},
	{"URL beside an invalid Host", "GET http://h/ HTTP/1.1\r\nHost: a b\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 400, "Host is not valid"},
	{"URL and no Host", "GET http://h/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 400, "Host is missing"},
	{"fragment", badLine("GET /path#fragment HTTP/1.1"), 400, "a byte that must be percent-encoded: RFC 9112 §3.2 (byte 9 of the head)"},
	{"percent-encoding of no digits", badLine("GET /%zz HTTP/1.1"), 400, "a byte that must be percent-encoded: RFC 9112 §3.2 (byte 5 of the head)"},
	{"percent-encoding of one digit", badLine("GET /%4 HTTP/1.1"), 400, "a byte that must be percent-encoded"},
	{"percent-encoding cut off", badLine("GET /% HTTP/1.1"), 400, "a byte that must be percent-encoded"},
	{"percent-encoding in the query", badLine("GET /?%u0041 HTTP/1.1"), 400, "a byte that must be percent-encoded"},
	{"raw UTF-8 in the target", badLine("GET /é HTTP/1.1"), 400, "a byte that must be percent-encoded: RFC 9112 §3.2 (byte 5 of the head)"},
	{"byte 0xff in the target", badLine("GET /\xff HTTP/1.1"), 400, "a byte that must be percent-encoded"},
	{"NUL in the target", badLine("GET /\x00 HTTP/1.1"), 400, "a control character: RFC 9110 §5.5 (byte 5 of the head)"},
	// nginx with $uri or a capture in proxy_pass makes these targets from %0D,
	// %01 and %09.
	{"bare CR in the target", badLine("GET /\r HTTP/1.1"), 400, "a bare CR: RFC 9112 §2.2 (byte 5 of the head)"},
	{"control in the target", badLine("GET /\x01 HTTP/1.1"), 400, "a control character: RFC 9110 §5.5 (byte 5 of the head)"},
	{"tab in the target", badLine("GET /\t HTTP/1.1"), 400, "a byte that must be percent-encoded: RFC 9112 §3.2 (byte 5 of the head)"},
	{"POST with a tab in the target", "POST /a\tb HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\nPUB t 2\r\nhi\r\n", 400, "a byte that must be percent-encoded"},
	{"POST with a space in the target", "POST /a b HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\nPUB t 2\r\nhi\r\n", 400, "the version is not HTTP/1.x"},

	// What stands between: RFC 9112 §3.
	{"two spaces before the target", badLine("GET  / HTTP/1.1"), BadPlain, ""},
	// HAProxy makes this line if one of its rules has removed the path.
	{"nothing for a target", badLine("GET  HTTP/1.1"), 400, "the request line is not `method SP target SP version`"},
	{"two spaces before the version", badLine("GET /  HTTP/1.1"), 400, "the version is not HTTP/1.x"},
	{"space in the target", badLine("GET /a b HTTP/1.1"), 400, "the version is not HTTP/1.x"},
	{"tab before the target", badLine("GET\t/ HTTP/1.1"), BadPlain, ""},
	{"tab before the version", badLine("GET /\tHTTP/1.1"), BadPlain, ""},
	{"tab behind the space", badLine("GET \t/ HTTP/1.1"), BadPlain, ""},
	{"empty line of a bare LF in front", "\n" + badLine("GET / HTTP/1.1"), 400, "a bare LF: RFC 9112 §2.2 (byte 0 of the head)"},
	{"empty lines of both in front", "\r\n\n" + badLine("GET / HTTP/1.1"), 400, "a bare LF: RFC 9112 §2.2 (byte 2 of the head)"},
	{"three empty lines in front", "\r\n\r\n\r\n" + badLine("GET / HTTP/1.1"), BadPlain, ""},
	{"byte order mark in front", "\ufeff" + badLine("GET / HTTP/1.1"), 400, "the method is not a token"},
	{"PROXY header in front", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + badLine("GET / HTTP/1.1"), 400, "a PROXY header stands before the request"},

	// Lists: RFC 9110 §7.6.1, §7.8.
	{"Upgrade not a token", badLists("Upgrade", "tcp@1"), 400, "Upgrade is not a list of protocols: RFC 9110 §7.8"},
	{"Upgrade not a token at last", badLists("Upgrade", "tcp, (x)"), 400, "Upgrade is not a list of protocols"},
	{"Upgrade not a token in a second field", UpgradeWith("Upgrade: {}\r\n"), 400, "Upgrade is not a list of protocols"},
	{"Upgrade of two words", badLists("Upgrade", "tcp tcp"), 400, "Upgrade is not a list of protocols"},
	{"Upgrade with a parameter", badLists("Upgrade", "tcp;q=1"), 400, "Upgrade is not a list of protocols"},
	{"Upgrade quoted", badLists("Upgrade", `"tcp"`), 400, "Upgrade is not a list of protocols"},
	{"Upgrade without a version", badLists("Upgrade", "tcp/"), 400, "Upgrade is not a list of protocols"},
	{"Upgrade without a name", badLists("Upgrade", "/1"), 400, "Upgrade is not a list of protocols"},
	{"Upgrade with two versions", badLists("Upgrade", "tcp/1/2"), 400, "Upgrade is not a list of protocols"},
	{"Connection not a token", badLists("Upgrade, @", "tcp"), 400, "Connection is not a list of tokens: RFC 9110 §7.6.1"},
	{"Connection of two words", badLists("keep-alive Upgrade", "tcp"), 400, "Connection is not a list of tokens"},
	{"Connection with a parameter", badLists("Upgrade;x=y", "tcp"), 400, "Connection is not a list of tokens"},
	{"Connection quoted", badLists(`"Upgrade"`, "tcp"), 400, "Connection is not a list of tokens"},

	// These are valid, but no upgrade: RFC 9110 §7.8, §15.5.22.
	{"Upgrade without Connection", "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: tcp\r\n\r\n", 426, "Upgrade without `Connection: Upgrade`: RFC 9110 §7.8"},
	{"Connection of others", badLists("close, keep-alive", "tcp"), 426, "Upgrade without `Connection: Upgrade`"},
	{"Connection of a longer token", badLists("upgrades", "tcp"), 426, "Upgrade without `Connection: Upgrade`"},
	{"Connection without Upgrade", "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\r\n", 426, "the request has no Upgrade field"},
	{"neither", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", 426, "the request has no Upgrade field"},
	{"Upgrade empty", badLists("Upgrade", ""), 426, "has no Upgrade field"},
	{"Upgrade of commas", badLists("Upgrade", ", ,"), 426, "has no Upgrade field"},
	{"another token", badLists("Upgrade", "websocket"), 426, "with the subprotocol preflight.v1"},
	{"a longer token", badLists("Upgrade", "tcpss"), 426, "Upgrade names no protocol that is served here"},
	{"a shorter token", badLists("Upgrade", "tc"), 426, "Upgrade names no protocol that is served here"},
	{"a version of the token", badLists("Upgrade", "tcp/1"), 426, "Upgrade names no protocol that is served here"},
	{"HTTP/1.0", badLine("GET / HTTP/1.0"), 426, "HTTP/1.0 has no upgrade: RFC 9110 §7.8"},
	{"HTTP/1.0 with keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 426, "the request came as HTTP/1.0"},
	{"POST of commands", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\nPUB t 2\r\nhi\r\n", 426, "the request has no Upgrade field"},

	// Sizes: RFC 6585 §5, RFC 9112 §3.
	{"head too large", UpgradeWith("X: " + strings.Repeat("y", 16<<10) + "\r\n"), 431, "the head of the request is too large: RFC 6585 §5 (byte 16384 of the head)"},
	{"too many fields", UpgradeWith(strings.Repeat("X: y\r\n", 3000)), 431, "the head of the request is too large"},
	{"one byte too large", UpgradeWith("X: " + strings.Repeat("y", 16<<10-len(UpgradeWith("X: \r\n"))+1) + "\r\n"), 431, "the head of the request is too large"},
	{"URI too long", badLine("GET /" + strings.Repeat("y", 16<<10) + " HTTP/1.1"), 414, "the request line is too long: RFC 9112 §3 (byte 16384 of the head)"},
	{"query too long", badLine("GET /?" + strings.Repeat("y", 16<<10) + " HTTP/1.1"), 414, "the request line is too long"},
	{"URL too long", badLine("GET http://h/" + strings.Repeat("y", 16<<10) + " HTTP/1.1"), 414, "the request line is too long"},
	{"target of no known form too long", badLine("GET " + strings.Repeat("y", 16<<10) + " HTTP/1.1"), BadLate, ""},
	{"method too long", badLine(strings.Repeat("y", 16<<10) + " / HTTP/1.1"), BadLate, ""},
}

// Doubtful reports whether a connection may be delivered before its first line
// shows that it is HTTP. Then the result depends on the pieces in which the
// bytes arrive. Only FuzzServer knows them.
func Doubtful(head string) bool {
	var s wire.Sniffer
	for i := range len(head) {
		if s.Feed([]byte{head[i]}) == wire.Doubt {
			return true
		}
	}
	return false
}

// malformedAnswer is an answer that must not open a tunnel.
type malformedAnswer struct {
	Name   string
	Answer string
	// the status of the StatusError; 0 if it is not an answer at all
	Status int
	Text   string
}

const badSwitch = "Upgrade: tcp\r\nConnection: Upgrade\r\n"

var MalformedAnswers = []malformedAnswer{
	{"nothing", "", 0, "[ended]"},
	{"end inside the status line", "HTTP/1.1 10", 0, "[ended]"},
	{"end inside the fields", "HTTP/1.1 101 x\r\n" + badSwitch, 0, "[ended]"},
	{"HTML without a status line", "<!DOCTYPE HTML>\n<title>503</title>", 0, `not HTTP/1.x, it begins with "<!DOCTYPE HTML>`},
	{"another protocol", "SSH-2.0-OpenSSH_9.6\r\n", 0, "not HTTP/1.x"},
	{"TLS alert", "\x15\x03\x01\x00\x02\x02\x46", 0, "not HTTP/1.x"},
	{"HTTP/2", "HTTP/2 101\r\n" + badSwitch + "\r\n", 0, "not HTTP/1.x"},
	{"HTTP/0.9", "HTTP/0.9 101 x\r\n" + badSwitch + "\r\n", 0, "not HTTP/1.x"},
	{"empty line in front", "\r\nHTTP/1.1 101 x\r\n" + badSwitch + "\r\n", 0, "not HTTP/1.x"},
	{"minor version of two digits", "HTTP/1.10 101 x\r\n" + badSwitch + "\r\n", 0, "the status line is not"},
	{"no code", "HTTP/1.1 Switching Protocols\r\n" + badSwitch + "\r\n", 0, "the status line is not"},
	{"four digits", "HTTP/1.1 1010 x\r\n" + badSwitch + "\r\n", 0, "the status line is not"},
	{"two digits", "HTTP/1.1 10 x\r\n" + badSwitch + "\r\n", 0, "the status line is not"},
	{"leading 0", "HTTP/1.1 0101 x\r\n" + badSwitch + "\r\n", 0, "the status line is not"},
	{"two spaces", "HTTP/1.1  101 x\r\n" + badSwitch + "\r\n", 0, "the status line is not"},
	{"NUL in the reason", "HTTP/1.1 101 a\x00b\r\n" + badSwitch + "\r\n", 0, "a control character in the reason phrase"},
	{"bare CR in the reason", "HTTP/1.1 101 a\rb\r\n" + badSwitch + "\r\n", 0, "a control character in the reason phrase"},
	{"escape in the reason", "HTTP/1.1 500 \x1b[2J\r\nContent-Length: 0\r\n\r\n", 0, "a control character in the reason phrase"},
	{"space before the colon", "HTTP/1.1 101 x\r\nUpgrade : tcp\r\nConnection: Upgrade\r\n\r\n", 0, "white space before the colon"},
	{"no name", "HTTP/1.1 101 x\r\n: y\r\n" + badSwitch + "\r\n", 0, "a field has no name"},
	{"no colon", "HTTP/1.1 101 x\r\nxyz\r\n" + badSwitch + "\r\n", 0, "a field line has no colon"},
	{"name not a token", "HTTP/1.1 101 x\r\nX(Y): z\r\n" + badSwitch + "\r\n", 0, "not a token"},
	{"fold of the status line", "HTTP/1.1 101 x\r\n y\r\n" + badSwitch + "\r\n", 0, "begins with white space"},
	{"NUL in a value", "HTTP/1.1 101 x\r\nX: \x00y\r\n" + badSwitch + "\r\n", 0, "a control character in a field value"},
	{"escape in a value", "HTTP/1.1 101 x\r\nX: \x1b[2J\r\n" + badSwitch + "\r\n", 0, "a control character in a field value"},
	{"bare CR in a value", "HTTP/1.1 101 x\r\nX: y\rz\r\n" + badSwitch + "\r\n", 0, "a control character in a field value"},
	{"bare CR hides a field", "HTTP/1.1 101 x\r\nX: y\r" + badSwitch + "\r\n", 0, "a control character in a field value"},
	{"bare CR where the head goes on", "HTTP/1.1 101 x\r\n" + badSwitch + "\rUpgrade: h2c\r\n\r\n", 0, "malformed"},
	{"interim without end", strings.Repeat("HTTP/1.1 102 x\r\n\r\n", 9) + "HTTP/1.1 101 x\r\n" + badSwitch + "\r\n", 0, "more than 8 interim"},
	{"interim malformed", "HTTP/1.1 100 x\r\nX\r\n\r\nHTTP/1.1 101 x\r\n" + badSwitch + "\r\n", 0, "a field line has no colon"},
	{"head too large", "HTTP/1.1 101 x\r\nX: " + strings.Repeat("y", 64<<10) + "\r\n" + badSwitch + "\r\n", 0, "larger than 65536 bytes"},
	{"interim heads too large", strings.Repeat("HTTP/1.1 103 x\r\nX: "+strings.Repeat("y", 16<<10)+"\r\n\r\n", 4) + "HTTP/1.1 101 x\r\n" + badSwitch + "\r\n", 0, "larger than 65536 bytes"},
	{"status line without end", "HTTP/1.1 101 " + strings.Repeat("y", 64<<10), 0, "larger than 65536 bytes"},

	{"no Upgrade", "HTTP/1.1 101 x\r\nConnection: Upgrade\r\n\r\n", 101, "the 101 has no Upgrade field: RFC 9110 §7.8"},
	{"wrong token", "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 101, "another protocol"},
	{"longer token", "HTTP/1.1 101 x\r\nUpgrade: tcps\r\nConnection: Upgrade\r\n\r\n", 101, "another protocol"},
	{"two tokens", "HTTP/1.1 101 x\r\nUpgrade: tcp, h2c\r\nConnection: Upgrade\r\n\r\n", 101, "another protocol"},
	{"no Connection", "HTTP/1.1 101 x\r\nUpgrade: tcp\r\n\r\n", 101, "does not list upgrade in Connection"},
	{"Connection close", "HTTP/1.1 101 x\r\nUpgrade: tcp\r\nConnection: close\r\n\r\n", 101, "does not list upgrade in Connection"},
	{"200 with all of it", "HTTP/1.1 200 OK\r\n" + badSwitch + "Content-Length: 0\r\n\r\n", 200, "no PreflightListener answered"},
	{"200 and a 101 behind it", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 101 x\r\n" + badSwitch + "\r\n", 200, "no PreflightListener answered"},
	{"426 behind a 103", "HTTP/1.1 103 x\r\n\r\nHTTP/1.1 426 Upgrade Required\r\nUpgrade: tcp\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 426, "no PreflightListener answered"},
	{"431 of HTTP/1.0", "HTTP/1.0 431 Request Header Fields Too Large\r\nContent-Length: 0\r\n\r\n", 431, "7 KiB"},
	{"502", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", 502, "the proxy cannot reach the server behind it"},
}
