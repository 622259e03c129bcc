package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestGone has a side that ends its direction, and leaves while it is still sent to.
func TestGone(t *testing.T) {
	for _, carrier := range carriers[1:] {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", carrier, first), func(t *testing.T) {
				peer, leaves := tunnelPair(t, carrier)
				user, stays := tcpPair(t)
				a, b := Conn(leaves), Conn(stays)
				if !first {
					a, b = b, a
				}
				done := start(a, b, timeout)
				require.NoError(t, peer.CloseWrite())
				_, err := user.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
				require.NoError(t, Bottom(peer).Close())
				for err == io.EOF || err == nil {
					_, err = user.Write([]byte("the upload"))
				}
				r := wait(t, done)
				// A reset that comes back in time is the error. Otherwise the end came in order.
				require.Error(t, errors.Join(r.Err, r.Gone))
				require.Equal(t, r.Gone != nil && first, r.GoneA)
			})
		}
	}
}

// TestUnconfirmed cuts a tunnel when both directions have ended, and before the peer has read
// what was sent. To the application that looks like an end in order.
func TestUnconfirmed(t *testing.T) {
	for _, carrier := range carriers[1:] {
		for name, cut := range map[string]func(*net.TCPConn){
			"end":   func(c *net.TCPConn) { c.CloseWrite() },
			"reset": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		} {
			t.Run(string(carrier)+"/"+name, func(t *testing.T) {
				peer, a := tunnelPair(t, carrier)
				user, b := tcpPair(t)
				done := start(b, a, timeout)
				require.NoError(t, peer.CloseWrite())
				_, err := user.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
				// The peer reads nothing of this, so it does not confirm it.
				_, err = user.Write([]byte("the upload"))
				require.NoError(t, err)
				require.NoError(t, user.CloseWrite())
				require.Never(t, func() bool { return len(done) > 0 }, 20*time.Millisecond, time.Millisecond)
				cut(Bottom(peer).(*net.TCPConn))
				r := wait(t, done)
				require.ErrorContains(t, r.Err, "the peer has not confirmed that it has received everything")
				if name == "reset" {
					require.ErrorIs(t, r.Err, syscall.ECONNRESET)
				}
			})
		}
	}
}
