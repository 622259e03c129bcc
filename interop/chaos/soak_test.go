package chaos

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// TestSoak opens tunnels to one server, many at a time and all by chance: which
// proxy, how much, what fault and where, and who goes away in the middle. Then
// nothing is left.
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
	var daemons []*daemon
	for _, proxy := range proxies {
		daemons = append(daemons, proxy.start(t))
	}
	s := listen(t, &preflight.PreflightListener{HandshakeTimeout: patience})
	const concurrency = 64
	fates, clients := make([]fate, *soakTunnels), make([]end, *soakTunnels)
	var next atomic.Int64
	var all sync.WaitGroup
	for range concurrency {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(fates)); i = next.Add(1) - 1 {
				dice := rand.New(rand.NewPCG(seed, uint64(i)))
				fates[i] = newFate(dice, uint64(i))
				daemon := daemons[dice.IntN(len(daemons))]
				clients[i] = fates[i].meet(road{daemon.address, s.Addr().String()})
			}
		})
	}
	all.Wait()

	servers := s.stop(t)
	var whole, refused, cut int
	for i, client := range clients {
		server, came := servers[uint64(i)]
		fates[i].require(t, client, server, came)
		switch {
		case client.dial != nil:
			refused++
		case client.tunnel != nil:
			cut++
		default:
			whole++
		}
	}
	t.Logf("%d tunnels: %d came to their end, %d were cut, %d refused", len(clients), whole, cut, refused)
	for _, n := range []int{whole, refused, cut} {
		require.NotZero(t, n)
	}
}

// A fate is what is to happen to a tunnel.
type fate struct {
	plan
	fault *fault // nil: none
	stage stage
	hop   int
}

func newFate(dice *rand.Rand, id uint64) fate {
	f := fate{plan: plan{id: id, size: 1 + dice.Int64N(64*transfer), limit: patience, resets: dice.IntN(2) == 0}}
	switch dice.IntN(4) {
	case 0:
		f.clientLeaves = 1 + dice.Int64N(f.size)
	case 1:
		f.serverLeaves = 1 + dice.Int64N(f.size)
	case 2:
		f.fault = &faults[dice.IntN(len(faults))]
		f.stage = stages[dice.IntN(len(stages))]
		f.hop = dice.IntN(len(hops))
		f.size = transfer // each stage lies within
		f.limit, _ = f.fault.limits(f.stage)
	}
	return f
}

// meet lets it happen.
func (f fate) meet(r road) end {
	handshake := patience
	if f.fault != nil {
		var h *hop
		var err error
		if r, h, err = hops[f.hop].put(r, *f.fault, f.stage); err != nil {
			return end{dial: err}
		}
		defer h.stop()
		_, handshake = f.fault.limits(f.stage)
	}
	return r.travel(f.plan, handshake)
}

// require requires that nothing else has happened.
func (f fate) require(t *testing.T, client end, server error, came bool) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("%+v %+v", f, f.fault)
		}
	}()
	switch {
	case f.fault != nil:
		f.fault.require(t, f.stage, client, server, came)
	case f.clientLeaves > 0 || f.serverLeaves > 0:
		cuts.require(t, client, server, came)
		require.NoError(t, client.dial)
	default:
		delays.require(t, client, server, came)
	}
}
