package main

import (
	"errors"
	"sync"
)

var errSlow = errors.New("the client takes its messages more slowly than they come")

// A sender writes one frame to a client.
type sender func(parts ...[]byte) error

// An item is what waits to be written to a client: a frame, or a query, which
// makes its frames as they are written.
type item struct {
	frame [][]byte
	query func(send sender) error
	done  chan struct{} // closed behind the query, whatever became of it

	// A message of a bookmark subscription: the bookmark to acknowledge.
	subscription *subscription
	bookmark     string
}

func (i item) size() int {
	n := 128 // for what holds it together
	for _, part := range i.frame {
		n += len(part)
	}
	return n
}

// An outbox holds what a client has still to be sent. It is bounded: who
// publishes never waits for who reads.
type outbox struct {
	limit int           // bytes
	ready chan struct{} // there are items, or no more will come

	mu     sync.Mutex
	items  []item
	bytes  int // put and not yet written
	closed bool
}

func newOutbox(limit int) *outbox {
	return &outbox{limit: limit, ready: make(chan struct{}, 1)}
}

// put adds an item. A closed outbox drops it. Beyond the limit, the error is
// errSlow.
func (o *outbox) put(i item) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		if i.done != nil {
			close(i.done)
		}
		return nil
	}
	if o.bytes += i.size(); o.bytes > o.limit {
		return errSlow
	}
	o.items = append(o.items, i)
	o.wake()
	return nil
}

// close lets the items be written that are in it, and no more.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.wake()
}

func (o *outbox) wake() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// take returns all items, and whether more may come. The caller hands each to
// written.
func (o *outbox) take() (items []item, open bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	items, o.items = o.items, nil
	return items, !o.closed
}

func (o *outbox) written(i item) {
	if i.done != nil {
		close(i.done)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes -= i.size()
}
