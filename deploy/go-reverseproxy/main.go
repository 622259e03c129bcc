// Command go-reverseproxy is a reverse proxy in front of a PreflightListener,
// built on net/http/httputil. Copy it into your own proxy.
//
// Change the certificate, the address of the listener (127.0.0.1:9007) and the path
// that leads to it (/client/). Set these fields of the listener:
//
//	RequireUpgrade:   true, // ReverseProxy connects before it has a request to send
//	TrustedProxies:   []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, // where the proxy connects from
//	ClientAddrHeader: "X-Forwarded-For",
package main

import (
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

func main() {
	listener := &url.URL{Scheme: "http", Host: "127.0.0.1:9007"}
	// The upgrade needs no setting: ReverseProxy forwards it. It never ends a
	// silent tunnel.
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(listener)
			// SetURL has set Host to the listener's address.
			r.Out.Host = r.In.Host
			// This replaces the value of the client by the client's address.
			// Behind another proxy, first copy r.In.Header["X-Forwarded-For"]
			// to r.Out.Header. The address is then appended.
			r.SetXForwarded()
		},
		// ReverseProxy makes no health checks. While the listener is down, it
		// answers 502.
	}
	mux := http.NewServeMux()
	// /client/amps/json arrives as /amps/json.
	mux.Handle("/client/", http.StripPrefix("/client", proxy))

	// The timeouts bound requests. Nothing bounds a tunnel.
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	plain, secure := listen(":80"), listen(":443")
	log.Printf("serving %s and %s", plain.Addr(), secure.Addr())
	go func() { log.Fatal(server.Serve(plain)) }()
	log.Fatal(server.ServeTLS(secure, "/etc/ssl/preflight/tls.crt", "/etc/ssl/preflight/tls.key"))
}

func listen(address string) net.Listener {
	l, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	return l
}
