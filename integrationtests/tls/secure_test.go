package tls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A new certificate is used for the next client, with TLS on the port and with
// TLS inside the tunnel.
func TestTLSConfigReload(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil },
	}})
	accepted := testkit.AcceptAll(t, l)
	for _, name := range []string{"before", "after"} {
		cert, pool := testkit.Certificate(t, name)
		current.Store(&cert)
		client := &tls.Config{RootCAs: pool, ServerName: "example.com"}

		c := testkit.ClientOver(t, testkit.DialTCP(t, l.Addr()), nil, client)
		c.Send(t, testkit.Request())
		require.Equal(t, 101, c.Answer("GET").StatusCode)
		testkit.Talk(t, c, testkit.NextConn(t, accepted))
		require.Equal(t, name, c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName)

		inner, conn := openTunnelTLS(t, testkit.DialTCP(t, l.Addr()), client, accepted)
		testkit.Talk(t, inner, conn)
		require.Equal(t, name, inner.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName)
	}
}

// A callback of TLSConfig can see the address of the client.
func TestTLSConfigKnowsTheClient(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	asked := make(chan string, 1)
	config := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		asked <- hello.Conn.RemoteAddr().String()
		return server, nil
	}}
	l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: config, TrustedProxies: testkit.TrustedPrefixes})
	accepted := testkit.AcceptAll(t, l)
	c := testkit.ClientOver(t, testkit.DialTCP(t, l.Addr()), testkit.ProxyHeader(t, 2, testkit.Inside), client)
	require.Equal(t, testkit.Inside.String(), <-asked)
	c.Send(t, strings.Replace(testkit.RequestTLS, "\r\n\r\n", "\r\n"+testkit.XFF+"203.0.113.9\r\n\r\n", 1))
	require.Equal(t, 101, c.Answer("GET").StatusCode)
	inner := tls.Client(c.Conn, client)
	require.NoError(t, inner.Handshake())
	require.Equal(t, "203.0.113.9:0", <-asked)
	require.Equal(t, "203.0.113.9:0", testkit.NextConn(t, accepted).RemoteAddr().String())
}

// A TLSConfig that has only GetConfigForClient is valid too.
func TestTLSConfigForClient(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return server, nil },
	}})
	accepted := testkit.AcceptAll(t, l)
	c := testkit.ClientOver(t, testkit.DialTCP(t, l.Addr()), nil, client)
	c.Send(t, testkit.Request())
	require.Equal(t, 101, c.Answer("GET").StatusCode)
	testkit.Talk(t, c, testkit.NextConn(t, accepted))
}

// The Context of a callback of TLSConfig ends with the handshake.
func TestTLSConfigCallbacksAreBounded(t *testing.T) {
	_, client := testkit.PipeTLS(t)
	for _, tt := range []struct {
		name   string
		tunnel bool
		close  bool
		ends   time.Duration
	}{
		{name: "until the handshake times out", ends: 3 * time.Second},
		{name: "until Close", close: true, ends: time.Second},
		{name: "in the tunnel, until the handshake times out", tunnel: true, ends: 3 * time.Second},
		{name: "in the tunnel, until Close", tunnel: true, close: true, ends: time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n, called := testkit.NewNetwork(), make(chan time.Duration, 2)
				l := testkit.Listen(t, &preflight.PreflightListener{
					Listener: n, HandshakeTimeout: 3 * time.Second,
					TLSConfig: &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
						deadline, ok := hello.Context().Deadline()
						if !ok {
							deadline = start
						}
						called <- deadline.Sub(start)
						<-hello.Context().Done()
						called <- time.Since(start)
						return nil, context.Cause(hello.Context())
					}},
				})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				if tt.tunnel {
					require.Equal(t, 101, (<-c.Ask(testkit.RequestTLS)).StatusCode)
				}
				shaken := make(chan error, 1)
				go func() { shaken <- tls.Client(c.Conn, client).Handshake() }()
				time.Sleep(time.Second)
				if tt.close {
					require.NoError(t, l.Close())
				}
				require.Equal(t, 3*time.Second, <-called, "the Context has the deadline")
				require.Equal(t, tt.ends, <-called)
				require.Error(t, <-shaken)
				require.Equal(t, tt.ends, time.Since(start))
				synctest.Wait()
				require.True(t, c.Server.Closed.Load())
				require.Empty(t, accepted)
			})
		})
	}
}

// If client and server agree on a protocol by ALPN, the client speaks that
// protocol.
func TestTLSConfigALPN(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	server.NextProtos = []string{"h2", "http/1.1", "amps"}
	for _, tt := range []struct {
		offered []string
		agreed  string
		plain   bool
	}{
		{nil, "", false},
		{[]string{"http/1.1"}, "http/1.1", false},
		{[]string{"http/1.1", "unheard-of"}, "http/1.1", false},
		{[]string{"http/1.1", "h2"}, "h2", true},
		{[]string{"amps"}, "amps", true},
	} {
		for _, refuse := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q, refused %t", tt.offered, refuse), func(t *testing.T) {
				l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server, RequireUpgrade: refuse, HandshakeTimeout: time.Hour})
				accepted := testkit.AcceptAll(t, l)
				offer := client.Clone()
				offer.NextProtos = tt.offered
				c := testkit.Secure(t, testkit.DialClient(t, l), offer)
				require.Equal(t, tt.agreed, c.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol)
				if tt.plain && refuse {
					c.Ended(t)
					require.Empty(t, accepted)
					return
				}
				c.Send(t, testkit.Request())
				if !tt.plain {
					require.Equal(t, 101, c.Answer("GET").StatusCode)
				}
				conn := testkit.NextConn(t, accepted)
				require.Equal(t, tt.agreed, conn.NetConn().(*tls.Conn).ConnectionState().NegotiatedProtocol)
				require.Equal(t, tt.plain, conn.Request() == nil)
				if tt.plain {
					testkit.Skip(t, conn, testkit.Request())
				}
				testkit.Talk(t, c, conn)
			})
		}
	}
}

// A TLS handshake that fails affects only its own connection.
func TestTLSHandshakeFailures(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	server.NextProtos = []string{"http/1.1"}
	l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server, HandshakeTimeout: time.Hour})
	accepted := testkit.AcceptAll(t, l)
	hello := string(testkit.ClientHello(t, client))
	with := func(change func(c *tls.Config)) func(c net.Conn) {
		return func(c net.Conn) {
			config := client.Clone()
			change(config)
			tc := tls.Client(c, config)
			if tc.Handshake() == nil { // in TLS 1.3 one side learns later that the other refuses
				tc.Read(make([]byte, 1))
			}
		}
	}
	say := func(s string) func(c net.Conn) {
		return func(c net.Conn) {
			io.WriteString(c, s)
			c.(*net.TCPConn).CloseWrite()
		}
	}
	for name, fail := range map[string]func(c net.Conn){
		"the client does not trust us":  with(func(c *tls.Config) { c.RootCAs = x509.NewCertPool() }),
		"the client means another name": with(func(c *tls.Config) { c.ServerName = "other.example" }),
		"no common protocol":            with(func(c *tls.Config) { c.NextProtos = []string{"h2"} }),
		"no common version":             with(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }),
		"an empty hello":                say("\x16\x03\x01\x00\x04\x01\x00\x00\x00"),
		"a hello of garbage":            say("\x16\x03\x01\x00\x09\x01\x00\x00\x05garba"),
		"a hello that is far too long":  say("\x16\x03\x01\x00\x04\x01\xff\xff\xff"),
		"a hello of an unknown version": say("\x16\x03\x00" + hello[3:]),
		"half a hello":                  say(hello[:len(hello)/2]),
		"an alert behind the hello":     say(hello + "\x15\x03\x03\x00\x02\x02\x28"),
		"data behind the hello":         say(hello + "\x17\x03\x03\x00\x02\x02\x28"),
		"garbage behind the hello":      say(hello + testkit.Request()),
		"an end behind the hello":       say(hello),
		"two hellos":                    say(hello + hello),
	} {
		t.Run(name, func(t *testing.T) {
			good := testkit.ClientOver(t, testkit.DialTCP(t, l.Addr()), nil, client)
			bad := testkit.DialTCP(t, l.Addr())
			fail(bad)
			require.NotContains(t, testkit.ReadToEnd(t, bad), "HTTP", "the server only sends TLS before that")
			require.Empty(t, accepted)

			good.Send(t, testkit.Request())
			require.Equal(t, 101, good.Answer("GET").StatusCode)
			testkit.Talk(t, good, testkit.NextConn(t, accepted))
		})
	}
}

// TLSConfig belongs to the application, which may share it. None of its fields
// is changed.
func TestTLSConfigIsNotModified(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	before := server.Clone()
	l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server, Handler: testkit.ServedHandler})
	accepted := testkit.AcceptAll(t, l)
	c := testkit.ClientOver(t, testkit.DialTCP(t, l.Addr()), nil, client)
	c.Send(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	require.Equal(t, 200, c.Answer("GET").StatusCode)
	inner, conn := openTunnelTLS(t, c.Conn, client, accepted)
	testkit.Talk(t, inner, conn)

	old, now := reflect.ValueOf(before).Elem(), reflect.ValueOf(server).Elem()
	for i := range old.NumField() {
		// crypto/tls itself sets SessionTicketKey.
		if field := old.Type().Field(i); field.IsExported() && field.Name != "SessionTicketKey" {
			require.Equal(t, fmt.Sprintf("%#v", old.Field(i)), fmt.Sprintf("%#v", now.Field(i)), field.Name)
		}
	}
}

// With client certificates, Authorize knows the client.
func TestTLSConfigClientCertificates(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	cert, pool := testkit.Certificate(t, "client 17")
	stranger, _ := testkit.Certificate(t, "client 17")
	server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, pool
	l := testkit.Listen(t, &preflight.PreflightListener{
		TLSConfig: server, RequireUpgrade: true,
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
				return nil, &preflight.StatusError{StatusCode: http.StatusUnauthorized}
			}
			return http.Header{"You-Are": {r.TLS.VerifiedChains[0][0].Subject.CommonName}}, nil
		},
	})
	accepted := testkit.AcceptAll(t, l)
	for name, tt := range map[string]struct {
		certs []tls.Certificate
		good  bool
	}{
		"good":     {[]tls.Certificate{cert}, true},
		"stranger": {[]tls.Certificate{stranger}, false},
		"none":     {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			config := client.Clone()
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(tt.certs) == 0 {
					return new(tls.Certificate), nil
				}
				return &tt.certs[0], nil
			}
			c := testkit.ClientOver(t, testkit.DialTCP(t, l.Addr()), nil, config)
			_, err := io.WriteString(c, testkit.Request())
			a := c.Answer("GET")
			if !tt.good {
				require.Error(t, a.Err)
				require.Empty(t, accepted)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "client 17", a.Header.Get("You-Are"))
			conn := testkit.NextConn(t, accepted)
			require.Equal(t, "client 17", conn.Request().TLS.PeerCertificates[0].Subject.CommonName)
			testkit.Talk(t, c, conn)
		})
	}
	// Without TLS there is no certificate.
	a := testkit.Refused(t, l, testkit.Request())
	require.Equal(t, http.StatusUnauthorized, a.StatusCode)
}

// A half-close goes through TLS and leaves the other direction open.
func TestTLSConfigCloseWrite(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server})
	accepted := testkit.AcceptAll(t, l)
	c := testkit.ClientOver(t, testkit.DialTCP(t, l.Addr()), nil, client)
	c.Send(t, testkit.Request())
	require.Equal(t, 101, c.Answer("GET").StatusCode)
	conn := testkit.NextConn(t, accepted)
	require.NoError(t, conn.CloseWrite())
	c.Ended(t)
	testkit.Carry(t, strings.Repeat("continues", 1000), c, conn)
}
