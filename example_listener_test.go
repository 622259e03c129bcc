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
	"net/netip"
	"sync"
	"time"

	"github.com/preflight-go/preflight"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
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

// With TLSConfig the port accepts TLS from the clients that speak it, and still serves
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

// Only the proxy in front of the listener may say who the client is. This dialer plays the
// proxy: it connects from a trusted address. The field holds what a client has made up, and
// behind it what the proxy has added.
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

// With a ClientSessionCache, the second dial resumes the sessions of TLS. One cache is enough for
// TLS outside and inside the tunnel. The ticket of a session inside comes with the first bytes
// that the server sends.
func ExamplePreflightDialer_sessionCache() {
	serverTLS, clientTLS := exampleTLS()
	ln := &preflight.PreflightListener{Listener: listenLocal(), TLSConfig: serverTLS}
	defer ln.Close()
	go greet(ln)

	clientTLS.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	d := &preflight.PreflightDialer{
		TLSConfig:       clientTLS,
		TunnelTLSConfig: clientTLS,
		Path:            "/client/greet",
	}
	for range 2 {
		conn, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		inside := conn.(*preflight.Conn).NetConn().(*tls.Conn)
		fmt.Printf("resumed %t: %s", inside.ConnectionState().DidResume, say(conn, "client"))
		conn.Close()
	}
	// Output:
	// resumed false: hello, client
	// resumed true: hello, client
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

// userKey is the key of the user in the Context of a request.
type userKey struct{}

// Authorize finds out who the client is, once for each tunnel. The handlers of
// an HTTP server behind it find that in the Context of every request.
func ExamplePreflightListener_connContext() {
	users := map[string]string{"Bearer 4711": "alice", "Bearer 4712": "bob"}
	ln := &preflight.PreflightListener{
		Listener: listenLocal(),
		Authorize: func(r *http.Request) (http.Header, error) {
			user, ok := users[r.Header.Get("Authorization")]
			if !ok {
				return nil, errors.New("an unknown token") // answered 403
			}
			*r = *r.WithContext(context.WithValue(r.Context(), userKey{}, user))
			return nil, nil
		},
	}
	server := &http.Server{
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			// Never nil: with Authorize, plain connections are refused.
			upgrade := conn.(*preflight.Conn).Request()
			return context.WithValue(ctx, userKey{}, upgrade.Context().Value(userKey{}))
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, r.URL.Path, "for", r.Context().Value(userKey{}))
		}),
	}
	go server.Serve(ln)
	defer server.Close()

	for _, token := range []string{"4711", "4712", "4713"} {
		d := &preflight.PreflightDialer{Header: http.Header{"Authorization": {"Bearer " + token}}}
		client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
		defer client.CloseIdleConnections()
		for _, path := range []string{"/orders", "/trades"} {
			res, err := client.Get("http://" + ln.Addr().String() + path)
			var refused *preflight.StatusError
			if errors.As(err, &refused) {
				fmt.Println(path, "refused:", refused.Status)
				continue
			}
			if err != nil {
				log.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			fmt.Print(string(body))
		}
	}
	// Output:
	// /orders for alice
	// /trades for alice
	// /orders for bob
	// /trades for bob
	// /orders refused: 403 Forbidden
	// /trades refused: 403 Forbidden
}

// userOf returns the user that Authorize has put into the request of a connection.
func userOf(conn net.Conn) (string, error) {
	tunnel, ok := conn.(*preflight.Conn)
	if !ok || tunnel.Request() == nil {
		return "", errors.New("the client has not come by preflight")
	}
	user, ok := tunnel.Request().Context().Value(userKey{}).(string)
	if !ok {
		return "", errors.New("nobody has vetted the client")
	}
	return user, nil
}

// A server asks the connection who the client is. A gRPC server does so in the
// ServerHandshake of its TransportCredentials, which sees each connection once:
//
//	func (c withUser) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
//		name, err := userOf(raw)
//		if err != nil {
//			return nil, nil, err // closes the connection
//		}
//		conn, _, err := c.TransportCredentials.ServerHandshake(raw)
//		return conn, user{name: name}, err
//	}
//
// Its handlers find the AuthInfo by peer.FromContext. The program
// [examples/grpcidentity] has all of that to copy.
//
// [examples/grpcidentity]: https://pkg.go.dev/github.com/preflight-go/preflight/examples/grpcidentity
func ExampleConn_Request() {
	ln := &preflight.PreflightListener{
		Listener: listenLocal(),
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.Header.Get("Authorization") != "Bearer 4711" {
				return nil, errors.New("an unknown token") // answered 403
			}
			*r = *r.WithContext(context.WithValue(r.Context(), userKey{}, "alice"))
			return nil, nil
		},
	}
	defer ln.Close()

	d := &preflight.PreflightDialer{Header: http.Header{"Authorization": {"Bearer 4711"}}}
	conn, err := dialAndAccept(d, ln)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(userOf(conn))
	// Output: alice <nil>
}

// A server ends in three steps, of which the listener's is the first. In another
// order, the server closes the listener before Shutdown has begun: that cuts off
// the handshakes under way.
//
// The same holds for gRPC, with GracefulStop as the third step. GracefulStop has
// no limit in time: context.AfterFunc(ctx, server.Stop) gives it one.
func ExamplePreflightListener_Shutdown() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello")
	})}
	served, drained := make(chan error, 1), make(chan error, 1)
	go func() { served <- server.Serve(ln) }()

	d := &preflight.PreflightDialer{Path: "/client/api"}
	client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
	res, err := client.Get("http://" + ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	res.Body.Close() // the tunnel is kept for the next request

	// Longer than HandshakeTimeout: a silent client takes that long.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() { drained <- ln.Shutdown(ctx) }() // 1. new tunnels are refused,
	<-served                                    // 2. the server has accepted the last one,
	err = server.Shutdown(ctx)                  // 3. requests are finished, and their tunnels closed
	fmt.Println(err, <-drained)
	// Output: <nil> <nil>
}

// A lineServer is a TCP server of one's own.
type lineServer struct {
	conns sync.Map // of net.Conn, those that are open
}

func (s *lineServer) serve(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		s.conns.Store(conn, nil) // before the next Accept, so that end finds it
		go func() {
			defer conn.Close()
			defer s.conns.Delete(conn)
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				fmt.Fprintf(conn, "hello, %s\n", lines.Text())
			}
			fmt.Fprintln(conn, "goodbye") // in the words of the protocol
		}()
	}
}

// end lets each connection answer the line that it has received, and no other.
func (s *lineServer) end() {
	s.conns.Range(func(conn, _ any) bool {
		conn.(net.Conn).SetReadDeadline(time.Now())
		return true
	})
}

// Your own TCP server ends by the same three steps. It keeps track of its connections,
// because only it can tell its clients to leave.
func ExamplePreflightListener_Shutdown_ownServer() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	server := new(lineServer)
	served, drained := make(chan error, 1), make(chan error, 1)
	go func() { served <- server.serve(ln) }()

	d := &preflight.PreflightDialer{Path: "/client/greet"}
	conn, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Print(say(conn, "client"))

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() { drained <- ln.Shutdown(ctx) }() // 1. new tunnels are refused,
	fmt.Println(<-served)                       // 2. Accept has returned the last one,
	server.end()                                // 3. the clients are told to go
	last, err := bufio.NewReader(conn).ReadString('\n')
	fmt.Print(last)
	fmt.Println(err, <-drained)
	// Output:
	// hello, client
	// use of closed network connection
	// goodbye
	// <nil> <nil>
}

// A printer prints the spans that end. A program has the TracerProvider of the
// OpenTelemetry SDK in its place: examples/observability shows how.
type printer struct{ noop.TracerProvider }

func (printer) Tracer(string, ...trace.TracerOption) trace.Tracer { return printTracer{} }

type printTracer struct{ noop.Tracer }

func (printTracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	config := trace.NewSpanStartConfig(options...)
	span := &printSpan{name: fmt.Sprint(config.SpanKind(), " ", name)}
	return trace.ContextWithSpan(ctx, span), span
}

type printSpan struct {
	noop.Span
	name   string
	status string // of the answer
	failed bool
}

func (*printSpan) IsRecording() bool { return true }

func (s *printSpan) SetAttributes(attributes ...attribute.KeyValue) {
	for _, a := range attributes {
		if a.Key == "http.response.status_code" {
			s.status = a.Value.String()
		}
	}
}

func (s *printSpan) SetStatus(code codes.Code, _ string) { s.failed = code == codes.Error }

func (s *printSpan) End(...trace.SpanEndOption) {
	fmt.Printf("%s: %s, failed: %t\n", s.name, s.status, s.failed)
}

// Each attempt of a dialer is a span, and so is each handshake of a listener,
// which has a Telemetry of its own or the same. The zero Telemetry uses the global
// providers of OpenTelemetry.
func ExampleTelemetry() {
	ln := &preflight.PreflightListener{
		Listener: listenLocal(),
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.URL.Path != "/client/greet" {
				return nil, &preflight.StatusError{StatusCode: http.StatusNotFound}
			}
			return nil, nil
		},
	}
	defer ln.Close()
	go greet(ln)

	t := &preflight.Telemetry{TracerProvider: printer{}}
	for _, path := range []string{"/client/greet", "/client/gret"} {
		d := &preflight.PreflightDialer{Path: path, Telemetry: t}
		conn, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			continue // the span has it
		}
		conn.Close()
	}
	// Output:
	// client GET: 101, failed: false
	// client GET: 404, failed: true
}
