// Grpcidentity shows how the handlers of a gRPC server learn who the client is.
// Authorize verifies the token in the upgrade request, once for each tunnel. The
// credentials of the server take the user from the connection, and the handlers
// take it from the peer. Copy credentials.go. Usage, from the root of the
// repository:
//
//	go run ./examples/grpcidentity
//
// Three clients make a call: two with a token that the server knows, and one without a
// token.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/preflight-go/preflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	err := run(ctx, os.Stdout)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "grpcidentity:", err)
		os.Exit(1)
	}
}

// greeter is a service that needs to know its user.
type greeter struct {
	healthpb.UnimplementedHealthServer
	out io.Writer
}

func (g greeter) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	name, ok := userOf(ctx)
	if !ok {
		return nil, errors.New("the server has other credentials")
	}
	fmt.Fprintln(g.out, "The server serves", name)
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func run(ctx context.Context, out io.Writer) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.Creds(withUser{insecure.NewCredentials()}))
	healthpb.RegisterHealthServer(server, greeter{out: out})
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(&preflight.PreflightListener{
			Listener:  ln,
			Authorize: authorize(map[string]string{"Bearer 4711": "alice", "Bearer 4712": "bob"}),
		})
	}()
	defer func() { server.Stop(); <-served }()

	for _, token := range []string{"4711", "4712", "4713"} {
		if err := call(ctx, ln.Addr().String(), token); err != nil {
			fmt.Fprintln(out, "A call fails:", status.Convert(err).Message())
		}
	}
	return ctx.Err()
}

// call makes a call with a token.
func call(ctx context.Context, address, token string) error {
	d := &preflight.PreflightDialer{
		Path:   "/client/grpc",
		Header: http.Header{"Authorization": {"Bearer " + token}},
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}
