package lab

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// WaitUntil waits until condition returns true. what names the condition if that
// does not happen.
func WaitUntil(t *testing.T, what string, condition func() bool) {
	t.Helper()
	waitUntil(t, 20*time.Millisecond, what, condition)
}

func waitUntil(t *testing.T, interval time.Duration, what string, condition func() bool) {
	t.Helper()
	poll := time.NewTicker(interval)
	defer poll.Stop()
	for timeout := time.After(Timeout); !condition(); {
		select {
		case <-poll.C:
		case <-timeout:
			require.FailNow(t, "this did not happen: "+what)
		}
	}
}

// WaitUntilRefused waits until nothing listens at the TCP address any more.
func WaitUntilRefused(t *testing.T, address string) {
	t.Helper()
	waitUntil(t, time.Millisecond, "connections to "+address+" are refused", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// Receive returns the next value from c.
func Receive[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(Timeout):
		require.FailNow(t, "the channel delivered nothing")
	}
	return v
}
