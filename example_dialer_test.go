package preflight_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/url"
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
