package interop

import (
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

const goReverseProxyFile = "go-reverseproxy/main.go"

var goReverseProxy = proxy{
	name:  "go-reverseproxy",
	file:  goReverseProxyFile,
	start: startGoReverseProxy,
	outcomes: map[string]string{
		"Front":         besideH2,
		"HalfClose":     "yes",
		"Misconfigured": none, // there is nothing to forget
		"Idle":          none, // it has no timer
		"Reload":        none, // nor a reload
	},
}

// startGoReverseProxy builds the program, which has its settings in its source,
// and runs it.
func startGoReverseProxy(t *testing.T, backend string, edits ...string) *running {
	t.Helper()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	binary := filepath.Join(dir, "go-reverseproxy")
	d := launch(t, dir, 2, binary, func(addresses []string) (args []string) {
		write(t, dir, "main.go", deployed(t, goReverseProxyFile, slices.Concat(edits, []string{
			`":80"`, `"` + addresses[0] + `"`,
			`":443"`, `"` + addresses[1] + `"`,
			"/etc/ssl/preflight/tls.crt", filepath.Join(dir, "cert.pem"),
			"/etc/ssl/preflight/tls.key", filepath.Join(dir, "key.pem"),
			"127.0.0.1:9007", backend,
		})...))
		output, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, filepath.Join(dir, "main.go")).CombinedOutput()
		require.NoError(t, err, "%s", output)
		return nil
	}, func() bool {
		return logged(t, dir, "serving ") // once both ports are its own
	})
	return &running{plain: front{address: d.addresses[0]}, tls: front{address: d.addresses[1], roots: roots}}
}
