package testkit

import (
	"bufio"
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"
)

// Secure returns a TLS client over c.
func Secure(t testing.TB, c *Client, config *tls.Config) *Client {
	t.Helper()
	tc := tls.Client(c.Conn, config)
	require.NoError(t, tc.Handshake())
	return &Client{Conn: tc, R: bufio.NewReader(tc), Server: c.Server}
}
