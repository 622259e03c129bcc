package testkit

import (
	"io"
	"net"
	"net/http"
	"net/url"
)

// Via makes the function Proxy of a URL.
func Via(raw string) func(*http.Request) (*url.URL, error) {
	u, err := url.Parse(raw)
	return func(*http.Request) (*url.URL, error) { return u, err }
}

// Silent reads a head and says no more.
func Silent(c net.Conn) { ReadRequest(c) }

// Say reads a head and answers.
func Say(answer string, then func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		ReadRequest(c)
		io.WriteString(c, answer)
		then(c)
	}
}

// AnswerTLS agrees to TLS inside the tunnel.
const AnswerTLS = "HTTP/1.1 101 S\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nPreflight-Tunnel: tls\r\n\r\n"
