package interop

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	tinyproxyFile  = "tinyproxy/tinyproxy.conf"
	tinyproxyPorts = "ConnectPort 80\nConnectPort 443\n"
)

var tinyproxyForward = proxy{
	name:      "tinyproxy-forward",
	file:      tinyproxyFile,
	start:     startTinyproxy,
	keepsPath: true,
	idle:      []string{"Timeout 3600", "Timeout 1"},
	mistakes: []mistake{
		{[]string{tinyproxyPorts, "ConnectPort 443\n"}, []string{"the forward proxy 127.0.0.1:", "it does not allow CONNECT to this host and port"}},
	},
	outcomes: map[string]string{
		"Client":        none, // it is the proxy's
		"Down":          "500",
		"Elsewhere":     none, // it knows no paths
		"Front":         none, // whether TLS goes through it is up to the two ends
		"Misconfigured": "403",
		// What does not come by CONNECT loses its upgrade.
		"OrdinaryHTTP": "426 426 426 426 426",
	},
}

// startTinyproxy runs it as a forward proxy that leads to the server alone.
func startTinyproxy(t *testing.T, backend string, edits ...string) *running {
	t.Helper()
	dir := t.TempDir()
	configure := func(address, backend string) {
		configureTinyproxy(t, dir, address, append(slices.Clone(edits), tinyproxyPorts, "ConnectPort "+outPort(backend)+"\n"))
	}
	d := launchTinyproxy(t, dir, func(address string) { configure(address, backend) })
	return &running{
		plain: front{address: backend, forward: &url.URL{Scheme: "http", Host: d.addresses[0]}},
		reload: func(backend string) {
			configure(d.addresses[0], backend)
			require.NoError(t, d.process.Signal(syscall.SIGUSR1))
		},
	}
}

func launchTinyproxy(t *testing.T, dir string, configure func(address string)) daemon {
	t.Helper()
	return launch(t, dir, 1, findBinary(t, "tinyproxy"), func(addresses []string) (args []string) {
		configure(addresses[0])
		// In the foreground.
		return []string{"-d", "-c", filepath.Join(dir, "tinyproxy.conf")}
	}, func() bool {
		// It is written once the port is tinyproxy's own.
		pid, _ := os.ReadFile(filepath.Join(dir, "tinyproxy.pid"))
		return len(pid) > 0
	})
}

func configureTinyproxy(t *testing.T, dir, address string, edits []string) {
	t.Helper()
	user := "" // the one of the test
	if os.Geteuid() == 0 {
		user = "User root\n"
	}
	host, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	write(t, dir, "tinyproxy.conf", deployed(t, tinyproxyFile, append(edits,
		"User tinyproxy\nGroup tinyproxy\n", user+`PidFile "`+filepath.Join(dir, "tinyproxy.pid")+"\"\n",
		"Port 3128", "Listen "+host+"\nPort "+port,
		"Allow 10.0.0.0/8", "Allow 127.0.0.1",
	)...))
}
