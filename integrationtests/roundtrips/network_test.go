package roundtrips_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A hop is a network in memory. Each of its round trips takes the same time, and nothing else
// takes any time, because the clock is that of synctest. Its connections take any number of
// bytes at once, as TCP does below its first congestion window (14 KB, RFC 6928).
type hop struct {
	*testkit.Network
	trip time.Duration
}

// near leads from the client to what it dials, far from there to the server. The times differ so
// much that each sum of them shows how many round trips of each kind are in it.
const (
	near = 20 * time.Millisecond
	far  = 20 * time.Microsecond
)

func newHop(t *testing.T, trip time.Duration) hop {
	h := hop{testkit.NewNetwork(), trip}
	t.Cleanup(func() { h.Close() })
	return h
}

// DialContext returns when the SYN has been answered. The server accepts when the ACK has come.
func (h hop) DialContext(context.Context, string, string) (net.Conn, error) {
	time.Sleep(h.trip)
	client, here := net.Pipe()
	there, server := net.Pipe()
	go h.carry(here, there)
	go h.carry(there, here)
	time.AfterFunc(h.trip/2, func() { h.Backlog <- &testkit.NetworkConn{Conn: server} })
	return client, nil
}

// carry passes on what it reads after half a round trip, and the end too.
func (h hop) carry(from, to net.Conn) {
	type packet struct {
		bytes []byte
		due   time.Time
	}
	under := make(chan packet, 1<<10)
	go func() {
		defer close(under)
		for {
			b := make([]byte, 64<<10)
			n, err := from.Read(b)
			under <- packet{b[:n], time.Now().Add(h.trip / 2)}
			if err != nil {
				return
			}
		}
	}()
	for p := range under {
		time.Sleep(time.Until(p.due))
		to.Write(p.bytes) // fails if the reader has left, which the other direction notices
	}
	to.Close()
}

// trips are numbers of round trips.
type trips struct{ near, far int }

func tripsIn(t *testing.T, d time.Duration) trips {
	t.Helper()
	rest := d % near
	require.Zero(t, rest%far, "%v is not a number of round trips", d)
	return trips{int(d / near), int(rest / far)}
}
