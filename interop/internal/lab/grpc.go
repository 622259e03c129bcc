package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// GRPCService is a service without generated code. Its name is interop.Service.
var GRPCService = grpc.ServiceDesc{
	ServiceName: "interop.Service",
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Who", Handler: handleWho}},
	Streams:     []grpc.StreamDesc{{StreamName: "Echo", Handler: handleEcho, ServerStreams: true, ClientStreams: true}},
}

// handleWho handles Who. It returns the name of the server, and the address of the
// client as the server sees it.
func handleWho(name any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	if err := decode(new(emptypb.Empty)); err != nil {
		return nil, err
	}
	if intercept == nil {
		intercept = func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(ctx, request)
		}
	}
	return intercept(ctx, nil, nil, func(ctx context.Context, _ any) (any, error) {
		client, ok := peer.FromContext(ctx)
		if !ok {
			return nil, errors.New("the context has no peer")
		}
		return wrapperspb.String(fmt.Sprintf("%s to %s", name, client.Addr)), nil
	})
}

// handleEcho handles Echo. It sends back each message until the client ends the
// stream.
func handleEcho(_ any, stream grpc.ServerStream) error {
	for {
		var message wrapperspb.StringValue
		switch err := stream.RecvMsg(&message); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
}

// ServeGRPC serves GRPCService on l. name is the name of the server in the answers of
// Who. served receives what Serve returns.
func ServeGRPC(t *testing.T, name string, l net.Listener, options ...grpc.ServerOption) (server *grpc.Server, served <-chan error) {
	t.Helper()
	server = grpc.NewServer(options...)
	server.RegisterService(&GRPCService, name)
	result, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		result <- server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return server, result
}

// DialGRPC returns a client that opens its connections with d. gRPC does not resolve
// address.
func DialGRPC(t *testing.T, d preflight.ContextDialer, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return DialGRPCTarget(t, d, "passthrough:///"+address, options...)
}

// DialGRPCTarget does the same for a target that names its resolver.
func DialGRPCTarget(t *testing.T, d preflight.ContextDialer, target string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}, options...)...)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// CallWho calls Who, and returns the answer.
func CallWho(t *testing.T, c *grpc.ClientConn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	defer cancel()
	var answer wrapperspb.StringValue
	require.NoError(t, c.Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), &answer))
	return answer.Value
}

// An EchoStream is a stream to Echo.
type EchoStream struct{ grpc.ClientStream }

// OpenEcho opens a stream to Echo.
func OpenEcho(t *testing.T, c *grpc.ClientConn) EchoStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	t.Cleanup(cancel)
	stream, err := c.NewStream(ctx, &GRPCService.Streams[0], "/interop.Service/Echo")
	require.NoError(t, err)
	return EchoStream{stream}
}

// RoundTrip sends a message, and requires it back.
func (s EchoStream) RoundTrip(t *testing.T, text string) {
	t.Helper()
	require.NoError(t, s.SendMsg(wrapperspb.String(text)))
	var back wrapperspb.StringValue
	require.NoError(t, s.RecvMsg(&back))
	require.Equal(t, text, back.Value)
}

// Finish ends the stream, and requires that it ends in order.
func (s EchoStream) Finish(t *testing.T) {
	t.Helper()
	require.NoError(t, s.CloseSend())
	require.Equal(t, io.EOF, s.RecvMsg(new(wrapperspb.StringValue)))
}
