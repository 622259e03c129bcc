package chaos

import (
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// brief is the time that is given to what is expected to run out of it.
const brief = time.Second

// hops are the places of toxiproxy on a road.
var hops = []struct {
	name string
	put  func(r road, f fault, at stage) (road, *hop, error)
}{
	{"client to proxy", func(r road, f fault, at stage) (road, *hop, error) {
		h, err := startHop(r.proxy, f, at)
		if err != nil {
			return road{}, nil, err
		}
		return road{h.Listen, r.server}, h, nil
	}},
	{"proxy to server", func(r road, f fault, at stage) (road, *hop, error) {
		h, err := startHop(r.server, f, at)
		if err != nil {
			return road{}, nil, err
		}
		return road{r.proxy, h.Listen}, h, nil
	}},
}

// TestFaults has every fault happen at every stage, on each side of a proxy.
func TestFaults(t *testing.T) {
	for _, proxy := range proxies {
		t.Run(proxy.name, func(t *testing.T) {
			d := proxy.start(t)
			for i, hop := range hops {
				for _, f := range faults {
					for _, at := range stages {
						t.Run(hop.name+"/"+f.name+"/"+at.name, func(t *testing.T) {
							t.Parallel()
							testFault(t, d, i, f, at)
						})
					}
				}
			}
		})
	}
}

func testFault(t *testing.T, d *daemon, at int, f fault, stage stage) {
	tunnel, handshake := f.limits(stage)
	// The listener gives up later than the dialer, whose error it would be
	// otherwise.
	s := listen(t, &preflight.PreflightListener{HandshakeTimeout: 2 * handshake})
	r, hop, err := hops[at].put(road{d.address, s.Addr().String()}, f, stage)
	require.NoError(t, err)
	p := plan{id: 1, size: transfer, limit: tunnel}
	client := r.travel(p, handshake)
	server, came := s.stop(t)[p.id]
	hop.stop()
	f.require(t, stage, client, server, came)
}

// limits are the times that are given to a tunnel and to its handshake.
func (f fault) limits(at stage) (tunnel, handshake time.Duration) {
	switch {
	case f.effect != silences:
		return patience, patience
	case at.behind:
		return brief, patience
	default:
		return patience, brief
	}
}

// require requires that a tunnel ended as it has to, for the client and for the
// server, if it came there.
func (f fault) require(t *testing.T, at stage, client end, server error, came bool) {
	t.Helper()
	f.effect.require(t, client, server, came)
	switch {
	case f.effect == delays || at.name == behind101:
		// A proxy that has read the 101 may see the end first.
	case at.behind:
		require.NoError(t, client.dial)
		require.True(t, came)
	case f.effect == cuts:
		requireRefusal(t, client.dial)
	case f.effect == silences:
		require.True(t, isTimeout(client.dial), client.dial)
	}
}

func (e effect) require(t *testing.T, client end, server error, came bool) {
	t.Helper()
	if e == delays {
		require.NoError(t, client.err())
		require.True(t, came)
		require.NoError(t, server)
		return
	}
	requireFailure(t, client.err())
	if came {
		requireFailure(t, server)
	}
	// Of the two ends of a silent tunnel one runs out of time, and tells the other.
	require.Equal(t, e == silences, isTimeout(client.err()) || isTimeout(server), "%v, %v", client.err(), server)
}
