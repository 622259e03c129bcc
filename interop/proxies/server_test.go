package proxies

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
)

// A backend is the server behind the proxies. The path of a request says what the
// server does with the tunnel. By default the tunnel is an echo.
type backend struct {
	t           *testing.T // the server runs until the end of t, also if it is restarted
	address     string
	roots       *x509.CertPool // verify the certificate of TLS inside the tunnels
	certificate tls.Certificate
	stop        func() error
	readGate    chan struct{} // lets /client/late begin to read
	ends        chan string   // how /client/half-close, idle and transfer ended
	transfers   chan transfer // of /client/transfer
}

func startBackend(t *testing.T) *backend {
	t.Helper()
	s := &backend{t: t, readGate: make(chan struct{}, 1), ends: make(chan string, 1), transfers: make(chan transfer, 1)}
	s.certificate, s.roots = lab.NewCertificate(t)
	l := lab.Listen(t)
	s.address = l.Addr().String()
	s.serve(l)
	return s
}

// serve accepts from l with the settings that the files of deploy/ require.
func (s *backend) serve(l net.Listener) {
	listener := &preflight.PreflightListener{
		Listener:       coalescingListener{l},
		RequireUpgrade: true,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		TLSConfig:      &tls.Config{Certificates: []tls.Certificate{s.certificate}},
		Authorize:      authorize,
	}
	s.stop = listener.Close
	lab.Serve(s.t, listener, s.handle)
}

// restart serves the same address again. It retries while an outgoing connection of
// another process uses the port.
func (s *backend) restart(t *testing.T) {
	t.Helper()
	var l net.Listener
	lab.WaitUntil(t, "the server listens again", func() bool {
		var err error
		l, err = net.Listen("tcp", s.address)
		return err == nil
	})
	s.serve(l)
}

// refusals are the refusals for the paths below /client/refuse/.
var refusals = map[string]*preflight.StatusError{
	"401": {StatusCode: 401, Header: http.Header{"Www-Authenticate": {`Bearer realm="amps"`}}, Body: []byte("the token has expired\n")},
	"403": {StatusCode: 403, Header: http.Header{"X-Policy": {"7", "8"}}, Body: []byte("not for you\n")},
	"404": {StatusCode: 404, Body: []byte("no such feed\n")},
	"429": {StatusCode: 429, Header: http.Header{"Retry-After": {"30"}}, Body: []byte("too many clients\n")},
	"503": {StatusCode: 503, Header: http.Header{"Retry-After": {"120"}}, Body: []byte("starting up\n")},
}

func authorize(r *http.Request) (http.Header, error) {
	what, detail := splitPath(r)
	switch what {
	case "refuse":
		return nil, refusals[detail]
	case "forbidden":
		return nil, errors.New("an internal reason")
	case "coalesced":
		return http.Header{coalesceField: {"1"}}, nil
	}
	return http.Header{"X-Session": {"17"}}, nil
}

// splitPath splits /client/what/detail, with or without /client.
func splitPath(r *http.Request) (what, detail string) {
	what, detail, _ = strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/client"), "/"), "/")
	return what, detail
}

func (s *backend) handle(c *preflight.Conn) {
	what, detail := splitPath(c.Request())
	switch what {
	case "info":
		r := c.Request()
		json.NewEncoder(c).Encode(requestInfo{s.address, r.RequestURI, r.Host, c.RemoteAddr().String(), r.Header})
	case "first", "coalesced":
		size, _ := strconv.Atoi(detail)
		c.Write(lab.RandomBytes(size))
	case "late":
		select {
		case <-s.readGate:
		case <-time.After(lab.Timeout):
		}
	case "transfer":
		size, _ := strconv.Atoi(detail)
		s.transfers <- exchange(c, 1, size)
		n, _ := io.Copy(io.Discard, c) // the end that is ready first must not close the tunnel
		s.ends <- fmt.Sprint(n, " bytes more")
		return
	case "reply":
		data, _ := io.ReadAll(c)
		c.Write(data)
		return
	case "half-close":
		sendAll(c)
		data, err := io.ReadAll(c)
		if err == nil && bytes.Equal(data, underWay) {
			s.ends <- allReceived
		} else {
			s.ends <- fmt.Sprintf("%d bytes, then %v", len(data), err)
		}
		return
	case "reset", "killed":
		cut(c, what == "reset")
		return
	case "idle":
		s.ends <- waitForEnd(c)
		return
	}
	io.Copy(c, c)
}

// allReceived says that the whole of underWay has arrived, and the end after it.
const allReceived = "all received"

// cut sends 64 KiB, waits for the client, and closes the connection below the tunnel while
// it sends more. A reset is sent at once. An orderly end is sent behind the bytes that the
// kernel already has.
func cut(c *preflight.Conn, reset bool) {
	c.Write(make([]byte, 64<<10))
	io.ReadFull(c, make([]byte, len("now")))
	connection := bottom(c)
	if reset {
		connection.SetLinger(0)
	} else {
		c.Write(make([]byte, 1<<20))
	}
	connection.Close()
}

// bottom returns the TCP connection below all layers of c.
func bottom(c net.Conn) *net.TCPConn {
	for {
		switch layer := c.(type) {
		case *coalescingConn:
			return layer.TCPConn
		case interface{ NetConn() net.Conn }:
			c = layer.NetConn()
		}
	}
}

// requestInfo is what the server knows about a request.
type requestInfo struct {
	Server, URI, Host, Remote string
	Header                    http.Header
}

// coalesceField marks a 101 for a coalescingListener.
const coalesceField = "X-Coalesce"

// A coalescingListener sends a 101 that has the field coalesceField in one write with
// the first bytes of the application.
type coalescingListener struct{ net.Listener }

func (l coalescingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &coalescingConn{TCPConn: c.(*net.TCPConn)}, nil
}

type coalescingConn struct {
	*net.TCPConn
	held []byte
}

func (c *coalescingConn) Write(b []byte) (int, error) {
	if bytes.HasPrefix(b, []byte("HTTP/1.1 101 ")) && bytes.Contains(b, []byte("\r\n"+coalesceField+": ")) {
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

// tunnelTLSConfig returns the configuration of a client for TLS inside the tunnel.
func (s *backend) tunnelTLSConfig() *tls.Config { return &tls.Config{RootCAs: s.roots} }
