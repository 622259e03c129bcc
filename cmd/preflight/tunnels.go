package main

import (
	"context"
	"sync"
	"time"

	"github.com/preflight-go/preflight/cmd/preflight/internal/relay"
)

// tunnels are those that are open.
type tunnels struct {
	running sync.WaitGroup
	mu      sync.Mutex
	cutting bool // wait cuts what is open, and what still opens
	cut     int  // so many
	open    map[*tunnel]struct{}
}

type tunnel struct{ a, b relay.Conn }

// add runs f in a goroutine that wait waits for.
func (t *tunnels) add(f func()) { t.running.Go(f) }

// run relays between a and b until both directions have ended. It calls opened when the
// tunnel counts as open.
func (t *tunnels) run(a, b relay.Conn, idle time.Duration, opened func()) relay.Result {
	x := &tunnel{a, b}
	t.mu.Lock()
	if t.cutting {
		x.reset()
		t.cut++
	}
	if t.open == nil {
		t.open = make(map[*tunnel]struct{})
	}
	t.open[x] = struct{}{}
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.open, x)
		t.mu.Unlock()
	}()
	opened()
	return relay.Run(a, b, idle)
}

func (x *tunnel) reset() {
	relay.Reset(x.a)
	relay.Reset(x.b)
}

// count returns how many tunnels are open.
func (t *tunnels) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open)
}

// wait waits until everything has ended. When ctx ends first, it resets what is open, and
// returns how much that was.
func (t *tunnels) wait(ctx context.Context) (cut int) {
	done := make(chan struct{})
	go func() {
		t.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return 0
	case <-ctx.Done():
	}
	t.mu.Lock()
	t.cutting, t.cut = true, len(t.open)
	for x := range t.open {
		x.reset()
	}
	t.mu.Unlock()
	<-done
	return t.cut
}
