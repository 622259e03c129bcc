package interop

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	outSquidIP = "127.0.0.9" // squid connects from there
	outEdgeIP  = "127.0.0.8" // and nginx from there
)

// An outOnlyFrom is a listener to which only one peer gets through, as it is
// with a firewall. It keeps the others.
type outOnlyFrom struct {
	net.Listener
	ip string

	mu     sync.Mutex
	conns  []net.Conn
	strays int
}

func (l *outOnlyFrom) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		stray := c.RemoteAddr().(*net.TCPAddr).IP.String() != l.ip
		l.mu.Lock()
		if stray {
			l.strays++
		} else {
			l.conns = append(l.conns, c)
		}
		l.mu.Unlock()
		if !stray {
			return c, nil
		}
		c.Close()
	}
}

// strayed is how many were not let through.
func (l *outOnlyFrom) strayed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.strays
}

// cut ends the connections so far.
func (l *outOnlyFrom) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

// An outIssuer issues tokens, and is asked for the one that is valid.
type outIssuer struct {
	mu      sync.Mutex
	valid   string
	answers []string // what Authorize has answered
	fields  []http.Header
}

func (i *outIssuer) authorize(r *http.Request) (http.Header, error) {
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

// answered is what Authorize has answered so far.
func (i *outIssuer) answered() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.answers)
}

func (i *outIssuer) issue(token string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.valid = token
}

func (i *outIssuer) now() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.valid
}

// An outCache is a client's side of an outIssuer: it asks for a token once, and
// again when that has been refused.
type outCache struct {
	issuer   *outIssuer
	mu       sync.Mutex
	token    string
	refusals []*preflight.StatusError
}

func (c *outCache) getHeader(_ context.Context, refused *preflight.StatusError) (http.Header, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if refused != nil {
		c.refusals = append(c.refusals, refused)
		if !strings.Contains(refused.Header.Get("Www-Authenticate"), "invalid_token") {
			return nil, errors.New("a new token will not help")
		}
	}
	if c.token == "" || refused != nil {
		c.token = c.issuer.now()
	}
	return http.Header{"Authorization": {"Bearer " + c.token}}, nil
}

// A client has no way out but squid, which wants credentials. The server is
// behind nginx, which ends the outer TLS; the inner TLS ends at the server. Its
// token expires once, while the client is in use.
func TestOnlyWayOut(t *testing.T) {
	dir := t.TempDir()
	inner := writeCertificate(t, dir)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	require.NoError(t, err)
	issuer := &outIssuer{valid: "first"}
	backend := &outOnlyFrom{Listener: listenTCP(t), ip: outEdgeIP}
	grpcServe(t, "the server", &preflight.PreflightListener{
		Listener:       backend,
		TLSConfig:      &tls.Config{Certificates: []tls.Certificate{pair}},
		RequireUpgrade: true,
		Authorize:      issuer.authorize,
	})
	edge := outStartEdge(t, backend.Addr().String())
	squid := outStartSquid(t, outConfig{allowed: []string{outPort(edge.address)}, password: "secret", outgoing: outSquidIP})
	cache := &outCache{issuer: issuer}
	d := &preflight.PreflightDialer{
		Proxy:            http.ProxyURL(squid),
		TLSConfig:        edge.tlsConfig(),
		TunnelTLSConfig:  &tls.Config{RootCAs: inner},
		Path:             "/client/amps/json",
		GetHeader:        cache.getHeader,
		HandshakeTimeout: patience,
	}

	// There is no other way: not to the edge, and not to the server.
	direct := *d
	direct.Proxy = nil
	_, err = direct.DialContext(t.Context(), "tcp", edge.address)
	refused := statusError(t, err)
	require.Equal(t, http.StatusForbidden, refused.StatusCode)
	require.False(t, refused.ForwardProxy)
	direct.TLSConfig = nil
	_, err = direct.DialContext(t.Context(), "tcp", backend.Addr().String())
	require.Error(t, err)
	require.Equal(t, 1, backend.strayed())
	// And squid does not lead around the edge.
	around := *d
	around.TLSConfig = nil
	_, err = around.DialContext(t.Context(), "tcp", backend.Addr().String())
	require.True(t, statusError(t, err).ForwardProxy)
	require.Empty(t, issuer.answered())

	c := grpcDial(t, d, edge.address)
	require.Regexp(t, `^the server to `+outEdgeIP+`:\d+$`, grpcAsk(t, c))
	talk := grpcOpen(t, c)
	talk.say(t, "hello")
	talk.finish(t)
	require.Equal(t, []string{"101 for first"}, issuer.answered())

	issuer.issue("second")
	grpcAsk(t, c) // what is open stays open
	require.Len(t, issuer.answered(), 1)
	backend.cut()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 3 {
		// gRPC may send the first one into the connection that has just ended.
		outAskUntil(t, ctx, c)
	}
	issuer.mu.Lock()
	defer issuer.mu.Unlock()
	require.Equal(t, []string{"101 for first", "401 for first", "101 for second"}, issuer.answers)
	require.Len(t, cache.refusals, 1)
	require.False(t, cache.refusals[0].ForwardProxy)
	for _, fields := range issuer.fields {
		// nginx says whom it has seen, and nobody has told squid's password on.
		require.Equal(t, []string{outSquidIP}, fields["X-Forwarded-For"])
		require.NotContains(t, fields, "Proxy-Authorization")
	}
}

// outAskUntil asks until there is an answer: a call that was on a connection that
// ends is not repeated by gRPC.
func outAskUntil(t *testing.T, ctx context.Context, c *grpc.ClientConn) {
	t.Helper()
	for {
		err := c.Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), new(wrapperspb.StringValue), grpc.WaitForReady(true))
		if err == nil {
			return
		}
		require.NoError(t, ctx.Err(), "%v", err)
	}
}

// outStartEdge runs an nginx that lets nobody but squid in.
func outStartEdge(t *testing.T, backend string) front {
	t.Helper()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	config := filepath.Join(dir, "nginx.conf")
	started := launch(t, dir, 1, findBinary(t, "nginx"), func(addresses []string) (args []string) {
		render(t, "nginx-edge.conf.tmpl", config, map[string]any{
			"Root":    os.Geteuid() == 0,
			"Listen":  addresses[0],
			"Backend": backend,
			"Allowed": outSquidIP,
			"Bind":    outEdgeIP,
		})
		return []string{"-p", dir, "-c", config, "-e", "stderr"}
	}, func() bool {
		pid, _ := os.ReadFile(filepath.Join(dir, "nginx.pid"))
		return len(pid) > 0
	})
	return front{address: started.addresses[0], roots: roots}
}
