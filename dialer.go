package preflight

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A ContextDialer opens connections. [*net.Dialer], [*tls.Dialer], the dialers
// of golang.org/x/net/proxy and [*PreflightDialer] are ContextDialers.
type ContextDialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// A PreflightDialer reaches a TCP server through an HTTP reverse proxy: it dials
// the proxy, sends one upgrade request, and returns the tunnel once the server
// has answered 101. The zero value is ready to use, asks for "/" and stands
// wherever a [*net.Dialer] does:
//
//	d := &preflight.PreflightDialer{Path: "/client/amps/json"}
//	conn, err := d.DialContext(ctx, "tcp", "edge.example:80")
//
// A bad configuration is an error before anything is dialed. Fields must not
// be changed while a method runs; methods are safe for concurrent use.
type PreflightDialer struct {
	// NetDialer opens the connection to the proxy; nil means a zero
	// [net.Dialer]. It is closed if the handshake fails.
	NetDialer ContextDialer

	// TLSConfig, if it is set, makes the connection to the proxy a TLS
	// connection. ServerName is taken from the address if it is empty. Only
	// http/1.1 is offered by ALPN, because HTTP/2 has no Upgrade (RFC 9113
	// §8.6): a NextProtos without http/1.1 is an error. The Config is not
	// modified.
	TLSConfig *tls.Config

	// Protocol is the upgrade token; "" means "tcp". Squid compares it with
	// regard to case.
	Protocol string

	// Host is the Host field of the request, a name or an address with or
	// without a port, by which a proxy may choose the server. "" means the
	// dialed address, "localhost" on a Unix socket.
	Host string

	// Path is the request target by which the proxy chooses the server: a
	// path that begins with "/", percent-encoded where RFC 3986 wants it, and
	// a query if there is one. "" means "/".
	Path string

	// Header holds further fields of the request, sent in the order of their
	// names. Host, Connection, Upgrade, Content-Length, Transfer-Encoding,
	// Trailer, Expect and Proxy-Authorization are errors here. The whole head
	// should stay below 7 KiB, which every proxy lets pass. A proxy may send
	// the request more than once: a credential that is good for one use fails.
	Header http.Header

	// HandshakeTimeout bounds the handshake, TLS included, from the moment
	// NetDialer has returned. 0 means 10 seconds; negative means that the
	// context alone bounds it. Dialing is bounded by the context and by
	// NetDialer's own timeout.
	HandshakeTimeout time.Duration
}

// Dial is DialContext with the background context.
func (d *PreflightDialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext dials the proxy at address and performs the upgrade. The returned
// connection, if any, is always a [*Conn]. Once successfully connected, any
// expiration of ctx does not affect the connection.
//
// An error of NetDialer is returned unchanged. A refusal is a [*StatusError].
// Any other failure of the handshake is a [*net.OpError] with Op "preflight": if
// ctx ended, it wraps the cause of that ([context.Cause]); if HandshakeTimeout
// expired, it wraps [os.ErrDeadlineExceeded], and Timeout reports true.
func (d *PreflightDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	u := upgrade{target: d.Path, host: d.Host, protocol: d.Protocol, header: d.Header}
	if u.target == "" {
		u.target = "/"
	}
	if u.host == "" {
		u.host = hostOf(network, address)
	}
	if u.protocol == "" {
		u.protocol = defaultToken
	}
	if err := u.check(); err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	config, err := d.tlsConfig(network, address)
	if err != nil {
		return nil, err
	}
	c, err := d.netDialer().DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn, err := d.handshake(ctx, c, &u, config)
	if err != nil {
		c.Close()
		return nil, err
	}
	return conn, nil
}

// DialURL dials what rawURL names, see [ParseURL]. With http_preflight=true it
// performs the upgrade as DialContext does, with the path of the URL as Path
// and its userinfo, if there is any, as Basic credentials (RFC 7617); the
// connection is a [*Conn]. Without it, it dials the host itself, with TLS for
// tcps, and the path and the userinfo are for the application, by ParseURL.
//
// The scheme decides about TLS: tcps uses TLSConfig, or a zero one if there is
// none, and tcp with a TLSConfig is an error. Path must be empty, and Header
// without Authorization if the URL has userinfo. Options are applied to the TCP
// connection that NetDialer returns; bind needs a NetDialer that is nil or a
// [*net.Dialer].
func (d *PreflightDialer) DialURL(ctx context.Context, rawURL string) (net.Conn, error) {
	t, err := ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	at := *d
	if at.NetDialer, err = t.dialer(d.NetDialer); err != nil {
		return nil, fmt.Errorf("preflight: dial %s: %w", t, err)
	}
	switch {
	case d.Path != "":
		return nil, fmt.Errorf("preflight: dial %s: the path is that of the URL; leave PreflightDialer.Path empty", t)
	case !t.TLS && d.TLSConfig != nil:
		return nil, fmt.Errorf("preflight: dial %s: the scheme tcp is without TLS although TLSConfig is set; use tcps", t)
	case t.TLS && d.TLSConfig == nil:
		at.TLSConfig = new(tls.Config)
	}
	if !t.Preflight {
		return at.dialPlain(ctx, t)
	}
	at.Path = t.Path
	if t.User != nil {
		if at.Header, err = withBasic(d.Header, t.User); err != nil {
			return nil, fmt.Errorf("preflight: dial %s: %w", t, err)
		}
	}
	return at.DialContext(ctx, "tcp", t.Address)
}

// dialPlain dials without an upgrade.
func (d *PreflightDialer) dialPlain(ctx context.Context, t *Target) (net.Conn, error) {
	c, err := d.NetDialer.DialContext(ctx, "tcp", t.Address)
	if err != nil || !t.TLS {
		return c, err
	}
	config := d.TLSConfig.Clone()
	if config.ServerName == "" {
		config.ServerName = serverName("tcp", t.Address)
	}
	tc, err := handshakeTLS(ctx, c, config, d.deadline())
	if err != nil {
		c.Close()
		return nil, err
	}
	return tc, nil
}

func withBasic(h http.Header, user *url.Userinfo) (http.Header, error) {
	for name := range h {
		if strings.EqualFold(name, "Authorization") {
			return nil, errors.New("the URL has credentials although Header has Authorization")
		}
	}
	password, _ := user.Password()
	if strings.Contains(user.Username(), ":") {
		return nil, errors.New("the user name holds a colon, which Basic credentials cannot: RFC 7617 §2")
	}
	if h = h.Clone(); h == nil {
		h = make(http.Header)
	}
	h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	return h, nil
}

// handshake goes from the dialed connection to the tunnel.
func (d *PreflightDialer) handshake(ctx context.Context, c net.Conn, u *upgrade, config *tls.Config) (*Conn, error) {
	deadline := d.deadline()
	if config == nil {
		return u.do(ctx, c, deadline)
	}
	tc, err := handshakeTLS(ctx, c, config, deadline)
	if err != nil {
		return nil, err
	}
	return u.do(ctx, tc, deadline)
}

const (
	stageTLS = "TLS handshake"
	alpnHTTP = "http/1.1" // RFC 7301 §6
)

// handshakeTLS bounds a TLS handshake by ctx and by deadline, which may be zero.
func handshakeTLS(ctx context.Context, c net.Conn, config *tls.Config, deadline time.Time) (*tls.Conn, error) {
	bounded := ctx
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		bounded, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	tc := tls.Client(c, config)
	err := tc.HandshakeContext(bounded)
	if err == nil {
		return tc, nil
	}
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case bounded.Err() != nil:
		err = os.ErrDeadlineExceeded // not the caller's context: it has not ended
	}
	return nil, opError("preflight", c, &stageError{stageTLS, err})
}

// deadline is that of a handshake that begins now; zero if there is none.
func (d *PreflightDialer) deadline() time.Time {
	switch {
	case d.HandshakeTimeout < 0:
		return time.Time{}
	case d.HandshakeTimeout == 0:
		return time.Now().Add(defaultTimeout)
	}
	return time.Now().Add(d.HandshakeTimeout)
}

func (d *PreflightDialer) netDialer() ContextDialer {
	if d.NetDialer == nil {
		return new(net.Dialer)
	}
	return d.NetDialer
}

// tlsConfig is the configuration for one connection; nil without TLS.
func (d *PreflightDialer) tlsConfig(network, address string) (*tls.Config, error) {
	if d.TLSConfig == nil {
		return nil, nil
	}
	if offered := d.TLSConfig.NextProtos; len(offered) > 0 && !slices.Contains(offered, alpnHTTP) {
		return nil, fmt.Errorf("preflight: TLSConfig.NextProtos %q lacks http/1.1; HTTP/2 has no Upgrade", offered)
	}
	config := d.TLSConfig.Clone()
	config.NextProtos = []string{alpnHTTP}
	if config.ServerName == "" {
		config.ServerName = serverName(network, address)
	}
	if config.ServerName == "" && !config.InsecureSkipVerify {
		return nil, errors.New("preflight: TLSConfig.ServerName is empty and the address has no host name to take it from")
	}
	return config, nil
}

// serverName is the host of an address, without port and zone.
func serverName(network, address string) string {
	if strings.HasPrefix(network, "unix") {
		return ""
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	host, _, _ = strings.Cut(host, "%")
	return host
}

// hostOf is the Host field for an address that package net can dial. What it
// cannot make valid, upgrade.check refuses.
func hostOf(network, address string) string {
	if strings.HasPrefix(network, "unix") {
		return "localhost"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	// A zone means nothing to another machine (RFC 6874 §1), and package net
	// dials the local system where there is no host.
	if host, _, _ = strings.Cut(host, "%"); host == "" {
		host = "localhost"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		// Package net knows services by name, a Host field does not.
		if n, err := net.LookupPort("tcp", port); err == nil {
			port = strconv.Itoa(n)
		}
	}
	return net.JoinHostPort(host, port)
}
