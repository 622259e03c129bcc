// Package reload holds values that are read from files, and keeps the old value if a new one
// is bad.
package reload

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// A Value is read from files, again and again.
type Value[T any] struct {
	load    func() (T, error)
	current atomic.Pointer[T]
}

// New reads the value for the first time.
func New[T any](load func() (T, error)) (*Value[T], error) {
	v := &Value[T]{load: load}
	return v, v.Reload()
}

// Reload reads the value again. If that fails, the old value stays.
func (v *Value[T]) Reload() error {
	fresh, err := v.load()
	if err == nil {
		v.current.Store(&fresh)
	}
	return err
}

// Get returns the value that was read last.
func (v *Value[T]) Get() T { return *v.current.Load() }

// KeyPair reads a certificate with its chain, and its key.
func KeyPair(cert, key string) (*Value[*tls.Certificate], error) {
	return New(func() (*tls.Certificate, error) {
		pair, err := readPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("certificate %s with key %s: %w", cert, key, err)
		}
		return &pair, nil
	})
}

func readPair(cert, key string) (tls.Certificate, error) {
	certText, err := readCerts(cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyText, err := os.ReadFile(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certText, keyText)
}

// Roots reads a file of certificates.
func Roots(file string) (*Value[*x509.CertPool], error) {
	return New(func() (*x509.CertPool, error) {
		text, err := readCerts(file)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, errors.New(file + " has no certificate in PEM")
		}
		return pool, nil
	})
}

// readCerts reads a file of certificates, all of which must be whole. The functions of crypto skip
// one that is cut off, such as the last one in a file that is half-written.
func readCerts(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	begun := bytes.Count(text, []byte("-----BEGIN "))
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		begun--
	}
	if begun != 0 {
		return nil, errors.New(file + " has a block of PEM that is not whole")
	}
	return text, nil
}
