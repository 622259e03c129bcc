// Package memory remembers which of several choices has worked, for each key.
//
// A caller without a record tries its choices in its own order, and does not wait before
// the first one. If a choice is refused, the caller walks over the others. Of the callers
// with the same key, one walks at a time. The others wait for its result. A choice that
// worked after a refusal is remembered for a time. When the record has expired, one
// caller tries its first choice again, while the others still use the record.
package memory

import (
	"context"
	"sync"
	"time"
)

const (
	// Lifetime is how long a record is valid.
	Lifetime = 15 * time.Minute
	// Most is the largest number of records in a table. A new record then replaces the
	// oldest one.
	Most = 256
)

// A Table holds records. The zero value is empty and ready to use. Its methods are safe
// for concurrent use.
type Table[K, V comparable] struct {
	mu      sync.Mutex
	records map[K]*record[V]
	walks   map[K]*walk[V] // the walks in progress
}

type record[V comparable] struct {
	value V
	until time.Time
	trial bool // the record has expired, and a visit tries its first choice again
}

type walk[V comparable] struct {
	done  chan struct{} // closed at the end, after found and value were set
	found bool
	value V
}

// A Visit is the use of a table by one caller for one key. [Visit.End] must be called.
// Its methods must not be called at the same time. The zero Visit remembers nothing.
type Visit[K, V comparable] struct {
	table   *Table[K, V]
	key     K
	trial   *record[V] // the expired record that this visit may replace; nil: none
	walk    *walk[V]   // the walk of this visit; nil: none
	refused bool       // a choice was refused
	waited  bool       // Next has waited for another visit
}

// Visit begins a visit. If ok is true, value has worked before, and the caller must try it
// first.
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

// Refused reports that a choice was refused. If the record contains this choice, the record
// is deleted.
func (v *Visit[K, V]) Refused(value V) {
	if v.table == nil {
		return
	}
	v.refused = true
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	if r := v.table.records[v.key]; r != nil && r.value == value {
		delete(v.table.records, v.key)
	}
}

// Next is called between Refused and the next choice. If ok is true, value has worked for
// another visit since this one began, and the caller must try it next. Otherwise the caller
// continues in its own order.
//
// If another visit walks, Next waits for its result. It does so once in a visit. It waits
// until ctx ends, and at most for patience. A negative patience means no limit. If the walk
// finds nothing, the waiting visits continue on their own.
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

// join begins a walk for this visit. If another visit walks, it returns that walk instead.
// If a record was made since this visit began, it returns the record instead.
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

// Worked ends the visit with the choice that worked. The choice is remembered if another
// one was refused before. The first choice is not remembered, because every visit without a
// record begins with it.
func (v *Visit[K, V]) Worked(value V, first bool) {
	if !v.refused && v.trial == nil {
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

// put makes a record. If the table is full, the record replaces the oldest one.
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

// End ends the visit. After Worked it does nothing. Otherwise it changes no record: a
// failure that is not a refusal gives no information about the choices.
func (v *Visit[K, V]) End() {
	if v.walk == nil && v.trial == nil {
		return
	}
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	v.end()
}

// end releases the trial and the walk of the visit. The caller holds the lock.
func (v *Visit[K, V]) end() {
	if v.trial != nil {
		v.trial.trial = false // if the record still exists, the next visit tries again
		v.trial = nil
	}
	if v.walk != nil {
		delete(v.table.walks, v.key)
		close(v.walk.done)
		v.walk = nil
	}
}
