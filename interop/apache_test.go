package interop

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const apacheFile = "apache/preflight.conf"

var apache = proxy{
	name:  "apache",
	file:  apacheFile,
	start: startApache,
	// The longer one of both counts.
	idle: []string{"ProxyTimeout 3600", "ProxyTimeout 1\nTimeout 1"},
	mistakes: []mistake{
		{[]string{" upgrade=tcp", ""}, []string{"Apache `upgrade=tcp`", "a proxy on the way removed it"}},
	},
	outcomes: map[string]string{
		"Down":      "503",
		"HalfClose": "yes",
	},
}

func startApache(t *testing.T, backend string, edits ...string) *running {
	t.Helper()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	configure := func(addresses []string, backend string) {
		write(t, dir, "preflight.conf", deployed(t, apacheFile, slices.Concat(edits, []string{
			"Listen 80\n", "Listen " + addresses[0] + "\n",
			"Listen 443\n", "Listen " + addresses[1] + "\n",
			"<VirtualHost *:80>", "<VirtualHost " + addresses[0] + ">",
			"<VirtualHost *:443>", "<VirtualHost " + addresses[1] + ">",
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
		})...))
	}
	config := filepath.Join(dir, "apache.conf")
	d := launch(t, dir, 2, findBinary(t, "apache2"), func(addresses []string) (args []string) {
		render(t, "apache.conf.tmpl", config, map[string]any{
			"Root": os.Geteuid() == 0, "Dir": dir,
			"Modules": []string{"mpm_event", "authz_core", "proxy", "proxy_http", "proxy_balancer", "proxy_hcheck",
				"lbmethod_byrequests", "slotmem_shm", "socache_shmcb", "ssl"},
		})
		configure(addresses, backend)
		return []string{"-D", "FOREGROUND", "-f", config}
	}, func() bool {
		return logged(t, dir, "resuming normal operations") // once the ports are its own
	})
	return &running{
		plain: front{address: d.addresses[0]},
		tls:   front{address: d.addresses[1], roots: roots},
		reload: func(backend string) {
			configure(d.addresses, backend)
			require.NoError(t, d.process.Signal(syscall.SIGUSR1))
		},
	}
}
