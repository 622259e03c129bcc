package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// checkNet rejects a NetDialer that is a nil pointer, a network that is not a stream, and
// a HandshakeTimeout that would overflow a time.
func (d *PreflightDialer) checkNet(network string) error {
	if d.HandshakeTimeout > maxTimeout {
		return fmt.Errorf("HandshakeTimeout is %v, and may be %v at most; negative means none", d.HandshakeTimeout, maxTimeout)
	}
	if d.NetDialer != nil && isNil(d.NetDialer) {
		return fmt.Errorf("NetDialer is a nil %T; leave it unset for a zero net.Dialer", d.NetDialer)
	}
	switch family, _, _ := strings.Cut(network, ":"); family {
	case "tcp", "tcp4", "tcp6", "unix":
		return nil
	case "udp", "udp4", "udp6", "ip", "ip4", "ip6", "unixgram", "unixpacket":
	default:
		// A NetDialer of the user's may know networks that package net does not.
		if _, isNet := d.netDialer().(*net.Dialer); !isNet {
			return nil
		}
	}
	return fmt.Errorf("a tunnel needs a network that is a stream (tcp, tcp4, tcp6 or unix), not %q", network)
}

func (d *PreflightDialer) netDialer() ContextDialer {
	if d.NetDialer == nil {
		return new(net.Dialer)
	}
	return d.NetDialer
}

// dialNet calls next and checks its result: a nil connection would cause a panic later.
func dialNet(ctx context.Context, next ContextDialer, network, address string) (net.Conn, error) {
	c, err := next.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if isNil(c) {
		return nil, fmt.Errorf("preflight: NetDialer (%T) returned neither a connection nor an error", next)
	}
	return c, nil
}

// isNil reports whether v is nil, or holds a nil pointer, function, map, channel or
// slice.
func isNil(v any) bool {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Chan, reflect.Slice:
		return r.IsNil()
	}
	return false
}

// withConnectDeadline is context.WithDeadline for the dial of next to address.
func withConnectDeadline(ctx context.Context, deadline time.Time, next ContextDialer, address string) (context.Context, context.CancelFunc) {
	_, isNet := next.(*net.Dialer)
	if end, ok := ctx.Deadline(); !isNet || !isIPAddress(address) || ok && end.Before(deadline) {
		return context.WithDeadline(ctx, deadline)
	}
	// There is no name to resolve. Package net sets the deadline of a context that
	// can end on the socket itself. An additional timer would cost six allocations.
	c := deadlineContext{ctx, ctx, deadline}
	if ctx.Done() == nil {
		c.Context = never
	}
	return c, func() {}
}

// A deadlineContext has a deadline but does not end when it passes.
type deadlineContext struct {
	context.Context
	values   context.Context
	deadline time.Time
}

// never has a Done channel that never closes.
var never, _ = context.WithCancel(context.Background())

func (c deadlineContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c deadlineContext) Value(key any) any {
	if v := c.values.Value(key); v != nil {
		return v
	}
	return c.Context.Value(key)
}

// dialer returns next with the options of the target.
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

// headStart is how long only the preferred family is dialed. It is the FallbackDelay of
// [net.Dialer].
const headStart = 300 * time.Millisecond

// dialPreferred dials the preferred family. It dials the other family in parallel as soon
// as the preferred one has failed or has used its head start: a family whose packets are
// lost must not use up the time of the other (RFC 8305 §5). If both connect, the
// preferred connection is returned.
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
		c     net.Conn
		err   error
		panic any
	}
	results := make(chan result, 1)
	dialSecond := func() {
		r := result{err: errPanic} // of a goroutine that NetDialer ends
		defer func() {
			r.panic = recover() // for the caller: on the timer's goroutine it would end the process
			results <- r
		}()
		r.c, r.err = dialNet(ctx, d.next, second, address)
		if r.err == nil {
			cancel() // the first one is not needed any more
		}
	}
	timer := time.AfterFunc(delay, dialSecond)
	returned := false
	defer func() {
		if !returned && !timer.Stop() { // NetDialer panics, and nobody else takes the second connection
			cancel()
			if other := <-results; other.err == nil {
				abandon(other.c)
			}
		}
	}()
	c, err := dialNet(ctx, d.next, first, address)
	returned = true
	notBegun := timer.Stop()
	switch {
	case err == nil && notBegun:
		return c, nil
	case err == nil:
		cancel()
		other := <-results
		if other.panic != nil {
			abandon(c)
			panic(other.panic)
		}
		if other.err == nil {
			abandon(other.c)
		}
		return c, nil
	case notBegun && ctx.Err() != nil:
		return nil, err
	case notBegun:
		dialSecond()
	}
	other := <-results
	if other.panic != nil {
		panic(other.panic)
	}
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

// tcpConn returns the TCP connection at the bottom of c, or nil.
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

// serverName returns the host of an address, without port and zone.
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

// hostField returns the Host field of the request to a dialed address.
func (d *PreflightDialer) hostField(network, address string) string {
	if d.Host != "" {
		return asciiHost(d.Host)
	}
	host, defaultPort := hostOf(network, address), ":80"
	if d.TLSConfig != nil {
		defaultPort = ":443"
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		return host // which has no port to leave out
	}
	// Proxies that choose by an exact Host expect it without the default port,
	// as other HTTP clients send it.
	return strings.TrimSuffix(host, defaultPort)
}

// tlsName returns the name of the server for TLS. It is in Host if the address is only
// that of a machine.
func (d *PreflightDialer) tlsName(network, address string) string {
	if d.Host == "" {
		return serverName(network, address)
	}
	u := url.URL{Host: asciiHost(d.Host)}
	return u.Hostname()
}

// hostOf converts an address that package net can dial to a host and a port as HTTP
// writes them. upgrade.check rejects addresses that hostOf cannot make valid.
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
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || port[0] == '0' {
		// Package net knows services by name, and numbers that begin with
		// zeros. A Host field has neither.
		if n, err := net.LookupPort("tcp", port); err == nil {
			number = strconv.Itoa(n)
		}
	}
	if name == host && number == port && address[0] != '[' {
		return address // as it would be put together again
	}
	return net.JoinHostPort(name, number)
}

// asciiHost converts a host, with or without a port, to the form that DNS, HTTP and TLS
// use: an internationalized name becomes ASCII (RFC 5891 §5). One conversion serves all
// three. httpguts.PunycodeHostPort does not map upper case, so its name would differ
// from the name in DNS. A name that cannot be converted is returned unchanged, and is
// rejected later if it is not a valid host.
func asciiHost(hostPort string) string {
	if isASCII(hostPort) {
		return hostPort
	}
	host, port, noPort := net.SplitHostPort(hostPort)
	if noPort != nil {
		host = hostPort
	}
	name, err := idna.Lookup.ToASCII(host)
	switch {
	case err != nil || !utf8.ValidString(host): // of which idna makes U+FFFD
		return hostPort
	case noPort != nil:
		return name
	}
	return net.JoinHostPort(name, port)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// isIPAddress reports whether the host of a host:port is an IP address.
func isIPAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}
