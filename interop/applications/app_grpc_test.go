package applications

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// appService has the kinds of calls that lab.GRPCService lacks: streams in one direction,
// and a call that waits for its own end.
var appService = grpc.ServiceDesc{
	ServiceName: "interop.App",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{
		{StreamName: "Sum", Handler: handleSum, ClientStreams: true},
		{StreamName: "Count", Handler: handleCount, ServerStreams: true},
		{StreamName: "Wait", Handler: handleWait, ServerStreams: true},
	},
}

// handleSum handles Sum. It answers with the sum of the numbers that the client sends.
func handleSum(_ any, stream grpc.ServerStream) error {
	var sum wrapperspb.Int64Value
	for {
		var n wrapperspb.Int64Value
		switch err := stream.RecvMsg(&n); {
		case err == io.EOF:
			return stream.SendMsg(&sum)
		case err != nil:
			return err
		}
		sum.Value += n.Value
	}
}

// handleCount handles Count. It sends as many numbers as the client asks for.
func handleCount(_ any, stream grpc.ServerStream) error {
	var n wrapperspb.Int64Value
	if err := stream.RecvMsg(&n); err != nil {
		return err
	}
	for i := range n.Value {
		if err := stream.SendMsg(wrapperspb.Int64(i)); err != nil {
			return err
		}
	}
	return nil
}

// handleWait handles Wait. It sends a message, waits for the end of the call, and reports
// how the call has ended.
func handleWait(ends any, stream grpc.ServerStream) error {
	if err := stream.RecvMsg(new(emptypb.Empty)); err != nil {
		return err
	}
	if err := stream.SendMsg(new(emptypb.Empty)); err != nil {
		return err
	}
	<-stream.Context().Done()
	ends.(chan error) <- stream.Context().Err()
	return stream.Context().Err()
}

// grpcLarge is the size of a large message.
const grpcLarge = 8 << 20

// grpcLimits allows messages above the default limit of gRPC, 4 MiB.
var grpcLimits = grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2*grpcLarge), grpc.MaxCallSendMsgSize(2*grpcLarge))

func testGRPC(t *testing.T) {
	l, to := listenWithTLS(t)
	testGRPCServer(t, l, to, nil, nil)
	t.Run("Keepalive", func(t *testing.T) {
		for _, p := range edges {
			t.Run(p.name, func(t *testing.T) { testGRPCKeepalive(t, p.start, p.shortIdle) })
		}
	})
}

// testGRPCOverTLS has gRPC on both sides do TLS inside the tunnel.
func testGRPCOverTLS(t *testing.T) {
	dir := t.TempDir()
	roots := lab.WriteCertificate(t, dir)
	server, err := credentials.NewServerTLSFromFile(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	require.NoError(t, err)
	l := &preflight.PreflightListener{Listener: lab.Listen(t)}
	client := credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
	testGRPCServer(t, l, service{address: l.Addr().String()}, server, client)
}

func testGRPCServer(t *testing.T, l *preflight.PreflightListener, to service, ofServer, ofClient credentials.TransportCredentials) {
	ends := make(chan error, 1)
	server := grpc.NewServer(grpc.Creds(ofServer), grpc.MaxRecvMsgSize(2*grpcLarge), grpc.MaxSendMsgSize(2*grpcLarge))
	server.RegisterService(&lab.GRPCService, "the server")
	server.RegisterService(&appService, ends)
	lab.RunServer(t, func() { server.Serve(l) }, func() error { server.Stop(); return nil })
	options := []grpc.DialOption{grpcLimits}
	if ofClient != nil {
		options = append(options, grpc.WithTransportCredentials(ofClient))
	}
	var clients []*grpc.ClientConn
	for _, r := range routes(t, to) {
		c := lab.DialGRPC(t, r, "app.example:443", options...)
		clients = append(clients, c)
		t.Run(r.name, func(t *testing.T) {
			t.Run("Unary", func(t *testing.T) { require.Contains(t, lab.CallWho(t, c), "the server to 127.0.0.1:") })
			t.Run("ClientStream", func(t *testing.T) { testGRPCClientStream(t, c) })
			t.Run("ServerStream", func(t *testing.T) { testGRPCServerStream(t, c) })
			t.Run("BidiStream", func(t *testing.T) { testGRPCBidiStream(t, c) })
			t.Run("LargeMessages", func(t *testing.T) { testGRPCLargeMessages(t, c) })
			t.Run("Deadline", func(t *testing.T) { testGRPCDeadline(t, c) })
			t.Run("Cancel", func(t *testing.T) { testGRPCCancel(t, c, ends) })
		})
	}
	t.Run("GracefulStop", func(t *testing.T) { testGRPCGracefulStop(t, server, clients) })
}

// openAppStream opens a stream to a method of appService, by its index.
func openAppStream(ctx context.Context, t *testing.T, c *grpc.ClientConn, method int) grpc.ClientStream {
	t.Helper()
	desc := &appService.Streams[method]
	stream, err := c.NewStream(ctx, desc, "/interop.App/"+desc.StreamName)
	require.NoError(t, err)
	return stream
}

func testGRPCClientStream(t *testing.T, c *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	defer cancel()
	stream := openAppStream(ctx, t, c, 0)
	const n = 1000
	for i := range int64(n) {
		require.NoError(t, stream.SendMsg(wrapperspb.Int64(i)))
	}
	require.NoError(t, stream.CloseSend())
	var sum wrapperspb.Int64Value
	require.NoError(t, stream.RecvMsg(&sum))
	require.EqualValues(t, n*(n-1)/2, sum.Value)
}

func testGRPCServerStream(t *testing.T, c *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	defer cancel()
	stream := openAppStream(ctx, t, c, 1)
	const n = 1000
	require.NoError(t, stream.SendMsg(wrapperspb.Int64(n)))
	require.NoError(t, stream.CloseSend())
	var got wrapperspb.Int64Value
	for i := range int64(n) {
		require.NoError(t, stream.RecvMsg(&got))
		require.Equal(t, i, got.Value)
	}
	require.Equal(t, io.EOF, stream.RecvMsg(&got))
}

// testGRPCBidiStream has both ends send messages in turn.
func testGRPCBidiStream(t *testing.T, c *grpc.ClientConn) {
	stream := lab.OpenEcho(t, c)
	for i := range 200 {
		stream.RoundTrip(t, fmt.Sprint("message ", i))
	}
	stream.Finish(t)
}

func testGRPCLargeMessages(t *testing.T, c *grpc.ClientConn) {
	stream := lab.OpenEcho(t, c)
	large := strings.Repeat("0123456789abcdef", grpcLarge/16)
	for range 2 {
		stream.RoundTrip(t, large)
	}
	stream.Finish(t)
}

func testGRPCDeadline(t *testing.T, c *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	stream, err := c.NewStream(ctx, &lab.GRPCService.Streams[0], "/interop.Service/Echo")
	if err == nil { // the deadline may have passed already
		err = stream.RecvMsg(new(wrapperspb.StringValue))
	}
	require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
	lab.CallWho(t, c) // the connection still works
}

// testGRPCCancel cancels a call at the client, which must cancel it at the server.
func testGRPCCancel(t *testing.T, c *grpc.ClientConn, ends <-chan error) {
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	defer cancel()
	stream := openAppStream(ctx, t, c, 2)
	require.NoError(t, stream.SendMsg(new(emptypb.Empty)))
	require.NoError(t, stream.RecvMsg(new(emptypb.Empty)))
	cancel()
	require.ErrorIs(t, lab.Receive(t, ends), context.Canceled)
}

// testGRPCGracefulStop stops the server while each client has an open stream.
func testGRPCGracefulStop(t *testing.T, server *grpc.Server, clients []*grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	defer cancel()
	var streams []lab.EchoStream
	for _, c := range clients {
		stream := lab.OpenEcho(t, c)
		stream.RoundTrip(t, "hello")
		streams = append(streams, stream)
	}
	stopped := make(chan error, 1)
	go func() {
		server.GracefulStop()
		stopped <- nil
	}()
	for i, c := range clients {
		for c.GetState() == connectivity.Ready { // until the server has sent GOAWAY
			require.True(t, c.WaitForStateChange(ctx, connectivity.Ready))
		}
		streams[i].RoundTrip(t, "after GOAWAY")
	}
	require.Empty(t, stopped)
	for _, stream := range streams {
		stream.RoundTrip(t, "the last message")
		stream.Finish(t)
	}
	require.NoError(t, lab.Receive(t, stopped))
}

// testGRPCKeepalive has a proxy that closes silent tunnels after some seconds. The pings of
// the server, which the client answers, keep a silent stream open.
func testGRPCKeepalive(t *testing.T, start lab.StartFunc, shortIdle []string) {
	const pings = time.Second // the minimum of gRPC
	l := &preflight.PreflightListener{Listener: lab.Listen(t)}
	lab.ServeGRPC(t, "the server", l, grpc.KeepaliveParams(keepalive.ServerParameters{Time: pings, Timeout: lab.Timeout}))
	f := start(t, l.Addr().String(), shortIdle...).Plain
	stream := lab.OpenEcho(t, lab.DialGRPC(t, f.Dialer(), f.Address))
	stream.RoundTrip(t, "hello")
	// The proxy closes a silent tunnel that was opened later.
	_, err := start(t, lab.ServeEcho(t), shortIdle...).Plain.Dial(t, "/client/").Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	stream.RoundTrip(t, "still open")
	stream.Finish(t)
}
