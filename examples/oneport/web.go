package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"html"
	"math/big"
	"net"
	"net/http"
	"strings"
	"time"
)

// web returns the handler for browsers.
func (s *server) web(address string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!DOCTYPE html>\n<title>oneport</title>\n<pre>%s</pre>\n", html.EscapeString(usage(address)))
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /ws", s.webSocket)
	return mux
}

// usage returns a command for each kind of client.
func usage(address string) string {
	host, port, _ := net.SplitHostPort(address)
	return strings.NewReplacer("ADDRESS", address, "HOST PORT", host+" "+port).Replace(`Listening on ADDRESS. To try it, one port for all:

  plain TCP         echo hello | nc -N HOST PORT
  by preflight      printf 'GET /lines HTTP/1.1\r\nHost: me\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello\n' | nc -N HOST PORT
  TLS               (echo hello; sleep 1) | openssl s_client -quiet -no_ign_eof -connect ADDRESS
  preflight in TLS  (printf 'GET /lines HTTP/1.1\r\nHost: me\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello\n'; sleep 1) | openssl s_client -quiet -no_ign_eof -connect ADDRESS
  TLS in a tunnel   in Go: PreflightDialer{Path: "/lines", TunnelTLSConfig: &tls.Config{InsecureSkipVerify: true}}
  HTTP, HTTPS       curl http://ADDRESS/healthz; curl -k https://ADDRESS/healthz
  WebSocket         websocat ws://ADDRESS/ws
  gRPC              grpcurl -plaintext ADDRESS grpc.health.v1.Health/Check
  gRPC over TLS     grpcurl -insecure ADDRESS grpc.health.v1.Health/Check

`)
}

// tlsConfig returns the configuration for HTTP and gRPC. A browser offers both protocols, and
// gets the first one. A gRPC client offers only h2.
func tlsConfig(certificate tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{certificate},
		NextProtos:   []string{"http/1.1", "h2"},
	}
}

// selfSigned creates a certificate for this machine.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), // browsers require a new one for each certificate
		Subject:      pkix.Name{CommonName: "oneport"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(30 * 24 * time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
