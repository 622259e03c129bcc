package chaos

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// TestHalfOpen fills all places of a listener with handshakes whose path becomes silent.
// The listener never sees their end, and must time out. The dialers never see that, and
// must time out too. Then the listener must have all its places again.
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

func testHalfOpen(t *testing.T, d *lab.Daemon, at stage) {
	const places = 8
	s := listen(t, &preflight.PreflightListener{HandshakeTimeout: 2 * shortTimeout, MaxPending: places})
	silent, err := startHop(s.Addr().String(), fault{name: halfOpen}, at, stage{stream: "downstream", bytes: onConnect})
	require.NoError(t, err)
	defer silent.stop()

	for _, client := range runAll(route{d.Addresses[0], silent.Listen}, plan{}, places, 4*shortTimeout) {
		require.True(t, isTimeout(client.dial), client.dial)
		var timeout net.Error
		require.ErrorAs(t, client.dial, &timeout)
		require.True(t, timeout.Timeout())
	}
	require.Eventually(t, func() bool {
		return s.accepted.opened.Load() == places && s.accepted.open() == 0
	}, lab.Timeout, shortTimeout/100)

	// All of them must be held at the same time before any is released.
	go func() {
		defer close(s.release)
		for range places {
			<-s.held
		}
	}()
	p := plan{size: transfer, limit: lab.Timeout, hold: true}
	for _, client := range runAll(route{d.Addresses[0], s.Addr().String()}, p, places, lab.Timeout) {
		require.NoError(t, client.err())
	}
	ends := s.stop(t)
	require.Len(t, ends, places)
	for _, end := range ends {
		require.NoError(t, end)
	}
}

// runAll runs n clients at once.
func runAll(r route, p plan, n int, handshake time.Duration) []end {
	ends := make([]end, n)
	var running sync.WaitGroup
	for i := range ends {
		p := p
		p.id = uint64(i)
		running.Go(func() { ends[i] = r.run(p, handshake) })
	}
	running.Wait()
	return ends
}
