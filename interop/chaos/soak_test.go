package chaos

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// TestSoak opens many tunnels to one server. The proxy, the amount of data, the fault with
// its place, and the end that leaves early are random. Afterwards nothing may be left.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	before := descriptors()
	t.Run("Tunnels", func(t *testing.T) { testSoak(t, seed) })
	require.Empty(t, leftovers(before))
}

func testSoak(t *testing.T, seed uint64) {
	var daemons []*lab.Daemon
	for _, proxy := range proxies {
		daemons = append(daemons, proxy.start(t))
	}
	s := listen(t, &preflight.PreflightListener{HandshakeTimeout: lab.Timeout})
	const concurrency = 64
	scenarios, clients := make([]scenario, *soakTunnels), make([]end, *soakTunnels)
	var next atomic.Int64
	var running sync.WaitGroup
	for range concurrency {
		running.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(scenarios)); i = next.Add(1) - 1 {
				random := rand.New(rand.NewPCG(seed, uint64(i)))
				scenarios[i] = newScenario(random, uint64(i))
				daemon := daemons[random.IntN(len(daemons))]
				clients[i] = scenarios[i].run(route{daemon.Addresses[0], s.Addr().String()})
			}
		})
	}
	running.Wait()

	servers := s.stop(t)
	var whole, refused, cut int
	for i, client := range clients {
		server, arrived := servers[uint64(i)]
		scenarios[i].require(t, client, server, arrived)
		client.requireClosed(t)
		client.requireWhole(t, s.traffic[uint64(i)])
		switch {
		case client.dial != nil:
			refused++
		case client.tunnel != nil:
			cut++
		default:
			whole++
		}
	}
	t.Logf("%d tunnels: %d were complete, %d were cut, %d were refused", len(clients), whole, cut, refused)
	for _, n := range []int{whole, refused, cut} {
		require.NotZero(t, n)
	}
}

// A scenario is a plan for a tunnel, and a fault that happens to it.
type scenario struct {
	plan
	fault *fault // nil: there is none
	stage stage
	hop   int
}

func newScenario(random *rand.Rand, id uint64) scenario {
	f := scenario{plan: plan{id: id, size: 1 + random.Int64N(64*transfer), limit: lab.Timeout, resets: random.IntN(2) == 0}}
	f.carrier = []preflight.Carrier{"", preflight.CarrierFramed, preflight.CarrierWebSocket}[random.IntN(3)]
	switch random.IntN(4) {
	case 0:
		f.clientLeaves = 1 + random.Int64N(f.size)
	case 1:
		f.serverLeaves = 1 + random.Int64N(f.size)
	case 2:
		f.fault = &faults[random.IntN(len(faults))]
		f.stage = stages[random.IntN(len(stages))]
		f.hop = random.IntN(len(hops))
		f.size = transfer // a tunnel of this size has all stages
		f.limit, _ = f.fault.limits(f.stage)
	}
	return f
}

// run runs the tunnel.
func (f scenario) run(r route) end {
	handshake := lab.Timeout
	if f.fault != nil {
		var h *hop
		var err error
		if r, h, err = hops[f.hop].insert(r, *f.fault, f.stage); err != nil {
			return end{dial: err}
		}
		defer h.stop()
		_, handshake = f.fault.limits(f.stage)
	}
	return r.run(f.plan, handshake)
}

// require requires that only that has happened.
func (f scenario) require(t *testing.T, client end, server error, arrived bool) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("%+v %+v", f, f.fault)
		}
	}()
	switch {
	case f.fault != nil:
		f.fault.require(t, f.stage, client, server, arrived)
	case f.clientLeaves > 0 || f.serverLeaves > 0:
		cuts.require(t, client, server, arrived)
		require.NoError(t, client.dial)
	default:
		delays.require(t, client, server, arrived)
	}
}
