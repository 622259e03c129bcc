//go:build linux && !race

package attack_test

import (
	"io"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A client that stalls in a request for a WebSocket costs no more than another one.
func TestBudgetAttackMidHeadWebSocket(t *testing.T) {
	request := attackCarriers[1].request
	attackBudget(t, attackLoad{send: request[:len(request)-1]}, 1.25, len(request))
}

// The heap of a tunnel in the server is bounded, whatever its peer has sent. It is compared
// with that of a tunnel without frames.
func TestBudgetAttackFramed(t *testing.T) {
	const (
		framing  = 900      // what an idle framed tunnel may cost
		refused  = 17 << 10 // what a listener reads into that discards the rest of a stream that it has refused, for 2 s
		controls = 400      // what a peer may make it keep: a Ping frame of 125 bytes, while it comes and while it is answered
	)
	plain := attackCarrier{name: "upgrade", request: testkit.Request()}
	base := attackHeap(t, plain, "")
	for _, a := range attackCarriers {
		heads := len(a.request) - len(plain.request) // the answer is longer, too
		half := a.capsule(attackData, strings.Repeat("x", 200))
		sends := map[string]string{
			"nothing":                   "",
			"a thousand tiny frames":    strings.Repeat(a.byByte(attackCarrier{}.capsule(attackData, "x")), 1000),
			"a thousand empty capsules": strings.Repeat(a.capsule(attackData, ""), 1000),
			"unknown capsules":          a.capsule(attackData, "") + strings.Repeat(a.capsule(attackUnknown, strings.Repeat("u", 1<<14)), 16),
			"a giant capsule":           a.capsule(attackData, "", 1<<62-1),
			"half a header":             half[:len(half)-201],
			"something else":            strings.Repeat(a.message("no capsule"), 5000),
		}
		for i, ping := range a.pings() {
			sends[[]string{"PINGs", "Ping frames"}[i]] = a.capsule(attackData, "") + strings.Repeat(ping, 1000)
		}
		for name, send := range sends {
			t.Run(a.name+"/"+name, func(t *testing.T) {
				heap := attackHeap(t, a, send)
				t.Logf("%d bytes, %d without frames", heap, base)
				limit := base + framing + controls + 3*heads
				if name == "something else" {
					limit += refused
				}
				require.LessOrEqual(t, heap, limit)
			})
		}
	}
}

// attackHeap returns the heap of a tunnel in the server when its peer has sent something. The
// answers are read.
func attackHeap(t *testing.T, a attackCarrier, send string) int {
	t.Helper()
	const tunnels = 1000
	s := attackStart(t, attackConfig{Tune: "framed", MaxPending: 2 * attackers, HandshakeTimeout: attackLong, Collect: true})
	open := func() {
		for _, p := range s.attackTunnels(t, a, tunnels, send) {
			go io.Copy(io.Discard, p.r)
		}
		s.holds(t, tunnels)
		s.hasRead(t)
	}
	before := s.stats(t, "memory")
	open()
	after := s.stats(t, "memory")
	return (after.Heap - before.Heap) / tunnels
}
