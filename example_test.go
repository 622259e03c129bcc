package preflight_test

import (
	"bufio"
	"bytes"
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
	"net/http/httputil"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight"
	"golang.org/x/net/proxy"
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

// Many cloud load balancers pass only WebSocket. The client needs no setting for that. The
// dialer falls back to WebSocket, and remembers that for the next dial.
func ExamplePreflightDialer_carriers() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go greet(ln)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: ln.Addr().String()})
	balancer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("the edge is asked for", r.Header.Get("Upgrade"))
		if r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer balancer.Close()
	ctx, edge := context.Background(), balancer.Listener.Addr().String()

	d := &preflight.PreflightDialer{Path: "/client/amps/json"} // by Upgrade, or else by WebSocket
	for range 2 {
		conn, err := d.DialContext(ctx, "tcp", edge)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(conn.(*preflight.Conn).Carrier(), ": ", say(conn, "edge"))
		conn.Close()
	}
	// Without the carrier that cannot tell a cut stream from a complete one:
	d.Carriers = []preflight.Carrier{preflight.CarrierFramed, preflight.CarrierWebSocket}
	// Output:
	// the edge is asked for tcp
	// the edge is asked for websocket
	// websocket: hello, edge
	// the edge is asked for websocket
	// websocket: hello, edge
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

// Client makes a tunnel of a connection that you have opened yourself, by
// whatever way.
func ExampleClient() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go greet(ln)

	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close() // also if Client fails
	req, err := http.NewRequest(http.MethodGet, "http://edge.example/client/greet", nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Header.Set("X-Desk", "fx")
	tunnel, err := preflight.Client(context.Background(), c, req)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tunnel.Request().Host, tunnel.Request().URL.Path, tunnel.Response().Status)
	fmt.Print(say(tunnel, "own connection"))
	// Output:
	// edge.example /client/greet 101 Switching Protocols
	// hello, own connection
}

// CloseWrite ends one direction: the server reads to the end, and answers. It
// depends on the proxies on the way whether that works; nginx and others end both
// directions.
func ExampleConn_CloseWrite() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()
		all, err := io.ReadAll(conn) // until CloseWrite
		if err != nil {
			log.Fatal(err)
		}
		conn.Write(bytes.ToUpper(all))
	}()

	var d preflight.PreflightDialer
	dialed, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	conn := dialed.(*preflight.Conn)
	defer conn.Close()
	io.WriteString(conn, "all that ")
	io.WriteString(conn, "i have to say")
	if err := conn.CloseWrite(); err != nil {
		log.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	fmt.Println(string(answer), err)
	// Output: ALL THAT I HAVE TO SAY <nil>
}

// Socket options, and net.Buffers for a write of several slices, need the
// connection below. There may be TLS between it and the tunnel.
func ExampleConn_NetConn() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go greet(ln)

	var d preflight.PreflightDialer
	conn, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	tcp, err := bottom(conn)
	if err != nil {
		log.Fatal(err)
	}
	if err := tcp.SetKeepAlive(false); err != nil {
		log.Fatal(err)
	}
	lines := net.Buffers{[]byte("one call "), []byte("of writev\n")}
	if _, err := lines.WriteTo(conn.(*preflight.Conn).NetConn()); err != nil {
		log.Fatal(err)
	}
	fmt.Print(say(conn, ""))
	// Output: hello, one call of writev
}

// bottom is the TCP connection under all layers of c.
func bottom(c net.Conn) (*net.TCPConn, error) {
	for {
		switch layer := c.(type) {
		case *net.TCPConn:
			return layer, nil
		case interface{ NetConn() net.Conn }: // *preflight.Conn, *tls.Conn
			c = layer.NetConn()
		default:
			return nil, errors.New("there is no TCP connection at the bottom")
		}
	}
}

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

// Many drivers do not dial the address that they are configured with. They
// resolve its name first (pgx, nats.go, gRPC with its dns resolver), so that the
// proxy does not learn the name. Or they dial the RemoteAddr of a connection
// once more (pgx, to cancel a query), which may be that of a forward proxy. Give
// them a dial function that ignores its address:
//
//	config.DialFunc = dial                    // pgx
//	nats.SetCustomDialer(natsDialer)          // its Dial calls dial with context.Background()
//	&http.Transport{DialContext: dial}        // net/http
//	grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
//		return dial(ctx, "tcp", address)
//	})
//
// The client here asks for an address without a listener.
func ExamplePreflightDialer_anyAddress() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "served", r.Host, r.URL)
	})}
	go server.Serve(ln)
	defer server.Close()

	edge := ln.Addr().String() // "edge.example:80"
	d := &preflight.PreflightDialer{Path: "/client/api"}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", edge)
	}

	client := &http.Client{Transport: &http.Transport{DialContext: dial}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://192.0.2.1:5432/orders")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	fmt.Print(string(body))
	// Output: served 192.0.2.1:5432 /orders
}

// A client of a cluster dials each node at the address that the cluster tells it
// (Redis Cluster does so by MOVED). It must reach that very node, so each node
// has a path at the edge, and the address chooses the path. A dial function that
// ignores the address would reach one node alone.
func ExamplePreflightDialer_cluster() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, "you have reached", conn.(*preflight.Conn).Request().URL)
			conn.Close()
		}
	}()

	edge := ln.Addr().String() // "edge.example:80"
	paths := map[string]string{
		"10.0.0.1:6379": "/client/redis-1",
		"10.0.0.2:6379": "/client/redis-2",
	}
	var base preflight.PreflightDialer // TLSConfig, Header and the like
	dial := func(ctx context.Context, _, node string) (net.Conn, error) {
		path, ok := paths[node]
		if !ok {
			return nil, fmt.Errorf("the node %s has no path at the edge", node)
		}
		d := base
		d.Path = path
		return d.DialContext(ctx, "tcp", edge)
	}

	// redis.NewClusterClient(&redis.ClusterOptions{Addrs: ..., Dialer: dial})
	for _, node := range []string{"10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.3:6379"} {
		conn, err := dial(context.Background(), "tcp", node)
		if err != nil {
			fmt.Println(err)
			continue
		}
		line, _ := io.ReadAll(conn)
		conn.Close()
		fmt.Print(string(line))
	}
	// Output:
	// you have reached /client/redis-1
	// you have reached /client/redis-2
	// the node 10.0.0.3:6379 has no path at the edge
}
