package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func TestRun(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out bytes.Buffer
	require.NoError(t, run(ctx, &out))
	require.Regexp(t, `^The server serves alice
The server serves bob
A call fails: .*answered 401 Unauthorized.*
$`, out.String())
}

// secure returns the credentials of a server with TLS, and those of its clients.
func secure(t *testing.T) (server, client credentials.TransportCredentials) {
	t.Helper()
	https := httptest.NewTLSServer(nil) // for its certificate
	defer https.Close()
	config := https.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "example.com"
	return credentials.NewServerTLSFromCert(&https.TLS.Certificates[0]), credentials.NewTLS(config)
}

// check makes a call to a server with these credentials, and returns what its handler has
// seen.
func check(t *testing.T, l *preflight.PreflightListener, server, client credentials.TransportCredentials,
	dial func(context.Context, string, string) (net.Conn, error),
) (seen credentials.AuthInfo, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Listener = ln
	s := grpc.NewServer(grpc.Creds(server), grpc.UnaryInterceptor(
		func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			p, _ := peer.FromContext(ctx)
			seen = p.AuthInfo
			return handler(ctx, request)
		}))
	healthpb.RegisterHealthServer(s, greeter{out: io.Discard})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() { s.Stop(); <-served }()
	c, err := grpc.NewClient("passthrough:///"+ln.Addr().String(), grpc.WithTransportCredentials(client),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "tcp", address) }))
	require.NoError(t, err)
	defer c.Close()
	_, err = healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{})
	return seen, err
}

// TestOverTLS requires that TLS inside the tunnel still sets the security level of the
// connection.
func TestOverTLS(t *testing.T) {
	server, client := secure(t)
	l := &preflight.PreflightListener{Authorize: authorize(map[string]string{"": "alice"})}
	seen, err := check(t, l, withUser{server}, client, new(preflight.PreflightDialer).DialContext)
	require.NoError(t, err)
	require.Equal(t, "alice", seen.(user).name)
	require.Equal(t, credentials.PrivacyAndIntegrity, seen.(user).SecurityLevel)
}

// TestNotVetted requires that a client without a valid token can make no call.
func TestNotVetted(t *testing.T) {
	server, client := secure(t)
	for name, test := range map[string]struct {
		listener *preflight.PreflightListener
		dialer   preflight.ContextDialer
	}{
		"Plain":       {&preflight.PreflightListener{Authorize: authorize(nil), AllowPlain: true}, new(net.Dialer)},
		"NoAuthorize": {new(preflight.PreflightListener), new(preflight.PreflightDialer)},
	} {
		t.Run(name, func(t *testing.T) {
			seen, err := check(t, test.listener, withUser{server}, client, test.dialer.DialContext)
			require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
			require.Nil(t, seen)
		})
	}
}
