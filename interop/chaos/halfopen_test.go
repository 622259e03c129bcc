package chaos

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// TestHalfOpen has as many handshakes as a listener admits fall silent before it.
// It never hears of their end and must give up itself, and so must the dialers,
// who never hear of that. Afterwards it admits as many as before.
func TestHalfOpen(t *testing.T) {
	for _, proxy := range proxies {
		for _, at := range []int{0, 1} {
			t.Run(proxy.name+"/"+stages[at].name, func(t *testing.T) {
				t.Parallel()
				testHalfOpen(t, proxy.start(t), stages[at])
			})
		}
	}
}

func testHalfOpen(t *testing.T, d *daemon, at stage) {
	const places = 8
	s := listen(t, &preflight.PreflightListener{HandshakeTimeout: 2 * brief, MaxPending: places})
	silent, err := startHop(s.Addr().String(), fault{name: halfOpen}, at, stage{stream: "downstream", bytes: atOnce})
	require.NoError(t, err)
	defer silent.stop()

	for _, client := range travelAll(road{d.address, silent.Listen}, plan{}, places, 4*brief) {
		require.True(t, isTimeout(client.dial), client.dial)
		var timeout net.Error
		require.ErrorAs(t, client.dial, &timeout)
		require.True(t, timeout.Timeout())
	}
	require.Eventually(t, func() bool {
		return s.accepted.opened.Load() == places && s.accepted.open() == 0
	}, patience, brief/100)

	// They are all under way at the same time, or none is released.
	go func() {
		defer close(s.release)
		for range places {
			<-s.held
		}
	}()
	p := plan{size: transfer, limit: patience, hold: true}
	for _, client := range travelAll(road{d.address, s.Addr().String()}, p, places, patience) {
		require.NoError(t, client.err())
	}
	ends := s.stop(t)
	require.Len(t, ends, places)
	for _, end := range ends {
		require.NoError(t, end)
	}
}

// travelAll has n clients travel at once.
func travelAll(r road, p plan, n int, handshake time.Duration) []end {
	ends := make([]end, n)
	var all sync.WaitGroup
	for i := range ends {
		p := p
		p.id = uint64(i)
		all.Go(func() { ends[i] = r.travel(p, handshake) })
	}
	all.Wait()
	return ends
}
