package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/preflight-go/preflight/internal/wire"
)

// A Target is what a connection string such as
//
//	tcp://host:port/path/amps/json?http_preflight=true
//
// means. Its String, and every error about it, leaves the password out.
type Target struct {
	Address   string        // host:port; an IPv6 address in brackets
	Path      string        // as it stands in the URL, percent-encoded; "/" if there is none
	User      *url.Userinfo // nil: none
	TLS       bool          // the scheme is tcps
	Preflight bool          // http_preflight

	// The options of the TCP connection. nil and 0 leave it as package net
	// makes it, which is with no delay and with keep-alive.
	NoDelay       *bool          // tcp_nodelay
	KeepAlive     *bool          // tcp_keepalive
	SendBuffer    int            // tcp_sndbuf, bytes
	ReceiveBuffer int            // tcp_rcvbuf, bytes
	Linger        *int           // tcp_linger, seconds; 0: Close resets the connection
	Bind          netip.AddrPort // bind, the local address; port 0: any
	Prefer        string         // ip_protocol_prefer: "ipv4", "ipv6" or ""
}

// ParseURL parses a connection string in the form that AMPS clients use. The
// scheme is tcp, or tcps for TLS to the host; the port must be given. Options
// are http_preflight, tcp_nodelay, tcp_keepalive (true, false, 1, 0),
// tcp_sndbuf, tcp_rcvbuf (bytes, above 0), tcp_linger (seconds), bind (an IP
// address with or without a port, an IPv6 address with a port in brackets) and
// ip_protocol_prefer (ipv4, ipv6). An unknown scheme or option is an error that
// names it, and so is a repeated option.
func ParseURL(rawURL string) (*Target, error) {
	t, err := parseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("preflight: parse URL: %w", err)
	}
	return t, nil
}

func parseURL(rawURL string) (*Target, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// Its text repeats the URL, which may hold a password.
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		return nil, withoutInput(err)
	}
	t := &Target{Address: u.Host, Path: escapedPath(u), User: u.User}
	switch u.Scheme {
	case "tcp":
	case "tcps":
		t.TLS = true
	default:
		return nil, fmt.Errorf("unknown scheme %q; tcp and tcps are known", u.Scheme)
	}
	switch {
	case u.Hostname() == "":
		return nil, errors.New("no host; the form is tcp://host:port/path?http_preflight=true")
	case u.Port() == "":
		return nil, errors.New("no port; the form is tcp://host:port/path?http_preflight=true")
	case !validHostname(u.Hostname(), strings.HasPrefix(u.Host, "[")):
		return nil, errors.New("the host is neither a name nor an address; an IPv6 address stands in brackets")
	case u.Fragment != "":
		return nil, errors.New("a fragment (#) means nothing here; write %23 for one in the path")
	}
	if _, err := strconv.ParseUint(u.Port(), 10, 16); err != nil {
		return nil, errors.New("the port is not a number from 0 to 65535")
	}
	if t.Path == "" {
		t.Path = "/"
	}
	if strings.Contains(u.RawQuery, "@") {
		// Before a part of a password is taken for an option, and named.
		return nil, errors.New("an @ among the options; a ? in a user name or password is written %3F")
	}
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("options: %w", withoutInput(err))
	}
	names := make([]string, 0, len(options))
	for name := range options {
		names = append(names, name)
	}
	slices.Sort(names) // so that of several errors the same one is reported
	for _, name := range names {
		if len(options[name]) > 1 {
			return nil, fmt.Errorf("option %s is given twice", name)
		}
		if err := t.set(name, options[name][0]); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// withoutInput keeps the kind of an error of package url and drops the part
// of the URL that it quotes.
func withoutInput(err error) error {
	kind, _, _ := strings.Cut(err.Error(), `"`)
	kind, _, _ = strings.Cut(kind, "(")
	return errors.New(strings.TrimRight(kind, " :"))
}

// escapedPath is the path as it stands in the URL, with what RFC 3986 §3.3 does
// not allow there percent-encoded. u.EscapedPath would decode the rest of such
// a path, and a %2F is no slash to a proxy.
func escapedPath(u *url.URL) string {
	if u.RawPath == "" {
		return u.EscapedPath()
	}
	var b strings.Builder
	for _, c := range []byte(u.RawPath) {
		if c > ' ' && c < 0x7f && !strings.ContainsRune("\"<>[]\\^`{|}", rune(c)) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func validHostname(s string, bracketed bool) bool {
	if bracketed {
		a, err := netip.ParseAddr(s)
		// RFC 6874 §2: of a zone, what stands for itself in a URL.
		return err == nil && a.Is6() && (a.Zone() == "" || wire.ValidHost(a.Zone()))
	}
	return wire.ValidHost(s) && !strings.Contains(s, ":")
}

// set sets one option.
func (t *Target) set(name, value string) (err error) {
	switch name {
	case "http_preflight":
		t.Preflight, err = parseBool(value)
	case "tcp_nodelay":
		t.NoDelay, err = pointer(parseBool(value))
	case "tcp_keepalive":
		t.KeepAlive, err = pointer(parseBool(value))
	case "tcp_sndbuf":
		t.SendBuffer, err = parseInt(value, 1)
	case "tcp_rcvbuf":
		t.ReceiveBuffer, err = parseInt(value, 1)
	case "tcp_linger":
		t.Linger, err = pointer(parseInt(value, 0))
	case "bind":
		t.Bind, err = parseBind(value)
	case "ip_protocol_prefer":
		if t.Prefer = value; value != "ipv4" && value != "ipv6" {
			err = errors.New("want ipv4 or ipv6")
		}
	default:
		return fmt.Errorf("unknown option %q; known are http_preflight, tcp_nodelay, tcp_keepalive, tcp_sndbuf, tcp_rcvbuf, tcp_linger, bind and ip_protocol_prefer", name)
	}
	if err != nil {
		return fmt.Errorf("option %s=%q: %w", name, value, err)
	}
	return nil
}

func pointer[T any](v T, err error) (*T, error) { return &v, err }

func parseBool(s string) (bool, error) {
	switch s {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, errors.New("want true, false, 1 or 0")
}

func parseInt(s string, least int) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || int(n) < least {
		return 0, fmt.Errorf("want a number from %d to %d", least, 1<<31-1)
	}
	return int(n), nil
}

func parseBind(s string) (netip.AddrPort, error) {
	literal, bracketed := strings.CutPrefix(s, "[")
	if bracketed {
		literal = strings.TrimSuffix(literal, "]")
	}
	if a, err := netip.ParseAddr(literal); err == nil && (!bracketed || len(s) == len(literal)+2 && a.Is6()) {
		return netip.AddrPortFrom(a, 0), nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, errors.New("want an IP address, or one with a port")
	}
	return a, nil
}

// String is the URL of the target without its options, and with the password
// replaced.
func (t Target) String() string {
	u := url.URL{Scheme: "tcp", User: t.User, Host: t.Address}
	if t.TLS {
		u.Scheme = "tcps"
	}
	if path, err := url.PathUnescape(t.Path); err == nil {
		u.Path, u.RawPath = path, t.Path
	}
	if t.Preflight {
		u.RawQuery = "http_preflight=true"
	}
	return u.Redacted()
}

// dialer is next with the options of the target.
func (t *Target) dialer(next ContextDialer) (ContextDialer, error) {
	if next == nil {
		next = new(net.Dialer)
	}
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

// dialPreferred tries the preferred family, then whatever else there is.
func (d *targetDialer) dialPreferred(ctx context.Context, network, address string) (net.Conn, error) {
	if d.Prefer == "" {
		return d.next.DialContext(ctx, network, address)
	}
	first, second := network+"4", network+"6"
	if d.Prefer == "ipv6" {
		first, second = second, first
	}
	c, err := d.next.DialContext(ctx, first, address)
	if err == nil || ctx.Err() != nil {
		return c, err
	}
	c, other := d.next.DialContext(ctx, second, address)
	if other != nil {
		return nil, errors.Join(err, other)
	}
	return c, nil
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
