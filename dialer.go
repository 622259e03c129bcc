package preflight

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
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
// What it does in turn, each step but the first and the upgrade only if it is
// asked for:
//
//	NetDialer -> forward proxy (Proxy) -> TLS (TLSConfig) -> upgrade -> TLS inside (TunnelTLSConfig)
//
// A bad configuration is an error before anything is dialed. Fields must not
// be changed while a method runs; methods are safe for concurrent use.
//
// gRPC, and whatever else takes a DialContext function, gives up its own use of
// the environment's proxies (HTTPS_PROXY) with a dialer of yours: set Proxy to
// [net/http.ProxyFromEnvironment] to have it again. It also sets TCP_USER_TIMEOUT
// on a bare *net.TCPConn alone: set it with the Control function of a
// [net.Dialer] in NetDialer. With gRPC's dns resolver the address is an IP
// address: set Host, or use its passthrough resolver.
type PreflightDialer struct {
	// NetDialer opens the connection to the proxy; nil means a zero
	// [net.Dialer]. It is closed if the handshake fails. A connection without
	// deadlines, such as a channel of an SSH connection, is closed when the
	// context or HandshakeTimeout ends.
	NetDialer ContextDialer

	// Proxy chooses the forward (outbound) proxy by which the address is
	// reached, as that of [net/http.Transport] does; nil, or a nil URL, means
	// none. [net/http.ProxyFromEnvironment] fits. Its argument is a request
	// with the dialed address, the scheme https with TLSConfig, else http, and
	// the context of the dial. The schemes are http and https (CONNECT), and
	// socks5 and socks5h, which both leave the resolution of names to the
	// proxy. Userinfo in the URL becomes its credentials. TLS to an https proxy
	// is that of TLSConfig, its roots, client certificates and callbacks
	// included, under the name of the proxy; where it needs settings of its
	// own, use an http URL and a NetDialer that dials TLS. Unix sockets are
	// dialed directly.
	Proxy func(*http.Request) (*url.URL, error)

	// TLSConfig, if it is set, makes the connection to the reverse proxy a TLS
	// connection. ServerName is taken from the address if it is empty. Only
	// http/1.1 is offered by ALPN, because HTTP/2 has no Upgrade (RFC 9113
	// §8.6): a NextProtos without http/1.1 is an error. The Config is not
	// modified.
	TLSConfig *tls.Config

	// TunnelTLSConfig, if it is set, makes the tunnel a TLS connection after the
	// 101, end to end through whatever terminates TLS on the way. The request
	// asks for it by the field "Preflight-Tunnel: tls", which the 101 must
	// repeat: a PreflightListener does so if its TLSConfig is set, and answers
	// 426 if not. A server that ends TLS above its listener does not know the
	// field: leave TunnelTLSConfig nil there, and call [crypto/tls.Client] on the
	// returned Conn. An end of the tunnel without TLS's close_notify is
	// [io.ErrUnexpectedEOF]. ServerName is taken from Host, or the address, if
	// it is empty. The Config is not modified.
	TunnelTLSConfig *tls.Config

	// Protocol is the upgrade token; "" means "tcp". "websocket" is an error.
	// Squid compares it with regard to case.
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
	// Trailer and Expect are errors here. Proxy-Authorization is sent to the
	// forward proxy alone, with the CONNECT, in place of the credentials of its
	// URL, and is an error without Proxy. The whole head should stay below 7 KiB, which every
	// proxy lets pass. A proxy may send the request more than once: a
	// credential that is good for one use fails.
	Header http.Header

	// GetHeader returns fields that replace those of the same name in Header,
	// for credentials that expire. It is called for each attempt with the
	// context of the dial. refused is nil, but after a 401 or 407 of the first
	// attempt: then it is that refusal, with the challenge, and the dial is
	// tried once more on a new connection. An error ends the dial. It is called
	// concurrently, and must not return a Header that it changes later.
	GetHeader func(ctx context.Context, refused *StatusError) (http.Header, error)

	// HandshakeTimeout bounds an attempt from the moment NetDialer has
	// returned: forward proxy, TLS, upgrade and TLS inside the tunnel. 0 means
	// 10 seconds; negative means that the context alone bounds it. Dialing is
	// bounded by the context and by NetDialer's own timeout.
	HandshakeTimeout time.Duration

	// Telemetry shows the attempts and the connections behind them, but those
	// of DialURL without an upgrade; nil means that nobody looks. The contexts
	// given to NetDialer, Proxy and GetHeader carry the span of the attempt.
	Telemetry *Telemetry
}

// Dial is DialContext with the background context.
func (d *PreflightDialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext dials the proxy at address and performs the upgrade. The returned
// connection, if any, is always a [*Conn]. Once successfully connected, any
// expiration of ctx does not affect the connection.
//
// An error of NetDialer is returned unchanged, or in a [*net.OpError] with Op
// "proxyconnect" if it was the forward proxy that was dialed. A refusal is a
// [*StatusError]. Any other failure of the handshake is a [*net.OpError] with Op
// "preflight" that names the stage: if ctx ended, it wraps the cause of that
// ([context.Cause]); if HandshakeTimeout expired, it wraps
// [os.ErrDeadlineExceeded], and Timeout reports true.
func (d *PreflightDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	r, err := d.road(network, address)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	conn, refused, err := d.dial(ctx, r, nil)
	if refused != nil {
		conn, _, err = d.dial(ctx, r, refused)
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// again is an error of the handshake if fresh fields may help against it. A
// refusal that NetDialer or GetHeader has met is none of this dial.
func (d *PreflightDialer) again(err error) *StatusError {
	refused, ok := err.(*StatusError)
	if d.GetHeader != nil && ok && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusProxyAuthRequired) {
		return refused
	}
	return nil
}

// A road is where a dial leads, and by which layers.
type road struct {
	network, address string
	upgrade          upgrade // without its header
	tls, tunnelTLS   *tls.Config
	seen             *observation // of one attempt
}

// road resolves the configuration; the caller's fields stay as they are.
func (d *PreflightDialer) road(network, address string) (r road, err error) {
	r = road{network: network, address: address, upgrade: upgrade{target: d.Path, host: d.Host, protocol: d.Protocol}}
	u := &r.upgrade
	if u.target == "" {
		u.target = "/"
	}
	if u.host == "" {
		u.host = hostOf(network, address)
	}
	if u.protocol == "" {
		u.protocol = defaultToken
	}
	u.tunnelTLS = d.TunnelTLSConfig != nil
	if err := u.check(); err != nil {
		return r, err
	}
	if d.TLSConfig != nil {
		if r.tls, err = tlsConfig(d.TLSConfig, serverName(network, address)); err != nil {
			return r, fmt.Errorf("TLSConfig: %w", err)
		}
	}
	if d.TunnelTLSConfig != nil {
		r.tunnelTLS = d.TunnelTLSConfig.Clone()
		name := serverName(network, address)
		if d.Host != "" {
			name = hostName(d.Host)
		}
		if err := nameServer(r.tunnelTLS, name); err != nil {
			return r, fmt.Errorf("TunnelTLSConfig: %w", err)
		}
	}
	return r, nil
}

// dial makes one attempt; refused is the end of the one before. again is that of
// this one, if another is worth while.
func (d *PreflightDialer) dial(ctx context.Context, r road, refused *StatusError) (conn *Conn, again *StatusError, err error) {
	side := d.Telemetry.clientSide()
	r.seen = side.begin()
	ctx = r.seen.dial(ctx, r.address)
	side.underWay(1)
	defer func() {
		side.underWay(-1)
		switch {
		case conn != nil:
			r.seen.done(kindUpgraded)
		case err != nil:
			r.seen.fail(ctx, err)
		default:
			r.seen.fail(ctx, errPanic)
		}
	}()
	header, credentials, err := d.header(ctx, refused)
	if err != nil {
		return nil, nil, err
	}
	r.upgrade.header = header
	proxy, err := d.forwardProxy(ctx, &r, credentials)
	if err != nil {
		return nil, nil, err
	}
	c, err := d.connect(ctx, &r, proxy)
	if err != nil {
		r.seen.fail(ctx, &stageError{"dial", err}) // be it a refusal: it is not ours
		return nil, nil, err
	}
	defer func() { // also where a callback of TLS panics
		if conn == nil {
			abandon(c)
		}
	}()
	r.seen.event(eventConnect)
	conn, err = d.handshake(ctx, c, &r, proxy)
	return conn, d.again(err), err
}

// connect opens the transport.
func (d *PreflightDialer) connect(ctx context.Context, r *road, proxy *forwardProxy) (net.Conn, error) {
	if proxy == nil {
		return d.netDialer().DialContext(ctx, r.network, r.address)
	}
	c, err := d.netDialer().DialContext(ctx, "tcp", proxy.address)
	if err != nil {
		return nil, &net.OpError{Op: "proxyconnect", Net: "tcp", Err: err} // as net/http has it
	}
	return c, nil
}

// header is that of an attempt, and what of it is for the forward proxy alone.
func (d *PreflightDialer) header(ctx context.Context, refused *StatusError) (h http.Header, credentials []string, err error) {
	h = d.Header
	if d.GetHeader != nil {
		fresh, err := d.GetHeader(ctx, refused)
		if err != nil {
			return nil, nil, fmt.Errorf("preflight: GetHeader: %w", err)
		}
		h = replaced(h, fresh)
	}
	for name, values := range h {
		if !strings.EqualFold(name, proxyAuthorization) {
			continue
		}
		if d.Proxy == nil {
			return nil, nil, errors.New("preflight: the header field Proxy-Authorization is for a forward proxy, and Proxy is not set")
		}
		if len(values) != 1 || len(credentials) > 0 {
			return nil, nil, errors.New("preflight: the header field Proxy-Authorization has more than one value, or none")
		}
		credentials = values
	}
	if credentials != nil {
		if err := checkHeader(http.Header{proxyAuthorization: credentials}, nil); err != nil {
			return nil, nil, fmt.Errorf("preflight: %w", err)
		}
		h = without(h, proxyAuthorization)
	}
	if err := checkHeader(h, reserved); err != nil {
		return nil, nil, fmt.Errorf("preflight: %w", err)
	}
	return h, credentials, nil
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
	r := road{network: "tcp", address: t.Address, upgrade: upgrade{target: t.Path, host: t.Address}}
	if t.TLS {
		r.tls = d.TLSConfig.Clone()
		if err := nameServer(r.tls, serverName(r.network, t.Address)); err != nil {
			return nil, fmt.Errorf("preflight: TLSConfig: %w", err)
		}
	}
	c, refused, err := d.dialLayers(ctx, r, nil)
	if refused != nil {
		c, _, err = d.dialLayers(ctx, r, refused)
	}
	return c, err
}

// dialLayers is dial without an upgrade.
func (d *PreflightDialer) dialLayers(ctx context.Context, r road, refused *StatusError) (conn net.Conn, again *StatusError, err error) {
	_, credentials, err := d.header(ctx, refused)
	if err != nil {
		return nil, nil, err
	}
	proxy, err := d.forwardProxy(ctx, &r, credentials)
	if err != nil {
		return nil, nil, err
	}
	c, err := d.connect(ctx, &r, proxy)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if conn == nil {
			abandon(c)
		}
	}()
	conn, err = r.layers(ctx, c, proxy, d.deadline())
	return conn, d.again(err), err
}

func withBasic(h http.Header, user *url.Userinfo) (http.Header, error) {
	for name := range h {
		if strings.EqualFold(name, "Authorization") {
			return nil, errors.New("the URL has credentials although Header has Authorization")
		}
	}
	password, _ := user.Password()
	credentials, err := basic(user.Username(), password)
	if err != nil {
		return nil, err
	}
	if h = h.Clone(); h == nil {
		h = make(http.Header)
	}
	h.Set("Authorization", credentials)
	return h, nil
}

// handshake goes from the dialed connection to the tunnel.
func (d *PreflightDialer) handshake(ctx context.Context, c net.Conn, r *road, proxy *forwardProxy) (*Conn, error) {
	deadline := d.deadline()
	c, err := r.layers(ctx, c, proxy, deadline)
	if err != nil {
		return nil, err
	}
	h, rest, err := r.upgrade.do(ctx, c, deadline, r.seen)
	if err != nil {
		return nil, err
	}
	if r.tunnelTLS != nil {
		below := &tunnelConn{Conn: newConn(c, nil, heads{}, rest, nil)}
		if c, err = handshakeTLS(ctx, below, r.tunnelTLS, deadline, stageTunnelTLS); err != nil {
			return nil, err
		}
		below.open = true
		r.seen.event(eventTunnelTLS)
		rest = nil
	}
	return r.seen.newConn(c, nil, h, rest, nil), nil
}

// layers puts on c what lies below the upgrade: the forward proxy's tunnel and TLS.
func (r *road) layers(ctx context.Context, c net.Conn, proxy *forwardProxy, deadline time.Time) (net.Conn, error) {
	if proxy != nil {
		var err error
		if c, err = proxy.connect(ctx, c, deadline); err != nil {
			return nil, err
		}
		r.seen.event(eventProxy)
	}
	if r.tls != nil {
		var err error
		if c, err = handshakeTLS(ctx, c, r.tls, deadline, stageTLS); err != nil {
			return nil, err
		}
		r.seen.event(eventTLS)
	}
	return c, nil
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

// hostName is the name in a valid Host field.
func hostName(host string) string {
	u := url.URL{Host: host}
	return u.Hostname()
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
	name, number := host, port
	// A zone means nothing to another machine (RFC 6874 §1), and package net
	// dials the local system where there is no host.
	if name, _, _ = strings.Cut(name, "%"); name == "" {
		name = "localhost"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		// Package net knows services by name, a Host field does not.
		if n, err := net.LookupPort("tcp", port); err == nil {
			number = strconv.Itoa(n)
		}
	}
	if name == host && number == port && address[0] != '[' {
		return address // as it would be put together again
	}
	return net.JoinHostPort(name, number)
}
