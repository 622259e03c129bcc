package testkit

import (
	"io"
	"net"
	"net/http"
	"net/url"
)

// Via returns a function for Proxy that always returns the URL raw.
func Via(raw string) func(*http.Request) (*url.URL, error) {
	u, err := url.Parse(raw)
	return func(*http.Request) (*url.URL, error) { return u, err }
}

// Silent reads a head and sends nothing.
func Silent(c net.Conn) { ReadRequest(c) }

// Say reads a head, answers, and then calls then.
func Say(answer string, then func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		ReadRequest(c)
		io.WriteString(c, answer)
		then(c)
	}
}

// AnswerTLS is a 101 that agrees to TLS inside the tunnel.
const AnswerTLS = "HTTP/1.1 101 S\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nPreflight-Tunnel: tls\r\n\r\n"
