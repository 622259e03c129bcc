package testkit

import (
	"strings"
)

// HndBroken are requests that name our protocol and may not be upgraded.
var HndBroken = []struct {
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
	{"a body", LisRequest("Content-Length: 5") + "hello", 400},
	{"a body that does not come", LisRequest("Content-Length: 500"), 400},
	{"chunks", LisRequest("Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n", 400},
	{"no chunks", LisRequest("Transfer-Encoding: chunked") + "0\r\n\r\n", 400},
	{"chunks and a trailer", LisRequest("Transfer-Encoding: chunked", "Trailer: X") + "0\r\nX: y\r\n\r\n", 400},
	{"a trailer", LisRequest("Trailer: X"), 400},
	{"a body that is expected", LisRequest("Content-Length: 5", "Expect: 100-continue"), 400},
	{"an expectation", LisRequest("Expect: a-miracle"), 417},
	{"Host twice", LisRequest("Host: other.example"), 400},
	{"Host is no host", strings.Replace(LisRequest(), "h.example", "h example", 1), 400},
	{"no Host", strings.Replace(LisRequest(), "Host: h.example\r\n", "", 1), 400},
	{"an empty Host", strings.Replace(LisRequest(), "h.example", "", 1), 400},
	{"raw bytes in the target", strings.Replace(LisRequest(), "/t", "/\xc3\xa9", 1), 400},
	{"a list of no protocols", LisRequest("Upgrade: @"), 400},
	{"Connection is no list of tokens", LisRequest("Connection: a b"), 400},
}
