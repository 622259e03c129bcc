// Package rates limits how often each address may do something.
package rates

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A Table has a token bucket for each address. It remembers at most twice maxAddresses: when the
// young ones are so many, they become the old ones, and the old ones are forgotten. Somebody who
// wants to be forgotten needs so many addresses.
type Table struct {
	limit rate.Limit
	burst int

	mu         sync.Mutex
	young, old map[netip.Addr]*rate.Limiter
}

const maxAddresses = 1 << 14

// New returns a table that allows each address burst times at once, and then perSecond times a
// second.
func New(perSecond float64, burst int) *Table {
	return &Table{limit: rate.Limit(perSecond), burst: burst, young: make(map[netip.Addr]*rate.Limiter)}
}

// Allow reports whether the address may do it once more now, and if not, how long it has to wait.
// An IPv6 address counts with all of its /64, which one client may have.
func (t *Table) Allow(a netip.Addr, now time.Time) (wait time.Duration, ok bool) {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64) // of 128 bits
		a = p.Addr()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.bucket(a).ReserveN(now, 1)
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return wait, false
	}
	return 0, true
}

func (t *Table) bucket(a netip.Addr) *rate.Limiter {
	b := t.young[a]
	if b != nil {
		return b
	}
	if b = t.old[a]; b == nil {
		b = rate.NewLimiter(t.limit, t.burst)
	}
	if len(t.young) >= maxAddresses {
		t.young, t.old = make(map[netip.Addr]*rate.Limiter), t.young
	}
	t.young[a] = b
	return b
}
