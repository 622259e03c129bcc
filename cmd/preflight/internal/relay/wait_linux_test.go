package relay

import (
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// TestSilentRelaysHoldNoPipes opens many relays, and uses each once. A relay that is silent
// needs its two connections only. A pipe for each direction would be four descriptors more.
func TestSilentRelaysHoldNoPipes(t *testing.T) {
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(entries)
	}
	const relays = 50
	var clients, servers [relays]Conn
	var ends [relays]func() <-chan Result
	for i := range relays {
		client, a := tunnelPair(t, preflight.CarrierUpgrade)
		server, b := tcpPair(t)
		clients[i], servers[i] = client, server
		ends[i] = func() <-chan Result { return start(a, b, timeout) }
	}
	before := descriptors()
	var done [relays]<-chan Result
	for i := range relays {
		done[i] = ends[i]()
		pass(t, clients[i], servers[i])
		pass(t, servers[i], clients[i])
	}
	// The pipes that were in use are kept for the next transfer, until two collections.
	require.Eventually(t, func() bool {
		runtime.GC()
		return descriptors() <= before
	}, timeout, time.Millisecond)
	for i := range relays {
		clients[i].CloseWrite()
		servers[i].CloseWrite()
		require.NoError(t, wait(t, done[i]).Err)
	}
}

// pass sends a message from one end to the other.
func pass(t *testing.T, from io.Writer, to io.Reader) {
	t.Helper()
	const message = "hello"
	_, err := io.WriteString(from, message)
	require.NoError(t, err)
	b := make([]byte, len(message))
	_, err = io.ReadFull(to, b)
	require.NoError(t, err)
	require.Equal(t, message, string(b))
}
