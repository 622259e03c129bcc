package snippets_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"

	"github.com/preflight-go/preflight"
)

// TLS to the edge.
func Example_tlsToTheEdge() {
	ctx := context.Background()
	certificate, roots := newCertificate()
	ln := &preflight.PreflightListener{Listener: listen()}
	defer ln.Close()
	go lineServer{}.Serve(ln)
	edge, stop := startEdge(ln.Addr(), certificate)
	defer stop()

	d := &preflight.PreflightDialer{
		TLSConfig: &tls.Config{RootCAs: roots, ServerName: "edge.example"},
		Path:      "/client/amps/json",
	}
	conn, err := d.DialContext(ctx, "tcp", edge) // "edge.example:443"
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	say(conn, "client")
	// Output: hello client, by /amps/json
}

// TLS that the listener requires.
func Example_requireTLS() {
	certificate, roots := newCertificate()
	inner, config := listen(), &tls.Config{Certificates: []tls.Certificate{certificate}}
	ln := &preflight.PreflightListener{Listener: tls.NewListener(inner, config)}
	defer ln.Close()
	go lineServer{}.Serve(ln)

	d := &preflight.PreflightDialer{Host: "edge.example", Path: "/amps/json", TLSConfig: &tls.Config{RootCAs: roots}}
	conn, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	say(conn, "client")

	d.TLSConfig = nil
	_, err = d.Dial("tcp", ln.Addr().String())
	fmt.Println("without TLS there is an error:", err != nil)
	// Output:
	// hello client, by /amps/json
	// without TLS there is an error: true
}
