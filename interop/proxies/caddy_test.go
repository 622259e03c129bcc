package proxies

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

const caddyFile = "caddy/Caddyfile"

var caddy = proxy{
	name:  "caddy",
	file:  caddyFile,
	start: startCaddy,
	outcomes: map[string]string{
		"Front":         withH2,
		"HalfClose":     "yes",
		"Misconfigured": notApplicable, // a tunnel needs no line of its own
		"Idle":          notApplicable, // it has no timer
	},
}

func startCaddy(t *testing.T, backend string, edits ...string) *lab.Edge {
	t.Helper()
	dir := t.TempDir()
	roots := lab.WriteCertificate(t, dir)
	config, binary := filepath.Join(dir, "Caddyfile"), lab.FindBinary(t, "caddy")
	configure := func(addresses []string, backend string) {
		lab.WriteFile(t, dir, "Caddyfile", lab.DeployFile(t, caddyFile, slices.Concat(edits, []string{
			"http://", "http://:" + lab.Port(addresses[0]),
			"https://", "https://:" + lab.Port(addresses[1]),
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
			"disable_redirects", "disable_redirects\n" +
				"default_bind 127.0.0.1\n" +
				"admin unix/" + filepath.Join(dir, "s"),
		})...))
	}
	d := lab.StartDaemon(t, dir, 2, func(addresses []string) (command []string) {
		configure(addresses, backend)
		// Caddy keeps its files in the folder of the test.
		return []string{"env", "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, binary, "run", "--config", config}
	}, func() bool {
		return lab.HasLogged(t, dir, "serving initial configuration") // it has bound both ports by then
	})
	return &lab.Edge{
		Plain: lab.Frontend{Address: d.Addresses[0]},
		TLS:   lab.Frontend{Address: d.Addresses[1], Roots: roots},
		Reload: func(backend string) {
			configure(d.Addresses, backend)
			lab.RunCommand(t, binary, "reload", "--config", config)
		},
	}
}

// TestCaddyStreamCloseDelay shows that a reload closes open tunnels if the file has
// no stream_close_delay.
func TestCaddyStreamCloseDelay(t *testing.T) {
	s := scenario{proxy: caddy, variant: variant{carriers[0], false}, server: startBackend(t), want: "EOF"}
	s.Edge = startCaddy(t, s.server.address, "stream_close_delay 24h", "")
	require.Equal(t, s.want, s.reload(t))
}
