package proxies

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
)

const apacheFile = "apache/preflight.conf"

var apache = proxy{
	name:  "apache",
	file:  apacheFile,
	start: startApache,
	// The longer one of the two timeouts counts.
	idle: []string{"ProxyTimeout 3600", "ProxyTimeout 1\nTimeout 1"},
	mistakes: []mistake{
		{[]string{" upgrade=ANY", ""}, []string{"Apache is on the way; if it is that proxy, its ProxyPass needs `upgrade=tcp` [no-upgrade]", "a proxy on the way removed it"}},
	},
	outcomes: map[string]string{
		"Down":      "503",
		"HalfClose": "yes",
	},
}

func startApache(t *testing.T, backend string, edits ...string) *lab.Edge {
	t.Helper()
	dir := t.TempDir()
	roots := lab.WriteCertificate(t, dir)
	configure := func(addresses []string, backend string) {
		lab.WriteFile(t, dir, "preflight.conf", lab.DeployFile(t, apacheFile, slices.Concat(edits, []string{
			"Listen 80\n", "Listen " + addresses[0] + "\n",
			"Listen 443\n", "Listen " + addresses[1] + "\n",
			"<VirtualHost *:80>", "<VirtualHost " + addresses[0] + ">",
			"<VirtualHost *:443>", "<VirtualHost " + addresses[1] + ">",
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
		})...))
	}
	d := startApacheDaemon(t, dir, func(addresses []string) { configure(addresses, backend) })
	return &lab.Edge{
		Plain: lab.Frontend{Address: d.Addresses[0]},
		TLS:   lab.Frontend{Address: d.Addresses[1], Roots: roots},
		Reload: func(backend string) {
			configure(d.Addresses, backend)
			d.Signal(t, syscall.SIGUSR1)
		},
	}
}

// startApacheDaemon runs Apache with the preflight.conf that configure writes to dir.
func startApacheDaemon(t *testing.T, dir string, configure func(addresses []string)) *lab.Daemon {
	t.Helper()
	return lab.StartDaemon(t, dir, 2, func(addresses []string) (command []string) {
		config := lab.Render(t, lab.Templates, dir, "apache.conf", map[string]any{
			"Root": os.Geteuid() == 0, "Dir": dir,
			"Modules": []string{"mpm_event", "authz_core", "proxy", "proxy_http", "proxy_wstunnel", "proxy_balancer", "proxy_hcheck",
				"lbmethod_byrequests", "slotmem_shm", "socache_shmcb", "ssl"},
		})
		configure(addresses)
		return []string{"apache2", "-D", "FOREGROUND", "-f", config}
	}, func() bool {
		return lab.HasLogged(t, dir, "resuming normal operations") // it has bound both ports by then
	})
}
