package proxies

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
)

var traefik = proxy{
	name:  "traefik",
	file:  traefikFile,
	start: startTraefik,
	outcomes: map[string]string{
		"Front":         withH2,
		"HalfClose":     "yes",
		"Misconfigured": notApplicable, // a tunnel needs no line of its own
		"Idle":          notApplicable, // it has no timer
	},
}

const traefikFile = "traefik/traefik.yml"

const traefikDynamic = "traefik/dynamic.yml"

func startTraefik(t *testing.T, backend string, edits ...string) *lab.Edge {
	t.Helper()
	dir := t.TempDir()
	roots := lab.WriteCertificate(t, dir)
	route := func(backend string) {
		lab.WriteFile(t, dir, "dynamic.yml", lab.DeployFile(t, traefikDynamic, slices.Concat(edits, []string{
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
		})...))
	}
	var e lab.Edge
	startTraefikDaemon(t, dir, func(addresses []string) {
		e = lab.Edge{Plain: lab.Frontend{Address: addresses[0]}, TLS: lab.Frontend{Address: addresses[1], Roots: roots}, Reload: route}
		lab.WriteFile(t, dir, "traefik.yml", lab.DeployFile(t, traefikFile,
			`":80"`, addresses[0],
			`":443"`, addresses[1],
			"/etc/traefik", dir,
		))
		route(backend)
	}, func() bool { return opensTunnel(t, e.Plain) && opensTunnel(t, e.TLS) })
	return &e
}

// startTraefikDaemon runs Traefik with the two files that configure writes to dir. Traefik
// is ready when both of its ports have their routes.
func startTraefikDaemon(t *testing.T, dir string, configure func(addresses []string), ready func() bool) *lab.Daemon {
	t.Helper()
	return lab.StartDaemon(t, dir, 2, func(addresses []string) (command []string) {
		configure(addresses)
		return []string{"traefik", "--configFile=" + filepath.Join(dir, "traefik.yml")}
	}, func() bool {
		// Traefik has bound both ports when it begins to read its routes.
		return lab.HasLogged(t, dir, "Starting provider") && ready()
	})
}

// opensTunnel reports whether a dial succeeds.
func opensTunnel(t *testing.T, f lab.Frontend) bool {
	c, err := f.Dialer().DialContext(t.Context(), "tcp", f.Address)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
