package roundtrips_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/internal/testkit"
)

const (
	user     = "me:secret"
	userinfo = user + "@"
)

// serve calls f for each connection of ln until ln is closed.
func serve(ln net.Listener, f func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			f(c)
		}()
	}
}

// application greets, and then echoes.
func application(c net.Conn) {
	io.WriteString(c, greeting)
	io.Copy(c, c)
}

const (
	greeting = "g"
	question = "q"
)

// connectProxy is a forward proxy with CONNECT, which leads to the server. If it wants
// credentials, it asks for them.
func connectProxy(to hop, credentials bool) func(net.Conn) {
	return func(c net.Conn) {
		if head := testkit.ReadRequest(c); credentials && !strings.Contains(head, "\r\nProxy-Authorization: Basic ") {
			io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
			return
		}
		relay(c, to, "HTTP/1.1 200 OK\r\n\r\n")
	}
}

// socksProxy is a forward proxy with SOCKS5 (RFC 1928), which leads to the server.
func socksProxy(to hop, credentials bool) func(net.Conn) {
	return func(c net.Conn) {
		next := func(n int) []byte {
			b := make([]byte, n)
			io.ReadFull(c, b)
			return b
		}
		next(int(next(2)[1])) // the methods
		if credentials {
			c.Write([]byte{5, 2})
			next(int(next(2)[1])) // the user
			next(int(next(1)[0])) // the password
			c.Write([]byte{1, 0}) // RFC 1929
		} else {
			c.Write([]byte{5, 0})
		}
		next(int(next(5)[4]) + 2) // a name and a port
		relay(c, to, "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
	}
}

func relay(c net.Conn, to hop, answer string) {
	next, _ := to.DialContext(context.Background(), "", "")
	io.WriteString(c, answer)
	go func() {
		defer next.Close()
		io.Copy(next, c)
	}()
	io.Copy(c, next)
}

// serveEdge is a reverse proxy on ln, which leads to the server.
func serveEdge(t *testing.T, ln net.Listener, to hop) {
	transport := &http.Transport{DialContext: to.DialContext}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "server.example"})
	proxy.Transport = transport
	s := &http.Server{Handler: proxy}
	go s.Serve(ln)
	t.Cleanup(func() {
		s.Close()
		transport.CloseIdleConnections()
	})
}
