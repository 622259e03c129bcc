package snippets_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/preflight-go/preflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func Example_dial() {
	ctx := context.Background()
	ln := &preflight.PreflightListener{Listener: listen()}
	defer ln.Close()
	go lineServer{}.Serve(ln)
	edge, stop := startEdge(ln.Addr())
	defer stop()

	d := &preflight.PreflightDialer{Path: "/client/amps/json"}
	conn, err := d.DialContext(ctx, "tcp", edge) // "edge.example:80"
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	say(conn, "client")
	// Output: hello client, by /amps/json
}

func Example_dialURL() {
	ctx := context.Background()
	ln := &preflight.PreflightListener{Listener: listen()}
	defer ln.Close()
	go lineServer{}.Serve(ln)
	edge, stop := startEdge(ln.Addr())
	defer stop()

	var d preflight.PreflightDialer
	conn, err := d.DialURL(ctx, "tcp://"+edge+"/client/amps/json?http_preflight=true")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	say(conn, "client")
	// Output: hello client, by /amps/json
}

// A tokenSource stands for OAuth or a vault.
type tokenSource struct{ used, next string }

// Get returns the token in use, or a fresh one.
func (s *tokenSource) Get(_ context.Context, fresh bool) (string, error) {
	if fresh {
		s.used = s.next
	}
	return s.used, nil
}

func Example_everyWayOut() {
	ctx := context.Background()
	certificate, roots := newCertificate()
	ln := &preflight.PreflightListener{
		Listener:  listen(),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.Header.Get("Authorization") != "Bearer new" {
				return nil, &preflight.StatusError{StatusCode: http.StatusUnauthorized}
			}
			return nil, nil
		},
	}
	defer ln.Close()
	go lineServer{}.Serve(ln)
	edge, stop := startEdge(ln.Addr(), certificate)
	defer stop()
	tokens := &tokenSource{used: "old", next: "new"}

	d := &preflight.PreflightDialer{
		Proxy:           http.ProxyFromEnvironment,   // forward proxy: CONNECT by http or https, or socks5
		TLSConfig:       &tls.Config{RootCAs: roots}, // TLS to the reverse proxy
		TunnelTLSConfig: &tls.Config{RootCAs: roots}, // TLS end to end, inside the tunnel
		Host:            "edge.example",              // also the name for TLS, unless ServerName is set
		Path:            "/client/amps/json",
		GetHeader: func(ctx context.Context, refused *preflight.StatusError) (http.Header, error) {
			token, err := tokens.Get(ctx, refused != nil) // refused: a 401 or 407, so get a new one
			return http.Header{"Authorization": {"Bearer " + token}}, err
		},
	}
	conn, err := d.DialContext(ctx, "tcp", edge)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	say(conn, "client")
	// Output: hello client, by /amps/json
}

func Example_grpc() {
	ln := listen()
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	go func() {
		if err := server.Serve(&preflight.PreflightListener{Listener: ln}); err != nil {
			log.Fatal(err)
		}
	}()
	defer server.Stop()
	edge, stop := startEdge(ln.Addr())
	defer stop()

	d := &preflight.PreflightDialer{Path: "/client/grpc"}
	conn, err := grpc.NewClient("passthrough:///"+edge, // "passthrough:///edge.example:80"
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(context.Background(), new(healthpb.HealthCheckRequest))
	fmt.Println(answer.GetStatus(), err)
	// Output: SERVING <nil>
}

func Example_refused() {
	ctx := context.Background()
	edge, stop := startEdge(listen().Addr())
	defer stop()
	d := &preflight.PreflightDialer{Path: "/clint/amps/json"}

	_, err := d.DialContext(ctx, "tcp", edge)
	var refused *preflight.StatusError
	if errors.As(err, &refused) {
		fmt.Println(refused.StatusCode, "temporary:", refused.Temporary())
	}
	// Output: 404 temporary: false
}
