package memory_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight/internal/memory"
	"github.com/stretchr/testify/require"
)

// choices are tried in this order.
var choices = []string{"first", "second", "third"}

const patience = 10 * time.Second

// An edge accepts some choices. It counts the requests for each choice.
type edge struct {
	memory.Table[string, string]
	passes sync.Map     // the choices that it accepts
	down   atomic.Bool  // it answers nothing
	delay  atomic.Int64 // the delay of each answer
	asked  sync.Map     // the number of requests, an *atomic.Int64 for each choice
}

func newEdge(passes ...string) *edge {
	e := new(edge)
	e.pass(passes...)
	return e
}

func (e *edge) pass(passes ...string) {
	e.passes.Clear()
	for _, p := range passes {
		e.passes.Store(p, true)
	}
}

func (e *edge) count(choice string) int64 {
	n, _ := e.asked.LoadOrStore(choice, new(atomic.Int64))
	return n.(*atomic.Int64).Load()
}

// counts returns the number of requests for each choice since the last call.
func (e *edge) counts() (n [3]int64) {
	for i, c := range choices {
		n[i] = e.count(c)
	}
	e.asked.Clear()
	return n
}

// ask sends one request.
func (e *edge) ask(choice string) (passed, down bool) {
	n, _ := e.asked.LoadOrStore(choice, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	time.Sleep(time.Duration(e.delay.Load()))
	_, passed = e.passes.Load(choice)
	return passed, e.down.Load()
}

// dial uses the table as a dialer does. It returns the choice that worked, or "".
func (e *edge) dial(ctx context.Context, key string) string {
	left := append([]string(nil), choices...)
	prefer := func(choice string) {
		for i, c := range left {
			if c == choice {
				left = append([]string{choice}, append(left[:i:i], left[i+1:]...)...)
				return
			}
		}
	}
	v, choice, ok := e.Visit(key)
	defer func() { v.End() }()
	if ok {
		prefer(choice)
	}
	for len(left) > 0 && ctx.Err() == nil {
		passed, down := e.ask(left[0])
		switch {
		case down:
			return ""
		case passed:
			v.Worked(left[0], left[0] == choices[0])
			return left[0]
		}
		v.Refused(left[0])
		left = left[1:]
		if choice, ok := v.Next(ctx, patience); ok {
			prefer(choice)
		}
	}
	return ""
}

// pool dials n times at once and returns how often each choice worked.
func (e *edge) pool(n int) map[string]int {
	results := make(chan string, n)
	for range n {
		go func() { results <- e.dial(context.Background(), "key") }()
	}
	worked := make(map[string]int)
	for range n {
		worked[<-results]++
	}
	return worked
}

// TestHealthy: if the first choice works, no caller waits for another, and nothing is
// remembered.
func TestHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge(choices...)
		e.delay.Store(int64(time.Second))
		start := time.Now()
		require.Equal(t, map[string]int{"first": 100}, e.pool(100))
		require.Equal(t, time.Second, time.Since(start))
		require.Equal(t, [3]int64{100, 0, 0}, e.counts())
		_, _, ok := e.Visit("key")
		require.False(t, ok)
	})
}

// TestPool: after one dial that walked, all dials of a pool use its result.
func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge("third")
		require.Equal(t, "third", e.dial(t.Context(), "key"))
		require.Equal(t, map[string]int{"third": 100}, e.pool(100))
		require.Equal(t, [3]int64{1, 1, 101}, e.counts())
		require.Equal(t, "third", e.dial(t.Context(), "another key"))
		require.Equal(t, [3]int64{1, 1, 1}, e.counts())
	})
}

// TestPoolAtOnce: no dial waits before its first answer. So the first request of each dial
// of a new pool may be refused. Then one dial walks over the other choices.
func TestPoolAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge("third")
		e.delay.Store(int64(time.Second))
		start := time.Now()
		require.Equal(t, map[string]int{"third": 100}, e.pool(100))
		require.Equal(t, [3]int64{100, 1, 100}, e.counts())
		require.Equal(t, 4*time.Second, time.Since(start)) // the others continue after the walk
	})
}

// TestRefusedAfterWalk: if a dial began before a walk and is refused after it, its next
// choice is the result of the walk.
func TestRefusedAfterWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge("third")
		v, _, ok := e.Visit("key")
		require.False(t, ok)
		require.Equal(t, "third", e.dial(t.Context(), "key"))
		v.Refused("first")
		choice, ok := v.Next(t.Context(), patience)
		require.True(t, ok)
		require.Equal(t, "third", choice)
		v.End()
	})
}

// TestOutage: a failure that is not a refusal neither writes nor deletes a record.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge("second")
		e.down.Store(true)
		require.Equal(t, map[string]int{"": 10}, e.pool(10))
		_, _, ok := e.Visit("key")
		require.False(t, ok)

		e.down.Store(false)
		require.Equal(t, "second", e.dial(t.Context(), "key"))
		e.down.Store(true)
		require.Equal(t, map[string]int{"": 10}, e.pool(10))
		e.down.Store(false)
		e.counts()
		require.Equal(t, "second", e.dial(t.Context(), "key"))
		require.Equal(t, [3]int64{0, 1, 0}, e.counts())
	})
}

// TestAllRefused: a walk that finds nothing is not remembered, and the others do not wait again.
func TestAllRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge()
		e.delay.Store(int64(time.Second))
		start := time.Now()
		require.Equal(t, map[string]int{"": 10}, e.pool(10))
		require.Equal(t, 5*time.Second, time.Since(start)) // 1 for the first choice, 2 for the walk, 2 for each of the others
		require.Equal(t, [3]int64{10, 10, 10}, e.counts())
		e.pass("second")
		require.Equal(t, "second", e.dial(t.Context(), "key"))
	})
}

// TestForgotten: if a remembered choice is refused, its record is deleted, and the dial walks
// once over the others.
func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge("third")
		require.Equal(t, "third", e.dial(t.Context(), "key"))
		e.pass("second")
		e.counts()
		require.Equal(t, "second", e.dial(t.Context(), "key"))
		require.Equal(t, [3]int64{1, 1, 1}, e.counts())
		require.Equal(t, "second", e.dial(t.Context(), "key"))
		require.Equal(t, [3]int64{0, 1, 0}, e.counts())

		// The first choice is not remembered.
		e.pass("first")
		require.Equal(t, "first", e.dial(t.Context(), "key"))
		_, _, ok := e.Visit("key")
		require.False(t, ok)

		// If the choice of a pool is refused, the pool walks once, too.
		e.pass("third")
		require.Equal(t, "third", e.dial(t.Context(), "key"))
		e.pass("second")
		e.delay.Store(int64(time.Second))
		e.counts()
		require.Equal(t, map[string]int{"second": 100}, e.pool(100))
		require.Equal(t, [3]int64{1, 100, 100}, e.counts())
	})
}

// TestExpiry: when a record has expired, one dial begins with its first choice, while the
// others still use the record.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge("third")
		require.Equal(t, "third", e.dial(t.Context(), "key"))
		time.Sleep(memory.Lifetime - 1)
		e.counts()
		require.Equal(t, "third", e.dial(t.Context(), "key"))
		require.Equal(t, [3]int64{0, 0, 1}, e.counts())

		time.Sleep(time.Nanosecond)
		e.delay.Store(int64(time.Second))
		start := time.Now()
		require.Equal(t, map[string]int{"third": 100}, e.pool(100))
		require.Equal(t, [3]int64{1, 1, 100}, e.counts())
		require.Equal(t, 3*time.Second, time.Since(start)) // for the one dial; the others did not wait for it
		require.Equal(t, map[string]int{"third": 100}, e.pool(100))
		require.Equal(t, [3]int64{0, 0, 100}, e.counts(), "the record is new")

		// If that dial meets an outage, the next dial tries the first choice.
		time.Sleep(memory.Lifetime)
		e.down.Store(true)
		require.Empty(t, e.dial(t.Context(), "key"))
		e.down.Store(false)
		e.pass(choices...)
		e.counts()
		require.Equal(t, map[string]int{"first": 1, "third": 99}, e.pool(100))
		require.Equal(t, map[string]int{"first": 100}, e.pool(100), "the record is gone")
	})
}

// TestPatience: a visit waits for a walk until its patience or its context ends.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var table memory.Table[string, string]
		walker, _, _ := table.Visit("key")
		walker.Refused("first")
		_, ok := walker.Next(t.Context(), patience)
		require.False(t, ok)

		wait := func(ctx context.Context, patience time.Duration) (time.Duration, bool) {
			v, _, _ := table.Visit("key")
			defer func() { v.End() }()
			v.Refused("first")
			start := time.Now()
			_, ok := v.Next(ctx, patience)
			waited := time.Since(start)
			v.Refused("second")
			v.Next(ctx, patience)
			require.Equal(t, waited, time.Since(start), "a visit waits once")
			return waited, ok
		}
		waited, ok := wait(t.Context(), patience)
		require.False(t, ok)
		require.Equal(t, patience, waited)
		waited, ok = wait(t.Context(), 0)
		require.False(t, ok)
		require.Zero(t, waited)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		waited, ok = wait(ctx, -1)
		require.False(t, ok)
		require.Equal(t, time.Second, waited)
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		go func() {
			time.Sleep(time.Minute)
			walker.Worked("third", false)
		}()
		waited, ok = wait(ctx, -1)
		require.True(t, ok)
		require.Equal(t, time.Minute, waited)
		walker.End() // does nothing
	})
}

// TestMost: a new record replaces the oldest one.
func TestMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge("second")
		for i := range memory.Most + 1 {
			require.Equal(t, "second", e.dial(t.Context(), fmt.Sprint(i)))
			time.Sleep(time.Nanosecond)
		}
		_, _, ok := e.Visit("0")
		require.False(t, ok)
		for i := range memory.Most {
			_, _, ok := e.Visit(fmt.Sprint(i + 1))
			require.True(t, ok, i+1)
		}
	})
}

// TestZeroVisit remembers nothing.
func TestZeroVisit(t *testing.T) {
	var v memory.Visit[string, string]
	v.Refused("first")
	_, ok := v.Next(t.Context(), patience)
	require.False(t, ok)
	v.Worked("second", false)
	v.End()
}

// TestRace: visits of all kinds at the same time.
func TestRace(t *testing.T) {
	e := newEdge("second")
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for j := range 100 {
				switch {
				case i == 0 && j%10 == 0:
					e.pass(choices[j/10%3])
				default:
					e.dial(context.Background(), fmt.Sprint(j%3))
				}
			}
		})
	}
	group.Wait()
}

func BenchmarkVisit(b *testing.B) {
	e := newEdge("second")
	e.dial(b.Context(), "key")
	b.ReportAllocs()
	for b.Loop() {
		v, _, _ := e.Visit("key")
		v.Worked("second", false)
		v.End()
	}
}
