package interop

import (
	"net"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

const lighttpdFile = "lighttpd/lighttpd.conf"

var lighttpd = proxy{
	name:  "lighttpd",
	file:  lighttpdFile,
	start: startLighttpd,
	idle:  []string{"max-read-idle = 3600", "max-read-idle = 1"},
	mistakes: []mistake{
		{[]string{`"upgrade" => "enable"`, ""}, []string{"the server saw no upgrade", "a proxy on the way removed it"}},
	},
	outcomes: map[string]string{
		"Down":  "503",
		"Front": besideH2,
		// A request with a body and one with an upgrade are not for the server.
		"OrdinaryHTTP": "426 405 426 400 400",
		// New clients would wait for the old tunnels.
		"Reload": none,
	},
}

func startLighttpd(t *testing.T, backend string, edits ...string) *running {
	t.Helper()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	host, port, err := net.SplitHostPort(backend)
	require.NoError(t, err)
	d := launch(t, dir, 2, findBinary(t, "lighttpd"), func(addresses []string) (args []string) {
		plainHost, plainPort, err := net.SplitHostPort(addresses[0])
		require.NoError(t, err)
		write(t, dir, "lighttpd.conf", deployed(t, lighttpdFile, slices.Concat(edits, []string{
			"server.port = 80\n", "server.port = " + plainPort + "\nserver.bind = \"" + plainHost + "\"\n",
			`":443"`, `"` + addresses[1] + `"`,
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			`"/var/www/html"`, `"` + dir + `"`,
			`"host" => "127.0.0.1", "port" => 9007`, `"host" => "` + host + `", "port" => ` + port,
		})...))
		return []string{"-D", "-f", filepath.Join(dir, "lighttpd.conf")}
	}, func() bool {
		return logged(t, dir, "server started") // once the ports are its own
	})
	return &running{plain: front{address: d.addresses[0]}, tls: front{address: d.addresses[1], roots: roots}}
}
