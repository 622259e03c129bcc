package interop

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A labServer is what the tunnels of the lab lead to. The path of the request
// says what it does with one; most are echoes.
type labServer struct {
	whole       *testing.T // whose end is its own, restarted or not
	address     string
	roots       *x509.CertPool // of the TLS inside the tunnels
	certificate tls.Certificate
	stop        func() error
	gate        chan struct{} // what lets /client/late begin to read
	ends        chan string   // what half-close has read, how idle has ended, what was behind a transfer
	transfers   chan transfer // those of /client/transfer
}

func startLabServer(t *testing.T) *labServer {
	t.Helper()
	dir := t.TempDir()
	s := &labServer{whole: t, roots: writeCertificate(t, dir), gate: make(chan struct{}, 1), ends: make(chan string, 1), transfers: make(chan transfer, 1)}
	var err error
	s.certificate, err = tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	require.NoError(t, err)
	l := listenTCP(t)
	s.address = l.Addr().String()
	s.serve(l)
	return s
}

// serve is the listener as the files of deploy/ want it.
func (s *labServer) serve(l net.Listener) {
	listener := &preflight.PreflightListener{
		Listener:       gluingListener{l},
		RequireUpgrade: true,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		TLSConfig:      &tls.Config{Certificates: []tls.Certificate{s.certificate}},
		Authorize:      authorize,
	}
	s.stop = listener.Close
	serve(s.whole, listener, s.handle)
}

// restart serves the address again once it is free: an outgoing connection may
// have been given the port meanwhile.
func (s *labServer) restart(t *testing.T) {
	t.Helper()
	var l net.Listener
	until(t, "the server listens again", func() bool {
		var err error
		l, err = net.Listen("tcp", s.address)
		return err == nil
	})
	s.serve(l)
}

// refusals are the answers below /client/refuse/.
var refusals = map[string]*preflight.StatusError{
	"401": {StatusCode: 401, Header: http.Header{"Www-Authenticate": {`Bearer realm="amps"`}}, Body: []byte("the token has expired\n")},
	"403": {StatusCode: 403, Header: http.Header{"X-Policy": {"7", "8"}}, Body: []byte("not for you\n")},
	"404": {StatusCode: 404, Body: []byte("no such feed\n")},
	"429": {StatusCode: 429, Header: http.Header{"Retry-After": {"30"}}, Body: []byte("too many of you\n")},
	"503": {StatusCode: 503, Header: http.Header{"Retry-After": {"120"}}, Body: []byte("starting up\n")},
}

func authorize(r *http.Request) (http.Header, error) {
	what, detail := labPath(r)
	switch what {
	case "refuse":
		return nil, refusals[detail]
	case "forbidden":
		return nil, errors.New("a reason of our own")
	case "glued":
		return http.Header{glue: {"1"}}, nil
	}
	return http.Header{"X-Session": {"17"}}, nil
}

// labPath is what /client/what/detail asks for, with or without /client.
func labPath(r *http.Request) (what, detail string) {
	what, detail, _ = strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/client"), "/"), "/")
	return what, detail
}

func (s *labServer) handle(c *preflight.Conn) {
	what, detail := labPath(c.Request())
	switch what {
	case "told":
		r := c.Request()
		json.NewEncoder(c).Encode(seen{s.address, r.RequestURI, r.Host, c.RemoteAddr().String(), r.Header})
	case "first", "glued":
		size, _ := strconv.Atoi(detail)
		c.Write(greeting(size))
	case "late":
		select {
		case <-s.gate:
		case <-time.After(patience):
		}
	case "transfer":
		s.transfers <- exchange(c, 1)
		n, _ := io.Copy(io.Discard, c) // who is done first must not end the tunnel
		s.ends <- fmt.Sprint(n, " bytes more")
		return
	case "reply":
		data, _ := io.ReadAll(c)
		c.Write(data)
		return
	case "half-close":
		c.CloseWrite()
		data, _ := io.ReadAll(c)
		s.ends <- string(data)
		return
	case "idle":
		_, err := io.Copy(io.Discard, c)
		if err == nil {
			err = io.EOF
		}
		s.ends <- ending(err)
		return
	}
	io.Copy(c, c)
}

// seen is what the server has seen of a request.
type seen struct {
	Server, URI, Host, Remote string
	Header                    http.Header
}

// greeting is what the server says first.
func greeting(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(data)
	return data
}

// glue is a field of the 101 that a gluingListener looks for.
const glue = "X-Glue"

// A gluingListener makes one write of a 101 that wants it and of the first bytes
// of the application.
type gluingListener struct{ net.Listener }

func (l gluingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &gluingConn{TCPConn: c.(*net.TCPConn)}, nil
}

type gluingConn struct {
	*net.TCPConn
	held []byte
}

func (c *gluingConn) Write(b []byte) (int, error) {
	if bytes.HasPrefix(b, []byte("HTTP/1.1 101 ")) && bytes.Contains(b, []byte("\r\n"+glue+": ")) {
		c.held = bytes.Clone(b)
		return len(b), nil
	}
	if c.held == nil {
		return c.TCPConn.Write(b)
	}
	held := c.held
	c.held = nil
	n, err := c.TCPConn.Write(append(held, b...))
	return max(n-len(held), 0), err
}

// inside is what a client needs for TLS inside the tunnel.
func (s *labServer) inside() *tls.Config { return &tls.Config{RootCAs: s.roots} }
