package clientaddr_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// headersWithoutAddress holds the PROXY headers that give no address. The value tells
// whether the proxy itself is the client.
func headersWithoutAddress(t testing.TB) []struct {
	name, header string
	local        bool
} {
	t.Helper()
	unix := &net.UnixAddr{Net: "unix", Name: "/run/client.sock"}
	return []struct {
		name, header string
		local        bool
	}{
		{"v1 UNKNOWN", "PROXY UNKNOWN\r\n", false},
		{"v1 UNKNOWN with addresses", "PROXY UNKNOWN 192.0.2.7 192.0.2.8 1 2\r\n", false},
		{"v2 PROXY, AF_UNIX", string(testkit.FormatProxyHeader(t, proxyproto.HeaderProxyFromAddrs(2, unix, unix))), false},
		{"v2 LOCAL", testkit.ProxyV2Bytes(0x20, 0x00, 0, ""), true},
		{"v2 LOCAL with addresses", testkit.ProxyV2Bytes(0x20, 0x11, 12, "\xc0\x00\x02\x07\xc0\x00\x02\x08\x00\x01\x00\x02"), true},
	}
}

// Some proxies forward bytes without knowing the client (UNKNOWN, a Unix
// socket). Then the client itself can write the field. So the field is ignored
// and the address stays that of the proxy. LOCAL means that the proxy speaks
// for itself. A proxy that reads HTTP and maintains the field may send LOCAL on
// a separate connection.
func TestProxyHeaderWithoutAClient(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	for _, field := range []struct{ name, forged, malformed string }{
		{"X-Forwarded-For", "203.0.113.66", "not an address"},
		{"Forwarded", "for=203.0.113.66", "for=not an address"},
		{"X-Real-IP", "203.0.113.66", "1.2.3.4, 5.6.7.8"},
	} {
		l := testkit.Listen(t, &preflight.PreflightListener{
			TrustedProxies: testkit.Prefixes("127.0.0.1/32"), ClientAddrHeader: field.name, TLSConfig: server, Handler: testkit.ServedHandler,
		})
		accepted := testkit.AcceptAll(t, l)
		for _, h := range headersWithoutAddress(t) {
			for _, tt := range []struct {
				name         string
				tls, earlier bool // an ordinary request comes first
				inside       bool
			}{
				{name: "at once"},
				{name: "over TLS", tls: true},
				{name: "with TLS in the tunnel", inside: true},
				{name: "behind an ordinary request", earlier: true},
				{name: "behind an ordinary request over TLS", earlier: true, tls: true},
			} {
				t.Run(fmt.Sprintf("%s/%s/%s", field.name, h.name, tt.name), func(t *testing.T) {
					begin := func() (*testkit.Client, string) {
						c := testkit.DialClient(t, l)
						peer := c.LocalAddr().String()
						c.Send(t, h.header)
						if tt.tls {
							c = testkit.Secure(t, c, client)
						}
						if tt.earlier {
							c.Send(t, "GET /first HTTP/1.1\r\nHost: h\r\n"+field.name+": "+field.forged+"\r\n\r\n")
							a := c.Answer("GET")
							require.Equal(t, 200, a.StatusCode)
							require.Equal(t, peer, a.Header.Get("Remote"), "the field never changes it")
						}
						return c, peer
					}
					request := testkit.Request(field.name + ": " + field.forged)
					if tt.inside {
						request = testkit.Request("Preflight-Tunnel: tls", field.name+": "+field.forged)
					}
					c, peer := begin()
					c.Send(t, request)
					require.Equal(t, 101, c.Answer("GET").StatusCode)
					if tt.inside {
						c = testkit.Secure(t, c, client)
					}
					conn := testkit.NextConn(t, accepted)
					want := peer
					if h.local {
						want = "203.0.113.66:0"
					}
					require.Equal(t, want, conn.RemoteAddr().String())
					require.Equal(t, want, conn.Request().RemoteAddr)
					testkit.Talk(t, c, conn)

					// A field that is not trusted is not parsed either.
					c, peer = begin()
					c.Send(t, testkit.Request(field.name+": "+field.malformed))
					if h.local {
						require.Equal(t, 400, c.Answer("GET").StatusCode)
						return
					}
					require.Equal(t, 101, c.Answer("GET").StatusCode)
					require.Equal(t, peer, testkit.NextConn(t, accepted).RemoteAddr().String())
				})
			}
		}
	}
}

// PROXY protocol §2.2 allows to refuse a header of version 2 without a family.
// It is refused, so a client cannot use one.
func TestProxyHeaderWithoutAFamily(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{TrustedProxies: testkit.Prefixes("127.0.0.1/32")})
	accepted := testkit.AcceptAll(t, l)
	for _, header := range []string{testkit.ProxyV2Bytes(0x21, 0x00, 0, ""), testkit.ProxyV2Bytes(0x21, 0x00, 3, "\x04\x00\x00")} {
		c := testkit.DialClient(t, l)
		c.Send(t, header+testkit.Request("X-Forwarded-For: 203.0.113.66"))
		require.Empty(t, testkit.ReadToEnd(t, c.R))
		require.Empty(t, accepted)
	}
}
