package interop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Two gRPC servers are on one port. Its listener serves no protocol itself, so
// that every upgrade request goes to Handler, which knows by the path whose it
// is. The listeners that are mounted there have none below.
func TestTwoGRPCServersOnOnePort(t *testing.T) {
	mounted := map[string]*preflight.PreflightListener{"/a/": {}, "/b/": {}}
	mux := http.NewServeMux()
	for path, l := range mounted {
		mux.Handle(path, l)
		grpcServe(t, "server "+path, l)
	}
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	port := serve(t, &preflight.PreflightListener{Protocols: []string{}, Handler: mux, RequireUpgrade: true}, func(*preflight.Conn) {})
	dial := func(path string) *preflight.PreflightDialer { return &preflight.PreflightDialer{Path: path} }

	talks := make(map[string]grpcTalk)
	for range 3 { // by turns, so that none is right by chance
		for path, at := range map[string]string{"/a/": "/a/", "/b/": "/b/", "/a/deeper?b=1": "/a/"} {
			c := grpcDial(t, dial(path), port)
			require.Regexp(t, "^server "+at+` to 127\.0\.0\.1:\d+$`, grpcAsk(t, c))
			talks[path] = grpcOpen(t, c)
		}
	}
	for path, talk := range talks {
		talk.say(t, path)
	}
	answer, err := http.Get("http://" + port + "/healthz")
	require.NoError(t, err)
	require.Equal(t, "ok", string(readAll(t, answer)))
	http.DefaultClient.CloseIdleConnections()
	_, err = dial("/c/").Dial("tcp", port)
	require.Equal(t, http.StatusNotFound, statusError(t, err).StatusCode)

	// One of them ends, the other does not mind.
	require.NoError(t, mounted["/a/"].Close())
	_, err = dial("/a/").Dial("tcp", port)
	require.Equal(t, http.StatusServiceUnavailable, statusError(t, err).StatusCode)
	require.Contains(t, grpcAsk(t, grpcDial(t, dial("/b/"), port)), "server /b/")
	for path, talk := range talks {
		talk.say(t, path+", once more")
		talk.finish(t)
	}
}

// Listener and server end together: what is under way goes on to its end, and
// nothing new comes in. GracefulStop closes the listener, and so does Serve when
// there is nothing more to accept.
func TestGRPCGracefulStop(t *testing.T) {
	l := &preflight.PreflightListener{Listener: listenTCP(t)}
	address := l.Addr().String()
	server, served := grpcServe(t, "the server", l)
	late := dialPlain(t, address)
	_, err := io.WriteString(late, "GET /late HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\n")
	require.NoError(t, err)
	// The listener accepts in the order in which they come: late is there when
	// these are.
	tunnel := grpcDial(t, new(preflight.PreflightDialer), address)
	plain := grpcDial(t, new(net.Dialer), address)
	inTunnel, direct := grpcOpen(t, tunnel), grpcOpen(t, plain)
	inTunnel.say(t, "hello")
	direct.say(t, "hello")

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	shutdown, stopped := make(chan error, 1), make(chan error, 1)
	go func() { shutdown <- l.Shutdown(ctx) }()
	refusedByTCP(t, address)
	inTunnel.say(t, "while it drains")

	// An upgrade request that arrives now, on a connection that is open.
	_, err = io.WriteString(late, "Upgrade: tcp\r\n\r\n")
	require.NoError(t, err)
	answer, err := http.ReadResponse(bufio.NewReader(late), nil)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)
	require.Equal(t, "1", answer.Header.Get("Retry-After"))
	require.True(t, answer.Close)
	require.NoError(t, late.Close())
	// It was the last that the listener waited for before it let the server go.
	require.ErrorIs(t, receive(t, served), net.ErrClosed)

	go func() {
		server.GracefulStop()
		stopped <- nil
	}()
	for tunnel.GetState() == connectivity.Ready { // until the server says that it goes
		require.True(t, tunnel.WaitForStateChange(ctx, connectivity.Ready))
	}
	inTunnel.say(t, "after GOAWAY")
	direct.say(t, "after GOAWAY")
	err = tunnel.Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), new(wrapperspb.StringValue))
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	inTunnel.finish(t)
	direct.say(t, "the last one")
	require.Empty(t, shutdown)
	require.Empty(t, stopped)
	direct.finish(t)
	require.NoError(t, receive(t, stopped))
	require.NoError(t, receive(t, shutdown))
}

// Where the server begins, Shutdown still waits for the last stream.
func TestGRPCGracefulStopFirst(t *testing.T) {
	l := &preflight.PreflightListener{Listener: listenTCP(t)}
	server, served := grpcServe(t, "the server", l)
	c := grpcDial(t, new(preflight.PreflightDialer), l.Addr().String())
	talk := grpcOpen(t, c)
	talk.say(t, "hello")
	go server.GracefulStop()
	refusedByTCP(t, l.Addr().String())
	shutdown := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() { shutdown <- l.Shutdown(ctx) }()
	for range 10 {
		talk.say(t, "still there")
	}
	require.Empty(t, shutdown)
	talk.finish(t)
	require.NoError(t, receive(t, served))
	require.NoError(t, receive(t, shutdown))
}

// A stream that does not end keeps Shutdown no longer than its context, and is
// not harmed by that.
func TestGRPCShutdownGivesUp(t *testing.T) {
	l := &preflight.PreflightListener{Listener: listenTCP(t)}
	grpcServe(t, "the server", l)
	talk := grpcOpen(t, grpcDial(t, new(preflight.PreflightDialer), l.Addr().String()))
	talk.say(t, "hello")
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no more time")
	cancel(cause)
	require.Equal(t, cause, l.Shutdown(ctx))
	talk.say(t, "still there")
	talk.finish(t)
}

// gRPC asks a connection for its address once, when it is new: that is the
// client's from the first call on.
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
			l := &preflight.PreflightListener{Listener: listenTCP(t), TrustedProxies: test.trusted}
			grpcServe(t, "the server", l)
			c := grpcDial(t, &preflight.PreflightDialer{Header: test.header}, l.Addr().String())
			first := grpcAsk(t, c)
			require.Regexp(t, "^the server to "+test.want+"$", first)
			require.Equal(t, first, grpcAsk(t, c))
		})
	}
}

// refusedByTCP returns when nobody listens at address any more.
func refusedByTCP(t *testing.T, address string) {
	t.Helper()
	retry := time.NewTicker(time.Millisecond)
	defer retry.Stop()
	for timeout := time.After(patience); ; {
		c, err := net.Dial("tcp", address)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if err == nil {
			c.Close()
		}
		select {
		case <-retry.C:
		case <-timeout:
			require.FailNow(t, "the listener is still open")
		}
	}
}

// receive is what comes out of c, in good time.
func receive(t *testing.T, c <-chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
		return nil
	}
}
