package preflight

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A ContextDialer opens connections. [*net.Dialer], [*tls.Dialer], the dialers of
// golang.org/x/net/proxy and [*PreflightDialer] implement it.
type ContextDialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// A PreflightDialer reaches a TCP server through an HTTP reverse proxy. It dials the
// proxy, sends one upgrade request, and returns the tunnel when the server has
// answered 101. The zero value is ready to use and asks for "/". A PreflightDialer
// replaces a [*net.Dialer]:
//
//	d := &preflight.PreflightDialer{Path: "/client/amps/json"}
//	conn, err := d.DialContext(ctx, "tcp", "edge.example:80")
//
// A dial consists of these steps. The first step and the upgrade always happen, the
// others only if they are configured:
//
//	NetDialer -> forward proxy (Proxy) -> TLS (TLSConfig) -> upgrade -> TLS inside (TunnelTLSConfig)
//
// If the answer shows that the way does not pass the upgrade, the steps are taken again
// with the next of Carriers.
//
// An invalid configuration is an error before anything is dialed. All methods are
// safe for concurrent use. Fields must not be changed while a method runs. A dialer may
// be copied, but not during its first dial.
//
// # Drivers that change the address
//
// Many drivers do not dial the address in their configuration:
//
//   - Some resolve its name first (pgx, nats.go, gRPC with its dns resolver). Host
//     would then be an IP address.
//   - Some dial the RemoteAddr of a connection again (pgx, to cancel a query). That is
//     the address of the proxy.
//   - Some dial addresses that the server sends (Redis Cluster). Only the proxy can
//     reach them.
//
// Give such a driver a dial function that ignores the address:
//
//	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
//		return d.DialContext(ctx, "tcp", "edge.example:80")
//	}
//
// If the driver talks to several servers, the function uses the address only to
// choose the Path.
//
// gRPC uses the proxies of the environment (HTTPS_PROXY) only if it dials by itself.
// With a dial function, set Proxy to [net/http.ProxyFromEnvironment]. gRPC sets
// TCP_USER_TIMEOUT only on a bare *net.TCPConn. Set it with the Control function of a
// [net.Dialer] in NetDialer.
type PreflightDialer struct {
	// NetDialer opens the connection to the proxy. nil means a zero [net.Dialer].
	// It must return when its context ends. The connection is closed if the
	// handshake fails. If the context or HandshakeTimeout ends during the handshake, a
	// connection without deadlines, such as a channel of an SSH connection, is closed.
	// Its methods that set a deadline must return an error: a connection that accepts a
	// deadline and ignores it is not bounded in time.
	NetDialer ContextDialer

	// Proxy returns the forward (outbound) proxy for an address, like the field of
	// [net/http.Transport]. nil, or a nil URL, means no proxy.
	// [net/http.ProxyFromEnvironment] can be used. The argument is a request with
	// the dialed address, the scheme https and the context of the dial. The scheme
	// is https even without TLSConfig: a tunnel needs CONNECT, and HTTPS_PROXY names
	// the proxy for CONNECT. gRPC asks in the same way.
	//
	// The URL may have the scheme http or https (CONNECT), or socks5 or socks5h.
	// Both socks schemes let the proxy resolve names. Userinfo in the URL supplies
	// the credentials. TLS to an https proxy uses TLSConfig, with its roots, client
	// certificates and callbacks, under the name of the proxy. If the proxy needs
	// other TLS settings, use an http URL and a NetDialer that dials TLS. Unix
	// sockets are dialed directly.
	Proxy func(*http.Request) (*url.URL, error)

	// ProxyHeader holds additional fields of the CONNECT request, such as
	// User-Agent, which some firewalls require. Setting it without Proxy is an
	// error. It has no effect with a SOCKS5 proxy. Proxy-Authorization replaces the
	// credentials in the proxy's URL. The names that are errors in Header are
	// errors here too, except Proxy-Authorization.
	ProxyHeader http.Header

	// TLSConfig makes the connection to the reverse proxy a TLS connection. nil
	// means no TLS. If ServerName is empty, it is the name in Host, or in the
	// address if Host is empty. ALPN offers only http/1.1, because HTTP/2 has no
	// Upgrade (RFC 9113 §8.6). A NextProtos without http/1.1 is an error. The Config
	// is not modified.
	TLSConfig *tls.Config

	// TunnelTLSConfig makes the tunnel a TLS connection after the 101, end to end
	// through proxies that terminate the outer TLS. nil means no TLS inside the
	// tunnel. The request asks for it with the field "Preflight-Tunnel: tls", which
	// the 101 must repeat. A PreflightListener repeats it if its TLSConfig is set,
	// and otherwise answers 426. If the server has a tls.Listener around its
	// PreflightListener, nobody answers the field: leave TunnelTLSConfig nil, and
	// call [crypto/tls.Client] on the returned Conn.
	//
	// If the tunnel ends without TLS's close_notify, Read returns
	// [io.ErrUnexpectedEOF]. If ServerName is empty, it is taken from Host, or from
	// the address. The Config is not modified. Its ClientSessionCache may be that of
	// TLSConfig: sessions inside tunnels have keys of their own, one for each Host and
	// path.
	TunnelTLSConfig *tls.Config

	// Protocol is the upgrade token. "" means "tcp". "websocket" is an error. Squid
	// compares the token case-sensitively.
	Protocol string

	// Carriers are the carriers to try, in this order. nil means CarrierUpgrade and
	// CarrierWebSocket. An unknown, a repeated and an empty list are errors.
	//
	// The next carrier is tried, on a new connection, where the answer shows that
	// something on the way does not pass the one before. An outage, a refusal of
	// credentials or of the listener itself, and an error of TLS never lead to
	// another carrier. A dial sends at most four requests, and HandshakeTimeout
	// bounds each. If all fail, the error wraps the error of each, and its text
	// begins with that of the first. If a later carrier has worked, the dialer
	// remembers it for 15 minutes, so that later dials with the same forward proxy,
	// address, TLS and its server name, Host, path and Carriers begin with it. Copies
	// of a dialer share this memory once it has dialed.
	Carriers []Carrier

	// KeepAlivePeriod is the longest silence of this side of a framed or WebSocket
	// tunnel. Then it sends a PING, so that proxies do not end a tunnel that looks
	// idle. 0 means 20 seconds. A negative value disables PINGs. Less than a
	// millisecond and more than 365 days are errors. CarrierUpgrade has no PINGs.
	KeepAlivePeriod time.Duration

	// MaxIdleTimeout ends a framed or WebSocket tunnel while Read waits, if nothing
	// at all, not even a PING, has come for so long. Read then returns an error that
	// wraps ETIMEDOUT. 0 means no limit. Twice the peer's KeepAlivePeriod is a good
	// value. A negative value, less than a millisecond, less than twice KeepAlivePeriod,
	// or more than 365 days is an error.
	MaxIdleTimeout time.Duration

	// Host is the Host field of the request: a name or an address, with or without
	// a port. A proxy may choose the server by it. It is also the server name of
	// TLS, see TLSConfig. "" means the dialed address without the default port,
	// which is 80, or 443 with TLSConfig. On a Unix socket "" means "localhost".
	// Internationalized names are converted to ASCII (RFC 5891), here and in the
	// address.
	Host string

	// Path is the request target by which the proxy chooses the server. It is a
	// path that begins with "/", optionally with a query. It must be
	// percent-encoded as RFC 3986 requires. "" means "/".
	Path string

	// Header holds additional fields of the request. They are sent in the order of
	// their names. Host, Connection, Upgrade, Content-Length, Transfer-Encoding,
	// Trailer and Expect are errors here. So is Proxy-Authorization, which belongs
	// in ProxyHeader. Keep the whole head below 7 KiB, which every proxy accepts. A
	// proxy may send the request more than once, so a credential that is valid for
	// one use fails.
	Header http.Header

	// GetHeader returns fields for credentials that expire. They replace the fields
	// of the same name in Header. A Proxy-Authorization among them goes to the
	// forward proxy and replaces that of ProxyHeader. nil means that Header is used
	// alone.
	//
	// GetHeader is called for each attempt, with the context of the dial. On the first
	// attempt with a carrier refused is nil. If that attempt is answered 401 or 407,
	// refused is that answer, with its challenge, and the carrier is tried once more on
	// a new connection. An error ends the dial. GetHeader is called concurrently. It must
	// not return a Header that it changes later.
	GetHeader func(ctx context.Context, refused *StatusError) (http.Header, error)

	// HandshakeTimeout bounds each attempt from the moment when NetDialer has
	// returned: forward proxy, TLS, upgrade and TLS inside the tunnel. If the
	// context has no deadline, NetDialer gets the same time before that. 0 means 10
	// seconds. A negative value means that only the context bounds the dial. More
	// than 365 days is an error.
	HandshakeTimeout time.Duration

	// Telemetry reports the attempts and the connections that they open, except
	// those of DialURL without an upgrade. nil disables telemetry. The contexts
	// passed to NetDialer, Proxy and GetHeader carry the span of the attempt.
	Telemetry *Telemetry

	memory *carrierMemory // made by the first dial; guarded by creating
}

// Dial calls DialContext with the background context.
func (d *PreflightDialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext dials the proxy at address and performs the upgrade. The returned
// connection, if any, is always a [*Conn]. Once successfully connected, any
// expiration of ctx does not affect the connection.
//
// The network is tcp, tcp4, tcp6 or unix. The other networks of package net are not
// streams and are errors. A network that package net does not know is passed to
// NetDialer, unless NetDialer is nil or a [*net.Dialer].
//
// The errors are:
//
//   - An error of NetDialer is returned unchanged. If NetDialer dialed the forward
//     proxy, it is wrapped in a [*net.OpError] with Op "proxyconnect".
//   - A refusal is a [*StatusError]. If it led to other carriers, and they failed too,
//     the error wraps the error of each; [errors.As] finds the first refusal first.
//   - Any other failure of the handshake is a [*net.OpError] with Op "preflight" that
//     names the stage. If ctx ended, it wraps the cause ([context.Cause]). If
//     HandshakeTimeout expired, it wraps [os.ErrDeadlineExceeded], and Timeout
//     reports true.
func (d *PreflightDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	r, err := d.route(network, address)
	if err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	return d.attempts(ctx, r)
}

// wantsFields reports whether fresh fields may overcome answer, which may be nil.
func (d *PreflightDialer) wantsFields(answer *StatusError) bool {
	return d.GetHeader != nil && answer != nil &&
		(answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusProxyAuthRequired)
}

// A route is the destination of a dial and the layers on the way to it.
type route struct {
	network, address string
	connectTimeout   time.Duration // bounds NetDialer; 0: see HandshakeTimeout
	upgrade          upgrade       // without its header
	tls, tunnelTLS   *tls.Config
	periods          periods
	obs              *observation // of one attempt
}

// route resolves the configuration. It does not modify the caller's fields.
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
	if u.carriers, r.periods, err = d.checkCarriers(); err != nil {
		return r, err
	}
	u.websocket = slices.Contains(u.carriers, CarrierWebSocket)
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
		r.tunnelTLS = tunnelConfig(d.TunnelTLSConfig, u)
		if err := nameServer(r.tunnelTLS, name); err != nil {
			return r, fmt.Errorf("TunnelTLSConfig: %w", err)
		}
	}
	return r, nil
}

// dial makes one attempt, with the first carrier that t has left. refused is the refusal for
// GetHeader, or nil. answer is err if the attempt was refused. An error of NetDialer is never
// an answer, even if it is a refusal.
func (d *PreflightDialer) dial(ctx context.Context, r route, t *descent, refused *StatusError) (conn *Conn, answer *StatusError, err error) {
	side := d.Telemetry.clientSide()
	r.obs = side.begin()
	ctx = r.obs.dial(ctx, r.address)
	side.addPending(1)
	defer func() {
		side.addPending(-1)
		switch {
		case conn != nil:
			r.obs.done(outcomeKey{kind: kindUpgraded, carrier: t.left[0]})
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
	if !t.begun {
		t.begin(&r, proxy)
	}
	r.upgrade.carriers = t.left
	r.obs.tries(t.left[0])
	c, err := d.connect(ctx, &r, proxy)
	if err != nil {
		r.obs.fail(ctx, &stageError{stage: "dial", err: err}) // a refusal that NetDialer returned is not ours
		return nil, nil, err
	}
	defer func() { // also if a callback of TLS panics
		if conn == nil {
			abandon(c)
		}
	}()
	r.obs.event(eventConnect)
	conn, err = d.handshake(ctx, c, &r, proxy)
	answer, _ = err.(*StatusError)
	return conn, answer, err
}

// connect opens the transport, to the forward proxy if there is one.
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
		return nil, &net.OpError{Op: "proxyconnect", Net: "tcp", Err: err} // as net/http does
	}
	return c, err
}

// header returns the fields of the upgrade request and those of the CONNECT.
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

// handshake turns the dialed connection into the tunnel.
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
	bottom := c
	c, leftover = r.periods.client(c, r.upgrade.carriers[0], leftover)
	if r.tunnelTLS != nil {
		below := &tunnelConn{Conn: c}
		if len(leftover) > 0 {
			below.Conn = newConn(c, nil, new(heads), leftover, nil)
		}
		inside, err := handshakeTLS(ctx, below, r.tunnelTLS, deadline, stageTunnelTLS, r.upgrade.edge)
		if err != nil {
			if c != bottom { // from the bottom, so that the layer of the capsules does not linger
				closeBottom(bottom)
				c.Close()
			}
			return nil, err
		}
		c = inside
		below.open = true
		r.obs.event(eventTunnelTLS)
		leftover = nil
	}
	return r.obs.newConn(c, nil, &h, leftover, nil), nil
}

// layers adds the layers below the upgrade to c: the tunnel of the forward proxy, and
// TLS.
func (r *route) layers(ctx context.Context, c net.Conn, proxy *forwardProxy, deadline time.Time) (net.Conn, error) {
	if proxy != nil {
		var err error
		if c, err = proxy.connect(ctx, c, deadline); err != nil {
			return nil, err
		}
		r.upgrade.edge = edgeAddr{proxy.target, addrString(c.RemoteAddr())}
		r.obs.event(eventProxy)
	}
	if r.tls != nil {
		var err error
		if c, err = handshakeTLS(ctx, c, r.tls, deadline, stageTLS, r.upgrade.edge); err != nil {
			return nil, err
		}
		r.upgrade.tls = true
		r.obs.event(eventTLS)
	}
	return c, nil
}

// deadline is the deadline of a handshake that begins now; zero if there is none.
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
