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

const (
	trafficServerFile    = "trafficserver/remap.config"
	trafficServerRecords = "trafficserver/records.config"
)

var trafficServer = proxy{
	name:  "trafficserver",
	file:  trafficServerFile,
	start: startTrafficServer,
	idle:  []string{"no_activity_timeout INT 600", "no_activity_timeout INT 1"},
	outcomes: map[string]string{
		"Fall": "400, then websocket",
	},
}

// startTrafficServer runs Traffic Server with all of its files in the folder of the test.
// edits are those of records.config.
func startTrafficServer(t *testing.T, backend string, edits ...string) *lab.Edge {
	t.Helper()
	dir := t.TempDir()
	roots := lab.WriteCertificate(t, dir)
	d := startTrafficServerDaemon(t, dir, func(addresses []string) {
		port := func(address, kind string) string {
			host, number, err := net.SplitHostPort(address)
			require.NoError(t, err)
			return number + kind + ":ip-in=" + host
		}
		lab.WriteFile(t, dir, "remap.config", lab.DeployFile(t, trafficServerFile, "ws://127.0.0.1:9007/", "ws://"+backend+"/"))
		lab.WriteFile(t, dir, "records.config", lab.DeployFile(t, trafficServerRecords, slices.Concat(edits, []string{
			"STRING 80 443:ssl", "STRING " + port(addresses[0], "") + " " + port(addresses[1], ":ssl"),
		})...))
	})
	return &lab.Edge{
		Plain: lab.Frontend{Address: d.Addresses[0]},
		TLS:   lab.Frontend{Address: d.Addresses[1], Roots: roots},
	}
}

// startTrafficServerDaemon runs Traffic Server with the two files that configure writes to
// dir, and with a certificate that is there already.
func startTrafficServerDaemon(t *testing.T, dir string, configure func(addresses []string)) *lab.Daemon {
	t.Helper()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "cache"), 0o755))
	layout := strings.ReplaceAll(`prefix: DIR
exec_prefix: DIR
bindir: /usr/bin
sbindir: /usr/bin
sysconfdir: DIR
datadir: DIR
includedir: DIR
libdir: /usr/lib/trafficserver
libexecdir: /usr/lib/trafficserver/modules
localstatedir: DIR
runtimedir: DIR
logdir: DIR
cachedir: DIR/cache
`, "DIR", dir)
	root := lab.WriteFile(t, dir, "runroot.yaml", layout)
	lab.WriteFile(t, dir, "storage.config", "")
	lab.WriteFile(t, dir, "ip_allow.yaml", "ip_allow: [{apply: in, ip_addrs: 127.0.0.0/8, action: allow, methods: ALL}]\n") // as Debian's
	lab.WriteFile(t, dir, "ssl_multicert.config", "dest_ip=* ssl_cert_name="+filepath.Join(dir, "cert.pem")+" ssl_key_name="+filepath.Join(dir, "key.pem")+"\n")
	var own []string
	return lab.StartDaemon(t, dir, 2, func(addresses []string) (command []string) {
		own = addresses
		configure(addresses)
		records, err := os.ReadFile(filepath.Join(dir, "records.config"))
		require.NoError(t, err)
		// It does not change to another user, who could not enter the folder of the test.
		lab.WriteFile(t, dir, "records.config", string(records)+"CONFIG proxy.config.admin.user_id STRING #-1\n")
		return []string{"traffic_server", "--run-root=" + root}
	}, func() bool { return lab.Accept(own...) })
}
