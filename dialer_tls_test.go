package preflight_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// dialIdentity is a server that clients can know.
type dialIdentity struct {
	config *tls.Config
	roots  *x509.CertPool
}

// client is a new configuration that trusts the server.
func (s dialIdentity) client() *tls.Config { return &tls.Config{RootCAs: s.roots} }

// dialCert makes the identity of edge.example and of the loopback addresses. It
// is valid in the year 2000 too, in which the clock of synctest begins.
func dialCert(t testing.TB) dialIdentity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC),
		DNSNames:              []string{"edge.example"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return dialIdentity{
		config: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}},
		roots:  roots,
	}
}

// TestDialerTLS: what is offered to the proxy, and that the caller's
// configuration stays as it was.
func TestDialerTLS(t *testing.T) {
	server := dialCert(t)
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
			config := server.config.Clone()
			config.NextProtos = []string{"h2", "http/1.1"}
			config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				hello <- h
				return nil, nil
			}
			got := make(chan *http.Request, 1)
			d := preflight.PreflightDialer{
				NetDialer: &dialPeer{t: t, peer: func(c net.Conn) { dialServe(tls.Server(c, config), got) }},
				TLSConfig: server.client(),
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

// TestDialerTLSCarriesBytes has what the server says at once in the very TLS
// record that holds the 101, and half-close, which TLS has.
func TestDialerTLSCarriesBytes(t *testing.T) {
	server := dialCert(t)
	ln := tls.NewListener(listenTCP(t), server.config)
	heard := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			heard <- err.Error()
			return
		}
		defer c.Close()
		upgradeRead(c)
		io.WriteString(c, upgradeAnswer+"banner")
		b, _ := io.ReadAll(c)
		heard <- string(b)
		io.WriteString(c, " and bye")
	}()
	d := preflight.PreflightDialer{TLSConfig: server.client()}
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := d.DialContext(ctx, "tcp", ln.Addr().String())
	cancel() // which is nothing to the connection any more
	require.NoError(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(conn, "hello")
	require.NoError(t, err)
	require.NoError(t, conn.(*preflight.Conn).CloseWrite())
	require.Equal(t, "hello", <-heard)
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "banner and bye", string(got))
	require.ErrorIs(t, conn.(*preflight.Conn).CloseRead(), errors.ErrUnsupported)
}

// TestDialerTLSErrors: what goes wrong in TLS keeps its type, and closes.
func TestDialerTLSErrors(t *testing.T) {
	server := dialCert(t)
	// Over TCP, because both sides of TLS may write at once, which hangs in a pipe.
	dial := func(t *testing.T, address string, client *tls.Config, serve func(net.Conn)) error {
		t.Helper()
		peer := &dialPeer{t: t, tcp: true, peer: func(c net.Conn) {
			serve(c)
			c.Close()
		}}
		d := preflight.PreflightDialer{NetDialer: peer, TLSConfig: client, Header: upgradeSecrets}
		conn, err := d.Dial("tcp", address)
		require.Nil(t, conn)
		require.EqualValues(t, 1, peer.spy.closes.Load())
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "preflight", op.Op)
		require.False(t, op.Timeout())
		return err
	}
	good := func(c net.Conn) { tls.Server(c, server.config).Handshake() }
	t.Run("unknown authority", func(t *testing.T) {
		err := dial(t, "edge.example:443", &tls.Config{RootCAs: x509.NewCertPool()}, good)
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorAs(t, err, new(*tls.CertificateVerificationError))
		require.ErrorAs(t, err, new(x509.UnknownAuthorityError))
	})
	t.Run("other name", func(t *testing.T) {
		err := dial(t, "other.example:443", server.client(), good)
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorAs(t, err, new(x509.HostnameError))
	})
	t.Run("no common ALPN", func(t *testing.T) {
		config := server.config.Clone()
		config.NextProtos = []string{"imap"}
		err := dial(t, "edge.example:443", server.client(), func(c net.Conn) { tls.Server(c, config).Handshake() })
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorContains(t, err, "no application protocol")
	})
	t.Run("h2 that was not offered", func(t *testing.T) {
		// A ServerHello of TLS 1.2 (RFC 5246 §7.4.1.3) with ALPN, by hand
		// because crypto/tls chooses only what was offered.
		extensions := "\x00\x10\x00\x05\x00\x03\x02h2"
		hello := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\xc0\x2b" + "\x00" + "\x00" + string(rune(len(extensions))) + extensions
		message := "\x02\x00\x00" + string(rune(len(hello))) + hello
		record := "\x16\x03\x03\x00" + string(rune(len(message))) + message
		err := dial(t, "edge.example:443", server.client(), func(c net.Conn) {
			io.WriteString(c, record)
			io.Copy(io.Discard, c)
		})
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorContains(t, err, "ALPN")
	})
	t.Run("not TLS", func(t *testing.T) {
		err := dial(t, "edge.example:443", server.client(), func(c net.Conn) {
			c.Read(make([]byte, 2<<10))
			io.WriteString(c, "HTTP/1.1 400 The plain HTTP request was sent to HTTPS port\r\n\r\n")
		})
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorAs(t, err, new(tls.RecordHeaderError))
	})
	t.Run("EOF in TLS", func(t *testing.T) {
		err := dial(t, "edge.example:443", server.client(), func(c net.Conn) { c.Read(make([]byte, 2<<10)) })
		require.ErrorContains(t, err, "TLS handshake")
		require.ErrorContains(t, err, "EOF")
	})
	t.Run("nobody behind TLS", func(t *testing.T) {
		err := dial(t, "edge.example:443", server.client(), func(c net.Conn) {
			tc := tls.Server(c, server.config)
			upgradeRead(tc)
			tc.Close()
		})
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.ErrorContains(t, err, "unavailable")
	})
}
