package testkit

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	Probes     = "server.handshake.duration preflight.kind=probe"
	Plains     = "server.handshake.duration preflight.kind=plain"
	UnderWay   = "server.handshake.pending"
	ResetsAsOf = "server.handshake.duration error.type=connection_reset,preflight.kind=failed,preflight.reason=connection-reset"
)

// ProbeEnds are the ways in which a client can end its connection.
var ProbeEnds = map[string]func(*net.TCPConn){
	"close": func(c *net.TCPConn) { c.Close() },
	"reset": func(c *net.TCPConn) {
		c.SetLinger(0)
		c.Close()
	},
	"half-close": func(c *net.TCPConn) { c.CloseWrite() },
}

// ProbeEventually waits until all handshakes have ended, and requires that n of
// them are of one kind.
func ProbeEventually(t *testing.T, e *Recorder, of string, n int64) {
	t.Helper()
	for end := time.Now().Add(Patience); e.Sum(of) < n || e.Sum(UnderWay) > 0; {
		if time.Now().After(end) {
			require.Failf(t, "they did not end", "%v", e.Sums)
		}
		<-time.After(time.Millisecond)
	}
	require.Equal(t, n, e.Sum(of))
}
