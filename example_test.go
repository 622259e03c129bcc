package preflight_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight"
)

// listenLocal listens on a free port of this machine.
func listenLocal() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return ln
}

// greet is a line server as it was before it knew of any proxy: it answers
// every line until its listener is closed.
func greet(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for lines := bufio.NewScanner(c); lines.Scan(); {
				fmt.Fprintf(c, "hello, %s\n", lines.Text())
			}
		}()
	}
}

// say sends one line and returns the answer.
func say(c net.Conn, line string) string {
	fmt.Fprintln(c, line)
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		log.Fatal(err)
	}
	return answer
}

func ExamplePreflightListener() {
	ln := &preflight.PreflightListener{Listener: listenLocal()} // the one line
	defer ln.Close()
	go greet(ln)

	// A client that comes through a reverse proxy ...
	d := &preflight.PreflightDialer{Path: "/client/greet"}
	tunnel, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer tunnel.Close()
	fmt.Print(say(tunnel, "tunnel"))

	// ... and one that knows nothing of it, on the same port.
	plain, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer plain.Close()
	fmt.Print(say(plain, "plain"))
	// Output:
	// hello, tunnel
	// hello, plain
}

func ExamplePreflightDialer() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go greet(ln)

	d := &preflight.PreflightDialer{
		Host:   "edge.example",
		Path:   "/client/greet?v=2",
		Header: http.Header{"X-Desk": {"fx"}},
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	c := conn.(*preflight.Conn)
	fmt.Println(c.Request().Host, c.Request().URL, c.Request().Header.Get("X-Desk"))
	fmt.Println(c.Response().Status, "to", c.Response().Header.Get("Upgrade"))
	fmt.Print(say(c, "dialer"))
	// Output:
	// edge.example /client/greet?v=2 fx
	// 101 Switching Protocols to tcp
	// hello, dialer
}

func ExamplePreflightDialer_DialURL() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go greet(ln)

	var d preflight.PreflightDialer
	conn, err := d.DialURL(context.Background(), "tcp://"+ln.Addr().String()+"/client/greet?http_preflight=true")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Print(say(conn, "URL"))
	// Output: hello, URL
}

// An existing HTTP client goes through the tunnel by its transport's DialContext.
func ExamplePreflightDialer_httpTransport() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "served", r.URL)
	})}
	go server.Serve(ln)
	defer server.Close()

	d := &preflight.PreflightDialer{Path: "/client/api"}
	client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://" + ln.Addr().String() + "/orders")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	fmt.Print(string(body))
	// Output: served /orders
}

func ExamplePreflightListener_authorize() {
	ln := &preflight.PreflightListener{
		Listener: listenLocal(),
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.Header.Get("Authorization") != "Bearer good" {
				return nil, &preflight.StatusError{
					StatusCode: http.StatusUnauthorized,
					Header:     http.Header{"WWW-Authenticate": {`Bearer realm="greet"`}},
					Body:       []byte("ask the desk for a token\n"),
				}
			}
			return http.Header{"X-Session": {"42"}}, nil
		},
	}
	defer ln.Close()
	go greet(ln)

	for _, token := range []string{"bad", "good"} {
		d := &preflight.PreflightDialer{Header: http.Header{"Authorization": {"Bearer " + token}}}
		conn, err := d.Dial("tcp", ln.Addr().String())
		var refused *preflight.StatusError
		if errors.As(err, &refused) {
			fmt.Println(refused.Status, refused.Header.Get("WWW-Authenticate"))
			fmt.Print(string(refused.Body))
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("session", conn.(*preflight.Conn).Response().Header.Get("X-Session"))
		conn.Close()
	}
	// Output:
	// 401 Unauthorized Bearer realm="greet"
	// ask the desk for a token
	// session 42
}

func ExampleStatusError() {
	// A web server that knows nothing of the upgrade.
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()

	d := &preflight.PreflightDialer{Path: "/client/greet"}
	_, err := d.Dial("tcp", web.Listener.Addr().String())
	var refused *preflight.StatusError
	if errors.As(err, &refused) {
		fmt.Println(refused.StatusCode)
		fmt.Printf("%s", refused.Body)
	}
	// Output:
	// 404
	// 404 page not found
}

func ExampleParseURL() {
	t, err := preflight.ParseURL("tcps://ops:secret@edge.example:443/user/can/put/path/here/amps/json?http_preflight=true&tcp_nodelay=true")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(t.Address, t.Path, t.TLS, t.Preflight, *t.NoDelay)
	fmt.Println(t)

	_, err = preflight.ParseURL("tcp://edge.example:80/amps/json?http_prefligth=true")
	fmt.Println(err)
	// Output:
	// edge.example:443 /user/can/put/path/here/amps/json true true true
	// tcps://ops:xxxxx@edge.example:443/user/can/put/path/here/amps/json?http_preflight=true
	// preflight: parse URL: unknown option "http_prefligth"; known are http_preflight, tcp_nodelay, tcp_keepalive, tcp_sndbuf, tcp_rcvbuf, tcp_linger, tcp_connecttimeout, tcp_idlereadtimeout, bind, ip_protocol_prefer, sni, pretty and compression
}

// Layers stack in the order in which they appear on the wire: here a proxy
// sends a PROXY protocol header and passes TLS through to the server.
func ExampleServer() {
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS() // for its certificate alone
	defer certificate.Close()
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Certificate())

	ln := listenLocal()
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		behind := proxyproto.NewConn(c, proxyproto.WithPolicy(proxyproto.REQUIRE))
		tunnel, err := preflight.Server(context.Background(), tls.Server(behind, certificate.TLS))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Fprintln(tunnel, "you come from", tunnel.RemoteAddr(), "by", tunnel.Request().URL)
	}()

	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n")
	req, _ := http.NewRequest("GET", "https://example.com/client/greet", nil)
	tunnel, err := preflight.Client(context.Background(), tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "example.com"}), req)
	if err != nil {
		log.Fatal(err)
	}
	line, _ := bufio.NewReader(tunnel).ReadString('\n')
	fmt.Print(line)
	// Output: you come from 192.0.2.7:4711 by /client/greet
}
