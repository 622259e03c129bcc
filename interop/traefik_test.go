package interop

import (
	"path/filepath"
	"slices"
	"testing"
)

var traefik = proxy{
	name:  "traefik",
	file:  traefikFile,
	start: startTraefik,
	outcomes: map[string]string{
		"Front":         besideH2,
		"HalfClose":     "yes",
		"Misconfigured": none, // there is nothing to forget
		"Idle":          none, // it has no timer
	},
}

const (
	traefikFile    = "traefik/traefik.yml"
	traefikDynamic = "traefik/dynamic.yml"
)

func startTraefik(t *testing.T, backend string, edits ...string) *running {
	t.Helper()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	config := filepath.Join(dir, "traefik.yml")
	route := func(backend string) {
		write(t, dir, "dynamic.yml", deployed(t, traefikDynamic, slices.Concat(edits, []string{
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
		})...))
	}
	var r running
	launch(t, dir, 2, findBinary(t, "traefik"), func(addresses []string) (args []string) {
		r = running{plain: front{address: addresses[0]}, tls: front{address: addresses[1], roots: roots}, reload: route}
		write(t, dir, "traefik.yml", deployed(t, traefikFile,
			`":80"`, addresses[0],
			`":443"`, addresses[1],
			"/etc/traefik", dir,
		))
		route(backend)
		return []string{"--configFile=" + config}
	}, func() bool {
		// Both ports are its own before it begins to read its routes.
		return logged(t, dir, "Starting provider") && opens(t, r.plain) && opens(t, r.tls)
	})
	return &r
}

// opens reports that a tunnel can be opened.
func opens(t *testing.T, f front) bool {
	c, err := f.dialer().DialContext(t.Context(), "tcp", f.address)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
