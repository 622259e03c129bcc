package applications

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// apps are applications. The servers that are written in Go accept from a listener of
// the test. The other servers run behind examples/relay.
var apps = []struct {
	name string
	test func(t *testing.T)
}{
	{"grpc", testGRPC},
	{"grpc-tls", testGRPCOverTLS},
	{"http", testHTTP},
	{"lines", testLines},
	{"mqtt", testMQTT},
	{"mysql", testMySQL},
	{"nats", testNATS},
	{"postgres", testPostgres},
	{"redis", testRedis},
	{"rpc", testRPC},
	{"ssh", testSSH},
	{"sshd", testSSHD},
}

// edges are the proxies in front of the applications.
var edges = []struct {
	name  string
	start lab.StartFunc
	// shortIdle are edits of the file. With them the proxy closes a silent tunnel
	// after 4 seconds.
	shortIdle []string
}{
	{"nginx", lab.StartNginx, []string{"proxy_read_timeout 1h;", "proxy_read_timeout 4s;"}},
	{"envoy", lab.StartEnvoy, []string{"idle_timeout: 3600s", "idle_timeout: 4s"}},
}

// TestApp runs each application over each route.
func TestApp(t *testing.T) {
	for _, a := range apps {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			a.test(t)
		})
	}
}

// A service is the port of an application. It accepts tunnels and plain clients.
type service struct {
	address string
	roots   *x509.CertPool // for TLS inside the tunnels; nil: it has none
}

// A route is a way from a client to a service. As a dialer, it ignores the address that
// it is given.
type route struct {
	name    string
	dialer  preflight.ContextDialer
	address string
	edge    *lab.Edge // nil: the route has no proxy
}

func (r route) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return r.dialer.DialContext(ctx, "tcp", r.address)
}

// directRoute returns the route of a plain client.
func directRoute(to service) route { return route{"direct", new(net.Dialer), to.address, nil} }

// framedCarriers are the carriers that carry the tunnel in capsules.
var framedCarriers = []preflight.Carrier{preflight.CarrierFramed, preflight.CarrierWebSocket}

// tunnelRoutes returns the routes through each proxy: without TLS, with TLS to the proxy,
// with TLS inside the tunnel, and with both. The other carriers follow, without TLS.
func tunnelRoutes(t *testing.T, to service) (routes []route) {
	t.Helper()
	for _, e := range edges {
		edge := e.start(t, to.address)
		add := func(name string, f lab.Frontend) {
			routes = append(routes, route{name, f.Dialer(), f.Address, edge})
			if to.roots != nil {
				d := f.Dialer()
				d.TunnelTLSConfig = &tls.Config{RootCAs: to.roots}
				routes = append(routes, route{name + "-inside", d, f.Address, edge})
			}
		}
		add(e.name, edge.Plain)
		add(e.name+"-tls", edge.TLS)
		for _, c := range framedCarriers {
			d := edge.Plain.Dialer()
			d.Carriers = []preflight.Carrier{c}
			routes = append(routes, route{e.name + "-" + string(c), d, edge.Plain.Address, edge})
		}
	}
	return routes
}

// routes returns the tunnel routes and the direct route.
func routes(t *testing.T, to service) []route {
	t.Helper()
	return append(tunnelRoutes(t, to), directRoute(to))
}

// listenWithTLS returns a listener with TLS inside the tunnels, for a server that is
// written in Go.
func listenWithTLS(t *testing.T) (*preflight.PreflightListener, service) {
	t.Helper()
	certificate, roots := lab.NewCertificate(t)
	l := &preflight.PreflightListener{Listener: lab.Listen(t), TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}
	return l, service{l.Addr().String(), roots}
}

// startRelay runs examples/relay in front of the server at address.
func startRelay(t *testing.T, address string, flags ...string) service {
	t.Helper()
	binary, err := buildRelay()
	require.NoError(t, err)
	dir := t.TempDir()
	roots := lab.WriteCertificate(t, dir)
	d := lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		return append([]string{
			binary, "-listen", addresses[0], "-to", address,
			"-cert", filepath.Join(dir, "cert.pem"), "-key", filepath.Join(dir, "key.pem"),
		}, flags...)
	}, func() bool { return lab.HasLogged(t, dir, "Listening on") })
	return service{d.Addresses[0], roots}
}

// serverSpeaksFirst are the flags of the relay for a protocol in which plain clients wait
// for the server.
var serverSpeaksFirst = []string{"-plain-after", "500ms"}

var buildRelay = sync.OnceValues(func() (binary string, err error) {
	binary = filepath.Join(programs, "relay")
	build := exec.Command("go", "build", "-o", binary, "./relay")
	build.Dir = filepath.Join("..", "..", "examples")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return binary, nil
})
