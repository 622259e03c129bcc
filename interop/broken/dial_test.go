package broken

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"

	"github.com/preflight-go/preflight"
)

// present sets a client certificate.
func present(name string) func(*kit, *preflight.PreflightDialer) {
	return func(k *kit, d *preflight.PreflightDialer) {
		c, err := tls.LoadX509KeyPair(k.file(name+".crt"), k.file(name+".key"))
		if err != nil {
			panic(err)
		}
		// The server names the issuers that it accepts. A client that chooses by them
		// would send none.
		d.TLSConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
	}
}

// plainTrust sets TLS without an authority.
func plainTrust(_ *kit, d *preflight.PreflightDialer) {
	d.TLSConfig = &tls.Config{RootCAs: x509.NewCertPool()}
}

func serverName(name string) func(*kit, *preflight.PreflightDialer) {
	return func(_ *kit, d *preflight.PreflightDialer) { d.TLSConfig.ServerName = name }
}

func oldTLS(_ *kit, d *preflight.PreflightDialer) { d.TLSConfig.MaxVersion = tls.VersionTLS12 }

// inside asks for TLS in the tunnel.
func inside(k *kit, d *preflight.PreflightDialer) {
	d.TunnelTLSConfig = &tls.Config{RootCAs: k.roots}
}

// large makes the head larger than proxies take it.
func large(_ *kit, d *preflight.PreflightDialer) {
	d.Header.Set("X-Large", strings.Repeat("x", 10<<10))
}

// impatient sets a time that passes in a test.
func impatient(_ *kit, d *preflight.PreflightDialer) { d.HandshakeTimeout = 500 * time.Millisecond }
