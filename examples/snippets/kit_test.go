// Package snippets_test runs the Go code of the documentation, one file for each page. A test compares the pages with
// these files line by line.
package snippets_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"time"
)

import "github.com/preflight-go/preflight"

// listen listens on a free port. In the pages it is 127.0.0.1:9007.
func listen() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return ln
}

// startEdge starts a reverse proxy in front of the server at backend. Like the files of deploy, it removes /client and
// appends the client's address to X-Forwarded-For. With certificates it speaks TLS.
func startEdge(backend net.Addr, certificates ...tls.Certificate) (edge string, stop func()) {
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: backend.String()})
		r.Out.Host = r.In.Host
		r.SetXForwarded()
	}}
	mux := http.NewServeMux()
	mux.Handle("/client/", http.StripPrefix("/client", proxy))
	server := httptest.NewUnstartedServer(mux)
	if len(certificates) > 0 {
		server.TLS = &tls.Config{Certificates: certificates}
		server.StartTLS()
	} else {
		server.Start()
	}
	return server.Listener.Addr().String(), server.Close
}

// newCertificate makes a certificate for edge.example, and the roots that verify it.
func newCertificate() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"edge.example"},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// A lineServer greets: it answers each line. It stands for any TCP server.
type lineServer struct{}

func (s lineServer) Serve(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go serve(conn)
	}
}

// serve answers the lines of one client.
func serve(conn net.Conn) {
	defer conn.Close()
	path := "plain TCP"
	if c, ok := conn.(*preflight.Conn); ok && c.Request() != nil {
		path = c.Request().URL.Path
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		fmt.Fprintf(conn, "hello %s, by %s\n", lines.Text(), path)
	}
}

// say sends a line and prints the answer.
func say(conn net.Conn, line string) {
	fmt.Fprintln(conn, line)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(answer)
}
