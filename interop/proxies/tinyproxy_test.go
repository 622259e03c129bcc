package proxies

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

const tinyproxyFile = "tinyproxy/tinyproxy.conf"

const tinyproxyPorts = "ConnectPort 80\nConnectPort 443\n"

var tinyproxyForward = proxy{
	name:        "tinyproxy-forward",
	file:        tinyproxyFile,
	start:       startTinyproxy,
	keepsPrefix: true,
	idle:        []string{"Timeout 3600", "Timeout 1"},
	mistakes: []mistake{
		{[]string{tinyproxyPorts, "ConnectPort 443\n"}, []string{"the forward proxy 127.0.0.1:", "tinyproxy does not allow CONNECT to this host and port"}},
	},
	outcomes: map[string]string{
		"Client":        notApplicable, // the server sees the address of the proxy
		"Down":          "500",
		"Elsewhere":     notApplicable, // it has no routes
		"Front":         notApplicable, // TLS goes through it, end to end
		"Misconfigured": "403",
		// It removes the upgrade from a request that is no CONNECT.
		"OrdinaryHTTP": "426 426 426 426 426",
	},
}

// startTinyproxy runs Tinyproxy as a forward proxy that connects only to the backend.
func startTinyproxy(t *testing.T, backend string, edits ...string) *lab.Edge {
	t.Helper()
	dir := t.TempDir()
	configure := func(address, backend string) {
		configureTinyproxy(t, dir, address, append(slices.Clone(edits), tinyproxyPorts, "ConnectPort "+lab.Port(backend)+"\n"))
	}
	d := launchTinyproxy(t, dir, func(address string) { configure(address, backend) })
	return &lab.Edge{
		Plain: lab.Frontend{Address: backend, ForwardProxy: &url.URL{Scheme: "http", Host: d.Addresses[0]}},
		Reload: func(backend string) {
			configure(d.Addresses[0], backend)
			d.Signal(t, syscall.SIGUSR1)
		},
	}
}

// launchTinyproxy runs Tinyproxy with the tinyproxy.conf that configure writes to dir.
func launchTinyproxy(t *testing.T, dir string, configure func(address string)) *lab.Daemon {
	t.Helper()
	return lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		configure(addresses[0])
		return []string{"tinyproxy", "-d", "-c", filepath.Join(dir, "tinyproxy.conf")}
	}, func() bool {
		// Tinyproxy writes this file when it has bound its port.
		pid, _ := os.ReadFile(filepath.Join(dir, "tinyproxy.pid"))
		return len(pid) > 0
	})
}

// configureTinyproxy writes the file of deploy/ with edits to dir.
func configureTinyproxy(t *testing.T, dir, address string, edits []string) {
	t.Helper()
	user := "" // by default, the user who runs the tests
	if os.Geteuid() == 0 {
		user = "User root\n"
	}
	host, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	lab.WriteFile(t, dir, "tinyproxy.conf", lab.DeployFile(t, tinyproxyFile, append(edits,
		"User tinyproxy\nGroup tinyproxy\n", user+`PidFile "`+filepath.Join(dir, "tinyproxy.pid")+"\"\n",
		"Port 3128", "Listen "+host+"\nPort "+port,
		"Allow 10.0.0.0/8", "Allow 127.0.0.1",
	)...))
}
