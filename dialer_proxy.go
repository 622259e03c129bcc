package preflight

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/preflight-go/preflight/internal/diagnosis"
	"github.com/preflight-go/preflight/internal/wire"
	"golang.org/x/net/proxy"
)

// A forwardProxy is the outbound proxy for an address.
type forwardProxy struct {
	address string      // host:port of the proxy itself
	target  string      // host:port of what it is to lead to
	tls     *tls.Config // of an https proxy
	header  http.Header // further fields of the CONNECT
	socks   *proxy.Auth // of SOCKS5; nil means none
	isSOCKS bool
}

// forwardProxy asks Proxy for the proxy of r. nil means that the address is dialed
// directly. header holds additional fields of the CONNECT.
func (d *PreflightDialer) forwardProxy(ctx context.Context, r *route, header http.Header) (*forwardProxy, error) {
	if d.Proxy == nil || strings.HasPrefix(r.network, "unix") {
		return nil, nil
	}
	u, err := d.Proxy(r.request(ctx))
	if err != nil {
		return nil, &proxyError{err}
	}
	if u == nil {
		return nil, nil
	}
	p, err := d.newForwardProxy(u)
	if err != nil {
		return nil, fmt.Errorf("preflight: forward proxy: %w", err)
	}
	if p.target, err = authority(r.address); err != nil {
		return nil, fmt.Errorf("preflight: forward proxy: %w", err)
	}
	p.header = replaced(p.header, header)
	return p, nil
}

// checkProxyHeader checks the additional fields of a CONNECT.
func (d *PreflightDialer) checkProxyHeader(h http.Header) error {
	if len(h) == 0 {
		return nil
	}
	credentials, ok := valuesOf(h, proxyAuthorization)
	switch {
	case d.Proxy == nil && len(d.ProxyHeader) > 0:
		return errors.New("ProxyHeader is set although Proxy is not set")
	case d.Proxy == nil:
		return errors.New("GetHeader returned Proxy-Authorization although Proxy is not set")
	case ok && len(credentials) != 1:
		return errors.New("the header field Proxy-Authorization has more than one value, or none")
	}
	if err := checkField(proxyAuthorization, credentials, nil); err != nil {
		return err
	}
	if err := checkHeader(without(h, proxyAuthorization), reserved); err != nil {
		return fmt.Errorf("ProxyHeader: %w", err)
	}
	return nil
}

// request is the argument of Proxy. Its scheme is https, with or without TLS, because a
// tunnel needs CONNECT, as https does. For http, http.ProxyFromEnvironment returns
// HTTP_PROXY, which may be a proxy without CONNECT. gRPC asks about https as well. The
// host is the one that the proxy would be asked to connect to.
func (r *route) request(ctx context.Context) *http.Request {
	u := &url.URL{Scheme: "https", Host: hostOf("tcp", r.address)}
	u.RawPath, u.RawQuery, _ = strings.Cut(r.upgrade.target, "?")
	u.Path, _ = url.PathUnescape(u.RawPath) // which upgrade.check has seen
	req := &http.Request{Method: http.MethodGet, URL: u, Host: r.upgrade.host, Header: make(http.Header)}
	return req.WithContext(ctx)
}

// An edgeAddr is the address of an edge that was reached through a forward proxy. The
// connection has the address of the forward proxy, which does not answer for the edge.
type edgeAddr struct{ edge, proxy string }

func (edgeAddr) Network() string  { return "tcp" }
func (a edgeAddr) String() string { return a.edge + " (through the forward proxy " + a.proxy + ")" }

// A proxyError is an error of the function Proxy. Its text is left out, because errors of
// package url repeat the proxy's URL with its password.
type proxyError struct{ err error }

func (e *proxyError) Error() string {
	return "preflight: Proxy returned an error, which is left out here because it may hold a password (errors.Unwrap has it)"
}
func (e *proxyError) Unwrap() error { return e.err }

func (d *PreflightDialer) newForwardProxy(u *url.URL) (*forwardProxy, error) {
	if u.Hostname() == "" {
		return nil, errors.New("its URL has no host; the form is http://host:port")
	}
	p := new(forwardProxy)
	host, port := asciiHost(u.Hostname()), u.Port()
	switch u.Scheme {
	case "http":
		port = orElse(port, "80")
	case "https":
		port = orElse(port, "443")
		config := d.TLSConfig
		if config == nil {
			config = new(tls.Config)
		}
		config = config.Clone()
		config.ServerName = host
		config.NextProtos = []string{alpnHTTP}
		p.tls = config
	case "socks5", "socks5h":
		port = orElse(port, "1080")
		p.isSOCKS = true
	default:
		return nil, fmt.Errorf("the scheme %q is unknown; http, https, socks5 and socks5h are known", u.Scheme)
	}
	p.address = net.JoinHostPort(host, port)
	if _, err := authority(p.address); err != nil {
		return nil, errors.New("the host or the port of its URL is not valid")
	}
	if u.User == nil {
		return p, nil
	}
	password, _ := u.User.Password()
	if p.isSOCKS {
		if len(u.User.Username()) > 255 || len(password) > 255 {
			return nil, errors.New("the user name or the password is longer than the 255 bytes of SOCKS5: RFC 1929 §2")
		}
		p.socks = &proxy.Auth{User: u.User.Username(), Password: password}
		return p, nil
	}
	credentials, err := basic(u.User.Username(), password)
	p.header = http.Header{proxyAuthorization: {credentials}}
	return p, err
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// basic returns Basic credentials (RFC 7617 §2).
func basic(user, password string) (string, error) {
	if strings.Contains(user, ":") {
		return "", errors.New("the user name holds a colon, which Basic credentials cannot: RFC 7617 §2")
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)), nil
}

// connect makes c, a connection to the proxy, a connection to its target.
func (p *forwardProxy) connect(ctx context.Context, c net.Conn, deadline time.Time) (net.Conn, error) {
	if p.tls != nil {
		var err error
		if c, err = handshakeTLS(ctx, c, p.tls, deadline, stageProxyTLS, nil); err != nil {
			return nil, err
		}
	}
	x := newExchange(c)
	if err := x.begin(ctx, deadline); err != nil {
		x.free()
		return nil, opError("preflight", c, err)
	}
	var err error
	known := diagnosis.Evidence{Stage: diagnosis.Connect, TLS: p.tls != nil}
	if p.isSOCKS {
		known.Stage = diagnosis.SOCKS
		err = p.connectSOCKS(c, &known)
	} else {
		err = x.connect(p.target, p.header, &known)
	}
	err = explain(x.end(err), known)
	leftover := bytes.Clone(x.buf)
	x.free()
	switch {
	case err != nil:
		return nil, failure(c, nil, err, "the forward proxy %s answered ")
	case len(leftover) > 0:
		return newConn(c, nil, new(heads), leftover, nil), nil
	}
	return c, nil
}

// authority returns address in the form that a proxy expects: with a numeric port.
// upgrade.check has not checked it, because it is not a Host field.
func authority(address string) (string, error) {
	a := hostOf("tcp", address)
	_, port, err := net.SplitHostPort(a)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || !wire.ValidHost(a) {
		address = address[strings.LastIndex(address, "@")+1:] // before it stands a password
		return "", fmt.Errorf("the address %q is not a host and a port", address)
	}
	return a, nil
}

// connect asks an HTTP proxy for a tunnel (RFC 9110 §9.3.6). Afterwards x.buf holds the
// bytes after its answer. Host comes first (RFC 9110 §7.2).
func (x *exchange) connect(authority string, header http.Header, known *diagnosis.Evidence) error {
	head := wire.AppendHead(nil, "CONNECT "+authority+" HTTP/1.1\r\nHost: "+authority, header)
	known.HeadSize = len(head)
	_, known.Authorization = valuesOf(header, proxyAuthorization)
	var r wire.Response
	n, err := x.roundTrip(head, stageConnect, &r)
	if err != nil {
		return err
	}
	if r.Status < 200 || r.Status > 299 {
		return x.refused(&r, n, head, *known)
	}
	x.buf = x.buf[n:] // a Content-Length or Transfer-Encoding means nothing here
	return nil
}

// connectSOCKS asks a SOCKS5 proxy (RFC 1928) over c. The exchange bounds it in time, so
// it needs no context. known gets the first bytes of the proxy, which show how far it came.
func (p *forwardProxy) connectSOCKS(c net.Conn, known *diagnosis.Evidence) error {
	first := &firstBytes{Conn: c}
	d, err := proxy.SOCKS5("tcp", p.address, p.socks, dialed{first})
	if err == nil {
		_, err = d.Dial("tcp", p.target)
	}
	known.First = first.read
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = errIncomplete
	case err == nil:
		return nil
	}
	return &stageError{stage: "SOCKS5 with the forward proxy", err: err}
}

// firstBytes keeps the first bytes that are read: the answers of SOCKS5 to the methods and to
// the credentials.
type firstBytes struct {
	net.Conn
	read []byte
}

func (c *firstBytes) Read(b []byte) (int, error) {
	const most = 4
	n, err := c.Conn.Read(b)
	c.read = append(c.read, b[:min(n, most-len(c.read))]...)
	return n, err
}

// dialed is a dialer that has already dialed.
type dialed struct{ c net.Conn }

func (d dialed) Dial(string, string) (net.Conn, error) { return d.c, nil }

func (d dialed) DialContext(context.Context, string, string) (net.Conn, error) { return d.c, nil }
