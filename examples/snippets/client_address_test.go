package snippets_test

import (
	"fmt"
	"log"
	"net/http"
	"net/netip"

	"github.com/preflight-go/preflight"
)

// The client's address.
func Example_clientAddress() {
	ln := &preflight.PreflightListener{Listener: listen()}
	defer ln.Close()
	ln.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	ln.ClientAddrHeader = "X-Forwarded-For" // the default; or Forwarded, X-Real-IP, CF-Connecting-IP

	ln.TrustedProxies = append(ln.TrustedProxies, netip.MustParsePrefix("127.0.0.1/32")) // the dialer below is the proxy

	d := &preflight.PreflightDialer{Header: http.Header{"X-Forwarded-For": {"192.0.2.1, 203.0.113.7"}}}
	go func() {
		conn, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		conn.Close()
	}()
	conn, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(conn.RemoteAddr())
	// Output: 203.0.113.7:0
}
