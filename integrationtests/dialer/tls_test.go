package dialer_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// TestDialerTLS: the TLS parameters that are offered to the proxy. The caller's
// configuration is not changed.
func TestDialerTLS(t *testing.T) {
	server := testkit.NewIdentity(t)
	for _, test := range []struct {
		network, address, serverName string // the names are the caller's
		insecure                     bool
		protos                       []string
		sni                          string
	}{
		{"tcp", "edge.example:443", "", false, nil, "edge.example"},
		{"tcp", "edge.example:https", "", false, []string{"h2", "http/1.1"}, "edge.example"},
		{"tcp", "other.example:443", "edge.example", false, []string{"http/1.1"}, "edge.example"},
		{"tcp", "127.0.0.1:443", "", false, nil, ""}, // RFC 6066 §3: no addresses in SNI
		{"tcp", "[::1%lo]:443", "", false, nil, ""},
		{"unix", "/run/edge.sock", "edge.example", false, nil, "edge.example"},
		{"unix", "/run/edge.sock", "", true, nil, ""},
	} {
		t.Run(test.network+" "+test.address, func(t *testing.T) {
			hello := make(chan *tls.ClientHelloInfo, 1)
			config := server.Config.Clone()
			config.NextProtos = []string{"h2", "http/1.1"}
			config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				hello <- h
				return nil, nil
			}
			got := make(chan *http.Request, 1)
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone,
				NetDialer: &testkit.DialPeer{T: t, Peer: func(c net.Conn) { dialServe(tls.Server(c, config), got) }},
				TLSConfig: server.Client(),
			}
			d.TLSConfig.ServerName, d.TLSConfig.NextProtos, d.TLSConfig.InsecureSkipVerify = test.serverName, test.protos, test.insecure
			conn, err := d.Dial(test.network, test.address)
			require.NoError(t, err)
			h := <-hello
			require.Equal(t, test.sni, h.ServerName)
			require.Equal(t, []string{"http/1.1"}, h.SupportedProtos)
			require.NotNil(t, <-got)
			require.Equal(t, test.serverName, d.TLSConfig.ServerName)
			require.Equal(t, test.protos, d.TLSConfig.NextProtos)
			tc := conn.(*preflight.Conn).NetConn().(*tls.Conn)
			require.Equal(t, "http/1.1", tc.ConnectionState().NegotiatedProtocol)
		})
	}
}

// TestDialerTLSCarriesBytes: the server sends its first bytes in the TLS record
// that holds the 101. It also tests the half-close, which TLS supports.
func TestDialerTLSCarriesBytes(t *testing.T) {
	server := testkit.NewIdentity(t)
	ln := tls.NewListener(testkit.ListenTCP(t), server.Config)
	heard := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			heard <- err.Error()
			return
		}
		defer c.Close()
		testkit.ReadRequest(c)
		io.WriteString(c, testkit.UpgradeAnswer+"banner")
		b, _ := io.ReadAll(c)
		heard <- string(b)
		io.WriteString(c, " and bye")
	}()
	d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, TLSConfig: server.Client()}
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := d.DialContext(ctx, "tcp", ln.Addr().String())
	cancel() // this has no effect on the connection any more
	require.NoError(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	_, err = io.WriteString(conn, "hello")
	require.NoError(t, err)
	require.NoError(t, conn.(*preflight.Conn).CloseWrite())
	require.Equal(t, "hello", <-heard)
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "banner and bye", string(got))
	require.ErrorIs(t, conn.(*preflight.Conn).CloseRead(), errors.ErrUnsupported)
}

// TestDialerTLSErrors: errors of TLS keep their type, and the connection is
// closed.
func TestDialerTLSErrors(t *testing.T) {
	server := testkit.NewIdentity(t)
	// This needs TCP, because both sides of TLS may write at once, which blocks
	// in a pipe.
	dial := func(t *testing.T, address string, client *tls.Config, serve func(net.Conn)) error {
		t.Helper()
		peer := &testkit.DialPeer{T: t, Tcp: true, Peer: func(c net.Conn) {
			serve(c)
			c.Close()
		}}
		d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer, TLSConfig: client, Header: testkit.SecretFields}
		conn, err := d.Dial("tcp", address)
		require.Nil(t, conn)
		require.EqualValues(t, 1, peer.Spy.Closes.Load())
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "preflight", op.Op)
		require.False(t, op.Timeout())
		return err
	}
	good := func(c net.Conn) { tls.Server(c, server.Config).Handshake() }
	t.Run("unknown authority", func(t *testing.T) {
		err := dial(t, "edge.example:443", &tls.Config{RootCAs: x509.NewCertPool()}, good)
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorAs(t, err, new(*tls.CertificateVerificationError))
		require.ErrorAs(t, err, new(x509.UnknownAuthorityError))
	})
	t.Run("other name", func(t *testing.T) {
		err := dial(t, "other.example:443", server.Client(), good)
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorAs(t, err, new(x509.HostnameError))
	})
	t.Run("no common ALPN", func(t *testing.T) {
		config := server.Config.Clone()
		config.NextProtos = []string{"imap"}
		err := dial(t, "edge.example:443", server.Client(), func(c net.Conn) { tls.Server(c, config).Handshake() })
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorContains(t, err, "no application protocol")
	})
	t.Run("h2, not offered", func(t *testing.T) {
		// A ServerHello of TLS 1.2 (RFC 5246 §7.4.1.3) with ALPN. It is built
		// by hand, because crypto/tls chooses only from what was offered.
		extensions := "\x00\x10\x00\x05\x00\x03\x02h2"
		hello := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\xc0\x2b" + "\x00" + "\x00" + string(rune(len(extensions))) + extensions
		message := "\x02\x00\x00" + string(rune(len(hello))) + hello
		record := "\x16\x03\x03\x00" + string(rune(len(message))) + message
		err := dial(t, "edge.example:443", server.Client(), func(c net.Conn) {
			io.WriteString(c, record)
			io.Copy(io.Discard, c)
		})
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorContains(t, err, "ALPN")
	})
	t.Run("not TLS", func(t *testing.T) {
		err := dial(t, "edge.example:443", server.Client(), func(c net.Conn) {
			c.Read(make([]byte, 2<<10))
			io.WriteString(c, "HTTP/1.1 400 The plain HTTP request was sent to HTTPS port\r\n\r\n")
		})
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorAs(t, err, new(tls.RecordHeaderError))
	})
	t.Run("EOF in TLS", func(t *testing.T) {
		err := dial(t, "edge.example:443", server.Client(), func(c net.Conn) { c.Read(make([]byte, 2<<10)) })
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorContains(t, err, "EOF")
	})
	t.Run("end after the TLS handshake", func(t *testing.T) {
		err := dial(t, "edge.example:443", server.Client(), func(c net.Conn) {
			tc := tls.Server(c, server.Config)
			testkit.ReadRequest(tc)
			tc.Close()
		})
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.ErrorContains(t, err, "the connection ended before the answer")
	})
}
