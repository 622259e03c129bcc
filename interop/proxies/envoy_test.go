package proxies

import (
	"errors"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

var envoy = proxy{
	name:  "envoy",
	file:  lab.EnvoyFile,
	start: lab.StartEnvoy,
	idle:  []string{"idle_timeout: 3600s", "idle_timeout: 1s"},
	mistakes: []mistake{
		{[]string{envoyToken, ""}, []string{"Add `upgrade_configs: [{upgrade_type: tcp}]`", "[no-upgrades]"}},
	},
	outcomes: map[string]string{
		"Down":          "503",
		"Misconfigured": "403",
	},
}

// envoyToken is the line for tcp, with the indentation of the next one.
const envoyToken = "- upgrade_type: tcp\n                  "

// TestEnvoyClose shows that Envoy can lose data when a client closes. Without TLS,
// Envoy drops what it has not read by then. If it has read everything, nothing is
// lost. Therefore there are several attempts.
func TestEnvoyClose(t *testing.T) {
	const size, attempts = 16 << 20, 20
	received := make(chan int, attempts)
	e := lab.StartEnvoy(t, lab.Serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) {
		total, block := 0, make([]byte, 512) // small, so that the server is slower than Envoy
		for {
			n, err := c.Read(block)
			total += n
			if err != nil {
				received <- total
				return
			}
		}
	}))
	for range attempts {
		c := e.Plain.Dial(t, "/client/")
		_, err := c.Write(make([]byte, size))
		require.NoError(t, errors.Join(err, c.Close()))
		if lab.Receive(t, received) < size {
			return
		}
	}
	require.Fail(t, "no data was lost in any attempt")
}
