// Package java contains a client in Java that was written only from spec/preflight.md.
package java

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

// run runs a program and returns its output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	require.NoError(t, err, "%s is missing: install a JDK of version 17 or later", name)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func compile(t *testing.T) (classes string) {
	t.Helper()
	classes = t.TempDir()
	run(t, "javac", "-Xlint:all,-serial,-try", "-Werror", "-d", classes, "Preflight.java", "Vectors.java")
	return classes
}

// TestVectors runs the Java client on all vectors for a client, but for those with TLS inside.
func TestVectors(t *testing.T) {
	out := run(t, "java", "-cp", compile(t), "Vectors", "../../spec/vectors")
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
	out := run(t, "java", "-cp", compile(t), "Vectors", address, "upgrade", "framed", "websocket")
	require.Equal(t, "exchanged on upgrade\nexchanged on framed\nexchanged on websocket\n", out)
}
