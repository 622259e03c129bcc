package clientaddr_test

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
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// addressChain is what the proxies report about the address of one client.
type addressChain struct {
	name   string
	field  string       // ClientAddrHeader
	from   string       // the peer; "" is a trusted one
	proxy  *net.TCPAddr // the source in the PROXY header, if there is one
	lines  []string     // field lines
	want   string       // "" is the peer
	broken string       // text of the refusal
}

var addressChains = []addressChain{
	{name: "no field"},
	{name: "one hop", lines: []string{testkit.XFF + "203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "a spoofed left part", lines: []string{testkit.XFF + "10.0.0.1, 198.51.100.1, 203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "a spoofed left part through two proxies", lines: []string{testkit.XFF + "127.0.0.1, 203.0.113.9, 10.0.0.2"}, want: "203.0.113.9:0"},
	{name: "garbage in the left part", lines: []string{testkit.XFF + "\"<script>, ::::, 203.0.113.9, 10.0.0.2"}, want: "203.0.113.9:0"},
	{name: "a spoofed line", lines: []string{testkit.XFF + "10.0.0.1", testkit.XFF + "203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "two lines", lines: []string{testkit.XFF + "203.0.113.9", "X: y", "x-forwarded-for: 10.0.0.2"}, want: "203.0.113.9:0"},
	{name: "32 hops", lines: []string{testkit.XFF + "203.0.113.9" + strings.Repeat(", 10.0.0.2", 31)}, want: "203.0.113.9:0"},
	{name: "empty elements", lines: []string{testkit.XFF + ",, 203.0.113.9 , ,10.0.0.2,", testkit.XFF + ","}, want: "203.0.113.9:0"},
	{name: "an empty field", lines: []string{testkit.XFF}},
	{name: "a port", lines: []string{testkit.XFF + "203.0.113.9:4567"}, want: "203.0.113.9:4567"},
	{name: "IPv6", lines: []string{testkit.XFF + "2001:db8::9"}, want: "[2001:db8::9]:0"},
	{name: "IPv6 with a port", lines: []string{testkit.XFF + "[2001:db8::9]:4567, 2001:db8:a::1"}, want: "[2001:db8::9]:4567"},
	{name: "IPv4 in IPv6", lines: []string{testkit.XFF + "::ffff:203.0.113.9, ::ffff:10.0.0.2"}, want: "203.0.113.9:0"},
	{name: "all are trusted", lines: []string{testkit.XFF + "10.0.0.4:5, 10.0.0.3"}, want: "10.0.0.4:5"},
	{name: "unknown", lines: []string{testkit.XFF + "203.0.113.9, unknown, 10.0.0.2"}, want: "10.0.0.2:0"},
	{name: "unknown at once", lines: []string{testkit.XFF + "203.0.113.9, unknown"}},
	{name: "obfuscated", lines: []string{testkit.XFF + "203.0.113.9, _gazonk:_port, 10.0.0.2"}, want: "10.0.0.2:0"},

	// An untrusted peer can write anything.
	{name: "spoofed by an untrusted peer", from: testkit.Stranger, lines: []string{testkit.XFF + "203.0.113.9"}},
	{name: "garbage of an untrusted peer", from: testkit.Stranger, lines: []string{testkit.XFF + "<script>", testkit.XFF + "1.2.3.4.5:99999"}},
	{name: "Forwarded of an untrusted peer", field: "Forwarded", from: testkit.Stranger, lines: []string{"Forwarded: for=203.0.113.9", "Forwarded: for=\"no end"}},
	{name: "X-Real-IP of an untrusted peer", field: "X-Real-IP", from: testkit.Stranger, lines: []string{"X-Real-IP: 203.0.113.9, 10.0.0.1"}},

	// The field is used if the source in the PROXY header is trusted too.
	{name: "PROXY alone", proxy: testkit.Source, want: testkit.Source.String()},
	{name: "PROXY of a client that spoofs", proxy: testkit.Source, lines: []string{testkit.XFF + "203.0.113.9"}, want: testkit.Source.String()},
	{name: "PROXY of a client that spoofs a proxy", proxy: testkit.Source, lines: []string{testkit.XFF + "203.0.113.9, 10.0.0.1"}, want: testkit.Source.String()},
	{name: "PROXY of a client that sends garbage", proxy: testkit.Source, lines: []string{testkit.XFF + "<script>"}, want: testkit.Source.String()},
	{name: "PROXY of an IPv6 client that spoofs", proxy: testkit.Source6, lines: []string{testkit.XFF + "203.0.113.9"}, want: testkit.Source6.String()},
	{name: "PROXY of a proxy", proxy: testkit.Inside, want: testkit.Inside.String()},
	{name: "PROXY of a proxy, and the field", proxy: testkit.Inside, lines: []string{testkit.XFF + "198.51.100.1, 203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "PROXY of a proxy, and another", proxy: testkit.Inside6, lines: []string{testkit.XFF + "2001:db8::9, 2001:db8:a::8"}, want: "[2001:db8::9]:0"},
	{name: "PROXY of a proxy, unknown", proxy: testkit.Inside, lines: []string{testkit.XFF + "203.0.113.9, unknown"}, want: testkit.Inside.String()},
	{name: "PROXY of a proxy, and garbage", proxy: testkit.Inside, lines: []string{testkit.XFF + "<script>"}, broken: malformedField("X-Forwarded-For", "an address is malformed: RFC 7239 §6")},

	// Only the configured field is read.
	{name: "Forwarded is not the field", lines: []string{"Forwarded: for=203.0.113.9", "X-Real-IP: 203.0.113.9"}},
	{name: "garbage that is not the field", lines: []string{"Forwarded: \"", "X-Real-IP: ,", testkit.XFF + "203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "X-Forwarded-For is not the field", field: "forwarded", lines: []string{testkit.XFF + "203.0.113.9", "X-Forwarded: for=203.0.113.9"}},
	{name: "Forwarded", field: "Forwarded", lines: []string{testkit.XFF + "<script>", "Forwarded: for=198.51.100.1, for=203.0.113.9;proto=https;by=10.0.0.1"}, want: "203.0.113.9:0"},
	{name: "Forwarded, quoted", field: "Forwarded", lines: []string{`Forwarded: proto=http;for="203.0.113.9:4567", For="10.0.0.2"`}, want: "203.0.113.9:4567"},
	{name: "Forwarded, IPv6", field: "Forwarded", lines: []string{`Forwarded: for="[2001:db8::9]:4567" , for="[2001:db8:a::1]"`}, want: "[2001:db8::9]:4567"},
	{name: "Forwarded, two lines", field: "Forwarded", lines: []string{"Forwarded: for=198.51.100.1, for=203.0.113.9", "forwarded: for=10.0.0.2"}, want: "203.0.113.9:0"},
	{name: "Forwarded, unknown", field: "Forwarded", lines: []string{"Forwarded: for=203.0.113.9, for=unknown, for=10.0.0.2"}, want: "10.0.0.2:0"},
	{name: "Forwarded, obfuscated", field: "Forwarded", lines: []string{`Forwarded: for=203.0.113.9, for="_SEVKISEK"`}},
	{name: "Forwarded, 32 hops", field: "Forwarded", lines: []string{"Forwarded: for=203.0.113.9" + strings.Repeat(", for=10.0.0.2", 31)}, want: "203.0.113.9:0"},
	{name: "Forwarded behind PROXY", field: "Forwarded", proxy: testkit.Inside, lines: []string{"Forwarded: for=203.0.113.9"}, want: "203.0.113.9:0"},
	{name: "Forwarded of a client behind PROXY", field: "Forwarded", proxy: testkit.Source, lines: []string{"Forwarded: for=203.0.113.9"}, want: testkit.Source.String()},
	{name: "X-Real-IP", field: "X-Real-IP", lines: []string{"X-Real-Ip: 203.0.113.9", testkit.XFF + "198.51.100.1"}, want: "203.0.113.9:0"},
	{name: "X-Real-IP, IPv6 and a port", field: "X-Real-IP", lines: []string{"x-real-ip: [2001:db8::9]:4567"}, want: "[2001:db8::9]:4567"},
	{name: "X-Real-IP is missing", field: "X-Real-IP", lines: []string{testkit.XFF + "198.51.100.1"}},

	// Falling back to the address of the proxy would give the client the rights
	// of the proxy.
	{name: "garbage", lines: []string{testkit.XFF + "203.0.113.9, secret-host"}, broken: malformedField("X-Forwarded-For", "an address is malformed: RFC 7239 §6")},
	{name: "a port out of range", lines: []string{testkit.XFF + "203.0.113.9:65536"}, broken: malformedField("X-Forwarded-For", "a port is malformed or out of range: RFC 7239 §6")},
	{name: "a quote that the client has opened", field: "Forwarded", lines: []string{`Forwarded: for="10.0.0.1, for=203.0.113.9`}, broken: malformedField("Forwarded", "a quoted string has no end: RFC 7239 §4")},
	{name: "two for parameters", field: "Forwarded", lines: []string{"Forwarded: for=10.0.0.1;for=203.0.113.9"}, broken: malformedField("Forwarded", "an element has two for parameters: RFC 7239 §4")},
	{name: "two addresses in one", field: "X-Real-IP", lines: []string{"X-Real-IP: 203.0.113.9, 203.0.113.10"}, broken: malformedField("X-Real-IP", "it holds more than one address")},
	{name: "two lines of one address", field: "X-Real-IP", lines: []string{"X-Real-IP: 203.0.113.9", "X-Real-IP: 203.0.113.9"}, broken: malformedField("X-Real-IP", "it holds more than one address")},
	{name: "a name", field: "CF-Connecting-IP", lines: []string{"CF-Connecting-IP: secret-host"}, broken: malformedField("CF-Connecting-IP", "an address is malformed: RFC 7239 §6")},
}

func malformedField(field, why string) string {
	return "the field " + field + " of a trusted proxy is malformed: " + why + "\n"
}

// The address is followed from the peer through the PROXY header to the field,
// as long as each source is trusted. Authorize, Conn.RemoteAddr and the request
// agree. Handler sees the address of the peer, because its connection may carry
// requests of many clients.
func TestClientAddressChain(t *testing.T) {
	for _, tt := range addressChains {
		for _, authorize := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, Authorize %t", tt.name, authorize), func(t *testing.T) {
				authorized := make(chan string, 1)
				l := &preflight.PreflightListener{TrustedProxies: testkit.TrustedPrefixes, ClientAddrHeader: tt.field, Handler: testkit.ServedHandler}
				if authorize {
					l.Authorize = func(r *http.Request) (http.Header, error) {
						authorized <- r.RemoteAddr
						return nil, nil
					}
				}
				accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
				dial := func() (c *testkit.Client, header, connection string) {
					from := tt.from
					if from == "" {
						from = "127.0.0.1"
					}
					c = dialFrom(t, l, from)
					if tt.proxy == nil {
						return c, "", c.LocalAddr().String()
					}
					return c, string(testkit.ProxyHeader(t, 2, tt.proxy)), tt.proxy.String()
				}
				upgrade := func(c *testkit.Client, sent, peer string) {
					c.Send(t, sent+testkit.Request(tt.lines...)+testkit.Payload)
					if tt.broken != "" {
						a := c.Refused(t, "GET")
						require.Equal(t, http.StatusBadRequest, a.StatusCode)
						require.Equal(t, tt.broken, a.Text)
						require.NotContains(t, a.Raw, "secret-host")
						require.NotContains(t, a.Raw, "203.0.113.9", "an address is personal data")
						require.Empty(t, accepted)
						require.Empty(t, authorized)
						return
					}
					require.Equal(t, http.StatusSwitchingProtocols, c.Answer("GET").StatusCode)
					want := tt.want
					if want == "" {
						want = peer
					}
					conn := testkit.NextConn(t, accepted)
					require.Equal(t, want, conn.RemoteAddr().String())
					require.IsType(t, &net.TCPAddr{}, conn.RemoteAddr())
					require.Equal(t, want, conn.Request().RemoteAddr)
					require.Equal(t, c.RemoteAddr().String(), conn.LocalAddr().String())
					if authorize {
						require.Equal(t, want, <-authorized)
					}
					testkit.Skip(t, conn, testkit.Payload)
				}
				c, header, peer := dial()
				upgrade(c, header, peer)

				// This request comes after an ordinary request of another
				// client.
				c, header, peer = dial()
				c.Send(t, header+"GET /one HTTP/1.1\r\nHost: h\r\nX-Real-IP: 198.51.100.77\r\nForwarded: for=198.51.100.77\r\n"+testkit.XFF+"198.51.100.77\r\n\r\n")
				a := c.Answer("GET")
				require.NoError(t, a.Err)
				require.Equal(t, peer, a.Header.Get("Remote"))
				upgrade(c, "", peer)
			})
		}
	}
}

// A dual-stack listener sees IPv4 as ::ffff:127.0.0.1. Both ways to write the
// prefix match it.
func TestClientAddressOnADualStackListener(t *testing.T) {
	for _, tt := range []struct {
		trusted string
		want    bool
	}{
		{"127.0.0.0/8", true},
		{"::ffff:127.0.0.0/104", true},
		{"::/0", false}, // this is all of IPv6
		{"::ffff:10.0.0.0/104", false},
	} {
		t.Run(tt.trusted, func(t *testing.T) {
			inner, err := net.Listen("tcp", "[::]:0")
			require.NoError(t, err)
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: inner, TrustedProxies: testkit.Prefixes(tt.trusted)})
			accepted := testkit.AcceptAll(t, l)
			address := fmt.Sprintf("127.0.0.1:%d", inner.Addr().(*net.TCPAddr).Port)
			for _, proxy := range []*net.TCPAddr{nil, testkit.Inside} {
				c, err := net.Dial("tcp", address)
				require.NoError(t, err)
				defer c.Close()
				var header string
				if proxy != nil {
					header = string(testkit.ProxyHeader(t, 2, proxy))
				}
				_, err = io.WriteString(c, header+testkit.Request(testkit.XFF+"203.0.113.9"))
				require.NoError(t, err)
				if !tt.want && proxy != nil {
					a := (&testkit.Client{Conn: c, R: bufio.NewReader(c)}).Refused(t, "GET")
					require.Equal(t, http.StatusBadRequest, a.StatusCode, "the bytes are no PROXY header")
					continue
				}
				conn := testkit.NextConn(t, accepted)
				switch {
				case tt.want && proxy != nil:
					require.Equal(t, proxy.String(), conn.RemoteAddr().String(), "the chain ends at an untrusted address")
				case tt.want:
					require.Equal(t, "203.0.113.9:0", conn.RemoteAddr().String())
				default:
					require.Equal(t, c.LocalAddr().String(), conn.RemoteAddr().String())
				}
			}
		})
	}
}

// listenUnix listens on a Unix socket.
func listenUnix(t testing.TB) net.Listener {
	t.Helper()
	dir, err := os.MkdirTemp("", "knd") // the path of t.TempDir is too long for some names
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	return l
}

// The file system decides who can connect to a Unix socket. Such a peer is
// trusted as a proxy if TrustedProxies is not empty.
func TestClientAddressBehindAUnixSocket(t *testing.T) {
	proxied := string(testkit.ProxyHeader(t, 1, testkit.Source))
	for _, tt := range []struct {
		name, sent string
		trusted    bool
		want       string // "" is the address of a Unix socket
		plain      bool
	}{
		{name: "X-Forwarded-For", sent: testkit.Request(testkit.XFF + "198.51.100.1, 203.0.113.9"), trusted: true, want: "203.0.113.9:0"},
		{name: "X-Forwarded-For without TrustedProxies", sent: testkit.Request(testkit.XFF + "203.0.113.9")},
		{name: "nothing", sent: testkit.Request(), trusted: true},
		{name: "PROXY", sent: proxied + testkit.Request(testkit.XFF+"203.0.113.9"), trusted: true, want: testkit.Source.String()},
		{name: "PROXY without TrustedProxies", sent: proxied + "EHLO x\r\n", plain: true},
		{name: "PROXY and plain", sent: proxied + "EHLO x\r\n", trusted: true, want: testkit.Source.String(), plain: true},
		{name: "plain", sent: "EHLO x\r\n", trusted: true, plain: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &preflight.PreflightListener{Listener: listenUnix(t)}
			if tt.trusted {
				l.TrustedProxies = testkit.Prefixes("10.0.0.0/8")
			}
			accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
			c, err := net.Dial("unix", l.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			_, err = io.WriteString(c, tt.sent)
			require.NoError(t, err)
			conn := testkit.NextConn(t, accepted)
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

// proxyDialer dials like a proxy that sends a PROXY header for its client.
type proxyDialer struct{ header []byte }

func (d proxyDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &testkit.Glue{Conn: c, Held: d.header}, nil
}

// A server of net/http reads the address as soon as it has a connection, and
// passes it to its handlers.
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
		{name: "PROXY", header: testkit.ProxyHeader(t, 2, testkit.Source), want: testkit.Source.String()},
		{name: "X-Forwarded-For", xff: "203.0.113.9", want: "203.0.113.9:0"},
		{name: "both", header: testkit.ProxyHeader(t, 1, testkit.Inside), xff: "198.51.100.1, 203.0.113.9", want: "203.0.113.9:0"},
		{name: "go-proxyproto", header: testkit.ProxyHeader(t, 2, testkit.Source, tlvs...), xff: "203.0.113.9", under: true, want: testkit.Source.String()},
		{name: "go-proxyproto and X-Forwarded-For", header: testkit.ProxyHeader(t, 2, testkit.Inside, tlvs...), xff: "203.0.113.9", under: true, want: "203.0.113.9:0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t), TrustedProxies: testkit.TrustedPrefixes}
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
			testkit.Listen(t, l)
			go func() { served <- server.Serve(l) }()
			d := &preflight.PreflightDialer{NetDialer: proxyDialer{tt.header}}
			if tt.xff != "" {
				d.Header = http.Header{"X-Forwarded-For": {tt.xff}}
			}
			transport := &http.Transport{DialContext: d.DialContext}
			defer transport.CloseIdleConnections()
			r, err := (&http.Client{Transport: transport, Timeout: testkit.Patience}).Get("http://" + l.Addr().String())
			require.NoError(t, err)
			body, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			require.NoError(t, r.Body.Close())
			require.Equal(t, tt.want+", "+tt.want, string(body))
			require.Equal(t, tt.under, r.Header.Get("Authority") == "edge.example")

			// A peer that must send a header and does not is not served.
			if tt.under {
				c := &testkit.Client{Conn: testkit.DialTCP(t, l.Addr())}
				c.R = bufio.NewReader(c)
				c.Send(t, testkit.Request())
				require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
				c.Ended(t)
			}
			require.NoError(t, server.Close())
			require.ErrorIs(t, <-served, http.ErrServerClosed)
		})
	}
}
