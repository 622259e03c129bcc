package interop

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
	"github.com/stretchr/testify/require"
)

// apps are applications that know nothing of preflight. Those in Go take any
// listener and any dialer; examples/relay stands before the others.
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

// appProxies are what the applications run through.
var appProxies = []proxy{nginx, envoy}

// TestApp runs each application by each route:
//
//	go test -run 'App/postgres/nginx-tls/Copy' .
func TestApp(t *testing.T) {
	for _, a := range apps {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			a.test(t)
		})
	}
}

// A port is where an application takes tunnels beside its clients of old.
type port struct {
	address string
	roots   *x509.CertPool // of TLS inside the tunnels; nil: none
}

// A route is a way to a port. As a dialer, it goes there whatever it is asked for.
type route struct {
	name    string
	dialer  preflight.ContextDialer
	address string
	proxy   *running // nil: it leads straight there
}

func (r route) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return r.dialer.DialContext(ctx, "tcp", r.address)
}

// direct is the way of a client of old.
func direct(to port) route { return route{"direct", new(net.Dialer), to.address, nil} }

// tunnels are all ways through a proxy: in plain text, with TLS to the proxy,
// with TLS inside the tunnel, and with both.
func tunnels(t *testing.T, to port) []route {
	t.Helper()
	var all []route
	for _, p := range appProxies {
		r := p.start(t, to.address)
		lead := func(name string, f front) {
			all = append(all, route{name, f.dialer(), f.address, r})
			if to.roots != nil {
				d := f.dialer()
				d.TunnelTLSConfig = &tls.Config{RootCAs: to.roots}
				all = append(all, route{name + "-inside", d, f.address, r})
			}
		}
		lead(p.name, r.plain)
		lead(p.name+"-tls", r.tls)
	}
	return all
}

// routes are the tunnels and the direct way.
func routes(t *testing.T, to port) []route {
	t.Helper()
	return append(tunnels(t, to), direct(to))
}

// listen is for servers that are written in Go.
func listen(t *testing.T) (*preflight.PreflightListener, port) {
	t.Helper()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	require.NoError(t, err)
	l := &preflight.PreflightListener{Listener: listenTCP(t), TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	return l, port{l.Addr().String(), roots}
}

// startRelay runs examples/relay in front of the server at address.
func startRelay(t *testing.T, address string, flags ...string) port {
	t.Helper()
	binary, err := buildRelay()
	require.NoError(t, err)
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	d := launch(t, dir, 1, binary, func(addresses []string) (args []string) {
		return append([]string{
			"-listen", addresses[0], "-to", address,
			"-cert", filepath.Join(dir, "cert.pem"), "-key", filepath.Join(dir, "key.pem"),
		}, flags...)
	}, func() bool { return logged(t, dir, "Listening on") })
	return port{d.addresses[0], roots}
}

// speaksFirst has the relay hand on plain clients that wait for the server.
var speaksFirst = []string{"-plain-after", "500ms"}

var buildRelay = sync.OnceValues(func() (binary string, err error) {
	binary = filepath.Join(programs, "relay")
	build := exec.Command("go", "build", "-o", binary, "./relay")
	build.Dir = filepath.Join("..", "examples")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return binary, nil
})
