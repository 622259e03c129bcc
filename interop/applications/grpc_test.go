package applications

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestTwoGRPCServersOnOnePort has two gRPC servers share a port. The listener of the port
// serves no protocol itself, so that each upgrade request goes to Handler. Handler selects a
// server by the path. The listeners of the servers are mounted in Handler, and have no
// listener of their own.
func TestTwoGRPCServersOnOnePort(t *testing.T) {
	mounted := map[string]*preflight.PreflightListener{"/a/": {}, "/b/": {}}
	mux := http.NewServeMux()
	for path, l := range mounted {
		mux.Handle(path, l)
		lab.ServeGRPC(t, "server "+path, l)
	}
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	port := lab.Serve(t, &preflight.PreflightListener{Protocols: []string{}, Handler: mux, RequireUpgrade: true}, func(*preflight.Conn) {})
	dial := func(path string) *preflight.PreflightDialer { return &preflight.PreflightDialer{Path: path} }

	streams := make(map[string]lab.EchoStream)
	for range 3 { // alternating, so that no result is right by chance
		for path, at := range map[string]string{"/a/": "/a/", "/b/": "/b/", "/a/deeper?b=1": "/a/"} {
			c := lab.DialGRPC(t, dial(path), port)
			require.Regexp(t, "^server "+at+` to 127\.0\.0\.1:\d+$`, lab.CallWho(t, c))
			streams[path] = lab.OpenEcho(t, c)
		}
	}
	for path, stream := range streams {
		stream.RoundTrip(t, path)
	}
	answer, err := http.Get("http://" + port + "/healthz")
	require.NoError(t, err)
	require.Equal(t, "ok", string(lab.ReadBody(t, answer)))
	http.DefaultClient.CloseIdleConnections()
	_, err = dial("/c/").Dial("tcp", port)
	require.Equal(t, http.StatusNotFound, lab.StatusError(t, err).StatusCode)

	// One listener closes. The other one still works.
	require.NoError(t, mounted["/a/"].Close())
	_, err = dial("/a/").Dial("tcp", port)
	require.Equal(t, http.StatusServiceUnavailable, lab.StatusError(t, err).StatusCode)
	require.Contains(t, lab.CallWho(t, lab.DialGRPC(t, dial("/b/"), port)), "server /b/")
	for path, stream := range streams {
		stream.RoundTrip(t, path+", once more")
		stream.Finish(t)
	}
}

// TestGRPCGracefulStop shuts the listener down, and then the server. Streams continue to
// their end, and nothing new begins. Two calls close the listener meanwhile: GracefulStop,
// and Serve when there is nothing more to accept.
func TestGRPCGracefulStop(t *testing.T) {
	l := &preflight.PreflightListener{Listener: lab.Listen(t)}
	address := l.Addr().String()
	server, served := lab.ServeGRPC(t, "the server", l)
	late := lab.DialTCP(t, address)
	_, err := io.WriteString(late, "GET /late HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\n")
	require.NoError(t, err)
	// The listener accepts connections in order. When it has accepted these, it has
	// accepted late too.
	tunnel := lab.DialGRPC(t, new(preflight.PreflightDialer), address)
	plain := lab.DialGRPC(t, new(net.Dialer), address)
	inTunnel, direct := lab.OpenEcho(t, tunnel), lab.OpenEcho(t, plain)
	inTunnel.RoundTrip(t, "hello")
	direct.RoundTrip(t, "hello")

	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	defer cancel()
	shutdown, stopped := make(chan error, 1), make(chan error, 1)
	go func() { shutdown <- l.Shutdown(ctx) }()
	lab.WaitUntilRefused(t, address)
	inTunnel.RoundTrip(t, "while it drains")

	// The rest of an upgrade request arrives now, on an open connection.
	_, err = io.WriteString(late, "Upgrade: tcp\r\n\r\n")
	require.NoError(t, err)
	answer, err := http.ReadResponse(bufio.NewReader(late), nil)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)
	require.Equal(t, "1", answer.Header.Get("Retry-After"))
	require.True(t, answer.Close)
	require.NoError(t, late.Close())
	// The listener waited for this handshake before it let Serve return.
	require.ErrorIs(t, lab.Receive(t, served), net.ErrClosed)

	go func() {
		server.GracefulStop()
		stopped <- nil
	}()
	for tunnel.GetState() == connectivity.Ready { // until the server has sent GOAWAY
		require.True(t, tunnel.WaitForStateChange(ctx, connectivity.Ready))
	}
	inTunnel.RoundTrip(t, "after GOAWAY")
	direct.RoundTrip(t, "after GOAWAY")
	err = tunnel.Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), new(wrapperspb.StringValue))
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	inTunnel.Finish(t)
	direct.RoundTrip(t, "the last message")
	require.Empty(t, shutdown)
	require.Empty(t, stopped)
	direct.Finish(t)
	require.NoError(t, lab.Receive(t, stopped))
	require.NoError(t, lab.Receive(t, shutdown))
}

// TestGRPCGracefulStopFirst stops the server first. Shutdown still waits for the last stream.
func TestGRPCGracefulStopFirst(t *testing.T) {
	l := &preflight.PreflightListener{Listener: lab.Listen(t)}
	server, served := lab.ServeGRPC(t, "the server", l)
	c := lab.DialGRPC(t, new(preflight.PreflightDialer), l.Addr().String())
	stream := lab.OpenEcho(t, c)
	stream.RoundTrip(t, "hello")
	go server.GracefulStop()
	lab.WaitUntilRefused(t, l.Addr().String())
	shutdown := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	defer cancel()
	go func() { shutdown <- l.Shutdown(ctx) }()
	for range 10 {
		stream.RoundTrip(t, "still open")
	}
	require.Empty(t, shutdown)
	stream.Finish(t)
	require.NoError(t, lab.Receive(t, served))
	require.NoError(t, lab.Receive(t, shutdown))
}

// TestGRPCShutdownGivesUp has a stream that does not end. Shutdown returns when its context
// ends, and the stream still works.
func TestGRPCShutdownGivesUp(t *testing.T) {
	l := &preflight.PreflightListener{Listener: lab.Listen(t)}
	lab.ServeGRPC(t, "the server", l)
	stream := lab.OpenEcho(t, lab.DialGRPC(t, new(preflight.PreflightDialer), l.Addr().String()))
	stream.RoundTrip(t, "hello")
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no more time")
	cancel(cause)
	require.Equal(t, cause, l.Shutdown(ctx))
	stream.RoundTrip(t, "still open")
	stream.Finish(t)
}

// TestGRPCPeer requires that gRPC sees the address of the client. gRPC reads the address of
// a connection only once, when the connection is new.
func TestGRPCPeer(t *testing.T) {
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	for _, test := range []struct {
		name    string
		trusted []netip.Prefix
		header  http.Header
		want    string
	}{
		{"NotTrusted", nil, http.Header{"X-Forwarded-For": {"203.0.113.9"}}, `127\.0\.0\.1:\d+`},
		{"Trusted", []netip.Prefix{loopback}, http.Header{"X-Forwarded-For": {"203.0.113.9"}}, `203\.0\.113\.9:0`},
		{"Another", []netip.Prefix{loopback}, http.Header{"X-Forwarded-For": {"203.0.113.10"}}, `203\.0\.113\.10:0`},
		{"IPv6", []netip.Prefix{loopback}, http.Header{"X-Forwarded-For": {"[2001:db8::7]:4711"}}, `\[2001:db8::7\]:4711`},
		{"SpoofedLeft", []netip.Prefix{loopback}, http.Header{"X-Forwarded-For": {"192.0.2.1, 203.0.113.9, 127.0.0.5"}}, `203\.0\.113\.9:0`},
		{"NoField", []netip.Prefix{loopback}, nil, `127\.0\.0\.1:\d+`},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &preflight.PreflightListener{Listener: lab.Listen(t), TrustedProxies: test.trusted}
			lab.ServeGRPC(t, "the server", l)
			c := lab.DialGRPC(t, &preflight.PreflightDialer{Header: test.header}, l.Addr().String())
			first := lab.CallWho(t, c)
			require.Regexp(t, "^the server to "+test.want+"$", first)
			require.Equal(t, first, lab.CallWho(t, c))
		})
	}
}
