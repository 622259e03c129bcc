package proxies

import (
	"net"
	"path/filepath"
	"slices"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

const lighttpdFile = "lighttpd/lighttpd.conf"

var lighttpd = proxy{
	name:  "lighttpd",
	file:  lighttpdFile,
	start: startLighttpd,
	idle:  []string{"max-read-idle = 3600", "max-read-idle = 1"},
	mistakes: []mistake{
		{[]string{`"upgrade" => "enable"`, ""}, []string{"lighttpd is on the way; if it is that proxy, it needs `proxy.header", "[no-upgrade]", "a proxy on the way removed it"}},
	},
	outcomes: map[string]string{
		"Down":  "503",
		"Front": withH2,
		// It refuses a GET with a body, and an upgrade with a body, itself.
		"OrdinaryHTTP": "426 405 426 400 400",
		// During a reload, new clients would wait until the old tunnels are closed.
		"Reload": notApplicable,
	},
}

func startLighttpd(t *testing.T, backend string, edits ...string) *lab.Edge {
	t.Helper()
	dir := t.TempDir()
	roots := lab.WriteCertificate(t, dir)
	host, port, err := net.SplitHostPort(backend)
	require.NoError(t, err)
	d := startLighttpdDaemon(t, dir, func(addresses []string) {
		plainHost, plainPort, err := net.SplitHostPort(addresses[0])
		require.NoError(t, err)
		lab.WriteFile(t, dir, "lighttpd.conf", lab.DeployFile(t, lighttpdFile, slices.Concat(edits, []string{
			"server.port = 80\n", "server.port = " + plainPort + "\nserver.bind = \"" + plainHost + "\"\n",
			`":443"`, `"` + addresses[1] + `"`,
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			`"/var/www/html"`, `"` + dir + `"`,
			`"host" => "127.0.0.1", "port" => 9007`, `"host" => "` + host + `", "port" => ` + port,
		})...))
	})
	return &lab.Edge{
		Plain: lab.Frontend{Address: d.Addresses[0]},
		TLS:   lab.Frontend{Address: d.Addresses[1], Roots: roots},
	}
}

// startLighttpdDaemon runs lighttpd with the lighttpd.conf that configure writes to dir.
func startLighttpdDaemon(t *testing.T, dir string, configure func(addresses []string)) *lab.Daemon {
	t.Helper()
	return lab.StartDaemon(t, dir, 2, func(addresses []string) (command []string) {
		configure(addresses)
		return []string{"lighttpd", "-D", "-f", filepath.Join(dir, "lighttpd.conf")}
	}, func() bool {
		return lab.HasLogged(t, dir, "server started") // it has bound both ports by then
	})
}
