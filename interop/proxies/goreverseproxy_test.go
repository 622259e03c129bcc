package proxies

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
)

const goReverseProxyFile = "go-reverseproxy/main.go"

var goReverseProxy = proxy{
	name:  "go-reverseproxy",
	file:  goReverseProxyFile,
	start: startGoReverseProxy,
	outcomes: map[string]string{
		"Front":         withH2,
		"HalfClose":     "yes",
		"Misconfigured": notApplicable, // a tunnel needs no line of its own
		"Idle":          notApplicable, // it has no timer
		"Reload":        notApplicable, // it has no reload
	},
}

// startGoReverseProxy builds the program, which has its settings in its source, and
// runs it.
func startGoReverseProxy(t *testing.T, backend string, edits ...string) *lab.Edge {
	t.Helper()
	dir := t.TempDir()
	roots := lab.WriteCertificate(t, dir)
	binary := filepath.Join(dir, "go-reverseproxy")
	d := lab.StartDaemon(t, dir, 2, func(addresses []string) (command []string) {
		source := lab.WriteFile(t, dir, "main.go", lab.DeployFile(t, goReverseProxyFile, slices.Concat(edits, []string{
			`":80"`, `"` + addresses[0] + `"`,
			`":443"`, `"` + addresses[1] + `"`,
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
		})...))
		lab.RunCommand(t, "go", "build", "-o", binary, source)
		return []string{binary}
	}, func() bool {
		return lab.HasLogged(t, dir, "serving ") // it has bound both ports by then
	})
	return &lab.Edge{
		Plain: lab.Frontend{Address: d.Addresses[0]},
		TLS:   lab.Frontend{Address: d.Addresses[1], Roots: roots},
	}
}
