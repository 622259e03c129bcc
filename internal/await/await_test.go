package await_test

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight/internal/await"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func pair(t *testing.T) (client, server *net.TCPConn) {
	c, s := testkit.TCPPair(t)
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// What has arrived is read at once, into the buffer of room.
func TestReadAtOnce(t *testing.T) {
	client, server := pair(t)
	b := make([]byte, 3)
	_, err := io.WriteString(client, "xhello")
	require.NoError(t, err)
	_, err = server.Read(b[:1]) // the rest has come with it
	require.NoError(t, err)
	for _, want := range []string{"hel", "lo"} {
		n, err := await.Read(server, func() []byte { return b }, func() { t.Error("it waits") })
		require.NoError(t, err)
		require.Equal(t, want, string(b[:n]))
	}
}

// While Read waits, it has no buffer. A deadline that passes after that does not hold up what
// has arrived.
func TestReadAfterAWait(t *testing.T) {
	client, server := pair(t)
	var calls []string
	b := make([]byte, 9)
	n, err := await.Read(server, func() []byte {
		if calls = append(calls, "room"); len(calls) > 1 {
			require.NoError(t, server.SetReadDeadline(time.Unix(1, 0)))
		}
		return b
	}, func() {
		calls = append(calls, "idle")
		clear(b)
		_, err := io.WriteString(client, "hello")
		require.NoError(t, err)
	})
	require.NoError(t, err)
	require.Equal(t, "hello", string(b[:n]))
	require.Equal(t, []string{"room", "idle", "room"}, calls)
}

// Read does not keep the buffer in memory while it waits. Those who lend it may have dropped it.
func TestWaitsWithoutTheBuffer(t *testing.T) {
	client, server := pair(t)
	freed, read := make(chan struct{}, 2), make(chan error)
	go func() {
		_, err := await.Read(server, func() []byte {
			b := new([512]byte)
			runtime.AddCleanup(b, func(freed chan<- struct{}) { freed <- struct{}{} }, freed)
			return b[:]
		}, func() {})
		read <- err
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		select {
		case <-freed:
			return true
		default:
			return false
		}
	}, 10*time.Second, 10*time.Millisecond)
	_, err := io.WriteString(client, "hello")
	require.NoError(t, err)
	require.NoError(t, <-read)
}

// The errors are those of Read of the connection.
func TestErrors(t *testing.T) {
	reset := func(c *net.TCPConn) {
		c.SetLinger(0)
		c.Close()
	}
	for name, test := range map[string]struct {
		end  func(client, server *net.TCPConn)
		want error
	}{
		"the end":            {func(client, _ *net.TCPConn) { client.CloseWrite() }, io.EOF},
		"a reset":            {func(client, _ *net.TCPConn) { reset(client) }, syscall.ECONNRESET},
		"a deadline":         {func(_, server *net.TCPConn) { server.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"a close of its own": {func(_, server *net.TCPConn) { go server.Close() }, net.ErrClosed},
	} {
		for _, waits := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				ended := func() error {
					client, server := pair(t)
					end := func() { test.end(client, server) }
					if !waits {
						end()
						end = func() {}
					}
					_, err := await.Read(server, func() []byte { return make([]byte, 1) }, end)
					return err
				}
				err := ended()
				require.ErrorIs(t, err, test.want)
				var op *net.OpError
				if test.want != io.EOF {
					require.True(t, errors.As(err, &op))
					require.Equal(t, "read", op.Op)
					require.Equal(t, "tcp", op.Net)
					require.NotNil(t, op.Addr)
				}
				require.Equal(t, test.want == os.ErrDeadlineExceeded, op != nil && op.Timeout())
			})
		}
	}
}
