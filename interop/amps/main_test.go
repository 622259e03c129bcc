// Package amps runs the clients of 60East's AMPS against examples/amps. Python, Java and
// C++ use HTTP preflight, and JavaScript uses WebSocket. Each client connects through nginx
// and directly to the port, without TLS and with TLS.
//
// No message may be lost, added or changed, even if the connection of a client is cut twice.
//
//	go test ./interop/amps                      # from the root; ./test.sh installs the clients
//	go test ./interop/amps -run AMPS/python
//
// The programs are in clients. What they need is in the folder .build/amps, which is not in
// git.
package amps

import (
	"os"
	"testing"
	"time"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// timeout fails a test that would otherwise hang. No test expects it to pass. It is longer
// than lab.Timeout, because the clients start slowly on a busy machine.
const timeout = 2 * time.Minute

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// await waits for a value from event. what names the event if it does not happen.
func await(t *testing.T, what string, event <-chan struct{}) {
	t.Helper()
	select {
	case <-event:
	case <-time.After(timeout):
		require.FailNow(t, "this did not happen: "+what)
	}
}
