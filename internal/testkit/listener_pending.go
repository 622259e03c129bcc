package testkit

import (
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// LisLeaveOnce starts the acceptor of l, whose Accept nobody calls afterwards.
func LisLeaveOnce(t testing.TB, n *LisNet, l *preflight.PreflightListener) {
	t.Helper()
	c := n.Dial(t)
	answer := c.Ask(LisRequest())
	conn, err := l.Accept()
	require.NoError(t, err)
	require.Equal(t, 101, (<-answer).StatusCode)
	conn.Close()
}
