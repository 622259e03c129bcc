package dialer_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// TestDialerHostWithTLS: with TLS the default port is that of https.
func TestDialerHostWithTLS(t *testing.T) {
	server := testkit.NewIdentity(t)
	for address, host := range map[string]string{
		"edge.example:443":   "edge.example",
		"edge.example:https": "edge.example",
		"edge.example:80":    "edge.example:80",
		"edge.example:8443":  "edge.example:8443",
		"[::1]:443":          "[::1]",
	} {
		for _, own := range []string{"", "edge.example:443"} { // the port is the user's
			got := make(chan *http.Request, 1)
			d := preflight.PreflightDialer{TLSConfig: server.Client(), Host: own, NetDialer: &testkit.DialPeer{T: t, Peer: func(c net.Conn) {
				dialServe(tls.Server(c, server.Config), got)
			}}}
			_, err := d.Dial("tcp", address)
			require.NoError(t, err)
			if own != "" {
				host = own
			}
			require.Equal(t, host, (<-got).Host)
		}
	}
}

// TestDialerServerName: the certificate of the proxy is verified for the name
// in TLSConfig, else for Host, else for the address. The caller's TLSConfig is
// not changed.
func TestDialerServerName(t *testing.T) {
	for name, test := range map[string]struct {
		own, host, network, address string
		want                        string
	}{
		"address":              {"", "", "tcp", "edge.example:443", "edge.example"},
		"Host":                 {"", "edge.example", "tcp", "192.0.2.1:443", "edge.example"},
		"Host with a port":     {"", "edge.example:8443", "tcp", "192.0.2.1:443", "edge.example"},
		"Host over a name":     {"", "edge.example", "tcp", "lb.example:443", "edge.example"},
		"Host of Unix sockets": {"", "edge.example", "unix", "/run/edge.sock", "edge.example"},
		"own":                  {"edge.example", "other.example", "tcp", "lb.example:443", "edge.example"},
	} {
		for _, by := range []string{"DialContext", "DialURL", "DialURL without an upgrade"} {
			if test.network == "unix" && by != "DialContext" {
				continue
			}
			t.Run(by+"/"+name, func(t *testing.T) {
				server := testkit.NewIdentity(t)
				hellos := make(chan *tls.ClientHelloInfo, 1)
				server.Config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
					hellos <- h
					return nil, nil
				}
				d := preflight.PreflightDialer{TLSConfig: server.Client(), Host: test.host, NetDialer: &testkit.DialPeer{T: t, Peer: func(c net.Conn) {
					dialServe(tls.Server(c, server.Config), make(chan *http.Request, 1))
				}}}
				d.TLSConfig.ServerName = test.own
				var err error
				switch by {
				case "DialContext":
					_, err = d.DialContext(t.Context(), test.network, test.address)
				case "DialURL":
					_, err = d.DialURL(t.Context(), "tcps://"+test.address+"/?http_preflight=true")
				default:
					_, err = d.DialURL(t.Context(), "tcps://"+test.address)
				}
				require.NoError(t, err)
				require.Equal(t, test.want, (<-hellos).ServerName)
				require.Equal(t, test.own, d.TLSConfig.ServerName)
			})
		}
	}
}

// TestDialURLServerName: sni is the name for TLS, for any Host and any address.
func TestDialURLServerName(t *testing.T) {
	for _, own := range []string{"", "edge.example"} {
		for _, upgraded := range []string{"0", "1"} {
			server := testkit.NewIdentity(t)
			hellos := make(chan *tls.ClientHelloInfo, 1)
			server.Config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				hellos <- h
				return nil, nil
			}
			d := preflight.PreflightDialer{TLSConfig: server.Client(), Host: "other.example", NetDialer: &testkit.DialPeer{T: t, Peer: func(c net.Conn) {
				dialServe(tls.Server(c, server.Config), make(chan *http.Request, 1))
			}}}
			d.TLSConfig.ServerName = own
			_, err := d.DialURL(t.Context(), "tcps://192.0.2.1:443/?sni=edge.example&http_preflight="+upgraded)
			require.NoError(t, err)
			require.Equal(t, "edge.example", (<-hellos).ServerName)
			require.Equal(t, own, d.TLSConfig.ServerName, "the caller's configuration was changed")
		}
	}
}

// TestDialerInternationalNames: the dialed address, Host, TLS and CONNECT use
// one name, in the form of DNS. The case in which it was written does not
// matter.
func TestDialerInternationalNames(t *testing.T) {
	const ascii = "xn--bcher-kva.example"
	ca := fwdNewCA(t)
	for _, name := range []string{"bücher.example", "BÜCHER.Example", "bücher。example"} {
		t.Run(name, func(t *testing.T) {
			connects, heads := make(chan string, 1), make(chan string, 1)
			hellos := make(chan string, 2)
			named := func(config *tls.Config) *tls.Config {
				config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
					hellos <- h.ServerName
					return nil, nil
				}
				return config
			}
			edge := fwdServe(t, fwdSecure(named(ca.server(ascii)), fwdUpgrade(heads, fwdEcho)))
			to := map[string]string{ascii + ":443": edge}
			network := &fwdNet{hosts: map[string]string{
				ascii + ":443":  edge,
				ascii + ":3128": fwdServe(t, fwdSecure(named(ca.server(ascii)), fwdConnect(connects, to))),
			}}
			d := preflight.PreflightDialer{NetDialer: network, TLSConfig: ca.client()}
			conn, err := d.Dial("tcp", name+":443")
			require.NoError(t, err)
			fwdEnds(t, conn)
			require.Equal(t, []string{"tcp " + ascii + ":443"}, network.dialed)
			require.Equal(t, ascii, fwdNext(t, hellos))
			require.Contains(t, fwdNext(t, heads), "\r\nHost: "+ascii+"\r\n")

			d.Proxy = func(r *http.Request) (*url.URL, error) {
				require.Equal(t, ascii+":443", r.URL.Host)
				return &url.URL{Scheme: "https", Host: name + ":3128"}, nil
			}
			conn, err = d.Dial("tcp", name+":443")
			require.NoError(t, err)
			fwdEnds(t, conn)
			require.Equal(t, "tcp "+ascii+":3128", network.dialed[1])
			require.Equal(t, ascii, fwdNext(t, hellos))
			require.Equal(t, ascii, fwdNext(t, hellos))
			require.Equal(t, "CONNECT "+ascii+":443 HTTP/1.1\r\nHost: "+ascii+":443\r\n\r\n", fwdNext(t, connects))
			fwdNext(t, heads)

			d = preflight.PreflightDialer{NetDialer: network, TLSConfig: ca.client(), Host: name + ":8443"}
			conn, err = d.DialURL(t.Context(), "tcps://"+url.PathEscape(name)+":443/?http_preflight=1")
			require.NoError(t, err)
			fwdEnds(t, conn)
			require.Equal(t, "tcp "+ascii+":443", network.dialed[2])
			require.Equal(t, ascii, fwdNext(t, hellos))
			require.Contains(t, fwdNext(t, heads), "\r\nHost: "+ascii+":8443\r\n")
		})
	}
	// The address of a Unix socket is a path, and the address for a custom
	// NetDialer may be anything.
	for network, address := range map[string]string{"unix": "bücher.sock", "tcp": "b ü.sock"} {
		peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) { dialServe(c, make(chan *http.Request, 1)) }}
		d := preflight.PreflightDialer{NetDialer: peer, Host: "edge.example"}
		_, err := d.Dial(network, address)
		require.NoError(t, err)
		require.Equal(t, address, peer.Address)
	}
}

// TestClientInternationalName is the same test for Client.
func TestClientInternationalName(t *testing.T) {
	for _, req := range []*http.Request{
		{URL: &url.URL{Host: "bücher.example:8080"}},
		{URL: &url.URL{Host: "other.example"}, Host: "bücher.example:8080"},
	} {
		client, server := testkit.SpyPipe(t)
		got := make(chan *http.Request, 1)
		go dialServe(server, got)
		_, err := preflight.Client(t.Context(), client, req)
		require.NoError(t, err)
		require.Equal(t, "xn--bcher-kva.example:8080", (<-got).Host)
	}
}
