package preflight_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// TestMain fails if a goroutine of the library outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := goroutinesLeft(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines left over:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// goroutinesLeft returns the stacks of the goroutines that run this package,
// once those that are about to end have had the time to.
func goroutinesLeft() string {
	var left string
	for range 100 {
		buf := make([]byte, 8<<20)
		var of []string
		for i, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if i > 0 && strings.Contains(stack, "preflight") {
				of = append(of, stack)
			}
		}
		if left = strings.Join(of, "\n\n"); left == "" {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	return left
}

// patience ends a test that would otherwise hang. No test expects it to pass.
const patience = 30 * time.Second

// listenTCP listens on a free port of the loopback interface.
func listenTCP(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// tcpPair is a TCP connection of which both ends are here.
func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln := listenTCP(t)
	client, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	server, err = ln.Accept()
	require.NoError(t, err)
	deadline := time.Now().Add(patience)
	client.SetDeadline(deadline)
	server.SetDeadline(deadline)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// listen completes l, which may have a Listener or get one on loopback, and
// closes it at the end of the test.
func listen(t testing.TB, l *preflight.PreflightListener) *preflight.PreflightListener {
	t.Helper()
	if l.Listener == nil {
		l.Listener = listenTCP(t)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serveEcho accepts from l until it is closed and echoes every connection.
func serveEcho(t testing.TB, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// dialTCP dials a's address, with a deadline that ends a hanging test.
func dialTCP(t testing.TB, a net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", a.String())
	require.NoError(t, err)
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// statusError is the StatusError in err, which there must be.
func statusError(t testing.TB, err error) *preflight.StatusError {
	t.Helper()
	var e *preflight.StatusError
	if !errors.As(err, &e) {
		require.Failf(t, "no StatusError", "in %v", err)
	}
	return e
}
