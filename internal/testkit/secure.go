package testkit

import (
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// ReadToEnd requires that the server closes the connection, with or without a
// reset, and returns the bytes before that.
func ReadToEnd(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	require.False(t, os.IsTimeout(err), "the connection is still open")
	return string(b)
}
