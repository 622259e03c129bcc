package preflight_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/preflight-go/preflight"
)

// Health checks, and whatever else is HTTP, share the port with the tunnels.
// Without a Handler they are answered 426.
func ExamplePreflightListener_handler() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	ln := &preflight.PreflightListener{Listener: listenLocal(), Handler: mux}
	defer ln.Close()
	go greet(ln)

	res, err := http.Get("http://" + ln.Addr().String() + "/healthz")
	if err != nil {
		log.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	fmt.Print(res.Status, ": ", string(body))

	d := &preflight.PreflightDialer{Path: "/client/greet"}
	conn, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Print(say(conn, "tunnel"))
	// Output:
	// 200 OK: ok
	// hello, tunnel
}

// selfSigned is a certificate for the name example.com, and the roots by which a
// client verifies it.
func selfSigned() (tls.Certificate, *x509.CertPool) {
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server.TLS.Certificates[0], roots
}

// With TLSConfig the port speaks TLS to the clients that do, and goes on to serve
// the others without it.
func ExamplePreflightListener_tlsConfig() {
	certificate, roots := selfSigned()
	ln := &preflight.PreflightListener{
		Listener:  listenLocal(),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
	}
	defer ln.Close()
	go greet(ln)

	toServer := &tls.Config{RootCAs: roots, ServerName: "example.com"}
	for _, d := range []*preflight.PreflightDialer{
		{}, // no TLS
		{TLSConfig: toServer},
	} {
		conn, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("over %T: %s", conn.(*preflight.Conn).NetConn(), say(conn, "client"))
		conn.Close()
	}
	// Output:
	// over *net.TCPConn: hello, client
	// over *tls.Conn: hello, client
}

// An HTTP server that is already there gets one more handler. The listener has
// no Listener of its own; Accept returns the tunnels that come by ServeHTTP.
func ExamplePreflightListener_ServeHTTP() {
	ln := new(preflight.PreflightListener)
	go greet(ln) // your TCP server

	mux := http.NewServeMux()
	mux.Handle("/client/", ln)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "a page") })
	server := httptest.NewServer(mux)
	defer server.Close()
	defer ln.Close()

	d := &preflight.PreflightDialer{Path: "/client/greet"}
	conn, err := d.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Print(say(conn, "tunnel"))
	// Output: hello, tunnel
}

// The proxy in front of the listener says who the client is, and nobody else is
// believed. This dialer plays the proxy: it connects from a trusted address, and
// the field has what a client has made up, and behind it what the proxy has added.
func ExamplePreflightListener_trustedProxies() {
	ln := &preflight.PreflightListener{
		Listener:         listenLocal(),
		TrustedProxies:   []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		ClientAddrHeader: "X-Forwarded-For", // the default
	}
	defer ln.Close()

	d := &preflight.PreflightDialer{Header: http.Header{"X-Forwarded-For": {"192.0.2.1, 203.0.113.7"}}}
	conn, err := dialAndAccept(d, ln)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(conn.RemoteAddr()) // the field has no port
	// Output: 203.0.113.7:0
}

// dialAndAccept returns the server's end of a tunnel. The client's is closed.
func dialAndAccept(d *preflight.PreflightDialer, ln *preflight.PreflightListener) (*preflight.Conn, error) {
	dialed := make(chan error, 1)
	go func() {
		conn, err := d.Dial("tcp", ln.Addr().String())
		if err == nil {
			conn.Close()
		}
		dialed <- err
	}()
	conn, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	return conn.(*preflight.Conn), <-dialed
}
