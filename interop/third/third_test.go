// Package third contains a client in Java that was written only from spec/preflight.md.
package third

import (
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// run runs a program and returns its output.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	require.NoError(t, err, "%s is missing: install a JDK of version 17 or later", name)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	return string(out), err
}

// TestVectors runs the Java client on all vectors for a client, and on the vectors of streams in
// both roles.
func TestVectors(t *testing.T) {
	classes := t.TempDir()
	out, err := run(t, "javac", "-Xlint:all,-serial,-try", "-Werror", "-d", classes, "Preflight.java",
		"Handshake.java", "Sender.java", "Capsules.java", "Messages.java", "Tasks.java", "Vectors.java")
	require.NoError(t, err, out)

	out, err = run(t, "java", "-cp", classes, "Vectors", "../../spec/vectors")
	require.NoError(t, err, out)
	summary := regexp.MustCompile(`^vectors: (\d+), runs: (\d+), failed: 0\n$`).FindStringSubmatch(out)
	require.NotNil(t, summary, out)
	for i, least := range []int{500, 20000} {
		n, err := strconv.Atoi(summary[i+1])
		require.NoError(t, err)
		assert.GreaterOrEqual(t, n, least, out)
	}
}
