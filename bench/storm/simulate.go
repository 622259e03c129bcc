package main

import (
	"container/heap"
	"math"
	"math/rand/v2"
)

// A storm is what happens when many clients lose their tunnels at the same moment, and dial
// again. A gateway works at all handshakes at the same time, as Envoy and nginx do: with n of
// them, each takes n times as long. A client that has waited for too long gives up, and the
// work for it is lost.
type storm struct {
	clients  int     // all lose their tunnel at second 0
	capacity float64 // handshakes for each second
	admitted int     // handshakes at the same time; further dials are refused with 503. 0: all
	refusal  float64 // the work of a refusal, in terms of a handshake
	timeout  float64 // seconds after which a client gives up
	seed     uint64
}

// A policy says how many seconds a client waits before it dials.
type policy struct {
	name  string
	first func(r *rand.Rand) float64 // after it has lost its tunnel
	// next is after a number of failures. retryAfter is what a refusal said, and 0 if the
	// client has given up.
	next func(r *rand.Rand, failures int, retryAfter float64) float64
}

// An outcome is what a storm did.
type outcome struct {
	peak       int     // the most dials in a second
	dials      float64 // for each client
	wasted     float64 // the share of the work that gave nobody a tunnel
	half, most float64 // seconds until 50 % and 99 % of the clients have a tunnel, or infinite
}

const (
	tick       = 0.01 // seconds
	retryAfter = 1.0  // seconds, as a PreflightListener says
	end        = 300  // seconds
)

// A dial is an attempt of a client.
type dial struct {
	at     float64 // seconds
	client int
	share  float64 // what each handshake had got when this one began
}

// dials is a heap, with the earliest first.
type dials []dial

func (d dials) Len() int           { return len(d) }
func (d dials) Less(i, j int) bool { return d[i].at < d[j].at }
func (d dials) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *dials) Push(x any)        { *d = append(*d, x.(dial)) }
func (d *dials) Pop() (x any) {
	last := len(*d) - 1
	x = (*d)[last]
	*d = (*d)[:last]
	return x
}

// simulate plays a storm. The same seed has the same outcome.
func simulate(s storm, p policy) (o outcome) {
	r := rand.New(rand.NewPCG(s.seed, s.seed))
	failures := make([]int, s.clients)
	planned := make(dials, s.clients)
	for client := range planned {
		planned[client] = dial{at: p.first(r), client: client}
	}
	heap.Init(&planned)
	fail := func(now float64, client int, retryAfter float64) {
		failures[client]++
		heap.Push(&planned, dial{at: now + p.next(r, failures[client], retryAfter), client: client})
	}

	// Each handshake needs 1 of the work. All of them get the same share, so they end in the
	// order in which they began.
	var handshakes []dial
	var share, debt, wasted float64
	var total, connected, second, inSecond int
	o.half, o.most = math.Inf(1), math.Inf(1)
	for step := 0; connected < s.clients && step < end/tick; step++ {
		now := float64(step) * tick
		if int(now) != second {
			second, inSecond = int(now), 0
		}
		for len(planned) > 0 && planned[0].at <= now {
			d := heap.Pop(&planned).(dial)
			total++
			inSecond++
			o.peak = max(o.peak, inSecond)
			if s.admitted > 0 && len(handshakes) >= s.admitted {
				debt += s.refusal
				wasted += s.refusal
				fail(now, d.client, retryAfter)
				continue
			}
			handshakes = append(handshakes, dial{now, d.client, share})
		}
		for len(handshakes) > 0 && now-handshakes[0].at >= s.timeout {
			wasted += share - handshakes[0].share
			fail(now, handshakes[0].client, 0)
			handshakes = handshakes[1:]
		}
		work := s.capacity * tick
		paid := min(debt, work)
		debt -= paid
		if len(handshakes) > 0 {
			share += (work - paid) / float64(len(handshakes))
		}
		for len(handshakes) > 0 && share-handshakes[0].share >= 1 {
			handshakes = handshakes[1:]
			connected++
			switch connected {
			case s.clients / 2:
				o.half = now
			case s.clients * 99 / 100:
				o.most = now
			}
		}
	}
	o.dials = float64(total) / float64(s.clients)
	o.wasted = wasted / (wasted + float64(connected))
	return o
}
