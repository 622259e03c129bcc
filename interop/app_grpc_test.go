package interop

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
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

// appService has what interop.Service has not: calls that stream in one
// direction, and one that waits for its own end.
var appService = grpc.ServiceDesc{
	ServiceName: "interop.App",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{
		{StreamName: "Sum", Handler: appSum, ClientStreams: true},
		{StreamName: "Count", Handler: appCount, ServerStreams: true},
		{StreamName: "Wait", Handler: appWait, ServerStreams: true},
	},
}

// appSum answers with the sum of what the client sends.
func appSum(_ any, stream grpc.ServerStream) error {
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

// appCount sends as many numbers as the client asks for.
func appCount(_ any, stream grpc.ServerStream) error {
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

// appWait says that it waits, and then how it has ended.
func appWait(ends any, stream grpc.ServerStream) error {
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

const grpcLarge = 8 << 20

// grpcLimits let messages pass that are larger than gRPC's 4 MiB.
var grpcLimits = grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2*grpcLarge), grpc.MaxCallSendMsgSize(2*grpcLarge))

func testGRPC(t *testing.T) {
	l, to := listen(t)
	testGRPCServer(t, l, to, nil, nil)
	t.Run("Keepalive", func(t *testing.T) {
		for _, p := range appProxies {
			t.Run(p.name, func(t *testing.T) { testGRPCKeepalive(t, p) })
		}
	})
}

// testGRPCOverTLS leaves TLS to gRPC on both sides, inside the tunnel.
func testGRPCOverTLS(t *testing.T) {
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	server, err := credentials.NewServerTLSFromFile(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	require.NoError(t, err)
	l := &preflight.PreflightListener{Listener: listenTCP(t)}
	client := credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
	testGRPCServer(t, l, port{address: l.Addr().String()}, server, client)
}

func testGRPCServer(t *testing.T, l *preflight.PreflightListener, to port, ofServer, ofClient credentials.TransportCredentials) {
	ends := make(chan error, 1)
	server := grpc.NewServer(grpc.Creds(ofServer), grpc.MaxRecvMsgSize(2*grpcLarge), grpc.MaxSendMsgSize(2*grpcLarge))
	server.RegisterService(&grpcService, "the server")
	server.RegisterService(&appService, ends)
	background(t, func() { server.Serve(l) }, func() error { server.Stop(); return nil })
	options := []grpc.DialOption{grpcLimits}
	if ofClient != nil {
		options = append(options, grpc.WithTransportCredentials(ofClient))
	}
	var clients []*grpc.ClientConn
	for _, r := range routes(t, to) {
		c := grpcDial(t, r, "app.example:443", options...)
		clients = append(clients, c)
		t.Run(r.name, func(t *testing.T) {
			t.Run("Unary", func(t *testing.T) { require.Contains(t, grpcAsk(t, c), "the server to 127.0.0.1:") })
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

// appStream opens a stream to a method of appService.
func appStream(ctx context.Context, t *testing.T, c *grpc.ClientConn, method int) grpc.ClientStream {
	t.Helper()
	desc := &appService.Streams[method]
	stream, err := c.NewStream(ctx, desc, "/interop.App/"+desc.StreamName)
	require.NoError(t, err)
	return stream
}

func testGRPCClientStream(t *testing.T, c *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream := appStream(ctx, t, c, 0)
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
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream := appStream(ctx, t, c, 1)
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

// The client speaks first, and each speaks after the other.
func testGRPCBidiStream(t *testing.T, c *grpc.ClientConn) {
	talk := grpcOpen(t, c)
	for i := range 200 {
		talk.say(t, fmt.Sprint("message ", i))
	}
	talk.finish(t)
}

func testGRPCLargeMessages(t *testing.T, c *grpc.ClientConn) {
	talk := grpcOpen(t, c)
	large := strings.Repeat("0123456789abcdef", grpcLarge/16)
	for range 2 {
		talk.say(t, large)
	}
	talk.finish(t)
}

func testGRPCDeadline(t *testing.T, c *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	stream, err := c.NewStream(ctx, &grpcService.Streams[0], "/interop.Service/Echo")
	if err == nil { // it may be over by now
		err = stream.RecvMsg(new(wrapperspb.StringValue))
	}
	require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
	grpcAsk(t, c) // the connection has not suffered
}

// The end of a call at the client is one at the server.
func testGRPCCancel(t *testing.T, c *grpc.ClientConn, ends <-chan error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream := appStream(ctx, t, c, 2)
	require.NoError(t, stream.SendMsg(new(emptypb.Empty)))
	require.NoError(t, stream.RecvMsg(new(emptypb.Empty)))
	cancel()
	require.ErrorIs(t, receive(t, ends), context.Canceled)
}

// Each client has a stream open when the server is told to stop.
func testGRPCGracefulStop(t *testing.T, server *grpc.Server, clients []*grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var talks []grpcTalk
	for _, c := range clients {
		talk := grpcOpen(t, c)
		talk.say(t, "hello")
		talks = append(talks, talk)
	}
	stopped := make(chan error, 1)
	go func() {
		server.GracefulStop()
		stopped <- nil
	}()
	for i, c := range clients {
		for c.GetState() == connectivity.Ready { // until the server says that it goes
			require.True(t, c.WaitForStateChange(ctx, connectivity.Ready))
		}
		talks[i].say(t, "after GOAWAY")
	}
	require.Empty(t, stopped)
	for _, talk := range talks {
		talk.say(t, "the last one")
		talk.finish(t)
	}
	require.NoError(t, receive(t, stopped))
}

// The proxy ends silent tunnels after some seconds. The pings of the server, which
// the client answers, keep a silent stream alive.
func testGRPCKeepalive(t *testing.T, p proxy) {
	const pings = time.Second // gRPC allows no less
	seconds := slices.Clone(p.idle)
	for i := 1; i < len(seconds); i += 2 {
		seconds[i] = strings.ReplaceAll(seconds[i], "1s", "4s")
	}
	require.NotEqual(t, p.idle, seconds)
	l := &preflight.PreflightListener{Listener: listenTCP(t)}
	grpcServe(t, "the server", l, grpc.KeepaliveParams(keepalive.ServerParameters{Time: pings, Timeout: patience}))
	f := p.start(t, l.Addr().String(), seconds...).plain
	talk := grpcOpen(t, grpcDial(t, f.dialer(), f.address))
	talk.say(t, "hello")
	// A tunnel that is younger, and silent, is ended.
	_, err := p.start(t, serveEcho(t), seconds...).plain.dial(t, "/client/").Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	talk.say(t, "still there")
	talk.finish(t)
}
