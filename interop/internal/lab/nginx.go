package lab

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// NginxFile is the file of deploy/ that StartNginx runs.
const NginxFile = "nginx/preflight.conf"

// StartNginx runs nginx with its file of deploy/. It is a StartFunc.
func StartNginx(t *testing.T, backend string, edits ...string) *Edge {
	t.Helper()
	dir := t.TempDir()
	roots := WriteCertificate(t, dir)
	configure := func(addresses []string, backend string) {
		WriteFile(t, dir, "preflight.conf", DeployFile(t, NginxFile, slices.Concat(edits, []string{
			"listen 80;", "listen " + addresses[0] + ";",
			// A client that offers h2 gets it, and h2 has no Upgrade.
			"listen 443 ssl;", "listen " + addresses[1] + " ssl http2;",
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
		})...))
	}
	d := StartNginxDaemon(t, dir, 2, func(addresses []string) (config string) {
		configure(addresses, backend)
		return Render(t, Templates, dir, "nginx.conf", map[string]any{"Root": os.Geteuid() == 0})
	})
	return &Edge{
		Plain: Frontend{Address: d.Addresses[0]},
		TLS:   Frontend{Address: d.Addresses[1], Roots: roots},
		Reload: func(backend string) {
			configure(d.Addresses, backend)
			d.Signal(t, syscall.SIGHUP)
		},
		Restart: d.Restart,
	}
}

// StartNginxDaemon runs nginx with the file that configure writes, and of which it returns
// the path. The file must set the pid file to nginx.pid.
func StartNginxDaemon(t *testing.T, dir string, ports int, configure func(addresses []string) (config string)) *Daemon {
	t.Helper()
	return StartDaemon(t, dir, ports, func(addresses []string) (command []string) {
		// -e shows the errors that nginx reports before it has read its configuration.
		return []string{"nginx", "-p", dir, "-c", configure(addresses), "-e", "stderr"}
	}, func() bool {
		// nginx writes this file when it has bound its ports. A connection to the
		// ports would prove less: another process may have taken them.
		pid, _ := os.ReadFile(filepath.Join(dir, "nginx.pid"))
		return len(pid) > 0
	})
}
