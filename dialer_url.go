package preflight

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/preflight-go/preflight/internal/wire"
)

// A Target is the meaning of a connection string such as
//
//	tcp://host:port/path/amps/json?http_preflight=true
//	wss://host/path/amps/json
//
// Its String, and every error about it, omits the password.
type Target struct {
	Address   string        // host:port, the host in ASCII; an IPv6 address in brackets
	Path      string        // as it stands in the URL, percent-encoded; "/" if there is none
	User      *url.Userinfo // for the logon of the application; nil: none
	TLS       bool          // the scheme is tcps or wss
	Preflight bool          // http_preflight; always with ws and wss
	Carriers  []Carrier     // CarrierWebSocket alone with ws and wss; nil: those of the dialer

	// The options of the TCP connection. nil and 0 leave it as package net
	// makes it, which is with no delay and with keep-alive.
	NoDelay       *bool          // tcp_nodelay
	KeepAlive     *bool          // tcp_keepalive
	SendBuffer    int            // tcp_sndbuf, bytes
	ReceiveBuffer int            // tcp_rcvbuf, bytes
	Linger        *int           // tcp_linger, seconds; 0: Close resets the connection; -1: off
	Bind          netip.AddrPort // bind, the local address; port 0: any
	Prefer        string         // ip_protocol_prefer: "ipv4", "ipv6" or ""

	ConnectTimeout time.Duration // tcp_connecttimeout; 0: no limit of its own
	ServerName     string        // sni, the name of the server for TLS, in ASCII; "": none

	// Options holds the options that belong to the application, by name, with their
	// values as written in the URL: pretty (an option of the logon), compression
	// (of what the application sends) and tcp_idlereadtimeout (of its reads). They
	// do not affect the dial. nil means that there are none.
	Options map[string]string
}

// ParseURL parses a connection string in the form of the AMPS clients for C++ and Java.
// It accepts the options for tcp and tcps of both clients. The scheme is tcp, or tcps for
// TLS to the host, and the port is required. The schemes ws and wss mean a tunnel that
// uses only [CarrierWebSocket], without and with TLS to the host. They imply
// http_preflight, and the port may be left out: it is 80 or 443 then (RFC 6455 §3). The
// options are
//
//	http_preflight      true, false, 1, 0: perform the upgrade
//	tcp_nodelay         true, false, 1, 0
//	tcp_keepalive       true, false, 1, 0
//	tcp_sndbuf          bytes, above 0
//	tcp_rcvbuf          bytes, above 0
//	tcp_linger          seconds; 0 resets the connection on Close, -1 turns it off
//	tcp_connecttimeout  milliseconds; 0 sets none
//	bind                an IP address with or without a port, an IPv6 address with a port in brackets
//	ip_protocol_prefer  ipv4, ipv6
//	sni                 a host name; only for tcps and wss
//
// and those of [Target.Options], whose values are not checked. In the C++ client
// tcp_linger=0 turns lingering off; here and in the Java client -1 does. An unknown
// scheme or option is an error that names it, as in both clients. A repeated option is
// an error too.
func ParseURL(rawURL string) (*Target, error) {
	t, err := parseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("preflight: parse URL: %w", err)
	}
	return t, nil
}

func parseURL(rawURL string) (*Target, error) {
	if !hasScheme(rawURL) {
		return nil, errors.New("no scheme; the form is tcp://host:port/path?http_preflight=true, with tcps:// for TLS")
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		// Its text repeats the URL, which may hold a password.
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		return nil, withoutInput(err)
	}
	t := &Target{Address: asciiHost(u.Host), Path: escapedPath(u), User: u.User}
	u.Host = t.Address
	defaultPort := ""
	switch u.Scheme {
	case "tcp":
	case "tcps":
		t.TLS = true
	case "ws":
		t.Carriers, defaultPort = []Carrier{CarrierWebSocket}, "80"
	case "wss":
		t.TLS, t.Carriers, defaultPort = true, []Carrier{CarrierWebSocket}, "443"
	default:
		return nil, fmt.Errorf("unknown scheme %q; tcp, tcps, ws and wss are known", u.Scheme)
	}
	if defaultPort != "" && u.Port() == "" && u.Hostname() != "" {
		t.Address = net.JoinHostPort(u.Hostname(), defaultPort)
		u.Host = t.Address
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
	if u.User == nil && strings.Contains(t.Path, "@") {
		// Before a part of a password is taken for the path, and shown.
		return nil, errors.New("an @ in the path of a URL without a user; write %40 in a path, and %2F for a / in a user name or password")
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
	if t.Carriers != nil {
		if _, ok := options["http_preflight"]; ok && !t.Preflight {
			return nil, errors.New("option http_preflight is off although the scheme is ws or wss, which stand for a tunnel; write tcp or tcps for a connection without one")
		}
		t.Preflight = true
	}
	return t, nil
}

// scheme returns the scheme of the target, and the one with TLS that belongs to it.
func (t *Target) scheme() (own, secure string) {
	own, secure = "tcp", "tcps"
	if t.Carriers != nil {
		own, secure = "ws", "wss"
	}
	if t.TLS {
		own = secure
	}
	return own, secure
}

// hasScheme reports whether a URL begins with a scheme (RFC 3986 §3.1). Package
// url takes the host of host:9007/path for one, or misses it in another way; here
// each scheme but tcp and tcps has "//" behind it.
func hasScheme(rawURL string) bool {
	scheme, rest, ok := strings.Cut(rawURL, ":")
	for i, c := range []byte(strings.ToLower(scheme)) {
		if letter := 'a' <= c && c <= 'z'; !letter && (i == 0 || !strings.ContainsRune("0123456789+-.", rune(c))) {
			return false
		}
	}
	known := strings.EqualFold(scheme, "tcp") || strings.EqualFold(scheme, "tcps")
	return ok && scheme != "" && (known || strings.HasPrefix(rest, "//"))
}

// withoutInput keeps the kind of an error of package url and drops the part of the URL
// that the error quotes.
func withoutInput(err error) error {
	kind, _, _ := strings.Cut(err.Error(), `"`)
	kind, _, _ = strings.Cut(kind, "(")
	return errors.New(strings.TrimRight(kind, " :"))
}

// escapedPath returns the path as written in the URL. Bytes that RFC 3986 §3.3 does not
// allow there are percent-encoded. u.EscapedPath would decode the rest of such a path,
// but to a proxy a %2F is not a slash.
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
		t.Linger, err = pointer(parseInt(value, -1))
	case "tcp_connecttimeout":
		var ms int
		ms, err = parseInt(value, 0)
		t.ConnectTimeout = time.Duration(ms) * time.Millisecond
	case "bind":
		t.Bind, err = parseBind(value)
	case "ip_protocol_prefer":
		if t.Prefer = value; value != "ipv4" && value != "ipv6" {
			err = errors.New("want ipv4 or ipv6")
		}
	case "sni":
		t.ServerName, err = t.parseServerName(value)
	case "pretty", "compression", "tcp_idlereadtimeout":
		if t.Options == nil {
			t.Options = make(map[string]string)
		}
		t.Options[name] = value
	default:
		return fmt.Errorf("unknown option %q; known are http_preflight, tcp_nodelay, tcp_keepalive, tcp_sndbuf, tcp_rcvbuf, tcp_linger, tcp_connecttimeout, tcp_idlereadtimeout, bind, ip_protocol_prefer, sni, pretty and compression", name)
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

func (t *Target) parseServerName(s string) (string, error) {
	name := asciiHost(s)
	_, notAddress := netip.ParseAddr(name) // RFC 6066 §3: no addresses
	switch {
	case !t.TLS:
		own, secure := t.scheme()
		return "", fmt.Errorf("the scheme %s is without TLS; use %s", own, secure)
	case notAddress == nil || !validHostname(name, false):
		return "", errors.New("want a host name")
	}
	return name, nil
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

// String returns the URL of the target without its options. The password is replaced.
func (t Target) String() string {
	u := url.URL{User: t.User, Host: t.Address}
	u.Scheme, _ = t.scheme()
	if path, err := url.PathUnescape(t.Path); err == nil {
		u.Path, u.RawPath = path, t.Path
	}
	if t.Preflight && t.Carriers == nil {
		u.RawQuery = "http_preflight=true"
	}
	return u.Redacted()
}

// DialURL dials the target of rawURL, see [ParseURL]. With http_preflight=true it
// performs the upgrade as DialContext does, and the path of the URL is the Path; the
// connection is a [*Conn]. With the schemes ws and wss it does the same, but uses only
// CarrierWebSocket; then it is an error if Carriers is set without CarrierWebSocket.
// Without http_preflight, DialURL dials the host itself, with TLS for tcps, and the path
// belongs to the application. The userinfo of the URL is never sent. It belongs to the logon of the
// application, which reads it, and the path, with ParseURL.
//
// The scheme decides about TLS. tcps and wss use TLSConfig, or a zero Config if it is nil.
// tcp and ws with a TLSConfig are an error. The option sni is the ServerName of TLSConfig; a
// different ServerName there is an error. Path must be empty. Without http_preflight
// there is no tunnel, so TunnelTLSConfig is an error.
//
// The option tcp_connecttimeout bounds NetDialer instead of HandshakeTimeout, even if
// ctx has a later deadline. With ip_protocol_prefer, the other address family is dialed
// too if the preferred one fails, or has not connected after 300 ms or half of the
// remaining time. The tcp_ options for sockets are applied to the TCP connection that
// NetDialer returns. bind requires a NetDialer that is nil or a [*net.Dialer].
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
	c, answer, err := at.dialLayers(ctx, r, nil)
	if d.wantsFields(answer) {
		c, _, err = at.dialLayers(ctx, r, answer)
	}
	return c, err
}

// target resolves t with the configuration. It returns the route, and the dialer that
// takes it.
func (d *PreflightDialer) target(t *Target) (r route, at *PreflightDialer, err error) {
	if err := d.checkNet("tcp"); err != nil {
		return r, nil, err
	}
	d.remembered() // which the copy is to share
	copied := *d
	at = &copied
	if t.Carriers != nil {
		if d.Carriers != nil && !slices.Contains(d.Carriers, CarrierWebSocket) {
			own, _ := t.scheme()
			return r, nil, fmt.Errorf("the scheme %s needs CarrierWebSocket, which is not in the field Carriers; add it, or write tcp or tcps with http_preflight=true", own)
		}
		at.Carriers = t.Carriers
	}
	switch {
	case d.Path != "":
		return r, nil, errors.New("the path is that of the URL; leave PreflightDialer.Path empty")
	case !t.TLS && d.TLSConfig != nil:
		own, secure := t.scheme()
		return r, nil, fmt.Errorf("the scheme %s is without TLS although TLSConfig is set; use %s", own, secure)
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
		r, err = at.route("tcp", t.Address)
	} else {
		r, err = at.plainRoute(t.Address)
	}
	r.connectTimeout = t.ConnectTimeout
	return r, at, err
}

// plainRoute returns the route without an upgrade. Its upgrade is only the argument of
// Proxy.
func (d *PreflightDialer) plainRoute(address string) (r route, err error) {
	u := upgrade{target: d.Path, host: d.hostField("tcp", address), protocol: defaultToken}
	if err := u.check(); err != nil {
		return r, err
	}
	r = route{network: "tcp", address: address, upgrade: u}
	if d.TLSConfig != nil {
		r.tls = d.TLSConfig.Clone()
		if err := nameServer(r.tls, d.tlsName("tcp", address)); err != nil {
			return r, fmt.Errorf("TLSConfig: %w", err)
		}
	}
	return r, nil
}

// dialLayers is dial without an upgrade.
func (d *PreflightDialer) dialLayers(ctx context.Context, r route, refused *StatusError) (conn net.Conn, answer *StatusError, err error) {
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
	answer, _ = err.(*StatusError)
	return conn, answer, err
}
