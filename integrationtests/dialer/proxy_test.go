package dialer_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http/httpproxy"
)

// TestForwardProxy compares every byte that the forward proxy and the edge
// receive. Credentials for one never reach the other. This holds for each
// setting that can contain them.
func TestForwardProxy(t *testing.T) {
	const basic = "Basic bWU6cDpAc3M=" // me:p:@ss
	ca := fwdNewCA(t)
	plain := func(_ *tls.Config, serve func(net.Conn)) func(net.Conn) { return serve }
	for _, scheme := range []string{"http", "https"} {
		for _, edgeTLS := range []bool{false, true} {
			if !edgeTLS && scheme == "https" {
				continue // without TLSConfig there is no root for the certificate of the proxy
			}
			for _, test := range []struct {
				name, userinfo, sent string // the lines after Host
				header, get          http.Header
			}{
				{"none", "", "", nil, nil},
				{"userinfo", "me:p%3A%40ss@", "Proxy-Authorization: " + basic + "\r\n", nil, nil},
				{"user alone", "me@", "Proxy-Authorization: Basic bWU6\r\n", nil, nil},
				{"ProxyHeader", "", "Proxy-Authorization: Bearer x\r\n", http.Header{"Proxy-Authorization": {"Bearer x"}}, nil},
				{"ProxyHeader in lower case", "", "proxy-authorization: Bearer x\r\n", http.Header{"proxy-authorization": {"Bearer x"}}, nil},
				{"ProxyHeader over userinfo", "you:no@", "Proxy-Authorization: Bearer x\r\n", http.Header{"Proxy-Authorization": {"Bearer x"}}, nil},
				{"ProxyHeader in lower case over userinfo", "you:no@", "proxy-authorization: Bearer x\r\n", http.Header{"proxy-authorization": {"Bearer x"}}, nil},
				{"GetHeader over userinfo", "you:no@", "Proxy-Authorization: Bearer y\r\n", nil, http.Header{"Proxy-Authorization": {"Bearer y"}}},
				{"GetHeader over all", "you:no@", "Proxy-Authorization: Bearer y\r\n", http.Header{"proxy-authorization": {"Bearer x"}}, http.Header{"proxy-Authorization": {"Bearer y"}}},
				{"other fields beside userinfo", "me@", "Accept: */*\r\nProxy-Authorization: Basic bWU6\r\nUser-Agent: probe/1\r\nX-B: 1\r\nX-B: 2\r\n",
					http.Header{"User-Agent": {"probe/1"}, "X-B": {"1", "2"}, "Accept": {"*/*"}}, nil},
				{"other fields beside GetHeader", "", "Proxy-Authorization: Bearer y\r\nUser-Agent: probe/1\r\n",
					http.Header{"User-Agent": {"probe/1"}}, http.Header{"Proxy-Authorization": {"Bearer y"}}},
			} {
				t.Run(fmt.Sprintf("%s/edgeTLS=%v/%s", scheme, edgeTLS, test.name), func(t *testing.T) {
					hellos := make(chan *tls.ClientHelloInfo, 1)
					proxyTLS := ca.server("proxy.example")
					proxyTLS.NextProtos = []string{"h2", "http/1.1"}
					proxyTLS.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
						hellos <- h
						return nil, nil
					}
					secureProxy, secureEdge := plain, plain
					if scheme == "https" {
						secureProxy = fwdSecure
					}
					connects, upgrades := make(chan string, 1), make(chan string, 1)
					d := &preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Header: http.Header{"X-A": {"1"}}, TLSConfig: ca.client()}
					d.TLSConfig.ServerName = "inner-name.example" // that of the edge alone
					if edgeTLS {
						secureEdge = fwdSecure
					}
					edge := fwdServe(t, secureEdge(ca.server("inner-name.example"), fwdUpgrade(upgrades, fwdEcho)))
					network := &fwdNet{hosts: map[string]string{
						"proxy.example:3128": fwdServe(t, secureProxy(proxyTLS, fwdConnect(connects, map[string]string{"edge.example:4430": edge}))),
					}}
					d.NetDialer = network
					d.Proxy = fwdBy(t, scheme+"://"+test.userinfo+"proxy.example:3128")
					d.ProxyHeader = test.header
					if test.get != nil {
						d.GetHeader = func(context.Context, *preflight.StatusError) (http.Header, error) { return test.get, nil }
					}
					before, proxyBefore := d.Header.Clone(), d.ProxyHeader.Clone()
					if !edgeTLS {
						d.TLSConfig = nil
					}
					conn, err := d.DialContext(t.Context(), "tcp", "edge.example:4430")
					require.NoError(t, err)

					connect := "CONNECT edge.example:4430 HTTP/1.1\r\nHost: edge.example:4430\r\n"
					require.Equal(t, connect+test.sent+"\r\n", fwdNext(t, connects))
					require.Equal(t, "GET / HTTP/1.1\r\nHost: edge.example:4430\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Carriers: upgrade\r\nX-A: 1\r\n\r\n", fwdNext(t, upgrades))
					require.Empty(t, conn.(*preflight.Conn).Request().Header.Values("Proxy-Authorization"))
					require.Equal(t, before, d.Header, "the caller's Header was changed")
					require.Equal(t, proxyBefore, d.ProxyHeader, "the caller's ProxyHeader was changed")
					if scheme == "https" {
						hello := fwdNext(t, hellos)
						require.Equal(t, "proxy.example", hello.ServerName)
						require.Equal(t, []string{"http/1.1"}, hello.SupportedProtos)
						require.Equal(t, "inner-name.example", d.TLSConfig.ServerName)
						require.Empty(t, d.TLSConfig.NextProtos)
					}
					fwdEnds(t, conn)
					require.Equal(t, []string{"tcp proxy.example:3128"}, network.dialed)
					network.closed(t, 1)
				})
			}
		}
	}
}

// TestForwardProxyCertificate: an https proxy is verified under its own name,
// with the roots of TLSConfig, or with those of the system if there is none.
func TestForwardProxyCertificate(t *testing.T) {
	ca := fwdNewCA(t)
	for name, test := range map[string]struct {
		client *tls.Config
		cert   string
		want   any
	}{
		"name of the edge":    {&tls.Config{RootCAs: ca.roots, ServerName: "edge.example"}, "edge.example", new(x509.HostnameError)},
		"unknown authority":   {&tls.Config{RootCAs: x509.NewCertPool()}, "proxy.example", new(x509.UnknownAuthorityError)},
		"without a TLSConfig": {nil, "proxy.example", new(*tls.CertificateVerificationError)},
		"no TLS there":        {ca.client(), "", new(tls.RecordHeaderError)},
	} {
		t.Run(name, func(t *testing.T) {
			serve := func(c net.Conn) {
				c.Read(make([]byte, 4<<10))
				io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			}
			if test.cert != "" {
				serve = fwdSecure(ca.server(test.cert), func(net.Conn) {})
			}
			network := &fwdNet{hosts: map[string]string{"proxy.example:3128": fwdServe(t, serve)}}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, TLSConfig: test.client, Proxy: fwdBy(t, "https://me:s3cr3t@proxy.example:3128")}
			conn, err := d.Dial("tcp", "edge.example:443")
			require.Nil(t, conn)
			require.ErrorContains(t, err, "TLS handshake with the forward proxy")
			require.ErrorAs(t, err, test.want)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "preflight", op.Op)
			testkit.RequireNoSecret(t, err)
			network.closed(t, 1)
		})
	}
}

// TestForwardProxyNone: without a proxy URL, for a host in NO_PROXY and for a
// Unix socket, the dial is direct. Credentials for a proxy are then not sent.
func TestForwardProxyNone(t *testing.T) {
	environment := (&httpproxy.Config{HTTPSProxy: "http://proxy.example:3128", NoProxy: "edge.example,.internal"}).ProxyFunc()
	socket, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	heads := make(chan string, 4)
	edge := fwdServe(t, fwdUpgrade(heads, fwdEcho))
	served := make(chan struct{})
	go func() {
		defer close(served)
		if c, err := socket.Accept(); err == nil {
			fwdUpgrade(heads, fwdEcho)(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { socket.Close(); <-served })
	for _, test := range []struct {
		network, address string
		proxy            func(*http.Request) (*url.URL, error)
	}{
		{"tcp", "edge.example:80", func(*http.Request) (*url.URL, error) { return nil, nil }},
		{"tcp", "edge.example:80", func(r *http.Request) (*url.URL, error) { return environment(r.URL) }},
		{"tcp", "a.internal:80", func(r *http.Request) (*url.URL, error) { return environment(r.URL) }},
		{"unix", socket.Addr().String(), func(*http.Request) (*url.URL, error) { return nil, errors.New("asked about a Unix socket") }},
	} {
		t.Run(test.network+" "+test.address, func(t *testing.T) {
			network := &fwdNet{hosts: map[string]string{"edge.example:80": edge, "a.internal:80": edge}}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, Proxy: test.proxy, ProxyHeader: http.Header{"Proxy-Authorization": {"Bearer x"}}}
			conn, err := d.Dial(test.network, test.address)
			require.NoError(t, err)
			require.NotContains(t, fwdNext(t, heads), "Proxy")
			fwdEnds(t, conn)
			require.Equal(t, []string{test.network + " " + test.address}, network.dialed)
		})
	}
}

// TestForwardProxyOfTheEnvironment: HTTPS_PROXY selects the proxy, with and
// without TLS and for every form of the address. HTTP_PROXY is not used.
func TestForwardProxyOfTheEnvironment(t *testing.T) {
	ca := fwdNewCA(t)
	heads, connects := make(chan string, 8), make(chan string, 8)
	plain := fwdServe(t, fwdUpgrade(heads, fwdEcho))
	secure := fwdServe(t, fwdSecure(ca.server("edge.example"), fwdUpgrade(heads, fwdEcho)))
	to := map[string]string{"edge.example:80": plain, "edge.example:443": secure, "edge.example:25": dialEcho(t, nil)}
	network := &fwdNet{hosts: map[string]string{"proxy.example:3128": fwdServe(t, fwdConnect(connects, to))}}
	environment := (&httpproxy.Config{HTTPProxy: "http://other.example:80", HTTPSProxy: "http://proxy.example:3128"}).ProxyFunc()
	d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, Proxy: func(r *http.Request) (*url.URL, error) { return environment(r.URL) }}
	withTLS := d
	withTLS.TLSConfig = ca.client()
	for address, dial := range map[string]func() (net.Conn, error){
		"edge.example:80":  func() (net.Conn, error) { return d.Dial("tcp", "edge.example:80") },
		"edge.example:443": func() (net.Conn, error) { return withTLS.Dial("tcp", "edge.example:443") },
		"edge.example:25":  func() (net.Conn, error) { return d.DialURL(t.Context(), "tcp://edge.example:25") },
	} {
		network.dialed = nil
		conn, err := dial()
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.Equal(t, []string{"tcp proxy.example:3128"}, network.dialed)
		require.Contains(t, fwdNext(t, connects), "CONNECT "+address+" HTTP/1.1\r\n")
	}
}

type fwdKey struct{}

// TestForwardProxyArgument: Proxy always gets an https URL, and the request
// that net/http would pass to it.
func TestForwardProxyArgument(t *testing.T) {
	errStop := errors.New("stop here")
	for _, test := range []struct {
		d         preflight.PreflightDialer
		address   string
		url, host string
	}{
		{preflight.PreflightDialer{Carriers: testkit.UpgradeAlone}, "edge.example:80", "https://edge.example:80/", "edge.example"},
		{preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Path: "/a%2Fb?c=d%20e", Host: "other.example"}, "192.0.2.1:8080", "https://192.0.2.1:8080/a%2Fb?c=d%20e", "other.example"},
		{preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, TLSConfig: new(tls.Config)}, "[2001:db8::1]:443", "https://[2001:db8::1]:443/", "[2001:db8::1]"},
	} {
		t.Run(test.url, func(t *testing.T) {
			var got *http.Request
			test.d.NetDialer = testkit.DialNever(t)
			test.d.Proxy = func(r *http.Request) (*url.URL, error) { got = r; return nil, errStop }
			conn, err := test.d.DialContext(context.WithValue(t.Context(), fwdKey{}, "mine"), "tcp", test.address)
			require.Nil(t, conn)
			require.ErrorIs(t, err, errStop)
			require.Equal(t, test.url, got.URL.String())
			require.Equal(t, test.host, got.Host)
			require.Equal(t, "GET", got.Method)
			require.NotNil(t, got.Header)
			require.Equal(t, "mine", got.Context().Value(fwdKey{}))
		})
	}
}

// TestForwardProxyBadConfiguration: a bad setting is an error before anything
// is dialed. The error contains no password.
func TestForwardProxyBadConfiguration(t *testing.T) {
	port := "bad"
	broken := func(*http.Request) (*url.URL, error) { return url.Parse("http://me:s3cr3t@proxy:" + port + "/") }
	by := func(rawURL string) func(*http.Request) (*url.URL, error) { return fwdBy(t, rawURL) }
	secret := http.Header{"Proxy-Authorization": {"s3cr3t"}}
	got := func(h http.Header) func(context.Context, *preflight.StatusError) (http.Header, error) {
		return func(context.Context, *preflight.StatusError) (http.Header, error) { return h, nil }
	}
	for name, test := range map[string]struct {
		d     preflight.PreflightDialer
		cause string
	}{
		"unknown scheme":       {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("ftp://me:s3cr3t@proxy:21")}, "ftp"},
		"no scheme":            {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("//me:s3cr3t@proxy:3128")}, "scheme"},
		"no host":              {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://me:s3cr3t@:3128")}, "no host"},
		"opaque":               {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http:me:s3cr3t@proxy")}, "no host"},
		"colon in the user":    {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://m%3Ae:s3cr3t@proxy")}, "colon"},
		"without Proxy":        {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, ProxyHeader: secret}, "ProxyHeader is set although Proxy is not set"},
		"without Proxy, other": {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, ProxyHeader: http.Header{"User-Agent": {"s3cr3t"}}}, "ProxyHeader is set although Proxy is not set"},
		"without Proxy, got":   {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, GetHeader: got(secret)}, "GetHeader returned Proxy-Authorization although Proxy is not set"},
		"in Header":            {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), Header: secret}, "ProxyHeader"},
		"in Header, lower":     {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), Header: http.Header{"proxy-authorization": {"s3cr3t"}}}, "ProxyHeader"},
		"in Header beside got": {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), Header: secret, GetHeader: got(secret)}, "ProxyHeader"},
		"two credentials":      {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), ProxyHeader: http.Header{"Proxy-Authorization": {"s3cr3t", "s3cr3t"}}}, "Proxy-Authorization"},
		"two credentials got":  {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), GetHeader: got(http.Header{"Proxy-Authorization": {"s3cr3t", "s3cr3t"}})}, "Proxy-Authorization"},
		"no credentials":       {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), ProxyHeader: http.Header{"Proxy-Authorization": {}}}, "Proxy-Authorization"},
		"two spellings":        {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), ProxyHeader: http.Header{"Proxy-Authorization": {"s3cr3t"}, "proxy-authorization": {"s3cr3t"}}}, "Proxy-Authorization"},
		"two spellings got":    {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), GetHeader: got(http.Header{"Proxy-Authorization": {"s3cr3t"}, "proxy-authorization": {"s3cr3t"}})}, "Proxy-Authorization"},
		"injected credentials": {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), ProxyHeader: http.Header{"Proxy-Authorization": {"s3cr3t\r\nX: y"}}}, "Proxy-Authorization"},
		"injected field":       {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), ProxyHeader: http.Header{"User-Agent": {"s3cr3t\r\nX: y"}}}, "ProxyHeader: the value of header field User-Agent"},
		"injected name":        {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), ProxyHeader: http.Header{"X: y\r\nZ": {"s3cr3t"}}}, "is not a token"},
		"reserved field":       {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: by("http://proxy"), Header: http.Header{"Host": {"s3cr3t"}}}, "Host"},
	} {
		t.Run(name, func(t *testing.T) {
			test.d.NetDialer = testkit.DialNever(t)
			conn, err := test.d.Dial("tcp", "edge.example:80")
			require.Nil(t, conn)
			require.ErrorContains(t, err, "preflight: ")
			require.ErrorContains(t, err, test.cause)
			testkit.RequireNoSecret(t, err)
		})
	}
	for _, name := range []string{"Host", "Connection", "Upgrade", "Content-Length", "Transfer-Encoding", "Trailer", "Expect"} {
		for _, as := range []string{name, strings.ToLower(name)} {
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialNever(t), Proxy: by("http://proxy"), ProxyHeader: http.Header{as: {"s3cr3t"}}}
			_, err := d.Dial("tcp", "edge.example:80")
			require.ErrorContains(t, err, "ProxyHeader: the header field "+name)
			testkit.RequireNoSecret(t, err)
		}
	}
	t.Run("error of Proxy", func(t *testing.T) {
		for _, dial := range []func(d *preflight.PreflightDialer) (net.Conn, error){
			func(d *preflight.PreflightDialer) (net.Conn, error) { return d.Dial("tcp", "edge.example:80") },
			func(d *preflight.PreflightDialer) (net.Conn, error) {
				return d.DialURL(t.Context(), "tcp://edge.example:80")
			},
		} {
			conn, err := dial(&preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialNever(t), Proxy: broken})
			require.Nil(t, conn)
			require.ErrorContains(t, err, "preflight: ")
			require.NotContains(t, fmt.Sprintf("%s %v %+v", err, err, err), "s3cr3t")
			require.ErrorAs(t, err, new(*url.Error))
			require.ErrorContains(t, errors.Unwrap(err), "s3cr3t", "errors.As finds the whole error")
		}
	})
}
