package chaos

import (
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// shortTimeout is the timeout of what is expected to time out.
const shortTimeout = time.Second

// hops are the places of toxiproxy on a route. insert puts a hop there, and returns the
// route with the hop.
var hops = []struct {
	name   string
	insert func(r route, f fault, at stage) (route, *hop, error)
}{
	{"client to proxy", func(r route, f fault, at stage) (route, *hop, error) {
		h, err := startHop(r.proxy, f, at)
		if err != nil {
			return route{}, nil, err
		}
		return route{h.Listen, r.server}, h, nil
	}},
	{"proxy to server", func(r route, f fault, at stage) (route, *hop, error) {
		h, err := startHop(r.server, f, at)
		if err != nil {
			return route{}, nil, err
		}
		return route{r.proxy, h.Listen}, h, nil
	}},
}

// TestFaults has each fault happen at each stage, on each side of a proxy.
func TestFaults(t *testing.T) {
	for _, proxy := range proxies {
		t.Run(proxy.name, func(t *testing.T) {
			d := proxy.start(t)
			for i, hop := range hops {
				for _, f := range faults {
					for _, at := range stages {
						t.Run(hop.name+"/"+f.name+"/"+at.name, func(t *testing.T) {
							t.Parallel()
							testFault(t, d, i, f, at, "")
						})
						if !at.afterHead {
							continue // nothing is framed yet
						}
						t.Run(hop.name+"/"+f.name+"/"+at.name+"/"+string(proxy.framed), func(t *testing.T) {
							t.Parallel()
							testFault(t, d, i, f, at, proxy.framed)
						})
					}
				}
			}
		})
	}
}

func testFault(t *testing.T, d *lab.Daemon, at int, f fault, stage stage, carrier preflight.Carrier) {
	tunnel, handshake := f.limits(stage)
	// The timeout of the listener is longer. Otherwise the dialer would get its error.
	s := listen(t, &preflight.PreflightListener{HandshakeTimeout: 2 * handshake})
	r, hop, err := hops[at].insert(route{d.Addresses[0], s.Addr().String()}, f, stage)
	require.NoError(t, err)
	p := plan{id: 1, size: transfer, limit: tunnel, carrier: carrier}
	client := r.run(p, handshake)
	if client.dialed != nil {
		hop.stop() // otherwise both ends of a silent tunnel would linger for a minute
		client.requireClosed(t)
	}
	server, arrived := s.stop(t)[p.id]
	if client.dialed == nil {
		hop.stop()
	}
	f.require(t, stage, client, server, arrived)
	client.requireWhole(t, s.traffic[p.id])
}

// limits returns the timeouts of a tunnel and of its handshake.
func (f fault) limits(at stage) (tunnel, handshake time.Duration) {
	switch {
	case f.effect != silences:
		return lab.Timeout, lab.Timeout
	case at.afterHead:
		return shortTimeout, lab.Timeout
	default:
		return lab.Timeout, shortTimeout
	}
}

// require requires that a tunnel ended as it must, for the client, and for the server if it
// arrived there.
func (f fault) require(t *testing.T, at stage, client end, server error, arrived bool) {
	t.Helper()
	f.effect.require(t, client, server, arrived)
	switch {
	case f.effect == delays || at.name == after101:
		// A proxy that has read the 101 may notice the end before it forwards the 101.
	case at.afterHead:
		require.NoError(t, client.dial)
		require.True(t, arrived)
	case f.effect == cuts:
		requireRefusal(t, client.dial)
	case f.effect == silences:
		require.True(t, isTimeout(client.dial), client.dial)
	}
}

func (e effect) require(t *testing.T, client end, server error, arrived bool) {
	t.Helper()
	if e == delays {
		require.NoError(t, client.err())
		require.True(t, arrived)
		require.NoError(t, server)
		return
	}
	requireFailure(t, client.err())
	if arrived {
		requireFailure(t, server)
	}
	// One end of a silent tunnel times out. The other end may see that as an error.
	require.Equal(t, e == silences, isTimeout(client.err()) || isTimeout(server), "%v, %v", client.err(), server)
}
