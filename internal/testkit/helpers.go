// Package testkit has the helpers that the integration tests share.
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

// Patience ends a test that would otherwise block. No test waits for it to
// expire.
const Patience = 30 * time.Second

// ListenTCP listens on a free port of the loopback interface.
func ListenTCP(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// TCPPair returns both ends of a TCP connection.
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

// Listen fills in l and closes it at the end of the test. Without a Listener it
// gets one on the loopback interface.
func Listen(t testing.TB, l *preflight.PreflightListener) *preflight.PreflightListener {
	t.Helper()
	if l.Listener == nil {
		l.Listener = ListenTCP(t)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// ServeEcho accepts from l until l is closed, and echoes every connection.
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

// DialTCP dials the address a, with a deadline that ends a blocked test.
func DialTCP(t testing.TB, a net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", a.String())
	require.NoError(t, err)
	c.SetDeadline(time.Now().Add(Patience))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// StatusError returns the StatusError in err, and requires that there is one.
func StatusError(t testing.TB, err error) *preflight.StatusError {
	t.Helper()
	var e *preflight.StatusError
	if !errors.As(err, &e) {
		require.Failf(t, "no StatusError", "in %v", err)
	}
	return e
}
