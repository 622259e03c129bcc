package interop

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

var nginx = proxy{
	name:  "nginx",
	file:  nginxFile,
	start: startNginx,
	idle:  []string{nginxIdle, "proxy_read_timeout 1s;"},
	mistakes: []mistake{
		{[]string{nginxVersion, "", nginxUpgrade, "", nginxConnection, ""}, []string{nginxAdvice, "proxy_http_version 1.1"}},
		{[]string{nginxVersion, ""}, []string{nginxAdvice, "HTTP/1.0 has no upgrade"}},
		{[]string{nginxUpgrade, ""}, []string{nginxAdvice, "proxy_set_header Upgrade $http_upgrade"}},
		{[]string{nginxConnection, ""}, []string{nginxAdvice, "Upgrade without `Connection: Upgrade`"}},
	},
	outcomes: map[string]string{"Front": besideH2},
}

const (
	nginxFile       = "nginx/preflight.conf"
	nginxVersion    = "proxy_http_version 1.1;"
	nginxUpgrade    = "proxy_set_header Upgrade $http_upgrade;"
	nginxConnection = "proxy_set_header Connection $connection_upgrade;"
	nginxIdle       = "proxy_read_timeout 1h;"
	nginxAdvice     = "nginx wants `proxy_http_version 1.1` and `proxy_set_header` for Upgrade and Connection"
)

func startNginx(t *testing.T, backend string, edits ...string) *running {
	t.Helper()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	configure := func(addresses []string, backend string) {
		write(t, dir, "preflight.conf", deployed(t, nginxFile, slices.Concat(edits, []string{
			"listen 80;", "listen " + addresses[0] + ";",
			// A client that offers h2 gets it, and then there is no Upgrade.
			"listen 443 ssl;", "listen " + addresses[1] + " ssl http2;",
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
		})...))
	}
	config := filepath.Join(dir, "nginx.conf")
	d := launch(t, dir, 2, findBinary(t, "nginx"), func(addresses []string) (args []string) {
		render(t, "nginx.conf.tmpl", config, map[string]any{"Root": os.Geteuid() == 0})
		configure(addresses, backend)
		// -e: what nginx has to say before it has read its configuration.
		return []string{"-p", dir, "-c", config, "-e", "stderr"}
	}, func() bool {
		// It is written once the ports are nginx's own. To connect to them
		// would prove less: someone else may have taken them.
		pid, _ := os.ReadFile(filepath.Join(dir, "nginx.pid"))
		return len(pid) > 0
	})
	return &running{
		plain: front{address: d.addresses[0]},
		tls:   front{address: d.addresses[1], roots: roots},
		reload: func(backend string) {
			configure(d.addresses, backend)
			require.NoError(t, d.process.Signal(syscall.SIGHUP))
		},
		restart: d.restart,
	}
}
