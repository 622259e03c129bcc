package dialer_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A refusal ends the dial at once, also if NetDialer's connection is a TLS
// layer whose peer no longer reads. Closing that layer would write a last
// message. crypto/tls waits five seconds for that, and for ever without
// deadlines.
func TestDialerWaitsForNoLayerBelow(t *testing.T) {
	ca := fwdNewCA(t)
	server := ca.server("edge.example")
	for _, nested := range []bool{false, true} {
		for _, noDeadlines := range []bool{false, true} {
			t.Run(fmt.Sprintf("nested %t, no deadlines %t", nested, noDeadlines), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					dial := testkit.DialFunc(func(ctx context.Context, _, _ string) (net.Conn, error) {
						ours, theirs := testkit.SpyPipe(t)
						go func() {
							tc := tls.Server(theirs, server)
							if nested {
								testkit.ReadRequest(tc)
								io.WriteString(tc, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
							}
							testkit.ReadRequest(tc)
							io.WriteString(tc, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
						}()
						spy := &testkit.SpyConn{Conn: ours, NoDeadlines: noDeadlines}
						if nested {
							return spy, nil
						}
						config := ca.client()
						config.ServerName = "edge.example"
						tc := tls.Client(spy, config)
						return tc, tc.HandshakeContext(ctx)
					})
					d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: dial}
					if nested {
						d.NetDialer = &preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: dial, TLSConfig: ca.client()}
					}
					begun := time.Now()
					conn, err := d.Dial("tcp", "edge.example:80")
					require.Nil(t, conn)
					require.Equal(t, 403, testkit.StatusError(t, err).StatusCode)
					require.Zero(t, time.Since(begun))
				})
			})
		}
	}
}

// If a hop speaks the wrong protocol, the error names the setting of that hop.
func TestForwardProxyOfTheWrongProtocol(t *testing.T) {
	for _, tt := range []struct {
		name, scheme, answer, hint string
	}{
		{"alert", "http", "\x15\x03\x01\x00\x02\x02\x46", "https:// in the URL that Proxy returns"},
		{"page", "http", "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n", "https:// in the URL that Proxy returns"},
		{"no TLS", "https", "HTTP/1.1 400 Bad Request\r\n\r\n", "http:// in the URL that Proxy returns"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := fwdServe(t, func(c net.Conn) {
				c.Read(make([]byte, 512))
				io.WriteString(c, tt.answer)
			})
			n := new(fwdNet)
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: n, Proxy: fwdBy(t, tt.scheme+"://"+address), TLSConfig: new(tls.Config)}
			_, err := d.Dial("tcp", "edge.example:443")
			require.ErrorContains(t, err, tt.hint)
			require.ErrorContains(t, err, "forward proxy")
			require.NotContains(t, err.Error(), "TLSConfig")
			n.closed(t, 1)
		})
	}
}

// NO_PROXY is compared with the address that the proxy would connect to.
func TestForwardProxyIsChosenByTheAuthority(t *testing.T) {
	for address, authority := range map[string]string{":80": "localhost:80", "edge.example:http": "edge.example:80", "[fe80::1%lo]:80": "[fe80::1]:80"} {
		asked, heads := "", make(chan string, 1)
		to := fwdServe(t, fwdConnect(heads, nil))
		d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: new(fwdNet), Proxy: func(r *http.Request) (*url.URL, error) {
			asked = r.URL.Host
			return url.Parse("http://" + to)
		}}
		_, err := d.Dial("tcp", address)
		require.True(t, testkit.StatusError(t, err).ForwardProxy)
		require.Equal(t, authority, asked)
		require.Contains(t, fwdNext(t, heads), "CONNECT "+authority+" HTTP/1.1\r\n")
	}
}

func TestForwardProxyAddressKeepsItsSecret(t *testing.T) {
	n := new(fwdNet)
	d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: n, Host: "edge.example", Proxy: fwdBy(t, "http://proxy.example")}
	_, err := d.Dial("tcp", "me:s3cr3t@edge.example:80")
	require.ErrorContains(t, err, "edge.example:80")
	testkit.RequireNoSecret(t, err)
	for _, host := range []string{"u:s3cr3t@proxy.example", "a b", "proxy.example:99999"} {
		d.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: host})
		_, err = d.Dial("tcp", "edge.example:80")
		require.ErrorContains(t, err, "forward proxy: ")
		testkit.RequireNoSecret(t, err)
	}
	require.Empty(t, n.dialed)
}

// The peer chooses the reason phrase, and the phrase goes into logs.
func TestStatusErrorIsBounded(t *testing.T) {
	for _, phrase := range []string{strings.Repeat("x", 60_000), strings.Repeat("é", 30_000), "\xff\xfe"} {
		_, err := testkit.UpgradeAnswered(t, "HTTP/1.1 403 "+phrase+"\r\n\r\n", false)
		e := testkit.StatusError(t, err)
		require.Equal(t, "403 "+phrase, e.Status)
		require.Less(t, len(err.Error()), 500)
		require.True(t, utf8.ValidString(err.Error()))
	}
}

// If a callback panics, the connection is closed, also if nothing bounds the
// handshake.
func TestDialerClosesWhereACallbackPanics(t *testing.T) {
	ca := fwdNewCA(t)
	address := fwdServe(t, fwdSecure(ca.server("edge.example"), fwdEcho))
	for _, where := range []string{"outside", "inside"} {
		t.Run(where, func(t *testing.T) {
			n := &fwdNet{hosts: map[string]string{"edge.example:443": address}}
			config := ca.client()
			config.VerifyConnection = func(tls.ConnectionState) error { panic("boom") }
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: n, TLSConfig: config, HandshakeTimeout: -1}
			if where == "inside" {
				heads := make(chan string, 1)
				n.hosts["edge.example:443"] = fwdServe(t, fwdUpgrade(heads, fwdSecure(ca.server("edge.example"), fwdEcho)))
				d.TLSConfig, d.TunnelTLSConfig = nil, config
			}
			require.PanicsWithValue(t, "boom", func() { d.Dial("tcp", "edge.example:443") })
			n.closed(t, 1)
		})
	}
}

// A bad field is an error before anything is dialed, also if the URL asks for
// no upgrade.
func TestDialURLPlainChecksHeader(t *testing.T) {
	n := new(fwdNet)
	d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: n, Header: http.Header{"X": {"a\r\nb"}}}
	_, err := d.DialURL(t.Context(), "tcp://edge.example:80/")
	require.ErrorContains(t, err, "header field X")
	require.Empty(t, n.dialed)
}
