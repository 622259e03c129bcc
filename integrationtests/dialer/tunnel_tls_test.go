package dialer_test

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// TestTunnelTLS: the server name that is used inside the tunnel, the field that
// asks for TLS inside, and the token, which does not change. The caller's
// configuration is not changed.
func TestTunnelTLS(t *testing.T) {
	ca := fwdNewCA(t)
	for name, test := range map[string]struct {
		d                preflight.PreflightDialer
		serverName, alpn string // the caller's
		cert, sni, token string
	}{
		"address":            {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone}, "", "", "edge.example", "edge.example", "tcp"},
		"Host":               {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Host: "service.example"}, "", "", "service.example", "service.example", "tcp"},
		"Host with a port":   {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Host: "service.example:8443"}, "", "", "service.example", "service.example", "tcp"},
		"ServerName":         {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Host: "other.example"}, "service.example", "", "service.example", "service.example", "tcp"},
		"Protocol":           {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Protocol: "amps/1"}, "", "", "edge.example", "edge.example", "amps/1"},
		"ALPN of the caller": {preflight.PreflightDialer{Carriers: testkit.UpgradeAlone}, "", "h2", "edge.example", "edge.example", "tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			hellos, heads := make(chan *tls.ClientHelloInfo, 1), make(chan string, 1)
			inner := ca.server(test.cert)
			inner.NextProtos = []string{"h2", "http/1.1"}
			inner.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				hellos <- h
				return nil, nil
			}
			d := &test.d
			network := &fwdNet{hosts: map[string]string{"edge.example:443": fwdServe(t, fwdUpgrade(heads, fwdSecure(inner, fwdEcho)))}}
			d.NetDialer = network
			d.TunnelTLSConfig = ca.client()
			d.TunnelTLSConfig.ServerName = test.serverName
			if test.alpn != "" {
				d.TunnelTLSConfig.NextProtos = []string{test.alpn}
			}
			conn, err := d.Dial("tcp", "edge.example:443")
			require.NoError(t, err)
			require.Contains(t, fwdNext(t, heads), "\r\nUpgrade: "+test.token+"\r\nPreflight-Carriers: upgrade\r\nPreflight-Tunnel: tls\r\n\r\n")
			hello := fwdNext(t, hellos)
			require.Equal(t, test.sni, hello.ServerName)
			require.Equal(t, d.TunnelTLSConfig.NextProtos, hello.SupportedProtos)
			c := conn.(*preflight.Conn)
			require.Equal(t, test.alpn, c.NetConn().(*tls.Conn).ConnectionState().NegotiatedProtocol)
			require.Equal(t, test.token, c.Request().Header.Get("Upgrade"))
			require.Equal(t, test.serverName, d.TunnelTLSConfig.ServerName, "the caller's configuration was changed")
			fwdEnds(t, conn)
			network.closed(t, 1)
		})
	}
	t.Run("no name", func(t *testing.T) {
		d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialNever(t), TunnelTLSConfig: new(tls.Config)}
		_, err := d.Dial("unix", "/run/edge.sock")
		require.ErrorContains(t, err, "TunnelTLSConfig")
		require.ErrorContains(t, err, "ServerName")
	})
}

// TestTunnelTLSIsAgreed: if request and answer disagree about TLS inside the
// tunnel, the dial fails before anything is sent into the tunnel. The error
// tells which of the two sides asked for TLS inside.
func TestTunnelTLSIsAgreed(t *testing.T) {
	ca := fwdNewCA(t)
	for name, test := range map[string]struct {
		fields   string
		asks     bool
		protocol string
		says     string
	}{
		"not confirmed":                     {"", true, "", "does not confirm TLS inside the tunnel, which was asked for"},
		"not confirmed by tcps":             {"", true, "tcps", "does not confirm TLS inside the tunnel, which was asked for"},
		"confirmed with another value":      {"Preflight-Tunnel: TLS\r\n", true, "", "its value is not tls"},
		"confirmed twice":                   {"Preflight-Tunnel: tls\r\nPreflight-Tunnel: tls\r\n", true, "", "repeated"},
		"confirmed in another":              {"Preflight-Tunnels: tls\r\n", true, "", "does not confirm"},
		"not asked for":                     {"Preflight-Tunnel: tls\r\n", false, "", "which was not asked for"},
		"not asked for by tcps":             {"preflight-tunnel:tls\r\n", false, "tcps", "which was not asked for"},
		"not asked for, with another value": {"Preflight-Tunnel: off\r\n", false, "", "its value is not tls"},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %t", name, secure), func(t *testing.T) {
				behind := make(chan string, 1)
				serve := func(c net.Conn) {
					token := cmp.Or(test.protocol, "tcp")
					testkit.ReadRequest(c)
					io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "+token+"\r\nConnection: Upgrade\r\n"+test.fields+"\r\n")
					rest, _ := io.ReadAll(c)
					behind <- string(rest)
				}
				if secure {
					serve = fwdSecure(ca.server("edge.example"), serve)
				}
				network := &fwdNet{hosts: map[string]string{"edge.example:443": fwdServe(t, serve)}}
				d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, Protocol: test.protocol, Header: testkit.SecretFields}
				if secure {
					d.TLSConfig = ca.client()
				}
				if test.asks {
					d.TunnelTLSConfig = ca.client()
				}
				conn, err := d.Dial("tcp", "edge.example:443")
				require.Nil(t, conn)
				require.Equal(t, 101, testkit.StatusError(t, err).StatusCode)
				require.False(t, testkit.StatusError(t, err).Temporary())
				require.ErrorContains(t, err, test.says)
				testkit.RequireNoSecret(t, err)
				require.Empty(t, fwdNext(t, behind))
				network.closed(t, 1)
			})
		}
	}
	t.Run("Client", func(t *testing.T) {
		_, err := testkit.UpgradeAnswered(t, "HTTP/1.1 101 S\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nPreflight-Tunnel: tls\r\n\r\n", false)
		require.Equal(t, 101, testkit.StatusError(t, err).StatusCode)
		require.ErrorContains(t, err, "which was not asked for")
	})
	// A listener that offers no TLS says so, and the error names the missing
	// setting.
	t.Run("a listener without TLSConfig", func(t *testing.T) {
		l := testkit.Listen(t, &preflight.PreflightListener{})
		testkit.ServeEcho(t, l)
		_, err := (&preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, TunnelTLSConfig: ca.client()}).Dial("tcp", l.Addr().String())
		require.Equal(t, 426, testkit.StatusError(t, err).StatusCode)
		require.ErrorContains(t, err, "TunnelTLSConfig")
		require.ErrorContains(t, err, "PreflightListener.TLSConfig")
		_, err = new(preflight.PreflightDialer).Dial("tcp", fwdServe(t, testkit.Say("HTTP/1.1 426 U\r\n\r\n", func(net.Conn) {})))
		require.NotContains(t, err.Error(), "TunnelTLSConfig", "which was not used")
	})
}

// TestTunnelTLSErrors: errors of TLS inside the tunnel name the step and keep
// their type, and the connection is closed.
func TestTunnelTLSErrors(t *testing.T) {
	ca := fwdNewCA(t)
	reads := func(answer string) func(net.Conn) {
		return func(c net.Conn) {
			c.Read(make([]byte, 4<<10))
			io.WriteString(c, answer)
		}
	}
	none := func(net.Conn) {}
	for name, test := range map[string]struct {
		client *tls.Config
		then   func(net.Conn)
		text   string
		want   []any
	}{
		"unknown authority": {&tls.Config{RootCAs: x509.NewCertPool()}, fwdSecure(ca.server("edge.example"), none), "x509",
			[]any{new(x509.UnknownAuthorityError), new(*tls.CertificateVerificationError)}},
		"other name":     {ca.client(), fwdSecure(ca.server("other.example"), none), "other.example", []any{new(x509.HostnameError), new(*tls.CertificateVerificationError)}},
		"plaintext":      {ca.client(), reads("220 mail.example ESMTP\r\n"), "does not speak TLS", []any{new(tls.RecordHeaderError)}},
		"closes":         {ca.client(), reads(""), "the connection ended before the answer", nil},
		"half a record":  {ca.client(), reads("\x16\x03\x03\x00"), "EOF", nil},
		"alert":          {ca.client(), reads("\x15\x03\x03\x00\x02\x02\x28"), "handshake failure", nil},
		"no common ALPN": {&tls.Config{RootCAs: ca.roots, NextProtos: []string{"amps"}}, fwdSecure(fwdALPN(ca.server("edge.example")), none), "no application protocol", nil},
	} {
		t.Run(name, func(t *testing.T) {
			network := &fwdNet{hosts: map[string]string{"edge.example:443": fwdServe(t, fwdUpgrade(make(chan string, 1), test.then))}}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, TunnelTLSConfig: test.client, Header: testkit.SecretFields}
			conn, err := d.Dial("tcp", "edge.example:443")
			require.Nil(t, conn)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "preflight", op.Op)
			require.False(t, op.Timeout())
			require.ErrorContains(t, err, "TLS handshake in the tunnel")
			require.ErrorContains(t, err, test.text)
			for _, want := range test.want {
				require.ErrorAs(t, err, want)
			}
			testkit.RequireNoSecret(t, err)
			network.closed(t, 1)
		})
	}
}

func fwdALPN(config *tls.Config) *tls.Config {
	config.NextProtos = []string{"imap"}
	return config
}

// TestTunnelTLSStalls is TestDialerStalls for the last step. On a transport
// without deadlines, only closing it can end a TLS handshake that stalls.
func TestTunnelTLSStalls(t *testing.T) {
	for endName, end := range testkit.ContextEnds {
		for _, noDeadlines := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/noDeadlines=%v", endName, noDeadlines), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := end.Ctx(t.Context())
					defer cancel()
					peer := &testkit.DialPeer{T: t, NoDeadlines: noDeadlines, Peer: fwdUpgrade(make(chan string, 1), func(c net.Conn) { c.Read(make([]byte, 4<<10)) })}
					d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer, TunnelTLSConfig: new(tls.Config), Header: testkit.SecretFields}
					begun := time.Now()
					conn, err := d.DialContext(ctx, "tcp", "edge.example:443")
					require.Nil(t, conn)
					require.ErrorIs(t, err, end.Want)
					require.ErrorContains(t, err, "TLS handshake in the tunnel")
					require.Equal(t, end.After, time.Since(begun))
					require.NotZero(t, peer.Spy.Closes.Load())
					var op *net.OpError
					require.ErrorAs(t, err, &op)
					require.Equal(t, endName == "timeout" || endName == "deadline of ctx", op.Timeout())
					testkit.RequireNoSecret(t, err)
				})
			})
		}
	}
}

// TestTLSResumption: the caller's session caches are used, outside and inside
// the tunnel.
func TestTLSResumption(t *testing.T) {
	ca := fwdNewCA(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			edge, inner := ca.server("edge.example"), ca.server("service.example")
			heads := make(chan string, 2)
			address := fwdServe(t, fwdSecure(edge, fwdUpgrade(heads, fwdSecure(inner, fwdEcho))))
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone,
				NetDialer: &fwdNet{hosts: map[string]string{"edge.example:443": address}},
				TLSConfig: ca.client(), TunnelTLSConfig: ca.client(), Host: "service.example",
			}
			for _, config := range []*tls.Config{d.TLSConfig, d.TunnelTLSConfig} {
				config.MaxVersion = version
				config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			}
			d.TLSConfig.ServerName = "edge.example"
			for _, resumed := range []bool{false, true} {
				conn, err := d.Dial("tcp", "edge.example:443")
				require.NoError(t, err)
				inside := conn.(*preflight.Conn).NetConn().(*tls.Conn)
				outside := testkit.Below[*tls.Conn](t, inside)
				require.Equal(t, resumed, outside.ConnectionState().DidResume)
				require.Equal(t, resumed, inside.ConnectionState().DidResume)
				fwdEnds(t, conn)
			}
		})
	}
}

// TestTLSClientCertificates: client certificates at the edge and inside the
// tunnel. Each has its own.
func TestTLSClientCertificates(t *testing.T) {
	ca := fwdNewCA(t)
	names := make(chan string, 8)
	wants := func(name string) *tls.Config {
		config := ca.server(name)
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, ca.roots
		config.VerifyConnection = func(s tls.ConnectionState) error {
			names <- s.PeerCertificates[0].Subject.CommonName
			return nil
		}
		return config
	}
	address := fwdServe(t, fwdSecure(wants("edge.example"), fwdUpgrade(make(chan string, 4), fwdSecure(wants("service.example"), fwdEcho))))
	outer, inner := ca.issue("client outside"), ca.issue("client inside")
	dialer := func() *preflight.PreflightDialer {
		d := &preflight.PreflightDialer{Carriers: testkit.UpgradeAlone,
			NetDialer: &fwdNet{hosts: map[string]string{"edge.example:443": address}},
			TLSConfig: ca.client(), TunnelTLSConfig: ca.client(), Host: "service.example",
		}
		d.TLSConfig.ServerName = "edge.example"
		d.TLSConfig.Certificates = []tls.Certificate{outer}
		d.TunnelTLSConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &inner, nil }
		return d
	}
	t.Run("both", func(t *testing.T) {
		conn, err := dialer().Dial("tcp", "edge.example:443")
		require.NoError(t, err)
		fwdEnds(t, conn)
		require.Equal(t, "client outside", fwdNext(t, names))
		require.Equal(t, "client inside", fwdNext(t, names))
	})
	t.Run("none at the edge", func(t *testing.T) {
		d := dialer()
		d.TLSConfig.Certificates = nil
		_, err := d.Dial("tcp", "edge.example:443")
		require.ErrorContains(t, err, "certificate required", "in TLS 1.3 the answer comes after the handshake")
	})
	t.Run("none inside", func(t *testing.T) {
		d := dialer()
		d.TunnelTLSConfig.GetClientCertificate = nil
		d.TunnelTLSConfig.MaxVersion = tls.VersionTLS12 // the answer comes during the handshake
		_, err := d.Dial("tcp", "edge.example:443")
		require.Equal(t, "client outside", fwdNext(t, names))
		require.ErrorContains(t, err, "TLS handshake in the tunnel")
		require.ErrorContains(t, err, "remote error")
	})
}
