package proxies

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

const h2oFile = "h2o/h2o.conf"

var h2o = proxy{
	name:  "h2o",
	file:  h2oFile,
	start: startH2O,
	idle:  []string{"proxy.websocket.timeout: 300000", "proxy.websocket.timeout: 1000"},
	outcomes: map[string]string{
		"Fall": "426, then websocket", // of the listener: h2o removes Upgrade
	},
}

func startH2O(t *testing.T, backend string, edits ...string) *lab.Edge {
	t.Helper()
	dir := t.TempDir()
	roots := lab.WriteCertificate(t, dir)
	d := startH2ODaemon(t, dir, func(addresses []string) string {
		listen := func(address string) string {
			host, port, err := net.SplitHostPort(address)
			require.NoError(t, err)
			return "  host: " + host + "\n  port: " + port
		}
		return lab.DeployFile(t, h2oFile, slices.Concat(edits, []string{
			"  port: 80", listen(addresses[0]),
			"  port: 443", listen(addresses[1]),
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
		})...)
	})
	return &lab.Edge{
		Plain: lab.Frontend{Address: d.Addresses[0]},
		TLS:   lab.Frontend{Address: d.Addresses[1], Roots: roots},
	}
}

// startH2ODaemon runs h2o in dir with the text that configure returns.
func startH2ODaemon(t *testing.T, dir string, configure func(addresses []string) (text string)) *lab.Daemon {
	t.Helper()
	return lab.StartDaemon(t, dir, 2, func(addresses []string) (command []string) {
		user := ""
		if os.Geteuid() == 0 {
			user = "user: root\n" // another user could not enter the folder of the test
		}
		config := lab.WriteFile(t, dir, "h2o.conf", strings.Join([]string{user, "pid-file: " + filepath.Join(dir, "pid"), configure(addresses)}, "\n"))
		return []string{"h2o", "-c", config}
	}, func() bool {
		pid, _ := os.ReadFile(filepath.Join(dir, "pid")) // h2o writes it when it has bound its ports
		return len(pid) > 0
	})
}
