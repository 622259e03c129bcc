package preflight

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
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
// # Drivers that change the address
//
// Many drivers do not dial the address that they are configured with. They
// resolve its name first (pgx, nats.go, gRPC with its dns resolver), so that
// Host would be an IP address. They dial the RemoteAddr of a connection once
// more (pgx, to cancel a query), which is that of the proxy. Or they dial
// addresses that the server tells them (Redis Cluster), which only the proxy
// can reach. Give such a driver a dial function that ignores the address:
//
//	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
//		return d.DialContext(ctx, "tcp", "edge.example:80")
//	}
//
// Where the driver talks to several servers, the function uses the address for
// one thing, which is to choose the Path.
//
// gRPC uses the environment's proxies (HTTPS_PROXY) only where it dials by itself:
// with a dial function, set Proxy to [net/http.ProxyFromEnvironment]. It sets
// TCP_USER_TIMEOUT on a bare *net.TCPConn alone: set it with the Control function
// of a [net.Dialer] in NetDialer.
type PreflightDialer struct {
	// NetDialer opens the connection to the proxy; nil means a zero
	// [net.Dialer]. It must return when its context ends. The connection is
	// closed if the handshake fails. A connection without deadlines, such as a
	// channel of an SSH connection, is closed when the context or
	// HandshakeTimeout ends.
	NetDialer ContextDialer

	// Proxy chooses the forward (outbound) proxy by which the address is
	// reached, as that of [net/http.Transport] does; nil, or a nil URL, means
	// none. [net/http.ProxyFromEnvironment] fits. Its argument is a request
	// with the dialed address, the scheme https and the context of the dial.
	// The scheme is https without TLSConfig too: a tunnel needs CONNECT, which
	// is what HTTPS_PROXY stands for, and gRPC asks in the same way.
	//
	// The schemes of the returned URL are http and https (CONNECT), and socks5
	// and socks5h, which both leave the resolution of names to the proxy.
	// Userinfo in the URL becomes its credentials. TLS to an https proxy
	// is that of TLSConfig, its roots, client certificates and callbacks
	// included, under the name of the proxy; where it needs settings of its
	// own, use an http URL and a NetDialer that dials TLS. Unix sockets are
	// dialed directly.
	Proxy func(*http.Request) (*url.URL, error)

	// ProxyHeader holds further fields of the CONNECT request, such as
	// User-Agent, which some firewalls require. It is an error without Proxy,
	// and has no effect with a SOCKS5 proxy. Proxy-Authorization takes the
	// place of the credentials in the proxy's URL. The names that are errors in
	// Header are errors here too, Proxy-Authorization excepted.
	ProxyHeader http.Header

	// TLSConfig, if it is set, makes the connection to the reverse proxy a TLS
	// connection. If ServerName is empty, it is the name in Host, or in the
	// address without Host. Only http/1.1 is offered by ALPN, because HTTP/2
	// has no Upgrade (RFC 9113 §8.6): a NextProtos without http/1.1 is an
	// error. The Config is not modified.
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
	// without a port, by which a proxy may choose the server. It is also the
	// server name of TLS, see TLSConfig. "" means the dialed address without
	// the default port, which is 80, or 443 with TLSConfig; on a Unix socket it
	// means "localhost". Internationalized names are converted to ASCII
	// (RFC 5891), here and in the address.
	Host string

	// Path is the request target by which the proxy chooses the server: a
	// path that begins with "/", percent-encoded where RFC 3986 wants it, and
	// a query if there is one. "" means "/".
	Path string

	// Header holds further fields of the request, sent in the order of their
	// names. Host, Connection, Upgrade, Content-Length, Transfer-Encoding,
	// Trailer and Expect are errors here, and so is Proxy-Authorization, which
	// belongs in ProxyHeader. The whole head should stay below 7 KiB, which
	// every proxy lets pass. A proxy may send the request more than once: a
	// credential that is good for one use fails.
	Header http.Header

	// GetHeader returns fields that replace those of the same name in Header,
	// for credentials that expire. A Proxy-Authorization among them goes to the
	// forward proxy, in place of that of ProxyHeader. GetHeader is called for
	// each attempt with the context of the dial. refused is nil, but after a
	// 401 or 407 of the first attempt: then it is that refusal, with the
	// challenge, and the dial is tried once more on a new connection. An error
	// ends the dial. It is called concurrently, and must not return a Header
	// that it changes later.
	GetHeader func(ctx context.Context, refused *StatusError) (http.Header, error)

	// HandshakeTimeout bounds each attempt from the moment NetDialer has
	// returned: forward proxy, TLS, upgrade and TLS inside the tunnel. If the
	// context has no deadline, NetDialer has as much time before that. 0 means
	// 10 seconds; negative means that the context alone bounds the dial; more
	// than 365 days is an error.
	HandshakeTimeout time.Duration

	// Telemetry shows the attempts and the connections behind them, except
	// those of DialURL without an upgrade; nil disables it. The contexts given
	// to NetDialer, Proxy and GetHeader carry the span of the attempt.
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
// The network is tcp, tcp4, tcp6 or unix. The other networks of package net
// carry no stream and are an error. A network that package net does not know is
// left to NetDialer, unless that is nil or a [*net.Dialer].
//
// An error of NetDialer is returned unchanged, or in a [*net.OpError] with Op
// "proxyconnect" if it was the forward proxy that was dialed. A refusal is a
// [*StatusError]. Any other failure of the handshake is a [*net.OpError] with Op
// "preflight" that names the stage: if ctx ended, it wraps the cause of that
// ([context.Cause]); if HandshakeTimeout expired, it wraps
// [os.ErrDeadlineExceeded], and Timeout reports true.
func (d *PreflightDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	r, err := d.route(network, address)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	return d.attempts(ctx, r)
}

// attempts dials, and once more if GetHeader may have better credentials.
func (d *PreflightDialer) attempts(ctx context.Context, r route) (net.Conn, error) {
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
func (d *PreflightDialer) retry(err error) *StatusError {
	refused, ok := err.(*StatusError)
	if d.GetHeader != nil && ok && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusProxyAuthRequired) {
		return refused
	}
	return nil
}

// A road is where a dial leads, and by which layers.
type route struct {
	network, address string
	connectTimeout   time.Duration // of NetDialer; 0: as HandshakeTimeout says
	upgrade          upgrade       // without its header
	tls, tunnelTLS   *tls.Config
	obs              *observation // of one attempt
}

// road resolves the configuration; the caller's fields stay as they are.
func (d *PreflightDialer) route(network, address string) (r route, err error) {
	if err := d.checkNet(network); err != nil {
		return r, err
	}
	if !strings.HasPrefix(network, "unix") {
		address = asciiHost(address)
	}
	r = route{network: network, address: address, upgrade: upgrade{target: d.Path, host: d.hostField(network, address), protocol: d.Protocol}}
	u := &r.upgrade
	if u.target == "" {
		u.target = "/"
	}
	if u.protocol == "" {
		u.protocol = defaultToken
	}
	u.tunnelTLS = d.TunnelTLSConfig != nil
	if err := u.check(); err != nil {
		return r, err
	}
	name := d.tlsName(network, address)
	if d.TLSConfig != nil {
		if r.tls, err = tlsConfig(d.TLSConfig, name); err != nil {
			return r, fmt.Errorf("TLSConfig: %w", err)
		}
	}
	if d.TunnelTLSConfig != nil {
		r.tunnelTLS = d.TunnelTLSConfig.Clone()
		if err := nameServer(r.tunnelTLS, name); err != nil {
			return r, fmt.Errorf("TunnelTLSConfig: %w", err)
		}
	}
	return r, nil
}

// dial makes one attempt; refused is the end of the one before. again is that of
// this one, if another is worth while.
func (d *PreflightDialer) dial(ctx context.Context, r route, refused *StatusError) (conn *Conn, retry *StatusError, err error) {
	side := d.Telemetry.clientSide()
	r.obs = side.begin()
	ctx = r.obs.dial(ctx, r.address)
	side.addPending(1)
	defer func() {
		side.addPending(-1)
		switch {
		case conn != nil:
			r.obs.done(kindUpgraded)
		case err != nil:
			r.obs.fail(ctx, err)
		default:
			r.obs.fail(ctx, errPanic)
		}
	}()
	header, proxyHeader, err := d.header(ctx, refused)
	if err != nil {
		return nil, nil, err
	}
	r.upgrade.header = header
	proxy, err := d.forwardProxy(ctx, &r, proxyHeader)
	if err != nil {
		return nil, nil, err
	}
	c, err := d.connect(ctx, &r, proxy)
	if err != nil {
		r.obs.fail(ctx, &stageError{"dial", err}) // be it a refusal: it is not ours
		return nil, nil, err
	}
	defer func() { // also where a callback of TLS panics
		if conn == nil {
			abandon(c)
		}
	}()
	r.obs.event(eventConnect)
	conn, err = d.handshake(ctx, c, &r, proxy)
	return conn, d.retry(err), err
}

// connect opens the transport.
func (d *PreflightDialer) connect(ctx context.Context, r *route, proxy *forwardProxy) (net.Conn, error) {
	network, address := r.network, r.address
	if proxy != nil {
		network, address = "tcp", proxy.address
	}
	next := d.netDialer()
	timeout := r.connectTimeout
	if _, ok := ctx.Deadline(); timeout == 0 && !ok {
		timeout = d.handshakeTimeout()
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = withConnectDeadline(ctx, time.Now().Add(timeout), next, address)
		defer cancel()
	}
	c, err := dialNet(ctx, next, network, address)
	if err != nil && proxy != nil {
		return nil, &net.OpError{Op: "proxyconnect", Net: "tcp", Err: err} // as net/http has it
	}
	return c, err
}

// header returns the fields of the upgrade request, and those of the CONNECT.
func (d *PreflightDialer) header(ctx context.Context, refused *StatusError) (h, proxyHeader http.Header, err error) {
	h, proxyHeader = d.Header, d.ProxyHeader
	if d.GetHeader != nil {
		fresh, err := d.GetHeader(ctx, refused)
		if err != nil {
			return nil, nil, fmt.Errorf("preflight: GetHeader: %w", err)
		}
		if values, ok := valuesOf(fresh, proxyAuthorization); ok {
			fresh = without(fresh, proxyAuthorization)
			proxyHeader = replaced(proxyHeader, http.Header{proxyAuthorization: values})
		}
		h = replaced(h, fresh)
	}
	if err := checkHeader(h, reserved); err != nil {
		return nil, nil, fmt.Errorf("preflight: %w", err)
	}
	if err := d.checkProxyHeader(proxyHeader); err != nil {
		return nil, nil, fmt.Errorf("preflight: forward proxy: %w", err)
	}
	return h, proxyHeader, nil
}

// handshake goes from the dialed connection to the tunnel.
func (d *PreflightDialer) handshake(ctx context.Context, c net.Conn, r *route, proxy *forwardProxy) (*Conn, error) {
	deadline := d.deadline()
	c, err := r.layers(ctx, c, proxy, deadline)
	if err != nil {
		return nil, err
	}
	h, leftover, err := r.upgrade.do(ctx, c, deadline, r.obs)
	if err != nil {
		return nil, err
	}
	if r.tunnelTLS != nil {
		below := &tunnelConn{Conn: newConn(c, nil, heads{}, leftover, nil)}
		if c, err = handshakeTLS(ctx, below, r.tunnelTLS, deadline, stageTunnelTLS); err != nil {
			return nil, err
		}
		below.open = true
		r.obs.event(eventTunnelTLS)
		leftover = nil
	}
	return r.obs.newConn(c, nil, h, leftover, nil), nil
}

// layers puts on c what lies below the upgrade: the forward proxy's tunnel and TLS.
func (r *route) layers(ctx context.Context, c net.Conn, proxy *forwardProxy, deadline time.Time) (net.Conn, error) {
	if proxy != nil {
		var err error
		if c, err = proxy.connect(ctx, c, deadline); err != nil {
			return nil, err
		}
		r.obs.event(eventProxy)
	}
	if r.tls != nil {
		var err error
		if c, err = handshakeTLS(ctx, c, r.tls, deadline, stageTLS); err != nil {
			return nil, err
		}
		r.obs.event(eventTLS)
	}
	return c, nil
}

// deadline is that of a handshake that begins now; zero if there is none.
func (d *PreflightDialer) deadline() time.Time {
	if t := d.handshakeTimeout(); t >= 0 {
		return time.Now().Add(t)
	}
	return time.Time{}
}

func (d *PreflightDialer) handshakeTimeout() time.Duration {
	if d.HandshakeTimeout == 0 {
		return defaultTimeout
	}
	return d.HandshakeTimeout
}
