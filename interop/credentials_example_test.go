package interop

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/preflight-go/preflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
)

// userKey is the key of the user in the Context of a request.
type userKey struct{}

// A preflightUser tells the handlers of a gRPC server who the client is.
type preflightUser struct {
	credentials.CommonAuthInfo // of the credentials below
	Name                       string
}

// AuthType names the kind of AuthInfo.
func (preflightUser) AuthType() string { return "preflight" }

// preflightCredentials add, on the server's side, what Authorize has found out
// to other credentials: insecure ones, or TLS in the tunnel.
type preflightCredentials struct {
	credentials.TransportCredentials
}

// ServerHandshake is called with each connection that the listener returns.
func (c preflightCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	tunnel, ok := raw.(*preflight.Conn)
	if !ok || tunnel.Request() == nil {
		return nil, nil, errors.New("the client has not come by preflight")
	}
	var user preflightUser
	user.Name, _ = tunnel.Request().Context().Value(userKey{}).(string)
	conn, below, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	if below, ok := below.(interface {
		GetCommonAuthInfo() credentials.CommonAuthInfo
	}); ok {
		user.CommonAuthInfo = below.GetCommonAuthInfo()
	}
	return conn, user, nil
}

// Clone copies the credentials.
func (c preflightCredentials) Clone() credentials.TransportCredentials {
	return preflightCredentials{c.TransportCredentials.Clone()}
}

// greeter is a service that wants to know whom it serves.
type greeter struct {
	healthpb.UnimplementedHealthServer
}

func (greeter) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	client, _ := peer.FromContext(ctx)
	fmt.Println("hello,", client.AuthInfo.(preflightUser).Name)
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

// Authorize finds out who the client is, once for each tunnel; gRPC's credentials
// take it from the connection, and the handlers from the peer.
func Example_grpcTransportCredentials() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	users := map[string]string{"Bearer 4711": "alice", "Bearer 4712": "bob"}
	server := grpc.NewServer(grpc.Creds(preflightCredentials{insecure.NewCredentials()}))
	healthpb.RegisterHealthServer(server, greeter{})
	go server.Serve(&preflight.PreflightListener{
		Listener: ln,
		Authorize: func(r *http.Request) (http.Header, error) {
			user, ok := users[r.Header.Get("Authorization")]
			if !ok {
				return nil, errors.New("an unknown token") // answered 403
			}
			*r = *r.WithContext(context.WithValue(r.Context(), userKey{}, user))
			return nil, nil
		},
	})
	defer server.Stop()

	for _, token := range []string{"4711", "4712"} {
		d := &preflight.PreflightDialer{Header: http.Header{"Authorization": {"Bearer " + token}}}
		conn, err := grpc.NewClient("passthrough:///"+ln.Addr().String(),
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return d.DialContext(ctx, "tcp", address)
			}),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()
		for range 2 {
			if _, err := healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{}); err != nil {
				log.Fatal(err)
			}
		}
	}
	// Output:
	// hello, alice
	// hello, alice
	// hello, bob
	// hello, bob
}
