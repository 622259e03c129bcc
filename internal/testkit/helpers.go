package testkit

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// Patience ends a test that would otherwise hang. No test expects it to pass.
const Patience = 30 * time.Second

// ListenTCP listens on a free port of the loopback interface.
func ListenTCP(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// TCPPair is a TCP connection of which both ends are here.
func TCPPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln := ListenTCP(t)
	client, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	server, err = ln.Accept()
	require.NoError(t, err)
	deadline := time.Now().Add(Patience)
	client.SetDeadline(deadline)
	server.SetDeadline(deadline)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// Listen completes l, which may have a Listener or get one on loopback, and
// closes it at the end of the test.
func Listen(t testing.TB, l *preflight.PreflightListener) *preflight.PreflightListener {
	t.Helper()
	if l.Listener == nil {
		l.Listener = ListenTCP(t)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// ServeEcho accepts from l until it is closed and echoes every connection.
func ServeEcho(t testing.TB, l net.Listener) {
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

// DialTCP dials a's address, with a deadline that ends a hanging test.
func DialTCP(t testing.TB, a net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", a.String())
	require.NoError(t, err)
	c.SetDeadline(time.Now().Add(Patience))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// StatusError is the StatusError in err, which there must be.
func StatusError(t testing.TB, err error) *preflight.StatusError {
	t.Helper()
	var e *preflight.StatusError
	if !errors.As(err, &e) {
		require.Failf(t, "no StatusError", "in %v", err)
	}
	return e
}
