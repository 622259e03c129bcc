package interop

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

// grpcService is a service without generated code.
var grpcService = grpc.ServiceDesc{
	ServiceName: "interop.Service",
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Who", Handler: grpcWho}},
	Streams:     []grpc.StreamDesc{{StreamName: "Echo", Handler: grpcEcho, ServerStreams: true, ClientStreams: true}},
}

// grpcWho says who the server is, and who the client is to it.
func grpcWho(name any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
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
			return nil, errors.New("there is no peer")
		}
		return wrapperspb.String(fmt.Sprintf("%s to %s", name, client.Addr)), nil
	})
}

// grpcEcho sends back what it gets, until the client has no more.
func grpcEcho(_ any, stream grpc.ServerStream) error {
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

// grpcServe serves l until the end of the test. served is what Serve returns.
func grpcServe(t *testing.T, name string, l net.Listener, options ...grpc.ServerOption) (server *grpc.Server, served <-chan error) {
	t.Helper()
	server = grpc.NewServer(options...)
	server.RegisterService(&grpcService, name)
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

// grpcDial is a client whose connections are made by d.
func grpcDial(t *testing.T, d preflight.ContextDialer, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return grpcDialTarget(t, d, "passthrough:///"+address, options...)
}

// grpcDialTarget is the same for a target with a resolver of its own.
func grpcDialTarget(t *testing.T, d preflight.ContextDialer, target string, options ...grpc.DialOption) *grpc.ClientConn {
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

// grpcAsk is the answer of grpcWho.
func grpcAsk(t *testing.T, c *grpc.ClientConn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var answer wrapperspb.StringValue
	require.NoError(t, c.Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), &answer))
	return answer.Value
}

// grpcFails is the error of a call that must fail.
func grpcFails(t *testing.T, c *grpc.ClientConn) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := c.Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), new(wrapperspb.StringValue))
	require.Error(t, err)
	require.NoError(t, ctx.Err())
	return err
}

// A grpcTalk is a stream to grpcEcho.
type grpcTalk struct{ grpc.ClientStream }

func grpcOpen(t *testing.T, c *grpc.ClientConn) grpcTalk {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	stream, err := c.NewStream(ctx, &grpcService.Streams[0], "/interop.Service/Echo")
	require.NoError(t, err)
	return grpcTalk{stream}
}

// say requires that a message comes back.
func (s grpcTalk) say(t *testing.T, text string) {
	t.Helper()
	require.NoError(t, s.SendMsg(wrapperspb.String(text)))
	var back wrapperspb.StringValue
	require.NoError(t, s.RecvMsg(&back))
	require.Equal(t, text, back.Value)
}

// finish requires that the stream ends in order.
func (s grpcTalk) finish(t *testing.T) {
	t.Helper()
	require.NoError(t, s.CloseSend())
	require.Equal(t, io.EOF, s.RecvMsg(new(wrapperspb.StringValue)))
}
