package broken

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// writeCertificates writes a certificate to good.pem and each faulty one to a file of its
// own. Each file also has the key, as HAProxy wants it; good.key has it alone. It returns
// the authority that issued them.
func writeCertificates(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	root, rootKey, rootDER := issue(t, "root", nil, nil, nil)
	intermediate, intermediateKey, intermediateDER := issue(t, "intermediate", root, rootKey, nil)
	write := func(name string, key *ecdsa.PrivateKey, chain ...[]byte) {
		var text []byte
		for _, der := range chain {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		require.NoError(t, err)
		private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".pem"), append(text, private...), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".crt"), text, 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".key"), private, 0o644))
	}
	faults := map[string]func(*x509.Certificate){
		"good":    func(*x509.Certificate) {},
		"expired": func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) },
		"early":   func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) },
		"named":   func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.example"} },
	}
	for name, fault := range faults {
		_, key, der := issue(t, name, root, rootKey, fault)
		write(name, key, der)
	}
	_, key, der := issue(t, "leaf", intermediate, intermediateKey, faults["good"])
	write("unchained", key, der)
	write("authority", intermediateKey, intermediateDER, rootDER) // for client certificates
	_, key, der = issue(t, "self", nil, nil, faults["good"])
	write("self", key, der)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "root.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}), 0o644))
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return roots
}

// issue creates a certificate for 127.0.0.1, signed by parent, or by itself. Without a
// fault it is an authority.
func issue(t *testing.T, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, fault func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "preflight " + name},
		NotBefore:             time.Now().Add(-24 * time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
	}
	if fault == nil {
		c.IsCA, c.KeyUsage = true, x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign
	} else {
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		fault(c)
	}
	if parent == nil {
		parent, parentKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return parsed, key, der
}
