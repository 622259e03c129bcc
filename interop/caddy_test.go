package interop

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var caddy = proxy{
	name:  "caddy",
	file:  caddyFile,
	start: startCaddy,
	outcomes: map[string]string{
		"Front":         besideH2,
		"HalfClose":     "yes",
		"Misconfigured": none, // there is nothing to forget
		"Idle":          none, // it has no timer
	},
}

const caddyFile = "caddy/Caddyfile"

func startCaddy(t *testing.T, backend string, edits ...string) *running {
	t.Helper()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	config, binary := filepath.Join(dir, "Caddyfile"), findBinary(t, "caddy")
	configure := func(addresses []string, backend string) {
		port := func(address string) string { return address[strings.LastIndex(address, ":"):] }
		write(t, dir, "Caddyfile", deployed(t, caddyFile, slices.Concat(edits, []string{
			"http://", "http://" + port(addresses[0]),
			"https://", "https://" + port(addresses[1]),
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
			"disable_redirects", "disable_redirects\n" +
				"default_bind 127.0.0.1\n" +
				"admin unix/" + filepath.Join(dir, "s"),
		})...))
	}
	d := launch(t, dir, 2, findBinary(t, "env"), func(addresses []string) (args []string) {
		configure(addresses, backend)
		// All that it keeps is in the folder of the test.
		return []string{"XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, binary, "run", "--config", config}
	}, func() bool {
		return logged(t, dir, "serving initial configuration") // once both ports are its own
	})
	return &running{
		plain: front{address: d.addresses[0]},
		tls:   front{address: d.addresses[1], roots: roots},
		reload: func(backend string) {
			configure(d.addresses, backend)
			output, err := exec.CommandContext(t.Context(), binary, "reload", "--config", config).CombinedOutput()
			require.NoError(t, err, "%s", output)
		},
	}
}

// Without the line for it, a reload ends the tunnels that are open.
func TestCaddyStreamCloseDelay(t *testing.T) {
	x := trial{proxy: caddy, server: startLabServer(t), want: "EOF"}
	x.running = startCaddy(t, x.server.address, "stream_close_delay 24h", "")
	x.front = x.plain
	require.Equal(t, x.want, testReload(t, x))
}
