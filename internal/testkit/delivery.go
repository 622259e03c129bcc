package testkit

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// WaitForPeer answers each byte with the next higher byte, until its connection
// ends.
func WaitForPeer(c net.Conn) {
	b := make([]byte, 1)
	for {
		if _, err := c.Read(b); err != nil {
			return
		}
		b[0]++
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// Alive requires that WaitForPeer runs at the other end.
func Alive(t testing.TB, c net.Conn) {
	t.Helper()
	b := []byte{'a'}
	_, err := c.Write(b)
	require.NoError(t, err)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "b", string(b))
}

// NoDeadlines is a transport without deadlines, like a channel of an SSH
// connection. It can only be closed.
type NoDeadlines struct{ *NetworkConn }

func (NoDeadlines) SetDeadline(time.Time) error { return errors.ErrUnsupported }

func (NoDeadlines) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

func (NoDeadlines) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }
