package lab

import (
	"path/filepath"
	"slices"
	"testing"
)

// CaddyFile is the file of deploy/ that StartCaddy runs.
const CaddyFile = "caddy/Caddyfile"

// StartCaddy runs Caddy with its file of deploy/. It is a StartFunc.
func StartCaddy(t *testing.T, backend string, edits ...string) *Edge {
	t.Helper()
	dir := t.TempDir()
	roots := WriteCertificate(t, dir)
	config, binary := filepath.Join(dir, "Caddyfile"), FindBinary(t, "caddy")
	configure := func(addresses []string, backend string) {
		WriteFile(t, dir, "Caddyfile", DeployFile(t, CaddyFile, slices.Concat(edits, []string{
			"http://", "http://:" + Port(addresses[0]),
			"https://", "https://:" + Port(addresses[1]),
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
			"disable_redirects", "disable_redirects\n" +
				"default_bind 127.0.0.1\n" +
				"admin unix/" + filepath.Join(dir, "s"),
		})...))
	}
	d := StartDaemon(t, dir, 2, func(addresses []string) (command []string) {
		configure(addresses, backend)
		// Caddy keeps its files in the folder of the test.
		return []string{"env", "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, binary, "run", "--config", config}
	}, func() bool {
		return HasLogged(t, dir, "serving initial configuration") // it has bound both ports by then
	})
	return &Edge{
		Plain: Frontend{Address: d.Addresses[0]},
		TLS:   Frontend{Address: d.Addresses[1], Roots: roots},
		Reload: func(backend string) {
			configure(d.Addresses, backend)
			RunCommand(t, binary, "reload", "--config", config)
		},
	}
}
