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
	configure := func(addresses []string, backend string) {
		WriteFile(t, dir, "Caddyfile", DeployFile(t, CaddyFile, slices.Concat(edits, []string{
			"http://", "http://:" + Port(addresses[0]),
			"https://", "https://:" + Port(addresses[1]),
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
			"disable_redirects", "disable_redirects\ndefault_bind 127.0.0.1\n",
		})...))
	}
	d := StartCaddyDaemon(t, dir, func(addresses []string) { configure(addresses, backend) })
	return &Edge{
		Plain: Frontend{Address: d.Addresses[0]},
		TLS:   Frontend{Address: d.Addresses[1], Roots: roots},
		Reload: func(backend string) {
			configure(d.Addresses, backend)
			RunCommand(t, caddyCommand(t, dir, "reload")...)
		},
	}
}

// StartCaddyDaemon runs Caddy with the Caddyfile that configure writes to dir, at two
// addresses.
func StartCaddyDaemon(t *testing.T, dir string, configure func(addresses []string)) *Daemon {
	t.Helper()
	return StartDaemon(t, dir, 2, func(addresses []string) (command []string) {
		configure(addresses)
		return caddyCommand(t, dir, "run")
	}, func() bool {
		return HasLogged(t, dir, "serving initial configuration") // it has bound both ports by then
	})
}

// caddyCommand returns a command line. Caddy keeps its files and its socket in dir.
func caddyCommand(t *testing.T, dir, what string) []string {
	return []string{"env", "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "CADDY_ADMIN=unix/" + filepath.Join(dir, "s"),
		FindBinary(t, "caddy"), what, "--config", filepath.Join(dir, "Caddyfile")}
}
