package proxies

import (
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

var caddy = proxy{
	name:  "caddy",
	file:  lab.CaddyFile,
	start: lab.StartCaddy,
	outcomes: map[string]string{
		"Front":         withH2,
		"HalfClose":     "yes",
		"Misconfigured": notApplicable, // a tunnel needs no line of its own
		"Idle":          notApplicable, // it has no timer
	},
}

// TestCaddyStreamCloseDelay shows that a reload closes open tunnels if the file has
// no stream_close_delay.
func TestCaddyStreamCloseDelay(t *testing.T) {
	s := scenario{proxy: caddy, variant: variant{carriers[0], false}, server: startBackend(t), want: "EOF"}
	s.Edge = lab.StartCaddy(t, s.server.address, "stream_close_delay 24h", "")
	require.Equal(t, s.want, s.reload(t))
}
