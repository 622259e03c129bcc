// Package interop tests preflight with what it has to work with: real reverse
// proxies, and applications that were written without it.
//
// Every test runs through every proxy, in plain text and over TLS:
//
//	go test -run 'Proxy/nginx/tls/Transfer' .
package interop

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A proxy is a reverse proxy under test. It routes /tunnel/ to the server and
// removes that from the path.
type proxy struct {
	name string
	// start runs the proxy in front of the server at backend, until the end
	// of the test.
	start  func(t *testing.T, backend string) (plain, tls front)
	down   int               // the status for a server that cannot be reached
	faulty map[string]string // paths that are not configured as they should be; what the server says about it
	advice string            // what the error text says about all of them
	// captured is a path below which blanks are sent as they are; "": none.
	captured string
}

var proxies = []proxy{nginx}

// A front is an address at which a proxy accepts clients.
type front struct {
	address string
	roots   *x509.CertPool // by which its certificate is verified; nil: no TLS
}

func (f front) dialer() *preflight.PreflightDialer {
	return &preflight.PreflightDialer{Path: "/tunnel/amps/json", TLSConfig: f.tlsConfig(), HandshakeTimeout: patience}
}

func (f front) tlsConfig() *tls.Config {
	if f.roots == nil {
		return nil
	}
	return &tls.Config{RootCAs: f.roots}
}

// dial opens a tunnel that is closed at the end of the test.
func (f front) dial(t *testing.T) *preflight.Conn {
	t.Helper()
	c, err := f.dialer().DialContext(t.Context(), "tcp", f.address)
	require.NoError(t, err)
	return bounded(t, c).(*preflight.Conn)
}

// refused dials path and returns the refusal that it is answered with.
func (f front) refused(t *testing.T, path string) *preflight.StatusError {
	t.Helper()
	d := f.dialer()
	d.Path = path
	_, err := d.DialContext(t.Context(), "tcp", f.address)
	return statusError(t, err)
}

// A way leads through a proxy, in plain text or over TLS.
type way struct {
	proxy
	tls bool
}

// to starts the proxy in front of a server.
func (w way) to(t *testing.T, backend string) front {
	t.Helper()
	plain, tls := w.start(t, backend)
	if w.tls {
		return tls
	}
	return plain
}

// everyWay runs test for every way there is.
func everyWay(t *testing.T, test func(*testing.T, way)) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			t.Run("plain", func(t *testing.T) { test(t, way{p, false}) })
			t.Run("tls", func(t *testing.T) { test(t, way{p, true}) })
		})
	}
}

func TestProxy(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		for _, test := range []struct {
			name string
			run  func(*testing.T, way)
		}{
			{"Echo", testEcho},
			{"Transfer", testTransfer},
			{"Tunnels", testTunnels},
			{"ServerFirst", testServerFirst},
			{"ClientFirst", testClientFirst},
			{"Authorize", testAuthorize},
			{"DialURL", testDialURL},
			{"PlainBeside", testPlainBeside},
			{"RequireUpgrade", testRequireUpgrade},
			{"OrdinaryHTTP", testOrdinaryHTTP},
			{"ServerDown", testServerDown},
			{"NoRoute", testNoRoute},
			{"Misconfigured", testMisconfigured},
		} {
			t.Run(test.name, func(t *testing.T) { test.run(t, w) })
		}
	})
}

// TestProxyTLS tests what only the TLS front of a proxy can show.
func TestProxyTLS(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			f := way{p, true}.to(t, serveEcho(t))
			dial := func(config *tls.Config) error {
				d := f.dialer()
				d.TLSConfig = config
				c, err := d.DialContext(t.Context(), "tcp", f.address)
				if err != nil {
					return err
				}
				return echo(bounded(t, c), []byte("hello"))
			}
			t.Run("UntrustedCertificate", func(t *testing.T) {
				err := dial(&tls.Config{})
				var verification *tls.CertificateVerificationError
				require.ErrorAs(t, err, &verification)
				var authority x509.UnknownAuthorityError
				require.ErrorAs(t, err, &authority)
			})
			t.Run("OtherName", func(t *testing.T) {
				var hostname x509.HostnameError
				require.ErrorAs(t, dial(&tls.Config{RootCAs: f.roots, ServerName: "other.example"}), &hostname)
				require.Equal(t, "other.example", hostname.Host)
			})
			t.Run("HTTP2", func(t *testing.T) {
				// What the proxy would choose, had it the choice.
				both := []string{"h2", "http/1.1"}
				c, err := tls.Dial("tcp", f.address, &tls.Config{RootCAs: f.roots, NextProtos: both})
				require.NoError(t, err)
				defer c.Close()
				require.Equal(t, "h2", c.ConnectionState().NegotiatedProtocol)

				require.NoError(t, dial(&tls.Config{RootCAs: f.roots, NextProtos: both}))
			})
		})
	}
}
