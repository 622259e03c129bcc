package preflight_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A new certificate is there for the next client, in TLS and in a tunnel of TLS.
func TestTLSConfigReload(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	l := listen(t, &preflight.PreflightListener{TLSConfig: &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil },
	}})
	accepted := lisServe(t, l)
	for _, name := range []string{"before", "after"} {
		cert, pool := kndCertificate(t, name)
		current.Store(&cert)
		client := &tls.Config{RootCAs: pool, ServerName: "example.com"}

		c := kndOver(t, dialTCP(t, l.Addr()), nil, client)
		c.send(t, lisRequest())
		require.Equal(t, 101, c.answer("GET").StatusCode)
		lisTalk(t, c, lisNext(t, accepted))
		require.Equal(t, name, c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName)

		inner, conn := kndTunnelOfTLS(t, dialTCP(t, l.Addr()), client, accepted)
		lisTalk(t, inner, conn)
		require.Equal(t, name, inner.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName)
	}
}

// A callback of TLSConfig learns whose hello it is.
func TestTLSConfigKnowsTheClient(t *testing.T) {
	server, client := kndTLS(t)
	asked := make(chan string, 1)
	config := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		asked <- hello.Conn.RemoteAddr().String()
		return server, nil
	}}
	l := listen(t, &preflight.PreflightListener{TLSConfig: config, TrustedProxies: kndTrusted})
	accepted := lisServe(t, l)
	c := kndOver(t, dialTCP(t, l.Addr()), kndProxy(t, 2, kndInside), client)
	require.Equal(t, kndInside.String(), <-asked)
	c.send(t, strings.Replace(kndRequestTLS, "\r\n\r\n", "\r\n"+kndXFF+"203.0.113.9\r\n\r\n", 1))
	require.Equal(t, 101, c.answer("GET").StatusCode)
	inner := tls.Client(c.Conn, client)
	require.NoError(t, inner.Handshake())
	require.Equal(t, "203.0.113.9:0", <-asked)
	require.Equal(t, "203.0.113.9:0", lisNext(t, accepted).RemoteAddr().String())
}

// GetConfigForClient alone is a configuration, too.
func TestTLSConfigForClient(t *testing.T) {
	server, client := kndTLS(t)
	l := listen(t, &preflight.PreflightListener{TLSConfig: &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return server, nil },
	}})
	accepted := lisServe(t, l)
	c := kndOver(t, dialTCP(t, l.Addr()), nil, client)
	c.send(t, lisRequest())
	require.Equal(t, 101, c.answer("GET").StatusCode)
	lisTalk(t, c, lisNext(t, accepted))
}

// What a callback of TLSConfig waits for ends with the handshake.
func TestTLSConfigCallbacksAreBounded(t *testing.T) {
	_, client := kndPipeTLS(t)
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
				n, called := lisNewNet(), make(chan time.Duration, 2)
				l := listen(t, &preflight.PreflightListener{
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
				accepted := lisServe(t, l)
				c := n.dial(t)
				if tt.tunnel {
					require.Equal(t, 101, (<-c.ask(kndRequestTLS)).StatusCode)
				}
				shaken := make(chan error, 1)
				go func() { shaken <- tls.Client(c.Conn, client).Handshake() }()
				time.Sleep(time.Second)
				if tt.close {
					require.NoError(t, l.Close())
				}
				require.Equal(t, 3*time.Second, <-called, "the Context knows the deadline")
				require.Equal(t, tt.ends, <-called)
				require.Error(t, <-shaken)
				require.Equal(t, tt.ends, time.Since(start))
				synctest.Wait()
				require.True(t, c.server.closed.Load())
				require.Empty(t, accepted)
			})
		})
	}
}

// A protocol that client and server have agreed on is what they speak.
func TestTLSConfigALPN(t *testing.T) {
	server, client := kndTLS(t)
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
				l := listen(t, &preflight.PreflightListener{TLSConfig: server, RequireUpgrade: refuse, HandshakeTimeout: time.Hour})
				accepted := lisServe(t, l)
				offer := client.Clone()
				offer.NextProtos = tt.offered
				c := lisSecure(t, lisDial(t, l), offer)
				require.Equal(t, tt.agreed, c.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol)
				if tt.plain && refuse {
					c.ended(t)
					require.Empty(t, accepted)
					return
				}
				c.send(t, lisRequest())
				if !tt.plain {
					require.Equal(t, 101, c.answer("GET").StatusCode)
				}
				conn := lisNext(t, accepted)
				require.Equal(t, tt.agreed, conn.NetConn().(*tls.Conn).ConnectionState().NegotiatedProtocol)
				require.Equal(t, tt.plain, conn.Request() == nil)
				if tt.plain {
					lisSkip(t, conn, lisRequest())
				}
				lisTalk(t, c, conn)
			})
		}
	}
}

// kndClosed requires that the server closes the connection, with or without a
// reset, and returns what it said before.
func kndClosed(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	require.False(t, os.IsTimeout(err), "the connection is still open")
	return string(b)
}

// A handshake that fails is the failure of one connection.
func TestTLSHandshakeFailures(t *testing.T) {
	server, client := kndTLS(t)
	server.NextProtos = []string{"http/1.1"}
	l := listen(t, &preflight.PreflightListener{TLSConfig: server, HandshakeTimeout: time.Hour})
	accepted := lisServe(t, l)
	hello := string(kndHello(t, client))
	with := func(change func(c *tls.Config)) func(c net.Conn) {
		return func(c net.Conn) {
			config := client.Clone()
			change(config)
			tc := tls.Client(c, config)
			if tc.Handshake() == nil { // TLS 1.3 learns of the other's refusal later
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
		"a hello of nothing":            say("\x16\x03\x01\x00\x04\x01\x00\x00\x00"),
		"a hello of garbage":            say("\x16\x03\x01\x00\x09\x01\x00\x00\x05garba"),
		"a hello that is far too long":  say("\x16\x03\x01\x00\x04\x01\xff\xff\xff"),
		"a hello of an unknown version": say("\x16\x03\x00" + hello[3:]),
		"half a hello":                  say(hello[:len(hello)/2]),
		"an alert behind the hello":     say(hello + "\x15\x03\x03\x00\x02\x02\x28"),
		"data behind the hello":         say(hello + "\x17\x03\x03\x00\x02\x02\x28"),
		"garbage behind the hello":      say(hello + lisRequest()),
		"an end behind the hello":       say(hello),
		"two hellos":                    say(hello + hello),
	} {
		t.Run(name, func(t *testing.T) {
			good := kndOver(t, dialTCP(t, l.Addr()), nil, client)
			bad := dialTCP(t, l.Addr())
			fail(bad)
			require.NotContains(t, kndClosed(t, bad), "HTTP", "what it says before is TLS")
			require.Empty(t, accepted)

			good.send(t, lisRequest())
			require.Equal(t, 101, good.answer("GET").StatusCode)
			lisTalk(t, good, lisNext(t, accepted))
		})
	}
}

// TLSConfig is the application's, which may share it: no field of it changes.
func TestTLSConfigIsNotModified(t *testing.T) {
	server, client := kndTLS(t)
	before := server.Clone()
	l := listen(t, &preflight.PreflightListener{TLSConfig: server, Handler: kndServed})
	accepted := lisServe(t, l)
	c := kndOver(t, dialTCP(t, l.Addr()), nil, client)
	c.send(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	require.Equal(t, 200, c.answer("GET").StatusCode)
	inner, conn := kndTunnelOfTLS(t, c.Conn, client, accepted)
	lisTalk(t, inner, conn)

	old, now := reflect.ValueOf(before).Elem(), reflect.ValueOf(server).Elem()
	for i := range old.NumField() {
		// crypto/tls itself fills SessionTicketKey.
		if field := old.Type().Field(i); field.IsExported() && field.Name != "SessionTicketKey" {
			require.Equal(t, fmt.Sprintf("%#v", old.Field(i)), fmt.Sprintf("%#v", now.Field(i)), field.Name)
		}
	}
}

// With client certificates, Authorize knows who asks.
func TestTLSConfigClientCertificates(t *testing.T) {
	server, client := kndTLS(t)
	cert, pool := kndCertificate(t, "client 17")
	stranger, _ := kndCertificate(t, "client 17")
	server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, pool
	l := listen(t, &preflight.PreflightListener{
		TLSConfig: server, RequireUpgrade: true,
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
				return nil, &preflight.StatusError{StatusCode: http.StatusUnauthorized}
			}
			return http.Header{"You-Are": {r.TLS.VerifiedChains[0][0].Subject.CommonName}}, nil
		},
	})
	accepted := lisServe(t, l)
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
			c := kndOver(t, dialTCP(t, l.Addr()), nil, config)
			_, err := io.WriteString(c, lisRequest())
			a := c.answer("GET")
			if !tt.good {
				require.Error(t, a.err)
				require.Empty(t, accepted)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "client 17", a.Header.Get("You-Are"))
			conn := lisNext(t, accepted)
			require.Equal(t, "client 17", conn.Request().TLS.PeerCertificates[0].Subject.CommonName)
			lisTalk(t, c, conn)
		})
	}
	// Without TLS there is nobody to be known.
	a := lisRefused(t, l, lisRequest())
	require.Equal(t, http.StatusUnauthorized, a.StatusCode)
}

// The end of one direction goes through TLS, and leaves the other.
func TestTLSConfigCloseWrite(t *testing.T) {
	server, client := kndTLS(t)
	l := listen(t, &preflight.PreflightListener{TLSConfig: server})
	accepted := lisServe(t, l)
	c := kndOver(t, dialTCP(t, l.Addr()), nil, client)
	c.send(t, lisRequest())
	require.Equal(t, 101, c.answer("GET").StatusCode)
	conn := lisNext(t, accepted)
	require.NoError(t, conn.CloseWrite())
	c.ended(t)
	lisCarry(t, strings.Repeat("goes on", 1000), c, conn)
}
