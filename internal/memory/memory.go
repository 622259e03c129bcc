// Package memory remembers which of several choices has worked, by key.
//
// A caller that has no record tries its choices in its own order, and is never held
// back. A choice that was refused leads to a walk over the others. Of the callers
// with the same key one walks at a time; the others wait for its result. What
// worked behind a refusal is remembered for a time. When that is over, one caller
// tries its first choice again, while the others keep to the record.
package memory

import (
	"context"
	"sync"
	"time"
)

const (
	// Lifetime is how long a record is valid.
	Lifetime = 15 * time.Minute
	// Most is the number of records that a table holds. A further one replaces the
	// oldest.
	Most = 256
)

// A Table holds records. The zero value is empty and ready to use. All methods may be
// called at the same time.
type Table[K, V comparable] struct {
	mu      sync.Mutex
	records map[K]*record[V]
	walks   map[K]*walk[V] // under way
}

type record[V comparable] struct {
	value V
	until time.Time
	trial bool // it has expired, and a visit tries its first choice again
}

type walk[V comparable] struct {
	done  chan struct{} // closed at the end; found and value are set before
	found bool
	value V
}

// A Visit is the use of a table by one caller for one key. [Visit.End] must be called.
// Its methods must not be called at the same time. The zero Visit remembers nothing.
type Visit[K, V comparable] struct {
	table  *Table[K, V]
	key    K
	trial  *record[V] // that this visit may replace; nil: none
	walk   *walk[V]   // of this visit; nil: none
	fell   bool       // a choice was refused
	waited bool
}

// Visit begins a visit. If ok, value has worked, and is to be tried first.
func (t *Table[K, V]) Visit(key K) (v Visit[K, V], value V, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v = Visit[K, V]{table: t, key: key}
	r := t.records[key]
	if r == nil {
		return v, value, false
	}
	if !r.trial && !time.Now().Before(r.until) {
		r.trial = true
		v.trial = r
		return v, value, false
	}
	return v, r.value, true
}

// Refused says that a choice was refused. If it is the one that is remembered, it is
// forgotten.
func (v *Visit[K, V]) Refused(value V) {
	if v.table == nil {
		return
	}
	v.fell = true
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	if r := v.table.records[v.key]; r != nil && r.value == value {
		delete(v.table.records, v.key)
	}
}

// Next is called between Refused and the next choice. If ok, value has worked for
// another visit meanwhile, and is to be tried next. Otherwise this visit goes on in its
// own order.
//
// If another visit walks, Next waits for its result, once in a visit. It waits until
// ctx ends, and at most for patience, if that is not negative. A walk that has found
// nothing lets those who wait go on by themselves.
func (v *Visit[K, V]) Next(ctx context.Context, patience time.Duration) (value V, ok bool) {
	if v.table == nil || v.walk != nil {
		return value, false
	}
	w, r := v.join()
	switch {
	case r != nil:
		return r.value, true
	case w == nil || v.waited:
		return value, false
	}
	v.waited = true
	var expired <-chan time.Time
	if patience >= 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-w.done:
		return w.value, w.found
	case <-expired:
	case <-ctx.Done():
	}
	return value, false
}

// join takes the walk. It returns the walk of another visit, or a record that was made
// since this visit began, instead.
func (v *Visit[K, V]) join() (other *walk[V], r *record[V]) {
	t := v.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.records[v.key]; r != nil && r != v.trial {
		return nil, r
	}
	if w := t.walks[v.key]; w != nil {
		return w, nil
	}
	if t.walks == nil {
		t.walks = make(map[K]*walk[V])
	}
	v.walk = &walk[V]{done: make(chan struct{})}
	t.walks[v.key] = v.walk
	return nil, nil
}

// Worked ends the visit with the choice that worked. It is remembered if another was
// refused before, unless it is the first choice, with which every visit begins anyway.
func (v *Visit[K, V]) Worked(value V, first bool) {
	if !v.fell && v.trial == nil {
		return
	}
	t := v.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if first {
		delete(t.records, v.key)
	} else {
		t.put(v.key, value)
	}
	if v.walk != nil {
		v.walk.found, v.walk.value = true, value
	}
	v.end()
}

// put makes a record, in place of the oldest if there are too many.
func (t *Table[K, V]) put(key K, value V) {
	if t.records == nil {
		t.records = make(map[K]*record[V])
	}
	if _, ok := t.records[key]; !ok && len(t.records) >= Most {
		var oldest K
		var until time.Time
		for k, r := range t.records {
			if until.IsZero() || r.until.Before(until) {
				oldest, until = k, r.until
			}
		}
		delete(t.records, oldest)
	}
	t.records[key] = &record[V]{value: value, until: time.Now().Add(Lifetime)}
}

// End ends the visit. Behind Worked it does nothing. Otherwise nothing is written and
// nothing deleted: a failure that is no refusal says nothing about the choices.
func (v *Visit[K, V]) End() {
	if v.walk == nil && v.trial == nil {
		return
	}
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	v.end()
}

// end gives back what the visit has taken. The caller holds the lock.
func (v *Visit[K, V]) end() {
	if v.trial != nil {
		v.trial.trial = false // the next visit tries again, if the record is still there
		v.trial = nil
	}
	if v.walk != nil {
		delete(v.table.walks, v.key)
		close(v.walk.done)
		v.walk = nil
	}
}
