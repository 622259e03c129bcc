package dialer_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// dialEcho returns the address of a TCP server that echoes one connection, with
// TLS if config is set.
func dialEcho(t testing.TB, config *tls.Config) string {
	t.Helper()
	ln := testkit.ListenTCP(t)
	address := ln.Addr().String()
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
	testkit.ServeEcho(t, ln)
	return address
}

// dialPing sends some bytes, receives them again, and closes.
func dialPing(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(testkit.Patience))
	_, err := io.WriteString(c, "ping")
	require.NoError(t, err)
	got := make([]byte, 4)
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, "ping", string(got))
	require.NoError(t, c.Close())
}

// TestDialURLPlain: without http_preflight the URL is dialed directly. The
// path, the userinfo and the fields of an upgrade are not sent.
func TestDialURLPlain(t *testing.T) {
	server := testkit.NewIdentity(t)
	t.Run("tcp", func(t *testing.T) {
		d := preflight.PreflightDialer{Header: http.Header{"X-A": {"1"}}}
		conn, err := d.DialURL(t.Context(), "tcp://me:s3cr3t@"+dialEcho(t, nil)+"/amps/json")
		require.NoError(t, err)
		require.IsType(t, (*net.TCPConn)(nil), conn)
		dialPing(t, conn)
	})
	t.Run("tcps", func(t *testing.T) {
		d := preflight.PreflightDialer{TLSConfig: server.Client()}
		d.TLSConfig.NextProtos = []string{"amps"} // here these belong to the application
		config := server.Config.Clone()
		config.NextProtos = []string{"amps"}
		conn, err := d.DialURL(t.Context(), "tcps://"+dialEcho(t, config)+"/amps/json?http_preflight=false")
		require.NoError(t, err)
		require.Equal(t, "amps", conn.(*tls.Conn).ConnectionState().NegotiatedProtocol)
		require.Empty(t, d.TLSConfig.ServerName, "the caller's configuration was changed")
		dialPing(t, conn)
	})
	t.Run("tcps without TLSConfig", func(t *testing.T) {
		peer := &testkit.DialPeer{T: t, Tcp: true, Peer: func(c net.Conn) {
			tls.Server(c, server.Config).Handshake()
			c.Close()
		}}
		d := preflight.PreflightDialer{NetDialer: peer}
		conn, err := d.DialURL(t.Context(), "tcps://me:s3cr3t@edge.example:443")
		require.Nil(t, conn)
		require.ErrorAs(t, err, new(*tls.CertificateVerificationError), "verified with the system's roots")
		require.EqualValues(t, 1, peer.Spy.Closes.Load())
		testkit.RequireNoSecret(t, err)
	})
	for name, end := range testkit.ContextEnds {
		t.Run("tcps stalls, "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := end.Ctx(t.Context())
				defer cancel()
				peer := &testkit.DialPeer{T: t, Peer: func(net.Conn) {}}
				d := preflight.PreflightDialer{NetDialer: peer}
				begun := time.Now()
				conn, err := d.DialURL(ctx, "tcps://me:s3cr3t@edge.example:443")
				require.Nil(t, conn)
				require.ErrorIs(t, err, end.Want)
				require.Equal(t, end.After, time.Since(begun))
				require.NotZero(t, peer.Spy.Closes.Load())
				testkit.RequireNoSecret(t, err)
			})
		})
	}
}

// TestDialURLPreflight: the path is sent as it stands in the URL. The userinfo
// is for the logon of the application and is not sent, and neither are the
// options.
func TestDialURLPreflight(t *testing.T) {
	server := testkit.NewIdentity(t)
	for _, test := range []struct {
		url, target string
	}{
		{"tcp://edge.example:80?http_preflight=true", "/"},
		{"tcp://edge.example:80/?http_preflight=1", "/"},
		{"tcp://edge.example:80/client/amps/json?http_preflight=true&tcp_nodelay=false&tcp_keepalive=1&tcp_sndbuf=65536&tcp_rcvbuf=65536&tcp_linger=1&ip_protocol_prefer=ipv4", "/client/amps/json"},
		{"tcp://edge.example:80/client/amps/json?http_preflight=true&tcp_linger=-1&tcp_connecttimeout=1000&tcp_idlereadtimeout=10&pretty=true&compression=zlib", "/client/amps/json"},
		{"tcp://edge.example:80/a%2Fb/%20c?http_preflight=true", "/a%2Fb/%20c"},
		{"tcp://me:s3cr3t%20:%2F@edge.example:80/x?http_preflight=true", "/x"},
		{"tcp://m%3Ae:s3cr3t@edge.example:80/x?http_preflight=true", "/x"}, // Basic credentials could not contain it
		{"tcp://me@edge.example:80/x?http_preflight=true", "/x"},
		{"tcps://edge.example:443/x?http_preflight=true", "/x"},
		{"tcps://me:s3cr3t@edge.example:443/x?http_preflight=true", "/x"},
	} {
		t.Run(test.url, func(t *testing.T) {
			secure := strings.HasPrefix(test.url, "tcps")
			got := make(chan *http.Request, 1)
			d := preflight.PreflightDialer{
				Header: http.Header{"X-A": {"1"}},
				NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) {
					client, peer := testkit.TCPPair(t)
					if secure {
						peer = tls.Server(peer, server.Config)
					}
					go dialServe(peer, got)
					return client, nil
				}),
			}
			if secure {
				d.TLSConfig = server.Client()
			}
			conn, err := d.DialURL(t.Context(), test.url)
			require.NoError(t, err)
			r := <-got
			require.NotNil(t, r)
			require.Equal(t, test.target, r.RequestURI)
			require.Equal(t, test.target, conn.(*preflight.Conn).Request().RequestURI)
			require.Equal(t, "edge.example", r.Host)
			require.Equal(t, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}, "Preflight-Carriers": {"upgrade, websocket"}, "X-A": {"1"}}, r.Header)
			require.Equal(t, http.Header{"X-A": {"1"}}, d.Header, "the caller's Header was changed")
		})
	}
}

// TestDialURLContradictions: contradictions between URL and dialer are errors
// before anything is dialed. No error contains the password.
func TestDialURLContradictions(t *testing.T) {
	const plain, secure = "tcp://me:s3cr3t@edge.example:80/x", "tcps://me:s3cr3t@edge.example:443/x"
	for name, test := range map[string]struct {
		d     preflight.PreflightDialer
		url   string
		cause string
	}{
		"Path":                 {preflight.PreflightDialer{Path: "/y"}, plain + "?http_preflight=1", "Path"},
		"Path, plain":          {preflight.PreflightDialer{Path: "/y"}, plain, "Path"},
		"TLSConfig":            {preflight.PreflightDialer{TLSConfig: new(tls.Config)}, plain + "?http_preflight=1", "tcps"},
		"TLSConfig, plain":     {preflight.PreflightDialer{TLSConfig: new(tls.Config)}, plain, "tcps"},
		"bind":                 {preflight.PreflightDialer{}, plain + "?http_preflight=1&bind=127.0.0.1", "bind"},
		"bind, plain":          {preflight.PreflightDialer{}, secure + "?bind=127.0.0.1:0", "bind"},
		"TunnelTLSConfig":      {preflight.PreflightDialer{TunnelTLSConfig: new(tls.Config)}, plain, "TunnelTLSConfig"},
		"sni":                  {preflight.PreflightDialer{TLSConfig: &tls.Config{ServerName: "a.example"}}, secure + "?http_preflight=1&sni=b.example", "sni"},
		"sni, plain":           {preflight.PreflightDialer{TLSConfig: &tls.Config{ServerName: "a.example"}}, secure + "?sni=b.example", "sni"},
		"Host, plain":          {preflight.PreflightDialer{Host: "a b"}, secure, "the host"},
		"ProxyHeader":          {preflight.PreflightDialer{ProxyHeader: http.Header{"User-Agent": {"s3cr3t"}}}, plain, "Proxy is not set"},
		"reserved field":       {preflight.PreflightDialer{Header: http.Header{"Host": {"s3cr3t"}}}, plain + "?http_preflight=1", "Host"},
		"ALPN":                 {preflight.PreflightDialer{TLSConfig: &tls.Config{NextProtos: []string{"h2"}}}, secure + "?http_preflight=1", "http/1.1"},
		"not a URL":            {preflight.PreflightDialer{}, "tcp://me:s3cr3t@edge.example:80/%zz", "URL"},
		"control character":    {preflight.PreflightDialer{}, "tcp://me:s3cr3t@edge.example:80/\n", "URL"},
		"port in the password": {preflight.PreflightDialer{}, "tcp://me:s3cr3t/x@edge.example:80/", "URL"},
		"unknown option":       {preflight.PreflightDialer{}, plain + "?nodelay=1", "nodelay"},
		"unknown scheme":       {preflight.PreflightDialer{}, "http://me:s3cr3t@edge.example:80/", "http"},
	} {
		t.Run(name, func(t *testing.T) {
			test.d.NetDialer = testkit.DialNever(t)
			conn, err := test.d.DialURL(t.Context(), test.url)
			require.Nil(t, conn)
			require.ErrorContains(t, err, "preflight: ")
			require.ErrorContains(t, err, test.cause)
			testkit.RequireNoSecret(t, err)
		})
	}
}

// TestDialURLErrorsHideTheUser: no error of any source contains the userinfo.
func TestDialURLErrorsHideTheUser(t *testing.T) {
	closed := testkit.ListenTCP(t)
	require.NoError(t, closed.Close())
	_, err := new(preflight.PreflightDialer).DialURL(t.Context(), fmt.Sprintf("tcp://me:s3cr3t@%s/?http_preflight=1", closed.Addr()))
	require.Error(t, err)
	testkit.RequireNoSecret(t, err)

	for _, answer := range []string{"", "HTTP/1.1 401 Unauthorized\r\n\r\n", "what?", testkit.UpgradeAnswer[:9], "HTTP/1.1 101 S\r\n\r\n"} {
		peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) {
			testkit.ReadRequest(c)
			io.WriteString(c, answer)
			c.Close()
		}}
		_, err := (&preflight.PreflightDialer{NetDialer: peer}).DialURL(t.Context(), "tcp://me:s3cr3t@edge.example:80/?http_preflight=1")
		require.Error(t, err)
		testkit.RequireNoSecret(t, err)
		require.NotContains(t, err.Error(), "bWU6czNjcjN0") // base64 of it
		require.EqualValues(t, 1, peer.Spy.Closes.Load())
	}
}

// TestDialURLOptionsNeedTCP: an option that cannot be applied is an error and
// is not ignored. The connection is closed.
func TestDialURLOptionsNeedTCP(t *testing.T) {
	for _, option := range []string{"tcp_nodelay=1", "tcp_keepalive=0", "tcp_sndbuf=1", "tcp_rcvbuf=1", "tcp_linger=0"} {
		for _, preflightToo := range []string{"", "&http_preflight=1"} {
			peer := &testkit.DialPeer{T: t, Peer: func(net.Conn) {}}
			d := preflight.PreflightDialer{NetDialer: peer}
			conn, err := d.DialURL(t.Context(), "tcp://me:s3cr3t@edge.example:80/?"+option+preflightToo)
			require.Nil(t, conn)
			require.ErrorContains(t, err, "need a TCP connection")
			require.EqualValues(t, 1, peer.Spy.Closes.Load())
			require.Zero(t, peer.Spy.Writes.Load())
			testkit.RequireNoSecret(t, err)
		}
	}
	t.Run("the TCP connection may be below other layers", func(t *testing.T) {
		tunnel := dialEcho(t, nil)
		below := testkit.DialFunc(func(ctx context.Context, network, _ string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, tunnel)
			if err != nil {
				return nil, err
			}
			return dialWrapped{c}, nil
		})
		conn, err := (&preflight.PreflightDialer{NetDialer: below}).DialURL(t.Context(), "tcp://edge.example:80/?tcp_linger=1")
		require.NoError(t, err)
		dialPing(t, conn)
	})
}

// dialWrapped is a connection above another.
type dialWrapped struct{ net.Conn }

func (c dialWrapped) NetConn() net.Conn { return c.Conn }

// TestDialURLPrefers dials one family first and falls back to the other, as
// long as the context has not ended.
func TestDialURLPrefers(t *testing.T) {
	errFour, errSix := errors.New("no IPv4 here"), errors.New("no IPv6 here")
	for _, test := range []struct {
		option string
		four   bool
		six    bool
		dialed []string
	}{
		{"", true, true, []string{"tcp"}},
		{"&ip_protocol_prefer=ipv4", true, true, []string{"tcp4"}},
		{"&ip_protocol_prefer=ipv4", false, true, []string{"tcp4", "tcp6"}},
		{"&ip_protocol_prefer=ipv6", true, true, []string{"tcp6"}},
		{"&ip_protocol_prefer=ipv6", true, false, []string{"tcp6", "tcp4"}},
		{"&ip_protocol_prefer=ipv6", false, false, []string{"tcp6", "tcp4"}},
	} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) { dialServe(c, make(chan *http.Request, 1)) }}
			var dialed []string
			d := preflight.PreflightDialer{NetDialer: testkit.DialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
				dialed = append(dialed, network)
				switch {
				case network == "tcp4" && !test.four:
					return nil, errFour
				case network == "tcp6" && !test.six:
					return nil, errSix
				}
				return peer.DialContext(ctx, network, address)
			})}
			_, err := d.DialURL(t.Context(), "tcp://edge.example:80/?http_preflight=1"+test.option)
			require.Equal(t, test.dialed, dialed)
			if test.four || test.six {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, errFour)
				require.ErrorIs(t, err, errSix)
			}
		})
	}
	t.Run("not after the end of ctx", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var dialed int
		d := preflight.PreflightDialer{NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) {
			dialed++
			cancel()
			return nil, ctx.Err()
		})}
		conn, err := d.DialURL(ctx, "tcp://edge.example:80/?ip_protocol_prefer=ipv6")
		require.Nil(t, conn)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 1, dialed)
	})
}
