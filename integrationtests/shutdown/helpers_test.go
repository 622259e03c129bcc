package shutdown_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// requireClosed requires that n concurrent calls of Accept return net.ErrClosed.
func requireClosed(t testing.TB, l net.Listener, n int) {
	t.Helper()
	type result struct {
		c   net.Conn
		err error
	}
	results := make(chan result, n)
	for range n {
		go func() {
			c, err := l.Accept()
			results <- result{c, err}
		}()
	}
	for range n {
		select {
		case r := <-results:
			require.Equal(t, net.ErrClosed, r.err)
			require.Nil(t, r.c)
		case <-time.After(testkit.Patience):
			require.FailNow(t, "Accept does not return")
		}
	}
}

// networkDialer dials the in-memory network.
type networkDialer struct {
	t testing.TB
	n *testkit.Network
}

func (d networkDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	select {
	case <-d.n.Closed:
		return nil, errShdRefused
	default:
		return d.n.Dial(d.t).Conn, nil
	}
}

var errShdRefused = errors.New("connection refused")

// contextFor is a context that ends after d.
func contextFor(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}
