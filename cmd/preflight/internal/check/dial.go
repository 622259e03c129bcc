package check

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/proxy"
)

// firstHop is the address that this machine connects to: that of the forward proxy, if there
// is one.
func (c *checker) firstHop() string {
	if c.proxy == nil {
		return c.Address
	}
	if port := c.proxy.Port(); port != "" {
		return c.proxy.Host
	}
	port := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[c.proxy.Scheme]
	return net.JoinHostPort(c.proxy.Hostname(), port)
}

// dialFirst connects to the first hop, by TCP alone.
func (c *checker) dialFirst(ctx context.Context) (net.Conn, error) {
	return c.netDialer().DialContext(ctx, "tcp", c.firstHop())
}

// netDialer dials from the address of the option bind, if the URL has one.
func (t *Target) netDialer() *net.Dialer {
	if d, ok := t.Dialer.NetDialer.(*net.Dialer); ok {
		return d
	}
	return new(net.Dialer)
}

// bind is the address of the option bind. It is nil if there is none.
func (t *Target) bind() net.IP {
	if a, ok := t.netDialer().LocalAddr.(*net.TCPAddr); ok {
		return a.IP
	}
	return nil
}

// dialEdge connects to the port of the edge, through the forward proxy if there is one.
func (c *checker) dialEdge(ctx context.Context) (net.Conn, error) {
	conn, err := c.dialFirst(ctx)
	if err != nil || c.proxy == nil {
		return conn, err
	}
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	through, err := c.throughProxy(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return through, nil
}

// errProxy is the refusal of a forward proxy. The carriers have the details.
var errProxy = errors.New("the forward proxy does not connect to the edge")

func (c *checker) throughProxy(ctx context.Context, conn net.Conn) (net.Conn, error) {
	switch c.proxy.Scheme {
	case "socks5", "socks5h":
		var auth *proxy.Auth
		if u := c.proxy.User; u != nil {
			password, _ := u.Password()
			auth = &proxy.Auth{User: u.Username(), Password: password}
		}
		d, err := proxy.SOCKS5("tcp", "", auth, fixedDialer{conn})
		if err != nil {
			return nil, err
		}
		return d.Dial("tcp", c.Address)
	case "https":
		config := new(tls.Config)
		if c.Dialer.TLSConfig != nil {
			config.RootCAs = c.Dialer.TLSConfig.RootCAs
		}
		config.ServerName = c.proxy.Hostname()
		t := tls.Client(conn, config)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = t
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", c.Address, c.Address)
	if u := c.proxy.User; u != nil {
		password, _ := u.Password()
		fmt.Fprintf(&b, "Proxy-Authorization: Basic %s\r\n", base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	b.WriteString("\r\n")
	if _, err := conn.Write(b.Bytes()); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, &http.Request{Method: "CONNECT"})
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, errProxy
	}
	if reader.Buffered() > 0 { // the edge spoke first
		return &readAhead{conn, reader}, nil
	}
	return conn, nil
}

// A fixedDialer gives the SOCKS5 client the connection that is there.
type fixedDialer struct{ conn net.Conn }

func (d fixedDialer) Dial(string, string) (net.Conn, error) { return d.conn, nil }

type readAhead struct {
	net.Conn
	reader *bufio.Reader
}

func (r *readAhead) Read(b []byte) (int, error) { return r.reader.Read(b) }

func (r *readAhead) CloseWrite() error {
	c, ok := r.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return c.CloseWrite()
}

// serverName is the name that the certificate of the edge must have.
func (c *checker) serverName() string {
	if name := c.Dialer.TLSConfig.ServerName; name != "" {
		return name
	}
	host, _, _ := net.SplitHostPort(c.Address)
	return host
}

// dialHTTP connects to the edge as a request does: by TLS, if the URL wants it. It never
// speaks over a certificate that is not verified.
func (c *checker) dialHTTP(ctx context.Context) (net.Conn, error) {
	conn, err := c.dialEdge(ctx)
	if err != nil || c.Dialer.TLSConfig == nil {
		return conn, err
	}
	config := c.Dialer.TLSConfig.Clone()
	config.ServerName, config.NextProtos = c.serverName(), []string{"http/1.1"}
	t := tls.Client(conn, config)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}

// on dials, sends request, and returns the answer.
func (c *checker) on(ctx context.Context, dial func(context.Context) (net.Conn, error), request []byte) *Answer {
	return c.onFor(ctx, dial, request, c.probeTimeout())
}

func (c *checker) onFor(ctx context.Context, dial func(context.Context) (net.Conn, error), request []byte, wait time.Duration) *Answer {
	ctx, cancel := context.WithTimeout(ctx, 2*c.probeTimeout()) // to connect, and to ask
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return &Answer{Outcome: failed}
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(wait))
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	return exchange(conn, request)
}

// proxyOf returns the forward proxy for the edge.
func (c *checker) proxyOf() (*url.URL, error) {
	if c.Dialer.Proxy == nil {
		return nil, nil
	}
	return c.Dialer.Proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: c.Address}})
}
