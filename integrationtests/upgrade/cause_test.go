package upgrade_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// foreignCause is a cause from another package that wraps the refusal of another
// dial.
type foreignCause struct{ refused *preflight.StatusError }

func (*foreignCause) Error() string { return "another dial was refused" }

func (e *foreignCause) Unwrap() error { return e.refused }

// contextEnds are the ways in which a context ends, and the resulting errors.
var contextEnds = map[string]struct {
	of  error
	end func(context.Context, error) (context.Context, func())
}{
	"cancel": {context.Canceled, func(ctx context.Context, cause error) (context.Context, func()) {
		ctx, cancel := context.WithCancelCause(ctx)
		time.AfterFunc(time.Second, func() { cancel(cause) })
		return ctx, func() { cancel(nil) }
	}},
	"deadline": {context.DeadlineExceeded, func(ctx context.Context, cause error) (context.Context, func()) {
		ctx, cancel := context.WithTimeoutCause(ctx, time.Second, cause)
		return ctx, cancel
	}},
	"cancelled before": {context.Canceled, func(ctx context.Context, cause error) (context.Context, func()) {
		ctx, cancel := context.WithCancelCause(ctx)
		cancel(cause)
		return ctx, func() {}
	}},
}

// requireContextError requires that err is the end of a context, and wraps its cause,
// but contains no StatusError. A refusal in the cause belongs to another
// handshake.
func requireContextError(t *testing.T, err, of error, cause *foreignCause) {
	t.Helper()
	require.Error(t, err)
	require.ErrorIs(t, err, of)
	require.ErrorIs(t, err, cause)
	var found *foreignCause
	require.ErrorAs(t, err, &found)
	require.Same(t, cause, found)
	require.ErrorContains(t, err, of.Error())
	require.ErrorContains(t, err, cause.Error())
	var refused *preflight.StatusError
	require.False(t, errors.As(err, &refused), "%v", err)
	for _, other := range []error{context.Canceled, context.DeadlineExceeded} {
		require.Equal(t, other == of, errors.Is(err, other), "%v", other)
	}
}

// errors.Is finds the end of the context and its cause. errors.As does not find
// a StatusError in the cause. Otherwise the caller would give up, or ask for
// other credentials.
func TestContextEndsWithACause(t *testing.T) {
	id := testkit.NewIdentity(t)
	for endName, end := range contextEnds {
		for _, role := range []string{"client", "server"} {
			t.Run(role+"/"+endName, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cause := &foreignCause{&preflight.StatusError{StatusCode: 401}}
					ctx, cancel := end.end(t.Context(), cause)
					defer cancel()
					c, _ := testkit.SpyPipe(t)
					_, err := testkit.UpgradeRoles[role].Play(ctx, c)
					requireContextError(t, err, end.of, cause)
				})
			})
		}
		for name, stage := range map[string]struct {
			proxy       string
			tls, inside bool
			peer        func(net.Conn)
		}{
			"the proxy's TLS": {proxy: "https://edge.example"},
			"CONNECT":         {proxy: "http://proxy.example"},
			"SOCKS":           {proxy: "socks5://proxy.example"},
			"TLS":             {tls: true},
			"the 101":         {},
			"TLS inside":      {inside: true, peer: testkit.Say(testkit.AnswerTLS, testkit.Silent)},
		} {
			t.Run("dialer, "+name+"/"+endName, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					refused := &preflight.StatusError{StatusCode: 401}
					cause := &foreignCause{refused}
					ctx, cancel := end.end(t.Context(), cause)
					defer cancel()
					dials := 0
					peer := &testkit.DialPeer{T: t, Peer: testkit.Silent}
					if stage.peer != nil {
						peer.Peer = stage.peer
					}
					d := preflight.PreflightDialer{
						NetDialer: testkit.DialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
							dials++
							return peer.DialContext(ctx, network, address)
						}),
						GetHeader: func(_ context.Context, refused *preflight.StatusError) (http.Header, error) {
							require.Nil(t, refused, "no server has refused")
							return nil, nil
						},
					}
					if stage.proxy != "" {
						d.Proxy = testkit.Via(stage.proxy)
					}
					if stage.tls || stage.proxy == "https://edge.example" {
						d.TLSConfig = id.Client()
					}
					if stage.inside {
						d.TunnelTLSConfig = new(tls.Config)
					}
					_, err := d.DialContext(ctx, "tcp", "edge.example:443")
					requireContextError(t, err, end.of, cause)
					require.Equal(t, 1, dials)
				})
			})
		}
	}
}

// A transport may return a refusal of its own, for example that of a tunnel
// below it. If the context ends, the error is the end of the context.
func TestContextEndsBesideATransportsRefusal(t *testing.T) {
	for _, role := range []string{"client", "server"} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c, _ := testkit.SpyPipe(t)
			_, err := testkit.UpgradeRoles[role].Play(ctx, refusedConn{c, cancel})
			require.ErrorIs(t, err, context.Canceled)
			var refused *preflight.StatusError
			require.False(t, errors.As(err, &refused), "%v", err)
		})
	}
}

// refusedConn is a transport that ends ctx, and fails with a refusal.
type refusedConn struct {
	net.Conn
	end func()
}

func (c refusedConn) Write(b []byte) (int, error) { return c.Read(nil) }

func (c refusedConn) Read([]byte) (int, error) {
	c.end()
	return 0, fmt.Errorf("the tunnel below: %w", &preflight.StatusError{StatusCode: 403})
}
