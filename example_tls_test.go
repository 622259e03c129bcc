package preflight_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/preflight-go/preflight"
)

// exampleTLS is the configuration of a TLS server called example.com, and of a
// client that trusts it. A program reads its certificate from a file instead.
func exampleTLS() (server, client *tls.Config) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots, ServerName: "example.com"}
}

// With a TLSConfig the port serves clients without TLS, with TLS to the port, and
// with TLS inside the tunnel. The last is end to end: a proxy that ends the TLS of
// its own hop does not see the bytes of the application.
func ExamplePreflightListener_tls() {
	serverTLS, clientTLS := exampleTLS()
	ln := &preflight.PreflightListener{Listener: listenLocal(), TLSConfig: serverTLS}
	defer ln.Close()
	go greet(ln)

	for _, d := range []*preflight.PreflightDialer{
		{},
		{TLSConfig: clientTLS},
		{TunnelTLSConfig: clientTLS},
	} {
		conn, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()
		_, secure := conn.(*preflight.Conn).NetConn().(*tls.Conn)
		inside := conn.(*preflight.Conn).Response().Header.Get("Preflight-Tunnel")
		fmt.Printf("TLS %t, inside %q: %s", secure, inside, say(conn, "client"))
	}
	// Output:
	// TLS false, inside "": hello, client
	// TLS true, inside "": hello, client
	// TLS true, inside "tls": hello, client
}

// A listener that requires TLS inside every tunnel has no TLSConfig: the tunnels
// carry TLS as they carry any other protocol, and tls.NewListener above the listener
// ends it. The client calls tls.Client, and leaves TunnelTLSConfig nil.
func ExamplePreflightListener_requireTLSInside() {
	serverTLS, clientTLS := exampleTLS()
	tunnels := &preflight.PreflightListener{Listener: listenLocal(), RequireUpgrade: true}
	ln := tls.NewListener(tunnels, serverTLS)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				request := c.(*tls.Conn).NetConn().(*preflight.Conn).Request()
				fmt.Fprintln(c, "hello from", request.URL.Path)
			}()
		}
	}()

	d := &preflight.PreflightDialer{Path: "/client/greet"}
	tunnel, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	conn := tls.Client(tunnel, clientTLS)
	defer conn.Close()
	fmt.Print(say(conn, ""))

	// Without TLS there is no answer, whatever the client sends into its tunnel.
	tunnel, err = d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer tunnel.Close()
	fmt.Fprintln(tunnel, "is anybody there?")
	_, err = tunnel.Read(make([]byte, 1))
	fmt.Println("without TLS:", err)

	// Nor is there any for a client that does not come by a tunnel.
	direct, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer direct.Close()
	fmt.Fprintln(direct, "hello?")
	_, err = direct.Read(make([]byte, 1))
	fmt.Println("without a tunnel:", err)
	// Output:
	// hello from /client/greet
	// without TLS: EOF
	// without a tunnel: EOF
}
