package testkit

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// Below returns the first layer below c that is a T.
func Below[T net.Conn](t testing.TB, c net.Conn) T {
	t.Helper()
	for {
		layer, ok := c.(interface{ NetConn() net.Conn })
		require.True(t, ok, "there is no such layer above %T", c)
		c = layer.NetConn()
		if below, ok := c.(T); ok {
			return below
		}
	}
}
