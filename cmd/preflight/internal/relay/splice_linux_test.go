package relay

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// readBytes returns how many bytes this process has read by read(2) and its like, which
// splice(2) is not.
func readBytes(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	require.NoError(t, err)
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte("rchar: ")); ok {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			require.NoError(t, err)
			return n
		}
	}
	require.FailNow(t, "no rchar")
	return 0
}

// TestSplice counts the bytes that this process reads. Those that the kernel moves are not
// among them.
func TestSplice(t *testing.T) {
	client, a := tunnelPair(t, preflight.CarrierUpgrade)
	server, b := tcpPair(t)
	done := start(a, b, timeout)
	const size = 64 << 20
	go func() {
		io.CopyN(client, zeros{}, size)
		client.CloseWrite()
	}()
	before := readBytes(t)
	n, err := io.Copy(io.Discard, io.LimitReader(server, size))
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	moved := readBytes(t) - before
	// Once by this reader; a copying relay would read everything a second time.
	require.Less(t, moved, int64(size+size/2))
	server.CloseWrite()
	io.Copy(io.Discard, client)
	require.NoError(t, wait(t, done).Err)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
