package proxies

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	squidIP = "127.0.0.9" // Squid connects from this address
	nginxIP = "127.0.0.8" // nginx connects from this address
)

// A firewallListener accepts connections only from one address, as behind a firewall.
// It closes all others.
type firewallListener struct {
	net.Listener
	allowedIP string

	mu       sync.Mutex
	conns    []net.Conn
	rejected int
}

func (l *firewallListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		reject := c.RemoteAddr().(*net.TCPAddr).IP.String() != l.allowedIP
		l.mu.Lock()
		if reject {
			l.rejected++
		} else {
			l.conns = append(l.conns, c)
		}
		l.mu.Unlock()
		if !reject {
			return c, nil
		}
		c.Close()
	}
}

// rejectedCount returns how many connections it has closed.
func (l *firewallListener) rejectedCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rejected
}

// closeAccepted closes the connections that it has accepted.
func (l *firewallListener) closeAccepted() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

// A tokenIssuer issues tokens, and authorizes requests. One token is valid at a time.
type tokenIssuer struct {
	mu      sync.Mutex
	valid   string
	answers []string // of authorize
	fields  []http.Header
}

func (i *tokenIssuer) authorize(r *http.Request) (http.Header, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fields = append(i.fields, r.Header.Clone())
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token != i.valid {
		i.answers = append(i.answers, "401 for "+token)
		return nil, &preflight.StatusError{
			StatusCode: http.StatusUnauthorized,
			Header:     http.Header{"Www-Authenticate": {`Bearer realm="out", error="invalid_token"`}},
		}
	}
	i.answers = append(i.answers, "101 for "+token)
	return nil, nil
}

// answered returns the answers of authorize so far.
func (i *tokenIssuer) answered() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.answers)
}

func (i *tokenIssuer) issue(token string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.valid = token
}

func (i *tokenIssuer) current() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.valid
}

// A tokenCache is the client's side of a tokenIssuer. It gets a token once, and a new one
// when the token has been refused.
type tokenCache struct {
	issuer   *tokenIssuer
	mu       sync.Mutex
	token    string
	refusals []*preflight.StatusError
}

func (c *tokenCache) getHeader(_ context.Context, refused *preflight.StatusError) (http.Header, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if refused != nil {
		c.refusals = append(c.refusals, refused)
		if !strings.Contains(refused.Header.Get("Www-Authenticate"), "invalid_token") {
			return nil, errors.New("a new token will not help")
		}
	}
	if c.token == "" || refused != nil {
		c.token = c.issuer.current()
	}
	return http.Header{"Authorization": {"Bearer " + c.token}}, nil
}

// TestOnlyWayOut has a client that reaches the server only through Squid and nginx. Squid
// requires credentials. nginx terminates the outer TLS, and the server the inner TLS. The
// token of the client expires once, while the client is in use.
func TestOnlyWayOut(t *testing.T) {
	certificate, inner := lab.NewCertificate(t)
	issuer := &tokenIssuer{valid: "first"}
	backend := &firewallListener{Listener: lab.Listen(t), allowedIP: nginxIP}
	lab.ServeGRPC(t, "the server", &preflight.PreflightListener{
		Listener:       backend,
		TLSConfig:      &tls.Config{Certificates: []tls.Certificate{certificate}},
		RequireUpgrade: true,
		Authorize:      issuer.authorize,
	})
	edge := startRestrictedNginx(t, backend.Addr().String())
	squid := lab.StartForwardSquid(t, lab.ForwardConfig{AllowedPorts: []string{lab.Port(edge.Address)}, Password: "secret", OutgoingIP: squidIP})
	cache := &tokenCache{issuer: issuer}
	d := &preflight.PreflightDialer{
		Proxy:            http.ProxyURL(squid),
		TLSConfig:        edge.TLSConfig(),
		TunnelTLSConfig:  &tls.Config{RootCAs: inner},
		Path:             "/client/amps/json",
		GetHeader:        cache.getHeader,
		HandshakeTimeout: lab.Timeout,
	}

	// The client reaches neither nginx nor the server directly.
	direct := *d
	direct.Proxy = nil
	_, err := direct.DialContext(t.Context(), "tcp", edge.Address)
	refused := lab.StatusError(t, err)
	require.Equal(t, http.StatusForbidden, refused.StatusCode)
	require.False(t, refused.ForwardProxy)
	direct.TLSConfig = nil
	_, err = direct.DialContext(t.Context(), "tcp", backend.Addr().String())
	require.Error(t, err)
	require.Equal(t, 1, backend.rejectedCount())
	// Squid does not connect to the server, which would bypass nginx.
	around := *d
	around.TLSConfig = nil
	_, err = around.DialContext(t.Context(), "tcp", backend.Addr().String())
	require.True(t, lab.StatusError(t, err).ForwardProxy)
	require.Empty(t, issuer.answered())

	c := lab.DialGRPC(t, d, edge.Address)
	require.Regexp(t, `^the server to `+nginxIP+`:\d+$`, lab.CallWho(t, c))
	talk := lab.OpenEcho(t, c)
	talk.RoundTrip(t, "hello")
	talk.Finish(t)
	require.Equal(t, []string{"101 for first"}, issuer.answered())

	issuer.issue("second")
	lab.CallWho(t, c) // an open tunnel is not authorized again
	require.Len(t, issuer.answered(), 1)
	backend.closeAccepted()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	defer cancel()
	for range 3 {
		// gRPC may send the first call on the connection that has just been closed.
		callUntilAnswered(t, ctx, c)
	}
	issuer.mu.Lock()
	defer issuer.mu.Unlock()
	require.Equal(t, []string{"101 for first", "401 for first", "101 for second"}, issuer.answers)
	require.Len(t, cache.refusals, 1)
	require.False(t, cache.refusals[0].ForwardProxy)
	for _, fields := range issuer.fields {
		// nginx reports the address of Squid. Nobody has forwarded the password for Squid.
		require.Equal(t, []string{squidIP}, fields["X-Forwarded-For"])
		require.NotContains(t, fields, "Proxy-Authorization")
	}
}

// callUntilAnswered calls until there is an answer. gRPC does not repeat a call whose
// connection was closed during the call.
func callUntilAnswered(t *testing.T, ctx context.Context, c *grpc.ClientConn) {
	t.Helper()
	for {
		err := c.Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), new(wrapperspb.StringValue), grpc.WaitForReady(true))
		if err == nil {
			return
		}
		require.NoError(t, ctx.Err(), "%v", err)
	}
}

// startRestrictedNginx runs an nginx that accepts requests only from squidIP.
func startRestrictedNginx(t *testing.T, backend string) lab.Frontend {
	t.Helper()
	dir := t.TempDir()
	roots := lab.WriteCertificate(t, dir)
	d := lab.StartNginxDaemon(t, dir, 1, func(addresses []string) (config string) {
		return lab.Render(t, os.DirFS("testdata"), dir, "nginx-restricted.conf", map[string]any{
			"Root":    os.Geteuid() == 0,
			"Listen":  addresses[0],
			"Backend": backend,
			"Allowed": squidIP,
			"Bind":    nginxIP,
		})
	})
	return lab.Frontend{Address: d.Addresses[0], Roots: roots}
}
