package interop

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// outRelay is a server in front of one that knows no preflight: what arrives by
// l goes on to the server at backend. cut ends the connections so far.
func outRelay(t *testing.T, l *preflight.PreflightListener, backend string) (address string, cut func()) {
	t.Helper()
	var mu sync.Mutex
	var conns []net.Conn
	address = serve(t, l, func(c *preflight.Conn) {
		server, err := net.Dial("tcp", backend)
		if err != nil {
			return
		}
		defer server.Close()
		mu.Lock()
		conns = append(conns, c)
		mu.Unlock()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			io.Copy(server, c)
			server.Close()
		}()
		io.Copy(c, server)
		c.Close()
		<-ended
	})
	return address, func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		conns = nil
	}
}

// An outRoute leads to a database by a tunnel, or around all of it.
type outRoute struct {
	name    string
	dialer  preflight.ContextDialer
	address string
	cut     func() // ends the connections at the far end
}

// outRoutes are all kinds of tunnels to the database at backend, and the way of
// its clients of old.
func outRoutes(t *testing.T, backend string) []outRoute {
	t.Helper()
	dir := t.TempDir()
	inner := writeCertificate(t, dir)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	require.NoError(t, err)
	address, cut := outRelay(t, &preflight.PreflightListener{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}},
		// Clients of old that wait for the server's greeting.
		PlainAfter: 50 * time.Millisecond,
	}, backend)
	nginx := startNginx(t, address)
	plain, edge := nginx.plain, nginx.tls
	dialer := func(f front, inside bool) *preflight.PreflightDialer {
		d := f.dialer()
		if inside {
			d.TunnelTLSConfig = &tls.Config{RootCAs: inner}
		}
		return d
	}
	return []outRoute{
		{"NoTunnel", new(net.Dialer), address, cut},
		{"Plain", dialer(plain, false), plain.address, cut},
		{"TLSAtTheEdge", dialer(edge, false), edge.address, cut},
		{"TLSInside", dialer(plain, true), plain.address, cut},
		{"TLSBoth", dialer(edge, true), edge.address, cut},
	}
}

// An outCounter counts the connections that are dialed.
type outCounter struct {
	outRoute
	dials atomic.Int32
}

func (c *outCounter) dial(ctx context.Context) (net.Conn, error) {
	c.dials.Add(1)
	return c.dialer.DialContext(ctx, "tcp", c.address)
}

// outStartMariaDB runs a server with the user jane, password secret.
func outStartMariaDB(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	data, start := filepath.Join(dir, "data"), filepath.Join(dir, "start.sql")
	var user []string
	if os.Geteuid() == 0 {
		user = []string{"--user=root"}
	}
	install := exec.CommandContext(t.Context(), findBinary(t, "mariadb-install-db"), append([]string{
		"--no-defaults", "--datadir=" + data, "--skip-test-db", "--auth-root-authentication-method=normal"}, user...)...)
	output, err := install.CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.NoError(t, os.WriteFile(start, []byte("CREATE USER IF NOT EXISTS jane@'%' IDENTIFIED BY 'secret';\n"), 0o600))
	socket := filepath.Join(dir, "s")
	return launch(t, dir, 1, findBinary(t, "mariadbd"), func(addresses []string) (args []string) {
		return append([]string{
			"--no-defaults", "--datadir=" + data, "--socket=" + socket, "--pid-file=" + filepath.Join(dir, "pid"),
			"--bind-address=127.0.0.1", "--port=" + outPort(addresses[0]), "--skip-name-resolve",
			"--init-file=" + start, "--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M"}, user...)
	}, func() bool { return outAnswers(socket) }).addresses[0]
}

func outStartRedis(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	return launch(t, dir, 1, findBinary(t, "redis-server"), func(addresses []string) (args []string) {
		return []string{
			"--bind", "127.0.0.1", "--port", outPort(addresses[0]), "--unixsocket", socket,
			"--dir", dir, "--save", "", "--appendonly", "no", "--requirepass", "secret",
		}
	}, func() bool { return outAnswers(socket) }).addresses[0]
}

// outAnswers reports that a server listens on its own socket, which it opens
// once it has its port.
func outAnswers(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
