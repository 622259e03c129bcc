package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestStorm requires the conclusions of docs/kubernetes-scale.md, whatever the seed is.
func TestStorm(t *testing.T) {
	for seed := range uint64(5) {
		outcomes := make(map[string]outcome)
		for _, p := range policies {
			for name, s := range map[string]storm{"": open, " bounded": bounded} {
				s.clients, s.capacity, s.admitted, s.seed = s.clients/10, s.capacity/10, s.admitted/10, seed
				outcomes[p.name+name] = simulate(s, p)
			}
		}
		fixed, doubling := outcomes[policies[0].name], outcomes[policies[1].name]
		require.Greater(t, fixed.most, float64(end), "without jitter nobody gets a tunnel: all handshakes are too slow")
		require.Greater(t, doubling.most, float64(end))
		spread := outcomes[policies[4].name]
		require.Less(t, spread.most, 35.0, "with a random first wait everybody has one when the waits end")
		require.Less(t, spread.wasted, 0.01)
		require.Less(t, outcomes[policies[2].name].most, doubling.most, "jitter alone ends the storm, but later")
		require.Less(t, outcomes[policies[3].name+" bounded"].peak, outcomes[policies[2].name+" bounded"].peak, "Retry-After spreads the first seconds")
	}
}

// TestStormTable requires that docs/kubernetes-scale.md has the table that the program writes.
func TestStormTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/kubernetes-scale.md")
	require.NoError(t, err)
	var table bytes.Buffer
	write(&table)
	require.Contains(t, string(page), table.String(), "run go -C bench run ./storm")
}

// TestSimulate requires that a storm without contention takes the time of its work.
func TestSimulate(t *testing.T) {
	o := simulate(storm{clients: 100, capacity: 100, timeout: 10, seed: 1}, policies[0])
	require.Equal(t, 1.0, o.dials)
	require.Zero(t, o.wasted)
	require.InDelta(t, 1, o.most, 2*tick, "all of them end together")
	require.Equal(t, 100, o.peak)
}
