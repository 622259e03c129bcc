package testkit

import (
	"io"
	"net"
	"net/http"
	"net/url"
)

// ScrVia makes the function Proxy of a URL.
func ScrVia(raw string) func(*http.Request) (*url.URL, error) {
	u, err := url.Parse(raw)
	return func(*http.Request) (*url.URL, error) { return u, err }
}

// ScrSilent reads a head and says no more.
func ScrSilent(c net.Conn) { UpgradeRead(c) }

// ScrSay reads a head and answers.
func ScrSay(answer string, then func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		UpgradeRead(c)
		io.WriteString(c, answer)
		then(c)
	}
}

// ScrAnswerTLS agrees to TLS inside the tunnel.
const ScrAnswerTLS = "HTTP/1.1 101 S\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nPreflight-Tunnel: tls\r\n\r\n"
