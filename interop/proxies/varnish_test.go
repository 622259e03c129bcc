package proxies

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

var varnish = proxy{
	name:  "varnish",
	file:  varnishFile,
	start: startVarnish,
	idle:  []string{"pipe_timeout=3600", "pipe_timeout=1"},
	mistakes: []mistake{
		{[]string{varnishUpgrade, "", varnishConnection, ""}, []string{"so a proxy on the way removes it", "[no-upgrade]"}},
		{[]string{varnishUpgrade, ""}, []string{"so a proxy on the way removes it", "[no-upgrade]"}},
		{[]string{varnishConnection, ""}, []string{"Upgrade without `Connection: Upgrade`"}},
	},
	outcomes: map[string]string{
		"Down":      "EOF",
		"Front":     notApplicable, // it has no TLS
		"HalfClose": "yes",
		// It pipes only a GET. From a POST it removes the upgrade.
		"OrdinaryHTTP": "426 426 426 426 400",
	},
}

const varnishFile = "varnish/preflight.vcl"

const (
	varnishUpgrade    = "set bereq.http.Upgrade = req.http.Upgrade;"
	varnishConnection = "set bereq.http.Connection = req.http.Connection;"
)

// startVarnish runs Varnish with the command line in the comment of the file.
func startVarnish(t *testing.T, backend string, edits ...string) *lab.Edge {
	t.Helper()
	dir := t.TempDir()
	configure := func(file, address, backend string) (vcl string) {
		host, port, err := net.SplitHostPort(backend)
		require.NoError(t, err)
		vcl = lab.DeployFile(t, varnishFile, slices.Concat(edits, []string{
			"-a :80", "-a " + address,
			"/etc/varnish/preflight.vcl", filepath.Join(dir, file),
			`.host = "127.0.0.1"`, `.host = "` + host + `"`,
			`.port = "9007"`, `.port = "` + port + `"`,
		})...)
		lab.WriteFile(t, dir, file, vcl)
		return vcl
	}
	d := startVarnishDaemon(t, dir, func(addresses []string) string { return configure("first.vcl", addresses[0], backend) })
	return &lab.Edge{
		Plain: lab.Frontend{Address: d.Addresses[0]},
		Reload: func(backend string) {
			configure("second.vcl", d.Addresses[0], backend)
			for _, command := range [][]string{{"vcl.load", "second", filepath.Join(dir, "second.vcl")}, {"vcl.use", "second"}} {
				lab.RunCommand(t, append([]string{"varnishadm", "-n", dir}, command...)...)
			}
		},
	}
}

// startVarnishDaemon runs Varnish with the command line in the comment of the VCL that
// configure writes and returns.
func startVarnishDaemon(t *testing.T, dir string, configure func(addresses []string) (vcl string)) *lab.Daemon {
	t.Helper()
	var own string
	return lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		own = addresses[0]
		_, arguments, _ := strings.Cut(configure(addresses), "#   varnishd ")
		arguments, _, _ = strings.Cut(arguments, "\n")
		// In the foreground. With -j none it does not change to another user, who could
		// not enter the folder of the test.
		return append([]string{"varnishd", "-j", "none", "-F", "-n", dir}, strings.Fields(arguments)...)
	}, func() bool {
		// Varnish has bound the port by then, and listens a moment later.
		return lab.HasLogged(t, dir, "said Child starts") && lab.Accept(own)
	})
}
