package interop

import (
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var varnish = proxy{
	name:  "varnish",
	file:  varnishFile,
	start: startVarnish,
	idle:  []string{"pipe_timeout=3600", "pipe_timeout=1"},
	mistakes: []mistake{
		{[]string{varnishUpgrade, "", varnishConnection, ""}, []string{"the server saw no upgrade"}},
		{[]string{varnishUpgrade, ""}, []string{"the server saw no upgrade"}},
		{[]string{varnishConnection, ""}, []string{"Upgrade without `Connection: Upgrade`"}},
	},
	outcomes: map[string]string{
		"Down":      "EOF",
		"Front":     none, // it has no TLS
		"HalfClose": "yes",
		// Only a GET is piped, so that the upgrade is taken out of a POST.
		"OrdinaryHTTP": "426 426 426 426 400",
	},
}

const (
	varnishFile       = "varnish/preflight.vcl"
	varnishUpgrade    = "set bereq.http.Upgrade = req.http.Upgrade;"
	varnishConnection = "set bereq.http.Connection = req.http.Connection;"
)

// startVarnish runs it with the command line that stands in the file.
func startVarnish(t *testing.T, backend string, edits ...string) *running {
	t.Helper()
	dir := t.TempDir()
	configure := func(file, address, backend string) (args []string) {
		host, port, err := net.SplitHostPort(backend)
		require.NoError(t, err)
		vcl := deployed(t, varnishFile, slices.Concat(edits, []string{
			"-a :80", "-a " + address,
			"/etc/varnish/preflight.vcl", filepath.Join(dir, file),
			`.host = "127.0.0.1"`, `.host = "` + host + `"`,
			`.port = "9007"`, `.port = "` + port + `"`,
		})...)
		write(t, dir, file, vcl)
		_, command, _ := strings.Cut(vcl, "#   varnishd ")
		command, _, _ = strings.Cut(command, "\n")
		return strings.Fields(command)
	}
	var own string
	d := launch(t, dir, 1, findBinary(t, "varnishd"), func(addresses []string) []string {
		own = addresses[0]
		// In the foreground, with its files in the folder of the test, which no
		// other user may enter (-j).
		return append([]string{"-j", "none", "-F", "-n", dir}, configure("first.vcl", addresses[0], backend)...)
	}, func() bool {
		// The port is its own then, and it listens a moment later.
		return logged(t, dir, "said Child starts") && !refuses(own)
	})
	return &running{
		plain: front{address: d.addresses[0]},
		reload: func(backend string) {
			configure("second.vcl", d.addresses[0], backend)
			for _, command := range [][]string{{"vcl.load", "second", filepath.Join(dir, "second.vcl")}, {"vcl.use", "second"}} {
				output, err := exec.CommandContext(t.Context(), findBinary(t, "varnishadm"), append([]string{"-n", dir}, command...)...).CombinedOutput()
				require.NoError(t, err, "%s", output)
			}
		},
	}
}
