package preflight_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"

	"github.com/preflight-go/preflight"
	"golang.org/x/net/proxy"
)

// A PreflightDialer stands wherever a dialer of golang.org/x/net/proxy does.
var (
	_ proxy.Dialer            = (*preflight.PreflightDialer)(nil)
	_ proxy.ContextDialer     = (*preflight.PreflightDialer)(nil)
	_ preflight.ContextDialer = (*preflight.PreflightDialer)(nil)
	_ proxy.ContextDialer     = preflight.ContextDialer(nil)
)

// A program that takes its proxy as a URL, by golang.org/x/net/proxy or the
// environment variable ALL_PROXY, can be given a reverse proxy.
func ExamplePreflightDialer_registeredScheme() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go greet(ln)

	proxy.RegisterDialerType("preflight", func(u *url.URL, forward proxy.Dialer) (proxy.Dialer, error) {
		d := &preflight.PreflightDialer{Host: u.Host, Path: u.RequestURI()}
		if forward, ok := forward.(proxy.ContextDialer); ok {
			d.NetDialer = forward
		}
		return d, nil
	})

	u, err := url.Parse("preflight://edge.example/client/greet")
	if err != nil {
		log.Fatal(err)
	}
	d, err := proxy.FromURL(u, proxy.Direct)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Print(say(conn, "registered"))
	fmt.Println(conn.(*preflight.Conn).Request().Host)
	// Output:
	// hello, registered
	// edge.example
}

// A driver may resolve the name of its server before it dials, or dial the
// RemoteAddr of a connection once more. Behind a reverse proxy neither address
// leads to the server. A dial function that ignores the address does. The driver
// here is an HTTP client, and its server has a name that only the network behind
// the proxy knows.
func ExamplePreflightDialer_driver() {
	ln := &preflight.PreflightListener{Listener: listenLocal(), RequireUpgrade: true}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello from", r.Host)
	})}
	go server.Serve(ln)
	defer server.Close()
	edge := ln.Addr().String() // "edge.example:80"

	d := &preflight.PreflightDialer{Path: "/client/accounts"}
	dial := func(ctx context.Context, _, address string) (net.Conn, error) {
		fmt.Println("the driver dials", address)
		return d.DialContext(ctx, "tcp", edge)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	for _, url := range []string{"http://accounts.internal/", "http://192.0.2.7:8080/"} {
		resp, err := client.Get(url)
		if err != nil {
			log.Fatal(err)
		}
		io.Copy(os.Stdout, resp.Body)
		resp.Body.Close()
	}
	// Output:
	// the driver dials accounts.internal:80
	// hello from accounts.internal
	// the driver dials 192.0.2.7:8080
	// hello from 192.0.2.7:8080
}

// A token that has expired is fetched anew when the server refuses it.
func ExamplePreflightDialer_GetHeader() {
	ln := &preflight.PreflightListener{
		Listener: listenLocal(),
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.Header.Get("Authorization") != "Bearer token 2" {
				return nil, &preflight.StatusError{
					StatusCode: http.StatusUnauthorized,
					Header:     http.Header{"Www-Authenticate": {`Bearer error="invalid_token"`}},
				}
			}
			return nil, nil
		},
	}
	defer ln.Close()
	go greet(ln)

	var token atomic.Int64 // dials may run concurrently
	token.Store(1)
	d := &preflight.PreflightDialer{
		GetHeader: func(_ context.Context, refused *preflight.StatusError) (http.Header, error) {
			if refused != nil {
				fmt.Println(refused.Status, refused.Header.Get("Www-Authenticate"))
				token.Store(2) // from where tokens come from
			}
			return http.Header{"Authorization": {fmt.Sprintf("Bearer token %d", token.Load())}}, nil
		},
	}
	for range 2 {
		conn, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(say(conn, "again"))
		conn.Close()
	}
	// Output:
	// 401 Unauthorized Bearer error="invalid_token"
	// hello, again
	// hello, again
}
