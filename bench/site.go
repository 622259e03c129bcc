package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A site has what a process needs.
type site struct {
	dir string      // has the certificate
	net *net.Dialer // with which each peer dials

	settle   func() error // what a server does before its memory is measured; nil: nothing
	profiler profiler

	spread atomic.Bool // dial from many addresses, because an address has only some 28 000 ports
	dialed atomic.Int64
}

// perSource is the number of connections that are dialed from one address.
const perSource = 8000

func newSite(dir string) *site {
	s := &site{dir: dir}
	s.net = &net.Dialer{Control: s.control}
	return s
}

// control prepares a socket. Close then resets the connection, so that no connection in
// TIME_WAIT uses up the ports.
func (s *site) control(_, _ string, raw syscall.RawConn) error {
	var err error
	controlErr := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
		if err == nil && s.spread.Load() {
			source := byte(1 + s.dialed.Add(1)/perSource)
			err = errors.Join(
				// The kernel chooses the port when the destination is known.
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
				unix.Bind(int(fd), &unix.SockaddrInet4{Addr: [4]byte{127, 1, 0, source}}))
		}
	})
	return errors.Join(controlErr, err)
}

// The kinds of keys of certificates.
const (
	ecdsaKey = "ecdsa"
	rsaKey   = "rsa"
)

func (s *site) certFile(kind string) string { return filepath.Join(s.dir, kind+"-cert.pem") }
func (s *site) keyFile(kind string) string  { return filepath.Join(s.dir, kind+"-key.pem") }

func (s *site) certificate(kind string) (tls.Certificate, error) {
	return tls.LoadX509KeyPair(s.certFile(kind), s.keyFile(kind))
}

// roots has all certificates.
func (s *site) roots() (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	for _, kind := range []string{ecdsaKey, rsaKey} {
		b, err := os.ReadFile(s.certFile(kind))
		if err != nil {
			return nil, err
		}
		if !roots.AppendCertsFromPEM(b) {
			return nil, errors.New("there is no certificate in " + s.certFile(kind))
		}
	}
	return roots, nil
}

func (s *site) writeCertificates() error {
	small, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	return errors.Join(s.writeCertificate(ecdsaKey, small), s.writeCertificate(rsaKey, large))
}

// writeCertificate creates a certificate for the loopback interface.
func (s *site) writeCertificate(kind string, key crypto.Signer) error {
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "preflight bench"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(s.certFile(kind), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(s.keyFile(kind), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
}
