// Package ruby contains a client in Ruby that was written only from spec/preflight.md.
package ruby

import (
	"context"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// run runs vectors.rb and returns its output.
func run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, lab.FindBinary(t, "ruby"), append([]string{"-w", "vectors.rb"}, args...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// TestVectors runs the Ruby client on all vectors for a client, but for those with TLS inside.
func TestVectors(t *testing.T) {
	out := run(t, "../../spec/vectors")
	summary := regexp.MustCompile(`^vectors: (\d+), runs: (\d+), failed: 0\n$`).FindStringSubmatch(out)
	require.NotNil(t, summary, out)
	for i, least := range []int{378, 22000} {
		n, err := strconv.Atoi(summary[i+1])
		require.NoError(t, err)
		require.GreaterOrEqual(t, n, least, out)
	}
}

// TestExchange sends 1 MiB to a listener and back, on each carrier. Each side ends its direction.
func TestExchange(t *testing.T) {
	l := &preflight.PreflightListener{Listener: lab.Listen(t)}
	address := lab.Serve(t, l, func(c *preflight.Conn) {
		io.Copy(c, c)
	})
	out := run(t, address, "upgrade", "framed", "websocket")
	require.Equal(t, "exchanged on upgrade\nexchanged on framed\nexchanged on websocket\n", out)
}

// TestLength keeps the promise of the wire document: a client is short.
func TestLength(t *testing.T) {
	source, err := os.ReadFile("preflight.rb")
	require.NoError(t, err)
	lines := regexp.MustCompile(`(?m)^.*\n`).FindAll(source, -1)
	require.LessOrEqual(t, len(lines), 150)
	for _, line := range lines {
		require.LessOrEqual(t, len(line), 121)
	}
}
