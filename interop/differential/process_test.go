package differential

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A site is the place of a proxy: a folder of its own, its address, and the server behind
// it.
type site struct {
	dir, address, ownPort string
	backend, host, port   string
}

// render writes a main configuration file from a template of the kit.
func (s site) render(t *testing.T, name string, modules ...string) (path string) {
	t.Helper()
	return lab.Render(t, lab.Templates, s.dir, name, map[string]any{"Root": os.Geteuid() == 0, "Dir": s.dir, "Modules": modules})
}

// startProxy runs a proxy in front of backend, and returns its address. reached reports
// whether a request to an address arrives at the backend. If it does, the proxy has bound
// the port.
func startProxy(t *testing.T, backend string, command func(*testing.T, site) []string, reached func(address string) bool) string {
	t.Helper()
	s := site{dir: t.TempDir(), backend: backend}
	s.host, s.port, _ = net.SplitHostPort(backend)
	lab.OpenToUsers(t, s.dir)
	return lab.StartDaemon(t, s.dir, 1, func(addresses []string) []string {
		s.address, s.ownPort = addresses[0], lab.Port(addresses[0])
		return command(t, s)
	}, func() bool { return reached(s.address) }).Addresses[0]
}

// cut removes the text from the string from up to the string to.
func cut(t *testing.T, text, from, to string) string {
	t.Helper()
	before, rest, found := strings.Cut(text, from)
	require.True(t, found, from)
	i := strings.Index(rest, to)
	require.GreaterOrEqual(t, i, 0, to)
	return before + rest[i:]
}
