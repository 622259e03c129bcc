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

// An edge passes some choices. It counts what it is asked.
type edge struct {
	memory.Table[string, string]
	passes sync.Map     // by choice
	down   atomic.Bool  // nothing is answered
	delay  atomic.Int64 // of each answer
	asked  sync.Map     // *atomic.Int64 by choice
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

// counts returns how often each choice was asked for, and forgets it.
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

// TestHealthy: where the first choice passes, nobody waits for anybody, and nothing is
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

// TestPool: behind one dial that fell, a pool goes straight.
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

// TestPoolAtOnce: no dial is held back before the first answer, so each of a cold pool
// may lose its first request. One of them walks over the others.
func TestPoolAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge("third")
		e.delay.Store(int64(time.Second))
		start := time.Now()
		require.Equal(t, map[string]int{"third": 100}, e.pool(100))
		require.Equal(t, [3]int64{100, 1, 100}, e.counts())
		require.Equal(t, 4*time.Second, time.Since(start)) // the waiters begin behind the walk
	})
}

// TestLate: a dial that began before the walk and is refused behind it starts at its
// result.
func TestLate(t *testing.T) {
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

// TestOutage: what is no refusal neither writes nor deletes.
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

// TestAllRefused: a walk that finds nothing is not remembered, and holds nobody back.
func TestAllRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdge()
		e.delay.Store(int64(time.Second))
		start := time.Now()
		require.Equal(t, map[string]int{"": 10}, e.pool(10))
		require.Equal(t, 5*time.Second, time.Since(start)) // 1 each, 2 for the walk, 2 by themselves
		require.Equal(t, [3]int64{10, 10, 10}, e.counts())
		e.pass("second")
		require.Equal(t, "second", e.dial(t.Context(), "key"))
	})
}

// TestForgotten: a remembered choice that is refused is forgotten, and the dial walks once
// over the others.
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

		// What every dial begins with is not remembered.
		e.pass("first")
		require.Equal(t, "first", e.dial(t.Context(), "key"))
		_, _, ok := e.Visit("key")
		require.False(t, ok)

		// A pool whose choice is refused walks once, too.
		e.pass("third")
		require.Equal(t, "third", e.dial(t.Context(), "key"))
		e.pass("second")
		e.delay.Store(int64(time.Second))
		e.counts()
		require.Equal(t, map[string]int{"second": 100}, e.pool(100))
		require.Equal(t, [3]int64{1, 100, 100}, e.counts())
	})
}

// TestExpiry: when a record has expired, one dial tries from the top while the others keep
// to it.
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
		require.Equal(t, 3*time.Second, time.Since(start)) // of the one; nobody waited for it
		require.Equal(t, map[string]int{"third": 100}, e.pool(100))
		require.Equal(t, [3]int64{0, 0, 100}, e.counts(), "the record is new")

		// An outage of the one leaves it to the next.
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

// TestPatience: who waits for a walk does so until his patience or his context ends.
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
		walker.End() // does nothing any more
	})
}

// TestMost: the oldest record makes room.
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
