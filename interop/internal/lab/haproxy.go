package lab

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// HAProxyFile is the main file of deploy/ for HAProxy.
const HAProxyFile = "haproxy/haproxy.cfg"

// StartHAProxy returns the StartFunc for HAProxy with a file of deploy/.
func StartHAProxy(file string) StartFunc {
	return func(t *testing.T, backend string, edits ...string) *Edge {
		t.Helper()
		dir := t.TempDir()
		roots := WriteCertificate(t, dir)
		configure := func(addresses []string, backend string) {
			WriteFile(t, dir, "haproxy.cfg", DeployFile(t, file, slices.Concat(edits, []string{
				"bind :80", "bind " + addresses[0],
				"bind :443", "bind " + addresses[1],
				"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "tls.crt"),
				"127.0.0.1:9007", backend,
			})...))
		}
		// HAProxy looks for the key in tls.crt.key or tls.key beside tls.crt.
		for from, to := range map[string]string{"cert.pem": "tls.crt", "key.pem": "tls.key"} {
			require.NoError(t, os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)))
		}
		d := StartHAProxyDaemon(t, dir, func(addresses []string) { configure(addresses, backend) })
		socket := haproxySocket(dir)
		return &Edge{
			Plain: Frontend{Address: d.Addresses[0]},
			TLS:   Frontend{Address: d.Addresses[1], Roots: roots},
			Reload: func(backend string) {
				configure(d.Addresses, backend)
				haproxyCommand(socket, "reload")
			},
			Stats: func() string { return haproxyCommand(socket, "@1 show stat") },
		}
	}
}

// StartHAProxyDaemon runs HAProxy with the haproxy.cfg that configure writes to dir, at two
// addresses.
func StartHAProxyDaemon(t *testing.T, dir string, configure func(addresses []string)) *Daemon {
	t.Helper()
	return StartDaemon(t, dir, 2, func(addresses []string) (command []string) {
		configure(addresses)
		// In the foreground, with a master process that takes commands.
		return []string{"haproxy", "-W", "-db", "-S", haproxySocket(dir), "-f", filepath.Join(dir, "haproxy.cfg")}
	}, func() bool {
		// A worker exists when HAProxy has bound all ports. A connection to the
		// ports would prove less: another process may have taken them.
		return strings.Contains(haproxyCommand(haproxySocket(dir), "@1 show info"), "Pid:")
	})
}

// haproxySocket returns the socket of the master process of a HAProxy that runs in dir.
func haproxySocket(dir string) string { return filepath.Join(dir, "s") }

// haproxyCommand sends a command to the master process at socket, and returns the
// answer. The answer is empty if the process does not listen yet.
func haproxyCommand(socket, command string) string {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	io.WriteString(c, command+"\n")
	answer, _ := io.ReadAll(c)
	return string(answer)
}
