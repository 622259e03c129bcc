package testkit

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// Skip reads the bytes that were sent, and compares them.
func Skip(t testing.TB, r io.Reader, sent string) {
	t.Helper()
	got := make([]byte, len(sent))
	_, err := io.ReadFull(r, got)
	require.NoError(t, err)
	require.True(t, sent == string(got), "%.100q was sent, %.100q received", sent, got)
}
