package testkit

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// RequireUnavailable requires the error of a connection that ended without an
// answer. The error asserts no cause. It must be temporary.
func RequireUnavailable(t testing.TB, err error) {
	t.Helper()
	require.NotErrorAs(t, err, new(*preflight.StatusError))
	require.Regexp(t, `: the connection (ended|was reset) before the answer: .+: possible: .+ \[ended\]$`, err.Error())
	require.True(t, errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET), "%v", err)
	op, ok := err.(*net.OpError)
	require.True(t, ok)
	require.True(t, op.Temporary())
	require.False(t, op.Timeout())
}
