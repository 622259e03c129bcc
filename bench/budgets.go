package main

import (
	"fmt"
	"math"
	"slices"
)

// A budget is a limit that preflight must meet.
type budget struct {
	what   string
	limit  float64
	floor  bool // limit is a minimum, not a maximum
	count  bool // a number of allocations; the collector empties pools, which adds some hundredths
	value  float64
	spread float64 // in percent; 0 for counts
}

func (b budget) met() bool {
	if b.count {
		return b.value <= b.limit+0.1
	}
	if b.floor {
		return b.value >= b.limit
	}
	return b.value <= b.limit
}

// list returns all budgets that this program measures. Allocations in memory, and one
// read and one write for each handshake, are tests of the root module.
func (r *results) list() []budget {
	one, loose, many := r.section(keyOne), r.section(keyLoose), r.section(keyMany)
	above := func(s *samples, quantity string) float64 {
		return s.median(ours, quantity) - s.median(bareTCP, quantity)
	}
	most := func(what string, limit, value float64) budget { return budget{what: what, limit: limit, value: value} }
	count := func(what string, limit, value float64) budget {
		return budget{what: what, limit: limit, value: value, count: true}
	}
	within := func(what string, limit float64, s spread) budget {
		return budget{what: what, limit: limit, value: s.median, spread: s.half}
	}
	head := float64(len(memoryRequest)) // an upgraded connection keeps it
	beside := func(s *samples, base string) float64 {
		return (s.median(ours, rss) - head) / s.median(base, rss)
	}
	memory, steady, relay, stuck, waiting := r.section(keyMemory), r.section(keySteady), r.section(keyRelay), r.section(keyStuck), r.section(keyWaiting)
	tunnel := relayName([2]string{ours, ours})
	goes := spreadAmong(stuck.values[ours][ratioOfFew])
	goesMany := spreadAmong(stuck.values[ours][ratioOfMany])
	of := []budget{
		count("accepted connection: allocations above bare TCP", 3, above(many, serverAllocs)),
		most("accepted connection: bytes above bare TCP, beside one copy of the head", 256, above(many, serverBytes)-head),
		count("dialed connection: allocations above bare TCP", 6, above(many, clientAllocs)),
		within("handshake, 1 dialer: time / bare TCP", 1.20, one.ratio(ours, bareTCP, elapsed)),
		within("handshake, 1 dialer, not pinned: time / bare TCP", 1.20, loose.ratio(ours, bareTCP, elapsed)),
		within("handshake, 64 dialers: time / bare TCP", 1.20, many.ratio(ours, bareTCP, elapsed)),
		within("handshake, 1 dialer: time / net/http Hijack", 0.90, one.ratio(ours, byHand, elapsed)),
		within("handshake, 1 dialer, not pinned: time / net/http Hijack", 0.90, loose.ratio(ours, byHand, elapsed)),
		within("handshake, 64 dialers: time / net/http Hijack", 0.90, many.ratio(ours, byHand, elapsed)),
		within("server exchange into the caller's memory: time / http.ReadRequest and reply", 0.20,
			memory.ratio(exchangeOurs, exchangeByHand, elapsed)),
		count("one connection in use: allocations for each message of 64 bytes, both sides", 0, steady.median(ours, echoAllocs)),
		most("idle connection: RSS / bare TCP, beside one copy of the head", 1.06, beside(r.section(keyIdle), bareTCP)),
		most("stuck in its head: RSS / a blocked reader", 1.10, waiting.median(waitsHead, rss)/waiting.median(blockedReader, rss)),
		most("silent: RSS / a blocked reader", 1.10, waiting.median(waitsSilent, rss)/waiting.median(blockedReader, rss)),
		most("stuck in a ClientHello: RSS, beside what it has sent / a blocked reader", 1.10,
			(waiting.median(waitsHello, rss)-float64(len(halfHello)))/waiting.median(blockedReader, rss)),
		{what: "good clients beside few that are stuck: rate / alone", limit: 0.7, floor: true, value: goes.median, spread: goes.half},
		{what: "good clients beside many that are stuck: rate / alone", limit: 0.7, floor: true, value: goesMany.median, spread: goesMany.half},
		within("relay of tunnels: CPU / bare TCP", 1.15, relay.ratio(tunnel, relay.first(), relayCPU)),
		{what: "relay of tunnels: splice calls", limit: 1, floor: true, value: relay.median(tunnel, splices)},
		most("relay of tunnels: read and write calls", 100, relay.median(tunnel, readsWrite)),
	}
	return slices.Concat(of, r.framingBudgets(), r.churnBudgets(), r.commandBudgets())
}

// first returns the row with which the others are compared. It is empty if the section
// was not measured.
func (s *samples) first() string {
	if len(s.rows) == 0 {
		return ""
	}
	return s.rows[0]
}

func (r *results) budgets() string {
	t := table{heads: []string{"budget", "limit", "measured", "verdict"}}
	for _, b := range r.list() {
		sign := "≤"
		if b.floor {
			sign = "≥"
		}
		value, verdict := fmt.Sprintf("%.2f", b.value), "pass"
		if b.spread > 0 {
			value = spread{b.value, b.spread}.String()
		}
		switch {
		case math.IsNaN(b.value):
			value, verdict = none, "not measured"
		case !b.met():
			verdict = "**short**"
		}
		t.rows = append(t.rows, []string{b.what, fmt.Sprintf("%s %.4g", sign, b.limit), value, verdict})
	}
	return "## The budgets\n\nA median that is within the limit passes. The ± shows how certain that is. Budgets that are pure counts are\nalso tests of the library.\n\n" + t.markdown()
}
