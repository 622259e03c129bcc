// Command storm simulates what happens when many clients lose their tunnels at the same moment
// and dial again, by how long they wait. docs/kubernetes-scale.md has its table.
//
//	go -C bench run ./storm
package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
)

// open and bounded are gateways that need 20 s for all clients. The second one refuses dials
// while it works at as many as it can finish in 2 s.
var (
	open    = storm{clients: 20_000, capacity: 1000, timeout: 10, seed: 1}
	bounded = storm{clients: 20_000, capacity: 1000, timeout: 10, seed: 1, admitted: 2000, refusal: 0.1}
)

func atOnce(*rand.Rand) float64 { return 0 }

// doubled is 1, 2, 4, ... and at most 32 seconds.
func doubled(failures int) float64 { return math.Min(32, math.Pow(2, float64(failures-1))) }

func jitter(r *rand.Rand, failures int, retryAfter float64) float64 {
	return retryAfter + r.Float64()*doubled(failures)
}

var policies = []policy{
	{"after 1 s", atOnce, func(*rand.Rand, int, float64) float64 { return 1 }},
	{"after 1, 2, 4, … 32 s", atOnce, func(_ *rand.Rand, failures int, _ float64) float64 { return doubled(failures) }},
	{"after a random time up to 1, 2, 4, … 32 s", atOnce, func(r *rand.Rand, failures int, _ float64) float64 { return jitter(r, failures, 0) }},
	{"after a random time up to 1, 2, 4, … 32 s, and not before `Retry-After`", atOnce, jitter},
	{"the first time after a random time up to 30 s, then after a random time up to 1, 2, 4, … 32 s, and not before `Retry-After`", func(r *rand.Rand) float64 { return r.Float64() * 30 }, jitter},
}

func main() { write(os.Stdout) }

// write writes the table.
func write(w io.Writer) {
	fmt.Fprintln(w, "| a client dials again | gateway | most dials in a second | dials of a client | work wasted | 50 % connected | 99 % connected |")
	fmt.Fprintln(w, "|---|---|---:|---:|---:|---:|---:|")
	for _, p := range policies {
		for _, s := range []storm{open, bounded} {
			name := "accepts all"
			if s.admitted > 0 {
				name = "refuses"
			}
			o := simulate(s, p)
			fmt.Fprintf(w, "| %s | %s | %d | %.1f | %.0f %% | %s | %s |\n", p.name, name, o.peak, o.dials, 100*o.wasted, seconds(o.half), seconds(o.most))
		}
	}
}

func seconds(s float64) string {
	if math.IsInf(s, 1) {
		return "not in 5 min"
	}
	return fmt.Sprintf("%.0f s", s)
}
