package interop

import (
	"os"
	"path/filepath"
	"testing"
)

var nginx = proxy{
	name:  "nginx",
	start: startNginx,
	down:  502,
	faulty: map[string]string{
		"/bare/":          "proxy_http_version 1.1",
		"/no-version/":    "HTTP/1.0 has no upgrade",
		"/no-upgrade/":    "proxy_set_header Upgrade $http_upgrade",
		"/no-connection/": "Upgrade without `Connection: Upgrade`",
	},
	captured: "/captured/",
	advice:   "nginx wants `proxy_http_version 1.1` and `proxy_set_header` for Upgrade and Connection",
}

func startNginx(t *testing.T, backend string) (plain, tls front) {
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	config := filepath.Join(dir, "nginx.conf")
	addresses := launch(t, dir, 2, findBinary(t, "nginx"), func(addresses []string) (args []string) {
		render(t, "nginx.conf.tmpl", config, map[string]any{
			"Root":    os.Geteuid() == 0,
			"Plain":   addresses[0],
			"TLS":     addresses[1],
			"Backend": backend,
		})
		// -e: what nginx has to say before it has read its configuration.
		return []string{"-p", dir, "-c", config, "-e", "stderr"}
	}, func() bool {
		// It is written once the ports are nginx's own. To connect to them
		// would prove less: someone else may have taken them.
		pid, _ := os.ReadFile(filepath.Join(dir, "nginx.pid"))
		return len(pid) > 0
	})
	return front{address: addresses[0]}, front{address: addresses[1], roots: roots}
}
