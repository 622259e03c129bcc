package testkit

import (
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// CloseOnce starts the acceptor of l. No call of Accept remains afterwards.
func CloseOnce(t testing.TB, n *Network, l *preflight.PreflightListener) {
	t.Helper()
	c := n.Dial(t)
	answer := c.Ask(Request())
	conn, err := l.Accept()
	require.NoError(t, err)
	require.Equal(t, 101, (<-answer).StatusCode)
	conn.Close()
}
