package preflight_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
)

// badSmuggled is sent behind every malformed head. Whoever interprets it
// upgrades the connection of somebody else's request.
const badSmuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nsmuggled payload"

// badHead is a head that must not become a tunnel.
type badHead struct {
	name string
	head string
	// status of the refusal; badPlain where it is no HTTP at all, or badLate.
	status int
	// text that the body of the refusal holds: the rule, and where it was broken.
	text string
}

const (
	badPlain = 0
	badLate  = -1 // plain when it is handed on, HTTP later
)

// badUpgrade is an upgrade request with more field lines.
func badUpgrade(fields string) string {
	return "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" + fields + "\r\n"
}

// badLine is an upgrade request with another first line.
func badLine(line string) string {
	return line + "\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
}

// badHost is an upgrade request with another Host, or none.
func badHost(field string) string {
	return "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" + field + "\r\n"
}

// badLists is an upgrade request with other lists.
func badLists(connection, upgrade string) string {
	return "GET / HTTP/1.1\r\nHost: h\r\nConnection: " + connection + "\r\nUpgrade: " + upgrade + "\r\n\r\n"
}

var badHeads = []badHead{
	// Lines: RFC 9112 §2.2.
	{"bare LF everywhere", strings.ReplaceAll(badUpgrade(""), "\r", ""), 400, "a bare LF: RFC 9112 §2.2 (byte 14 of the head)"},
	{"bare LF behind the request line", strings.Replace(badUpgrade(""), "\r\n", "\n", 1), 400, "a bare LF: RFC 9112 §2.2 (byte 14 of the head)"},
	{"bare LF in the fields", "GET / HTTP/1.1\r\nHost: h\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 400, "a bare LF: RFC 9112 §2.2 (byte 23 of the head)"},
	{"bare LF for the empty line", strings.TrimSuffix(badUpgrade(""), "\r\n") + "\n", 400, "a bare LF: RFC 9112 §2.2 (byte 60 of the head)"},
	{"bare LF hides a field", badUpgrade("X: y\nContent-Length: 5\r\n"), 400, "a bare LF: RFC 9112 §2.2 (byte 64 of the head)"},
	{"LF CR", badUpgrade("X: y\n\r"), 400, "a bare LF"},
	{"bare CR behind the request line", strings.Replace(badUpgrade(""), "\r\n", "\r", 1), 400, "a bare CR: RFC 9112 §2.2 (byte 14 of the head)"},
	{"bare CR in a value", badUpgrade("X: y\rz\r\n"), 400, "a bare CR: RFC 9112 §2.2 (byte 64 of the head)"},
	{"bare CR hides a field", badUpgrade("X: y\rContent-Length: 5\r\n"), 400, "a bare CR"},
	{"bare CR in a name", badUpgrade("X\rY: z\r\n"), 400, "a bare CR"},
	{"bare CR in front of a field", badUpgrade("\rX: y\r\n"), 400, "a bare CR"},
	{"CR CR LF", badUpgrade("X: y\r\r\n"), 400, "a bare CR"},
	{"CR CR LF for the empty line", strings.TrimSuffix(badUpgrade(""), "\r\n") + "\r\r\n", 400, "a bare CR"},

	// Field lines: RFC 9112 §5.
	{"obs-fold", badUpgrade("X: y\r\n z\r\n"), 400, "(obs-fold): RFC 9112 §5.2 (byte 66 of the head)"},
	{"obs-fold with a tab", badUpgrade("X: y\r\n\tz\r\n"), 400, "(obs-fold): RFC 9112 §5.2"},
	{"obs-fold of nothing", badUpgrade("X: y\r\n \r\n"), 400, "(obs-fold): RFC 9112 §5.2"},
	{"obs-fold of Host", badHost("Host:\r\n h\r\n"), 400, "(obs-fold): RFC 9112 §5.2"},
	{"obs-fold of Upgrade", "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade:\r\n tcp\r\n\r\n", 400, "(obs-fold): RFC 9112 §5.2"},
	{"obs-fold of the request line", strings.Replace(badUpgrade(""), "Host", " Host", 1), 400, "(obs-fold): RFC 9112 §5.2 (byte 16 of the head)"},
	{"obs-fold of the request line with a tab", strings.Replace(badUpgrade(""), "Host", "\tHost", 1), 400, "(obs-fold): RFC 9112 §5.2 (byte 16 of the head)"},
	{"space before the colon", badUpgrade("X : y\r\n"), 400, "white space before the colon of a field: RFC 9112 §5.1 (byte 61 of the head)"},
	{"tab before the colon", badUpgrade("X\t: y\r\n"), 400, "white space before the colon"},
	{"space before the colon of Host", badHost("Host : h\r\n"), 400, "white space before the colon"},
	{"space before the colon of Content-Length", badUpgrade("Content-Length : 5\r\n"), 400, "white space before the colon"},
	{"space in a name", badUpgrade("X Y: z\r\n"), 400, "white space before the colon"},
	{"no name", badUpgrade(": y\r\n"), 400, "a field has no name: RFC 9110 §5.1 (byte 60 of the head)"},
	{"no colon", badUpgrade("Xyz\r\n"), 400, "a field line has no colon: RFC 9112 §5 (byte 63 of the head)"},
	{"no colon, but a value", badUpgrade("Xyz y\r\n"), 400, "white space before the colon"},
	{"a second request line", badUpgrade("GET /other HTTP/1.1\r\n"), 400, "white space before the colon"},
	{"separator in a name", badUpgrade("X(Y): z\r\n"), 400, "a field name is not a token: RFC 9110 §5.1 (byte 61 of the head)"},
	{"raw UTF-8 in a name", badUpgrade("Xé: z\r\n"), 400, "a field name is not a token"},
	{"quoted name", badUpgrade("\"X\": z\r\n"), 400, "a field name is not a token"},

	// Controls: RFC 9110 §5.5.
	{"NUL in a name", badUpgrade("X\x00: y\r\n"), 400, "a control character: RFC 9110 §5.5 (byte 61 of the head)"},
	{"NUL in a value", badUpgrade("X: \x00\r\n"), 400, "a control character: RFC 9110 §5.5 (byte 63 of the head)"},
	{"escape in a value", badUpgrade("X: \x1b[2J\r\n"), 400, "a control character"},
	{"vertical tab in a value", badUpgrade("X: y\v\r\n"), 400, "a control character"},
	{"form feed before the colon", badUpgrade("X\f: y\r\n"), 400, "a control character"},
	{"DEL in a name", badUpgrade("X\x7f: y\r\n"), 400, "a control character"},
	{"DEL in a value", badUpgrade("X: y\x7f\r\n"), 400, "a control character"},
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
	{"Content-Length negative", badUpgrade("Content-Length: -1\r\n"), 400, "Content-Length is not one number: RFC 9112 §6.3 (byte 60 of the head)"},
	{"Content-Length +0", badUpgrade("Content-Length: +0\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length hexadecimal", badUpgrade("Content-Length: a\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length 0x0", badUpgrade("Content-Length: 0x0\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length 0.0", badUpgrade("Content-Length: 0.0\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length 0 0", badUpgrade("Content-Length: 0 0\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length listed", badUpgrade("Content-Length: 0, 0\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length quoted", badUpgrade("Content-Length: \"0\"\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length empty", badUpgrade("Content-Length:\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length repeated", badUpgrade("Content-Length: 0\r\nContent-Length: 0\r\n"), 400, "Content-Length is not one number: RFC 9112 §6.3 (byte 79 of the head)"},
	{"Content-Length differing", badUpgrade("Content-Length: 0\r\ncontent-length: 45\r\n"), 400, "Content-Length is not one number"},
	{"Content-Length differing, ordinary request", "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 45\r\n\r\n", 400, "Content-Length is not one number"},
	{"Content-Length of a body", badUpgrade("Content-Length: 45\r\n"), 400, "Content-Length is not 0 (byte 60 of the head)"},
	{"Content-Length huge", badUpgrade("Content-Length: 18446744073709551616\r\n"), 400, "Content-Length is not 0"},
	{"Content-Length 2^64 beside its digits", badUpgrade("Content-Length: 00000000000000000000000000000000001\r\n"), 400, "Content-Length is not 0"},
	{"Content-Length and chunked", badUpgrade("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400, "Transfer-Encoding beside Content-Length: RFC 9112 §6.3 (byte 79 of the head)"},
	{"chunked and Content-Length 0", badUpgrade("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), 400, "Transfer-Encoding beside Content-Length"},
	{"chunked and Content-Length, POST", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400, "Transfer-Encoding beside Content-Length"},
	{"Transfer-Encoding chunked", badUpgrade("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400, "Transfer-Encoding is present (byte 60 of the head)"},
	{"Transfer-Encoding identity", badUpgrade("Transfer-Encoding: identity\r\n"), 400, "Transfer-Encoding is present"},
	{"Transfer-Encoding empty", badUpgrade("Transfer-Encoding:\r\n"), 400, "Transfer-Encoding is present"},
	{"Transfer-Encoding unknown", badUpgrade("Transfer-Encoding: xchunked\r\n"), 400, "Transfer-Encoding is present"},
	{"Transfer-Encoding twice", badUpgrade("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), 400, "Transfer-Encoding is present"},
	{"Transfer-Encoding in HTTP/1.0", "GET / HTTP/1.0\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "Transfer-Encoding in an HTTP/1.0 request: RFC 9112 §6.1"},
	{"Trailer", badUpgrade("Trailer: X\r\n"), 400, "Trailer is present"},
	{"Expect of another", badUpgrade("Expect: 200-ok\r\n"), 417, "Expect knows 100-continue alone: RFC 9110 §10.1.1 (byte 60 of the head)"},
	{"Expect of two", badUpgrade("Expect: 100-continue, x\r\n"), 417, "Expect knows 100-continue alone"},
	{"Expect and a body", badUpgrade("Expect: 100-continue\r\nContent-Length: 5\r\n"), 400, "Content-Length is not 0"},

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
	{"another protocol", badLine("GET / SIP/2.0"), badPlain, ""},
	{"no version", badLine("GET /"), badPlain, ""},

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
	{"method of a control", badLine("G\x01T / HTTP/1.1"), badPlain, ""},
	{"no method", badLine(" / HTTP/1.1"), badPlain, ""},

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
	// nginx with $uri or a capture in proxy_pass makes these of %0D, %01 and %09.
	{"bare CR in the target", badLine("GET /\r HTTP/1.1"), 400, "a bare CR: RFC 9112 §2.2 (byte 5 of the head)"},
	{"control in the target", badLine("GET /\x01 HTTP/1.1"), 400, "a control character: RFC 9110 §5.5 (byte 5 of the head)"},
	{"tab in the target", badLine("GET /\t HTTP/1.1"), 400, "a byte that must be percent-encoded: RFC 9112 §3.2 (byte 5 of the head)"},
	{"POST with a tab in the target", "POST /a\tb HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\nPUB t 2\r\nhi\r\n", 400, "a byte that must be percent-encoded"},
	{"POST with a space in the target", "POST /a b HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\nPUB t 2\r\nhi\r\n", 400, "the version is not HTTP/1.x"},

	// What stands between: RFC 9112 §3.
	{"two spaces before the target", badLine("GET  / HTTP/1.1"), badPlain, ""},
	// HAProxy makes it of a path that a rule of its own has removed.
	{"nothing for a target", badLine("GET  HTTP/1.1"), 400, "the request line is not `method SP target SP version`"},
	{"two spaces before the version", badLine("GET /  HTTP/1.1"), 400, "the version is not HTTP/1.x"},
	{"space in the target", badLine("GET /a b HTTP/1.1"), 400, "the version is not HTTP/1.x"},
	{"tab before the target", badLine("GET\t/ HTTP/1.1"), badPlain, ""},
	{"tab before the version", badLine("GET /\tHTTP/1.1"), badPlain, ""},
	{"tab behind the space", badLine("GET \t/ HTTP/1.1"), badPlain, ""},
	{"empty line of a bare LF in front", "\n" + badLine("GET / HTTP/1.1"), 400, "a bare LF: RFC 9112 §2.2 (byte 0 of the head)"},
	{"empty lines of both in front", "\r\n\n" + badLine("GET / HTTP/1.1"), 400, "a bare LF: RFC 9112 §2.2 (byte 2 of the head)"},
	{"three empty lines in front", "\r\n\r\n\r\n" + badLine("GET / HTTP/1.1"), badPlain, ""},
	{"byte order mark in front", "\ufeff" + badLine("GET / HTTP/1.1"), 400, "the method is not a token"},
	{"PROXY header in front", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + badLine("GET / HTTP/1.1"), 400, "a PROXY header stands before the request"},

	// Lists: RFC 9110 §7.6.1, §7.8.
	{"Upgrade not a token", badLists("Upgrade", "tcp@1"), 400, "Upgrade is not a list of protocols: RFC 9110 §7.8"},
	{"Upgrade not a token at last", badLists("Upgrade", "tcp, (x)"), 400, "Upgrade is not a list of protocols"},
	{"Upgrade not a token in a second field", badUpgrade("Upgrade: {}\r\n"), 400, "Upgrade is not a list of protocols"},
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

	// In order, but no upgrade: RFC 9110 §7.8, §15.5.22.
	{"Upgrade without Connection", "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: tcp\r\n\r\n", 426, "Upgrade without `Connection: Upgrade`: RFC 9110 §7.8"},
	{"Connection of others", badLists("close, keep-alive", "tcp"), 426, "Upgrade without `Connection: Upgrade`"},
	{"Connection of a longer token", badLists("upgrades", "tcp"), 426, "Upgrade without `Connection: Upgrade`"},
	{"Connection without Upgrade", "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\r\n", 426, "the request has no Upgrade field"},
	{"neither", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", 426, "the request has no Upgrade field"},
	{"Upgrade empty", badLists("Upgrade", ""), 426, "Upgrade names no protocol that is served here"},
	{"Upgrade of commas", badLists("Upgrade", ", ,"), 426, "Upgrade names no protocol that is served here"},
	{"another token", badLists("Upgrade", "websocket"), 426, "Upgrade names no protocol that is served here"},
	{"a longer token", badLists("Upgrade", "tcpss"), 426, "Upgrade names no protocol that is served here"},
	{"a shorter token", badLists("Upgrade", "tc"), 426, "Upgrade names no protocol that is served here"},
	{"a version of the token", badLists("Upgrade", "tcp/1"), 426, "Upgrade names no protocol that is served here"},
	{"HTTP/1.0", badLine("GET / HTTP/1.0"), 426, "HTTP/1.0 has no upgrade: RFC 9110 §7.8"},
	{"HTTP/1.0 with keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 426, "the request came as HTTP/1.0"},
	{"POST of commands", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\nPUB t 2\r\nhi\r\n", 426, "the request has no Upgrade field"},

	// Sizes: RFC 6585 §5, RFC 9112 §3.
	{"head too large", badUpgrade("X: " + strings.Repeat("y", 16<<10) + "\r\n"), 431, "the head of the request is too large: RFC 6585 §5 (byte 16384 of the head)"},
	{"too many fields", badUpgrade(strings.Repeat("X: y\r\n", 3000)), 431, "the head of the request is too large"},
	{"one byte too large", badUpgrade("X: " + strings.Repeat("y", 16<<10-len(badUpgrade("X: \r\n"))+1) + "\r\n"), 431, "the head of the request is too large"},
	{"URI too long", badLine("GET /" + strings.Repeat("y", 16<<10) + " HTTP/1.1"), 414, "the request line is too long: RFC 9112 §3 (byte 16384 of the head)"},
	{"query too long", badLine("GET /?" + strings.Repeat("y", 16<<10) + " HTTP/1.1"), 414, "the request line is too long"},
	{"URL too long", badLine("GET http://h/" + strings.Repeat("y", 16<<10) + " HTTP/1.1"), 414, "the request line is too long"},
	{"target of no known form too long", badLine("GET " + strings.Repeat("y", 16<<10) + " HTTP/1.1"), badLate, ""},
	{"method too long", badLine(strings.Repeat("y", 16<<10) + " / HTTP/1.1"), badLate, ""},
}

// badExchange sends what it is given, and returns all that comes back.
func badExchange(t *testing.T, client *net.TCPConn, sent string) []byte {
	t.Helper()
	_, err := io.WriteString(client, sent)
	require.NoError(t, err)
	answer, err := io.ReadAll(client)
	require.NoError(t, err, "the answer has to arrive before the connection ends")
	return answer
}

// badRefusal requires one answer and nothing behind it, and returns its body.
func badRefusal(t *testing.T, answer []byte, method string, status int) string {
	t.Helper()
	reader := bufio.NewReader(bytes.NewReader(answer))
	r, err := http.ReadResponse(reader, &http.Request{Method: method})
	require.NoError(t, err, "%q", answer)
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Equal(t, status, r.StatusCode, "%s", answer)
	require.Equal(t, "HTTP/1.1", r.Proto)
	require.True(t, r.Close, "Connection: close")
	require.Empty(t, r.TransferEncoding)
	require.NotEmpty(t, r.Header.Get("Date"))
	require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
	if method == http.MethodHead {
		require.Positive(t, r.ContentLength)
	} else {
		// Not only where Content-Length says that the body ends.
		require.EqualValues(t, len(body), r.ContentLength)
	}
	require.Equal(t, status == http.StatusUpgradeRequired, r.Header.Get("Upgrade") == "tcp, tcps", "426 names the protocols: RFC 9110 §15.5.22")
	require.Equal(t, status == http.StatusMethodNotAllowed, r.Header.Get("Allow") == "GET", "405 names the method: RFC 9110 §15.5.6")
	rest, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.Empty(t, string(rest), "behind the answer")
	return string(body)
}

// badOnlyGood requires that the next connection that Accept returns is that of
// a good client which comes now, and that there is no other.
func badOnlyGood(t *testing.T, l *preflight.PreflightListener, accepted <-chan *preflight.Conn) {
	t.Helper()
	good := dialTCP(t, l.Addr())
	_, err := io.WriteString(good, "GET /good HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	require.NoError(t, err)
	c := goldenNext(t, accepted)
	require.NotNil(t, c.Request())
	require.Equal(t, "/good", c.Request().URL.Path)
	require.NoError(t, l.Close())
	for c := range accepted {
		require.Fail(t, "Accept returned one more", "%v", c.Request())
	}
}

func TestMalformedHeads(t *testing.T) {
	require.GreaterOrEqual(t, len(badHeads), 80)
	for _, test := range badHeads {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := listen(t, &preflight.PreflightListener{})
			accepted := goldenAccept(t, l)
			client := dialTCP(t, l.Addr())
			if test.status == badLate {
				// What did not look like HTTP when the buffer was full does
				// so later: the application has a piece of a line, and an error.
				io.WriteString(client, test.head+badSmuggled)
				c := goldenNext(t, accepted)
				require.Nil(t, c.Request())
				got, err := io.ReadAll(c)
				require.ErrorContains(t, err, "an HTTP request on a connection that began as a plain one")
				require.NotContains(t, string(got), "HTTP/1.")
				require.NotContains(t, string(got), "\n")
				require.True(t, strings.HasPrefix(test.head, string(got)))
				badOnlyGood(t, l, accepted)
				return
			}
			if test.status == badPlain {
				// No HTTP, so every byte is the application's.
				_, err := io.WriteString(client, test.head+badSmuggled)
				require.NoError(t, err)
				require.NoError(t, client.CloseWrite())
				c := goldenNext(t, accepted)
				require.Nil(t, c.Request())
				require.Nil(t, c.Response())
				got, err := io.ReadAll(c)
				require.NoError(t, err)
				require.Equal(t, test.head+badSmuggled, string(got))
				require.NoError(t, c.Close())
				answer, err := io.ReadAll(client)
				require.NoError(t, err)
				require.Empty(t, answer, "a plain connection is answered by the application alone")
				badOnlyGood(t, l, accepted)
				return
			}
			method, _, _ := strings.Cut(test.head, " ")
			body := badRefusal(t, badExchange(t, client, test.head+badSmuggled), method, test.status)
			require.Contains(t, body, test.text)
			require.NoError(t, client.Close())
			badOnlyGood(t, l, accepted)
		})
	}
}

// TestMalformedHeadsRefusePlain: where no plain connection is let in, what is
// no HTTP is closed without a word, and no byte of it reaches the application.
func TestMalformedHeadsRefusePlain(t *testing.T) {
	for _, test := range badHeads {
		if test.status > 0 {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := listen(t, &preflight.PreflightListener{RequireUpgrade: true})
			accepted := goldenAccept(t, l)
			client := dialTCP(t, l.Addr())
			// Bytes that nobody has read may turn the end into a reset.
			io.WriteString(client, test.head+badSmuggled)
			answer, _ := io.ReadAll(client)
			require.Empty(t, answer)
			badOnlyGood(t, l, accepted)
		})
	}
}

// badDoubtful reports whether a connection may be handed on before its first
// line shows that it is HTTP. What becomes of it then depends on how it
// arrives; FuzzServer knows how that was.
func badDoubtful(head string) bool {
	var s wire.Sniffer
	for i := range len(head) {
		if s.Feed([]byte{head[i]}) == wire.Doubt {
			return true
		}
	}
	return false
}

// TestMalformedHeadsByteByByte: a rule is enforced however its breach arrives.
func TestMalformedHeadsByteByByte(t *testing.T) {
	for _, test := range badHeads {
		if test.status <= 0 || len(test.head) > 1<<10 || badDoubtful(test.head) {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := listen(t, &preflight.PreflightListener{})
			accepted := goldenAccept(t, l)
			client := dialTCP(t, l.Addr())
			require.NoError(t, goldenPieces["byte by byte"](client, test.head))
			method, _, _ := strings.Cut(test.head, " ")
			answer, err := io.ReadAll(client)
			require.NoError(t, err)
			require.Contains(t, badRefusal(t, answer, method, test.status), test.text)
			require.NoError(t, client.Close())
			badOnlyGood(t, l, accepted)
		})
	}
}

// TestEndInsideTheHead: a client that ends its direction sends no more of a
// head, and may still be told so.
func TestEndInsideTheHead(t *testing.T) {
	const head = "GET /t HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	first := strings.Index(head, "HTTP/1.") + len("HTTP/1.") // from here on it is HTTP
	for i := range len(head) {
		l := listen(t, &preflight.PreflightListener{})
		accepted := goldenAccept(t, l)
		client := dialTCP(t, l.Addr())
		_, err := io.WriteString(client, head[:i])
		require.NoError(t, err)
		require.NoError(t, client.CloseWrite())
		if i < first {
			c := goldenNext(t, accepted)
			require.Nil(t, c.Request())
			got, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, head[:i], string(got))
			require.NoError(t, c.Close())
		} else {
			answer, err := io.ReadAll(client)
			require.NoError(t, err)
			require.Contains(t, badRefusal(t, answer, http.MethodGet, 400), "the request ends inside its head: RFC 9112 §8")
		}
		require.NoError(t, client.Close())
		badOnlyGood(t, l, accepted)
	}
}

// TestHeadOfExactlyTheLimit: the limit is what is allowed, whatever follows.
func TestHeadOfExactlyTheLimit(t *testing.T) {
	for _, limit := range []int{len(badUpgrade("X: \r\n")), 511, 512, 513, 4095, 4096, 4097, 16 << 10, 20000} {
		head := badUpgrade("X: " + strings.Repeat("y", limit-len(badUpgrade("X: \r\n"))) + "\r\n")
		l := listen(t, &preflight.PreflightListener{MaxHeaderBytes: limit})
		accepted := goldenAccept(t, l)
		client := dialTCP(t, l.Addr())
		_, err := io.WriteString(client, head+goldenPayload)
		require.NoError(t, err)
		c := goldenNext(t, accepted)
		require.NotNil(t, c.Request(), "limit %d", limit)
		require.Equal(t, goldenPayload, goldenRead(t, c, len(goldenPayload)))

		client = dialTCP(t, l.Addr())
		answer := badExchange(t, client, strings.Replace(head, "X: ", "X:  ", 1)+goldenPayload)
		require.Contains(t, badRefusal(t, answer, http.MethodGet, 431), "too large")
		require.NoError(t, client.Close())
		badOnlyGood(t, l, accepted)
	}
}

// badAnswer is an answer that must not become a tunnel.
type badAnswer struct {
	name   string
	answer string
	// status of the StatusError; 0 where it is no answer at all.
	status int
	text   string
}

const badSwitch = "Upgrade: tcp\r\nConnection: Upgrade\r\n"

var badAnswers = []badAnswer{
	{"nothing", "", 0, "unavailable"},
	{"end inside the status line", "HTTP/1.1 10", 0, "unavailable"},
	{"end inside the fields", "HTTP/1.1 101 x\r\n" + badSwitch, 0, "unavailable"},
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
	{"200 with all of it", "HTTP/1.1 200 OK\r\n" + badSwitch + "Content-Length: 0\r\n\r\n", 200, "a proxy on the way removes Upgrade"},
	{"200 and a 101 behind it", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 101 x\r\n" + badSwitch + "\r\n", 200, "a proxy on the way removes Upgrade"},
	{"426 behind a 103", "HTTP/1.1 103 x\r\n\r\nHTTP/1.1 426 Upgrade Required\r\nUpgrade: tcp\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 426, "a proxy on the way removes Upgrade"},
	{"431 of HTTP/1.0", "HTTP/1.0 431 Request Header Fields Too Large\r\nContent-Length: 0\r\n\r\n", 431, "7 KiB"},
	{"502", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", 502, "unavailable"},
}

func TestMalformedAnswers(t *testing.T) {
	for _, test := range badAnswers {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ln := listenTCP(t)
			// What the server reads behind the request: nothing, whatever it answers.
			behind := make(chan string, 1)
			go func() {
				defer close(behind)
				c, err := ln.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				r := bufio.NewReader(c)
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				// The client may close before it has read all.
				io.WriteString(c, test.answer)
				c.(*net.TCPConn).CloseWrite()
				rest, _ := io.ReadAll(r)
				behind <- string(rest)
			}()
			c, err := new(preflight.PreflightDialer).Dial("tcp", ln.Addr().String())
			require.Nil(t, c)
			require.ErrorContains(t, err, test.text)
			require.True(t, strings.HasPrefix(err.Error(), "preflight"), err.Error())
			rest, ok := <-behind
			require.True(t, ok)
			require.Empty(t, rest)
			if test.status != 0 {
				require.Equal(t, test.status, statusError(t, err).StatusCode)
				return
			}
			var refusal *preflight.StatusError
			require.False(t, errors.As(err, &refusal), "%v", err)
			var e *net.OpError
			require.ErrorAs(t, err, &e)
			require.False(t, e.Timeout())
		})
	}
}
