package testkit

import (
	"bufio"
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"
)

// LisSecure is a client of TLS over c.
func LisSecure(t testing.TB, c *LisClient, config *tls.Config) *LisClient {
	t.Helper()
	tc := tls.Client(c.Conn, config)
	require.NoError(t, tc.Handshake())
	return &LisClient{Conn: tc, R: bufio.NewReader(tc), Server: c.Server}
}
