package preflight_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// kndChain is what is said about one client's address, and who says it.
type kndChain struct {
	name   string
	field  string       // ClientAddrHeader
	from   string       // the peer; "" is one that is trusted
	proxy  *net.TCPAddr // the source in the PROXY header, if there is one
	lines  []string     // field lines
	want   string       // "" is the peer
	broken string       // text of the refusal
}

const (
	kndStranger = "127.0.0.9"
	kndXFF      = "X-Forwarded-For: "
)

// kndTrusted are the proxies of the chain tests: the peer, and three sources.
var kndTrusted = kndTrust("127.0.0.1/32", "10.0.0.0/8", "2001:db8:a::/48")

var (
	kndInside  = &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 4711}
	kndInside6 = &net.TCPAddr{IP: net.ParseIP("2001:db8:a::7"), Port: 4711}
)

var kndChains = []kndChain{
	{name: "nobody says anything"},
	{name: "one hop", lines: []string{kndXFF + "203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "a spoofed left part", lines: []string{kndXFF + "10.0.0.1, 198.51.100.1, 203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "a spoofed left part through two proxies", lines: []string{kndXFF + "127.0.0.1, 203.0.113.9, 10.0.0.2"}, want: "203.0.113.9:0"},
	{name: "garbage in the left part", lines: []string{kndXFF + "\"<script>, ::::, 203.0.113.9, 10.0.0.2"}, want: "203.0.113.9:0"},
	{name: "a spoofed line", lines: []string{kndXFF + "10.0.0.1", kndXFF + "203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "two lines", lines: []string{kndXFF + "203.0.113.9", "X: y", "x-forwarded-for: 10.0.0.2"}, want: "203.0.113.9:0"},
	{name: "32 hops", lines: []string{kndXFF + "203.0.113.9" + strings.Repeat(", 10.0.0.2", 31)}, want: "203.0.113.9:0"},
	{name: "empty elements", lines: []string{kndXFF + ",, 203.0.113.9 , ,10.0.0.2,", kndXFF + ","}, want: "203.0.113.9:0"},
	{name: "an empty field", lines: []string{kndXFF}},
	{name: "a port", lines: []string{kndXFF + "203.0.113.9:4567"}, want: "203.0.113.9:4567"},
	{name: "IPv6", lines: []string{kndXFF + "2001:db8::9"}, want: "[2001:db8::9]:0"},
	{name: "IPv6 with a port", lines: []string{kndXFF + "[2001:db8::9]:4567, 2001:db8:a::1"}, want: "[2001:db8::9]:4567"},
	{name: "IPv4 in IPv6", lines: []string{kndXFF + "::ffff:203.0.113.9, ::ffff:10.0.0.2"}, want: "203.0.113.9:0"},
	{name: "all are trusted", lines: []string{kndXFF + "10.0.0.4:5, 10.0.0.3"}, want: "10.0.0.4:5"},
	{name: "unknown", lines: []string{kndXFF + "203.0.113.9, unknown, 10.0.0.2"}, want: "10.0.0.2:0"},
	{name: "unknown at once", lines: []string{kndXFF + "203.0.113.9, unknown"}},
	{name: "obfuscated", lines: []string{kndXFF + "203.0.113.9, _gazonk:_port, 10.0.0.2"}, want: "10.0.0.2:0"},

	// A stranger writes what it likes.
	{name: "spoofed by a stranger", from: kndStranger, lines: []string{kndXFF + "203.0.113.9"}},
	{name: "garbage of a stranger", from: kndStranger, lines: []string{kndXFF + "<script>", kndXFF + "1.2.3.4.5:99999"}},
	{name: "Forwarded of a stranger", field: "Forwarded", from: kndStranger, lines: []string{"Forwarded: for=203.0.113.9", "Forwarded: for=\"no end"}},
	{name: "X-Real-IP of a stranger", field: "X-Real-IP", from: kndStranger, lines: []string{"X-Real-IP: 203.0.113.9, 10.0.0.1"}},

	// The source in a PROXY header is believed about the field if it is trusted itself.
	{name: "PROXY alone", proxy: kndSource, want: kndSource.String()},
	{name: "PROXY of a client that spoofs", proxy: kndSource, lines: []string{kndXFF + "203.0.113.9"}, want: kndSource.String()},
	{name: "PROXY of a client that spoofs a proxy", proxy: kndSource, lines: []string{kndXFF + "203.0.113.9, 10.0.0.1"}, want: kndSource.String()},
	{name: "PROXY of a client that sends garbage", proxy: kndSource, lines: []string{kndXFF + "<script>"}, want: kndSource.String()},
	{name: "PROXY of an IPv6 client that spoofs", proxy: kndSource6, lines: []string{kndXFF + "203.0.113.9"}, want: kndSource6.String()},
	{name: "PROXY of a proxy", proxy: kndInside, want: kndInside.String()},
	{name: "PROXY of a proxy, and the field", proxy: kndInside, lines: []string{kndXFF + "198.51.100.1, 203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "PROXY of a proxy, and another", proxy: kndInside6, lines: []string{kndXFF + "2001:db8::9, 2001:db8:a::8"}, want: "[2001:db8::9]:0"},
	{name: "PROXY of a proxy, unknown", proxy: kndInside, lines: []string{kndXFF + "203.0.113.9, unknown"}, want: kndInside.String()},
	{name: "PROXY of a proxy, and garbage", proxy: kndInside, lines: []string{kndXFF + "<script>"}, broken: kndMalformed("X-Forwarded-For", "an address is malformed: RFC 7239 §6")},

	// One field, and no other.
	{name: "Forwarded is not the field", lines: []string{"Forwarded: for=203.0.113.9", "X-Real-IP: 203.0.113.9"}},
	{name: "garbage that is not the field", lines: []string{"Forwarded: \"", "X-Real-IP: ,", kndXFF + "203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "X-Forwarded-For is not the field", field: "forwarded", lines: []string{kndXFF + "203.0.113.9", "X-Forwarded: for=203.0.113.9"}},
	{name: "Forwarded", field: "Forwarded", lines: []string{kndXFF + "<script>", "Forwarded: for=198.51.100.1, for=203.0.113.9;proto=https;by=10.0.0.1"}, want: "203.0.113.9:0"},
	{name: "Forwarded, quoted", field: "Forwarded", lines: []string{`Forwarded: proto=http;for="203.0.113.9:4567", For="10.0.0.2"`}, want: "203.0.113.9:4567"},
	{name: "Forwarded, IPv6", field: "Forwarded", lines: []string{`Forwarded: for="[2001:db8::9]:4567" , for="[2001:db8:a::1]"`}, want: "[2001:db8::9]:4567"},
	{name: "Forwarded, two lines", field: "Forwarded", lines: []string{"Forwarded: for=198.51.100.1, for=203.0.113.9", "forwarded: for=10.0.0.2"}, want: "203.0.113.9:0"},
	{name: "Forwarded, unknown", field: "Forwarded", lines: []string{"Forwarded: for=203.0.113.9, for=unknown, for=10.0.0.2"}, want: "10.0.0.2:0"},
	{name: "Forwarded, obfuscated", field: "Forwarded", lines: []string{`Forwarded: for=203.0.113.9, for="_SEVKISEK"`}},
	{name: "Forwarded, 32 hops", field: "Forwarded", lines: []string{"Forwarded: for=203.0.113.9" + strings.Repeat(", for=10.0.0.2", 31)}, want: "203.0.113.9:0"},
	{name: "Forwarded behind PROXY", field: "Forwarded", proxy: kndInside, lines: []string{"Forwarded: for=203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "Forwarded of a client behind PROXY", field: "Forwarded", proxy: kndSource, lines: []string{"Forwarded: for=203.0.113.9"}, want: kndSource.String()},
	{name: "X-Real-IP", field: "X-Real-IP", lines: []string{"X-Real-Ip: 203.0.113.9", kndXFF + "198.51.100.1"}, want: "203.0.113.9:0"},
	{name: "X-Real-IP, IPv6 and a port", field: "X-Real-IP", lines: []string{"x-real-ip: [2001:db8::9]:4567"}, want: "[2001:db8::9]:4567"},
	{name: "X-Real-IP is missing", field: "X-Real-IP", lines: []string{kndXFF + "198.51.100.1"}},

	// To fall back to the proxy's address would promote the client.
	{name: "garbage", lines: []string{kndXFF + "203.0.113.9, secret-host"}, broken: kndMalformed("X-Forwarded-For", "an address is malformed: RFC 7239 §6")},
	{name: "a port out of range", lines: []string{kndXFF + "203.0.113.9:65536"}, broken: kndMalformed("X-Forwarded-For", "a port is malformed or out of range: RFC 7239 §6")},
	{name: "a quote that the client has opened", field: "Forwarded", lines: []string{`Forwarded: for="10.0.0.1, for=203.0.113.9`}, broken: kndMalformed("Forwarded", "a quoted string has no end: RFC 7239 §4")},
	{name: "two for parameters", field: "Forwarded", lines: []string{"Forwarded: for=10.0.0.1;for=203.0.113.9"}, broken: kndMalformed("Forwarded", "an element has two for parameters: RFC 7239 §4")},
	{name: "two addresses in one", field: "X-Real-IP", lines: []string{"X-Real-IP: 203.0.113.9, 203.0.113.10"}, broken: kndMalformed("X-Real-IP", "it holds more than one address")},
	{name: "two lines of one address", field: "X-Real-IP", lines: []string{"X-Real-IP: 203.0.113.9", "X-Real-IP: 203.0.113.9"}, broken: kndMalformed("X-Real-IP", "it holds more than one address")},
	{name: "a name", field: "CF-Connecting-IP", lines: []string{"CF-Connecting-IP: secret-host"}, broken: kndMalformed("CF-Connecting-IP", "an address is malformed: RFC 7239 §6")},
}

func kndMalformed(field, why string) string {
	return "the field " + field + " of a trusted proxy is malformed: " + why + "\n"
}

// The address is followed from the peer over the PROXY header to the field, as
// far as each is believed. Authorize, the connection and its request know the
// same; Handler, whose requests may be of many clients, knows the peer's alone.
func TestClientAddressChain(t *testing.T) {
	for _, tt := range kndChains {
		for _, authorize := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, Authorize %t", tt.name, authorize), func(t *testing.T) {
				vetted := make(chan string, 1)
				l := &preflight.PreflightListener{TrustedProxies: kndTrusted, ClientAddrHeader: tt.field, Handler: kndServed}
				if authorize {
					l.Authorize = func(r *http.Request) (http.Header, error) {
						vetted <- r.RemoteAddr
						return nil, nil
					}
				}
				accepted := lisServe(t, listen(t, l))
				dial := func() (c *lisClient, header, connection string) {
					from := tt.from
					if from == "" {
						from = "127.0.0.1"
					}
					c = kndDialFrom(t, l, from)
					if tt.proxy == nil {
						return c, "", c.LocalAddr().String()
					}
					return c, string(kndProxy(t, 2, tt.proxy)), tt.proxy.String()
				}
				upgrade := func(c *lisClient, sent, peer string) {
					c.send(t, sent+lisRequest(tt.lines...)+kndPayload)
					if tt.broken != "" {
						a := c.refused(t, "GET")
						require.Equal(t, http.StatusBadRequest, a.StatusCode)
						require.Equal(t, tt.broken, a.body)
						require.NotContains(t, a.raw, "secret-host")
						require.NotContains(t, a.raw, "203.0.113.9", "an address is personal data")
						require.Empty(t, accepted)
						require.Empty(t, vetted)
						return
					}
					require.Equal(t, http.StatusSwitchingProtocols, c.answer("GET").StatusCode)
					want := tt.want
					if want == "" {
						want = peer
					}
					conn := lisNext(t, accepted)
					require.Equal(t, want, conn.RemoteAddr().String())
					require.IsType(t, &net.TCPAddr{}, conn.RemoteAddr())
					require.Equal(t, want, conn.Request().RemoteAddr)
					require.Equal(t, c.RemoteAddr().String(), conn.LocalAddr().String())
					if authorize {
						require.Equal(t, want, <-vetted)
					}
					lisSkip(t, conn, kndPayload)
				}
				c, header, peer := dial()
				upgrade(c, header, peer)

				// Behind an ordinary request of somebody else.
				c, header, peer = dial()
				c.send(t, header+"GET /one HTTP/1.1\r\nHost: h\r\nX-Real-IP: 198.51.100.77\r\nForwarded: for=198.51.100.77\r\n"+kndXFF+"198.51.100.77\r\n\r\n")
				a := c.answer("GET")
				require.NoError(t, a.err)
				require.Equal(t, peer, a.Header.Get("Remote"))
				upgrade(c, "", peer)
			})
		}
	}
}

// A listener for both versions of IP sees IPv4 as ::ffff:127.0.0.1, whichever
// way the prefix is written.
func TestClientAddressOnADualStackListener(t *testing.T) {
	for _, tt := range []struct {
		trusted string
		want    bool
	}{
		{"127.0.0.0/8", true},
		{"::ffff:127.0.0.0/104", true},
		{"::/0", false}, // which is all of IPv6
		{"::ffff:10.0.0.0/104", false},
	} {
		t.Run(tt.trusted, func(t *testing.T) {
			inner, err := net.Listen("tcp", "[::]:0")
			require.NoError(t, err)
			l := listen(t, &preflight.PreflightListener{Listener: inner, TrustedProxies: kndTrust(tt.trusted)})
			accepted := lisServe(t, l)
			address := fmt.Sprintf("127.0.0.1:%d", inner.Addr().(*net.TCPAddr).Port)
			for _, proxy := range []*net.TCPAddr{nil, kndInside} {
				c, err := net.Dial("tcp", address)
				require.NoError(t, err)
				defer c.Close()
				var header string
				if proxy != nil {
					header = string(kndProxy(t, 2, proxy))
				}
				_, err = io.WriteString(c, header+lisRequest(kndXFF+"203.0.113.9"))
				require.NoError(t, err)
				if !tt.want && proxy != nil {
					a := (&lisClient{Conn: c, r: bufio.NewReader(c)}).refused(t, "GET")
					require.Equal(t, http.StatusBadRequest, a.StatusCode, "the header is none")
					continue
				}
				conn := lisNext(t, accepted)
				switch {
				case tt.want && proxy != nil:
					require.Equal(t, proxy.String(), conn.RemoteAddr().String(), "it is trusted no further")
				case tt.want:
					require.Equal(t, "203.0.113.9:0", conn.RemoteAddr().String())
				default:
					require.Equal(t, c.LocalAddr().String(), conn.RemoteAddr().String())
				}
			}
		})
	}
}

// kndUnix listens on a Unix socket.
func kndUnix(t testing.TB) net.Listener {
	t.Helper()
	dir, err := os.MkdirTemp("", "knd") // t.TempDir is too long for some names
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	return l
}

// Who can open a Unix socket has been let in by the file system. It is believed
// as a proxy where there are proxies at all.
func TestClientAddressBehindAUnixSocket(t *testing.T) {
	proxied := string(kndProxy(t, 1, kndSource))
	for _, tt := range []struct {
		name, sent string
		trusted    bool
		want       string // "" is the address of a Unix socket
		plain      bool
	}{
		{name: "X-Forwarded-For", sent: lisRequest(kndXFF + "198.51.100.1, 203.0.113.9"), trusted: true, want: "203.0.113.9:0"},
		{name: "X-Forwarded-For of nobody", sent: lisRequest(kndXFF + "203.0.113.9")},
		{name: "nothing", sent: lisRequest(), trusted: true},
		{name: "PROXY", sent: proxied + lisRequest(kndXFF+"203.0.113.9"), trusted: true, want: kndSource.String()},
		{name: "PROXY of nobody", sent: proxied + "EHLO x\r\n", plain: true},
		{name: "PROXY and plain", sent: proxied + "EHLO x\r\n", trusted: true, want: kndSource.String(), plain: true},
		{name: "plain", sent: "EHLO x\r\n", trusted: true, plain: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &preflight.PreflightListener{Listener: kndUnix(t)}
			if tt.trusted {
				l.TrustedProxies = kndTrust("10.0.0.0/8")
			}
			accepted := lisServe(t, listen(t, l))
			c, err := net.Dial("unix", l.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			_, err = io.WriteString(c, tt.sent)
			require.NoError(t, err)
			conn := lisNext(t, accepted)
			if tt.want == "" {
				require.Equal(t, "unix", conn.RemoteAddr().Network())
			} else {
				require.Equal(t, "tcp", conn.RemoteAddr().Network())
				require.Equal(t, tt.want, conn.RemoteAddr().String())
			}
			require.Equal(t, tt.plain, conn.Request() == nil)
			if !tt.plain {
				require.Equal(t, conn.RemoteAddr().String(), conn.Request().RemoteAddr)
			}
		})
	}
}

// kndBehind dials as a proxy that sends a PROXY header for its client.
type kndBehind struct{ header []byte }

func (d kndBehind) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &kndGlue{Conn: c, held: d.header}, nil
}

// A server of package net/http asks for the address as soon as it has a
// connection, and tells it to its handlers.
func TestClientAddressUnderHTTPServer(t *testing.T) {
	tlvs := []proxyproto.TLV{{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("edge.example")}}
	required := func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) { return proxyproto.REQUIRE, nil }
	for _, tt := range []struct {
		name   string
		header []byte
		xff    string
		under  bool // proxyproto.Listener reads the header
		want   string
	}{
		{name: "PROXY", header: kndProxy(t, 2, kndSource), want: kndSource.String()},
		{name: "X-Forwarded-For", xff: "203.0.113.9", want: "203.0.113.9:0"},
		{name: "both", header: kndProxy(t, 1, kndInside), xff: "198.51.100.1, 203.0.113.9", want: "203.0.113.9:0"},
		{name: "go-proxyproto", header: kndProxy(t, 2, kndSource, tlvs...), xff: "203.0.113.9", under: true, want: kndSource.String()},
		{name: "go-proxyproto and X-Forwarded-For", header: kndProxy(t, 2, kndInside, tlvs...), xff: "203.0.113.9", under: true, want: "203.0.113.9:0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &preflight.PreflightListener{Listener: listenTCP(t), TrustedProxies: kndTrusted}
			if tt.under {
				l.Listener = &proxyproto.Listener{Listener: l.Listener, ConnPolicy: required}
			}
			type key struct{}
			server := &http.Server{
				ConnContext: func(ctx context.Context, c net.Conn) context.Context {
					return context.WithValue(ctx, key{}, c)
				},
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					conn := r.Context().Value(key{}).(*preflight.Conn)
					if below, ok := conn.NetConn().(*proxyproto.Conn); ok {
						if got, err := below.ProxyHeader().TLVs(); err == nil && len(got) == 1 {
							w.Header().Set("Authority", string(got[0].Value))
						}
					}
					fmt.Fprintf(w, "%s, %s", r.RemoteAddr, conn.Request().RemoteAddr)
				}),
			}
			served := make(chan error, 1)
			listen(t, l)
			go func() { served <- server.Serve(l) }()
			d := &preflight.PreflightDialer{NetDialer: kndBehind{tt.header}}
			if tt.xff != "" {
				d.Header = http.Header{"X-Forwarded-For": {tt.xff}}
			}
			transport := &http.Transport{DialContext: d.DialContext}
			defer transport.CloseIdleConnections()
			r, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://" + l.Addr().String())
			require.NoError(t, err)
			body, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			require.NoError(t, r.Body.Close())
			require.Equal(t, tt.want+", "+tt.want, string(body))
			require.Equal(t, tt.under, r.Header.Get("Authority") == "edge.example")

			// Who must send a header, and does not, is nobody's client.
			if tt.under {
				c := &lisClient{Conn: dialTCP(t, l.Addr())}
				c.r = bufio.NewReader(c)
				c.send(t, lisRequest())
				require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
				c.ended(t)
			}
			require.NoError(t, server.Close())
			require.ErrorIs(t, <-served, http.ErrServerClosed)
		})
	}
}
