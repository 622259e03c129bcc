package snippets_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/preflight-go/preflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func Example_server() {
	ln := listen()
	defer ln.Close()
	var server lineServer
	go func() {
		server.Serve(&preflight.PreflightListener{Listener: ln})
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	say(conn, "client")
	// Output: hello client, by plain TCP
}

// onePort serves everything on one port until inner is closed.
func onePort(inner net.Listener, certs []tls.Certificate, mux http.Handler) error {
	ln := &preflight.PreflightListener{
		Listener:  inner,
		TLSConfig: &tls.Config{Certificates: certs, NextProtos: []string{"http/1.1", "h2"}},
		Handler:   mux, // /healthz, /ws, ...
	}
	for {
		conn, err := ln.Accept() // tunnels, and whatever speaks no HTTP/1.x
		if err != nil {
			return err
		}
		go serve(conn)
	}
}

func Example_onePort() {
	certificate, roots := newCertificate()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "healthy") })
	inner := listen()
	defer inner.Close()
	go onePort(inner, []tls.Certificate{certificate}, mux)

	get, err := http.Get("http://" + inner.Addr().String() + "/healthz")
	if err != nil {
		log.Fatal(err)
	}
	page, _ := io.ReadAll(get.Body)
	get.Body.Close()
	fmt.Print(string(page))
	http.DefaultClient.CloseIdleConnections()

	for _, d := range []*preflight.PreflightDialer{
		{Path: "/amps/json"},
		{Path: "/amps/json", Host: "edge.example", TLSConfig: &tls.Config{RootCAs: roots}},
	} {
		conn, err := d.Dial("tcp", inner.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		say(conn, "tunnel")
		conn.Close()
	}
	// Output:
	// healthy
	// hello tunnel, by /amps/json
	// hello tunnel, by /amps/json
}

func Example_mount() {
	var server lineServer
	mux := http.NewServeMux()

	ln := &preflight.PreflightListener{} // no Listener: its connections come by ServeHTTP
	mux.Handle("/client/", ln)
	go server.Serve(ln) // your TCP or gRPC server
	defer ln.Close()

	web := httptest.NewServer(mux)
	defer web.Close()
	d := &preflight.PreflightDialer{Path: "/client/amps/json"}
	conn, err := d.Dial("tcp", web.Listener.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	say(conn, "tunnel")
	// Output: hello tunnel, by /client/amps/json
}

type userKey struct{}

// verify knows one token.
func verify(authorization string) (user string, err error) {
	if authorization != "Bearer 4711" {
		return "", errors.New("unknown token")
	}
	return "alice", nil
}

func Example_authorize() {
	ln := &preflight.PreflightListener{Listener: listen()}
	defer ln.Close()
	ln.Authorize = func(r *http.Request) (http.Header, error) {
		user, err := verify(r.Header.Get("Authorization"))
		if err != nil {
			return nil, &preflight.StatusError{StatusCode: 401, Header: http.Header{"WWW-Authenticate": {"Bearer"}}}
		}
		*r = *r.WithContext(context.WithValue(r.Context(), userKey{}, user))
		return nil, nil
	}
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintln(conn, "you are", conn.(*preflight.Conn).Request().Context().Value(userKey{}))
	}()

	d := &preflight.PreflightDialer{Header: http.Header{"Authorization": {"Bearer 4712"}}}
	_, err := d.Dial("tcp", ln.Addr().String())
	var refused *preflight.StatusError
	fmt.Println(errors.As(err, &refused), refused.StatusCode, refused.Header["Www-Authenticate"])
	d.Header = http.Header{"Authorization": {"Bearer 4711"}}
	conn, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	fmt.Print(string(answer), err)
	// Output:
	// true 401 [Bearer]
	// you are alice
	// <nil>
}

func Example_shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ln := &preflight.PreflightListener{Listener: listen()}
	grpcServer := grpc.NewServer()
	healthpb.RegisterHealthServer(grpcServer, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- grpcServer.Serve(ln) }()

	d := &preflight.PreflightDialer{Path: "/client/grpc"}
	conn, err := grpc.NewClient("passthrough:///"+ln.Addr().String(),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, new(healthpb.HealthCheckRequest)); err != nil {
		log.Fatal(err)
	}

	stop := func() error {
		drained := make(chan error, 1)
		go func() { drained <- ln.Shutdown(ctx) }() // 1. new tunnels are refused with 503
		<-served                                    // 2. Accept has no more tunnels, so Serve returns
		grpcServer.GracefulStop()                   // 3. tells the clients to go; or http.Server.Shutdown(ctx)
		return <-drained                            // nil when the last tunnel is closed
	}
	fmt.Println(stop())
	// Output: <nil>
}
