package testkit

import (
	"strings"
)

// BrokenRequests are requests that name our protocol but cannot be upgraded.
var BrokenRequests = []struct {
	Name, Request string
	Want          int
}{
	{"POST", "POST /t HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405},
	{"POST with a body", "POST /t HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 5\r\n\r\nhello", 405},
	{"HEAD", "HEAD /t HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405},
	{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405},
	{"CONNECT", "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405},
	{"HTTP/1.0", "GET /t HTTP/1.0\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 426},
	{"HTTP/1.0 without Host", "GET /t HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 426},
	{"HTTP/1.0 kept alive", "POST /t HTTP/1.0\r\nHost: h\r\nConnection: Upgrade, keep-alive\r\nUpgrade: tcp\r\n\r\n", 426},
	{"not listed", "GET /t HTTP/1.1\r\nHost: h\r\nUpgrade: tcp\r\n\r\n", 426},
	{"not listed in Connection", "GET /t HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nUpgrade: websocket, TCP\r\n\r\n", 426},
	{"a body", Request("Content-Length: 5") + "hello", 400},
	{"a body that does not come", Request("Content-Length: 500"), 400},
	{"chunks", Request("Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n", 400},
	{"no chunks", Request("Transfer-Encoding: chunked") + "0\r\n\r\n", 400},
	{"chunks and a trailer", Request("Transfer-Encoding: chunked", "Trailer: X") + "0\r\nX: y\r\n\r\n", 400},
	{"a trailer", Request("Trailer: X"), 400},
	{"a body that is expected", Request("Content-Length: 5", "Expect: 100-continue"), 400},
	{"an expectation", Request("Expect: a-miracle"), 417},
	{"Host twice", Request("Host: other.example"), 400},
	{"Host is no host", strings.Replace(Request(), "h.example", "h example", 1), 400},
	{"no Host", strings.Replace(Request(), "Host: h.example\r\n", "", 1), 400},
	{"an empty Host", strings.Replace(Request(), "h.example", "", 1), 400},
	{"raw bytes in the target", strings.Replace(Request(), "/t", "/\xc3\xa9", 1), 400},
	{"a list of no protocols", Request("Upgrade: @"), 400},
	{"Connection is no list of tokens", Request("Connection: a b"), 400},
}
