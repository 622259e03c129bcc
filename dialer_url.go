package preflight

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// DialURL dials what rawURL names, see [ParseURL]. With http_preflight=true it
// performs the upgrade as DialContext does, with the path of the URL as Path; the
// connection is a [*Conn]. Without it, it dials the host itself, with TLS for
// tcps, and the path is for the application. The userinfo of the URL is sent in
// neither case: it belongs to the logon of the application, which finds it, and
// the path, by ParseURL.
//
// The scheme decides about TLS: tcps uses TLSConfig, or a zero one if there is
// none, and tcp with a TLSConfig is an error. The option sni is the ServerName of
// TLSConfig, and an error beside another one there. Path must be empty. Without
// http_preflight, TunnelTLSConfig is an error, because there is no tunnel.
//
// The option tcp_connecttimeout bounds NetDialer in place of HandshakeTimeout, and
// also where ctx has a later deadline. With ip_protocol_prefer the other family is
// dialed as well if the preferred one fails, or has not connected after 300 ms, or
// after half of the time that is left. The tcp_ options for sockets are applied to the
// TCP connection that NetDialer returns. bind needs a NetDialer that is nil or a
// [*net.Dialer].
func (d *PreflightDialer) DialURL(ctx context.Context, rawURL string) (net.Conn, error) {
	t, err := ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	r, at, err := d.target(t)
	if err != nil {
		return nil, fmt.Errorf("preflight: dial %s: %w", t, err)
	}
	if t.Preflight {
		return at.attempts(ctx, r)
	}
	c, refused, err := at.dialLayers(ctx, r, nil)
	if refused != nil {
		c, _, err = at.dialLayers(ctx, r, refused)
	}
	return c, err
}

// target resolves t by the configuration: the road to it, and the dialer that
// takes that road.
func (d *PreflightDialer) target(t *Target) (r road, at *PreflightDialer, err error) {
	if err := d.checkNet("tcp"); err != nil {
		return r, nil, err
	}
	copied := *d
	at = &copied
	switch {
	case d.Path != "":
		return r, nil, errors.New("the path is that of the URL; leave PreflightDialer.Path empty")
	case !t.TLS && d.TLSConfig != nil:
		return r, nil, errors.New("the scheme tcp is without TLS although TLSConfig is set; use tcps")
	case !t.Preflight && d.TunnelTLSConfig != nil:
		return r, nil, errors.New("TunnelTLSConfig is set although there is no tunnel; write http_preflight=true")
	case t.TLS && d.TLSConfig == nil:
		at.TLSConfig = new(tls.Config)
	}
	if t.ServerName != "" {
		if own := at.TLSConfig.ServerName; own != "" && own != t.ServerName {
			return r, nil, fmt.Errorf("option sni=%q is not the ServerName of TLSConfig; set one of them", t.ServerName)
		}
		at.TLSConfig = at.TLSConfig.Clone()
		at.TLSConfig.ServerName = t.ServerName
	}
	if at.NetDialer, err = t.dialer(d.netDialer()); err != nil {
		return r, nil, err
	}
	at.Path = t.Path
	if t.Preflight {
		r, err = at.road("tcp", t.Address)
	} else {
		r, err = at.plainRoad(t.Address)
	}
	r.connectTimeout = t.ConnectTimeout
	return r, at, err
}

// plainRoad is the road without an upgrade. Its upgrade is what Proxy is asked
// about.
func (d *PreflightDialer) plainRoad(address string) (r road, err error) {
	u := upgrade{target: d.Path, host: d.hostField("tcp", address), protocol: defaultToken}
	if err := u.check(); err != nil {
		return r, err
	}
	r = road{network: "tcp", address: address, upgrade: u}
	if d.TLSConfig != nil {
		r.tls = d.TLSConfig.Clone()
		if err := nameServer(r.tls, d.tlsName("tcp", address)); err != nil {
			return r, fmt.Errorf("TLSConfig: %w", err)
		}
	}
	return r, nil
}

// dialLayers is dial without an upgrade.
func (d *PreflightDialer) dialLayers(ctx context.Context, r road, refused *StatusError) (conn net.Conn, again *StatusError, err error) {
	_, proxyHeader, err := d.header(ctx, refused)
	if err != nil {
		return nil, nil, err
	}
	proxy, err := d.forwardProxy(ctx, &r, proxyHeader)
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

// dialer is next with the options of the target.
func (t *Target) dialer(next ContextDialer) (ContextDialer, error) {
	if t.Bind.IsValid() {
		d, ok := next.(*net.Dialer)
		if !ok {
			return nil, fmt.Errorf("option bind needs a *net.Dialer as NetDialer, not %T", next)
		}
		bound := *d
		bound.LocalAddr = net.TCPAddrFromAddrPort(t.Bind)
		next = &bound
	}
	return &targetDialer{next, t}, nil
}

// A targetDialer applies the options of a target to the connections of next.
type targetDialer struct {
	next ContextDialer
	*Target
}

func (d *targetDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.dialPreferred(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := d.apply(c); err != nil {
		abandon(c)
		return nil, err
	}
	return c, nil
}

// headStart is the time for which the preferred family is dialed alone. It is the
// FallbackDelay of [net.Dialer].
const headStart = 300 * time.Millisecond

// dialPreferred dials the preferred family, and the other one beside it as soon
// as the first has failed or has had its head start: a family whose packets are
// lost must not use up the time of the other (RFC 8305 §5). If both connect, the
// preferred one is returned.
func (d *targetDialer) dialPreferred(ctx context.Context, network, address string) (net.Conn, error) {
	if d.Prefer == "" {
		return dialNet(ctx, d.next, network, address)
	}
	first, second := network+"4", network+"6"
	if d.Prefer == "ipv6" {
		first, second = second, first
	}
	delay := headStart
	if deadline, ok := ctx.Deadline(); ok {
		delay = min(delay, time.Until(deadline)/2)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   net.Conn
		err error
	}
	results := make(chan result, 1)
	dialSecond := func() {
		c, err := dialNet(ctx, d.next, second, address)
		if err == nil {
			cancel() // the first one is not needed any more
		}
		results <- result{c, err}
	}
	timer := time.AfterFunc(delay, dialSecond)
	defer timer.Stop()
	c, err := dialNet(ctx, d.next, first, address)
	notBegun := timer.Stop()
	switch {
	case err == nil && notBegun:
		return c, nil
	case err == nil:
		cancel()
		if other := <-results; other.err == nil {
			abandon(other.c)
		}
		return c, nil
	case notBegun && ctx.Err() != nil:
		return nil, err
	case notBegun:
		dialSecond()
	}
	other := <-results
	if other.err != nil {
		return nil, errors.Join(err, other.err)
	}
	return other.c, nil
}

// apply sets the socket options.
func (t *Target) apply(c net.Conn) error {
	if t.NoDelay == nil && t.KeepAlive == nil && t.SendBuffer == 0 && t.ReceiveBuffer == 0 && t.Linger == nil {
		return nil
	}
	tcp := tcpConn(c)
	if tcp == nil {
		return fmt.Errorf("preflight: the tcp_ options need a TCP connection; NetDialer returned %T", c)
	}
	var errs []error
	if t.NoDelay != nil {
		errs = append(errs, tcp.SetNoDelay(*t.NoDelay))
	}
	if t.KeepAlive != nil {
		errs = append(errs, tcp.SetKeepAlive(*t.KeepAlive))
	}
	if t.SendBuffer > 0 {
		errs = append(errs, tcp.SetWriteBuffer(t.SendBuffer))
	}
	if t.ReceiveBuffer > 0 {
		errs = append(errs, tcp.SetReadBuffer(t.ReceiveBuffer))
	}
	if t.Linger != nil {
		errs = append(errs, tcp.SetLinger(*t.Linger))
	}
	return errors.Join(errs...)
}

// tcpConn is the TCP connection at the bottom of c, or nil.
func tcpConn(c net.Conn) *net.TCPConn {
	for {
		switch below := c.(type) {
		case *net.TCPConn:
			return below
		case interface{ NetConn() net.Conn }:
			c = below.NetConn()
		default:
			return nil
		}
	}
}
