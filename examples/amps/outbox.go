package main

import (
	"errors"
	"sync"
)

var errSlow = errors.New("the client takes its messages more slowly than they come")

// A sender writes one frame to a client.
type sender func(parts ...[]byte) error

// An item waits to be written to a client. It is a frame, or a query that makes its
// frames when it is written.
type item struct {
	frame [][]byte
	query func(send sender) error
	done  chan struct{} // closed after the query, also if it failed

	// For a message of a bookmark subscription: what to acknowledge.
	subscription *subscription
	bookmark     string
}

func (i item) size() int {
	n := 128 // for the item itself
	for _, part := range i.frame {
		n += len(part)
	}
	return n
}

// An outbox holds the frames that wait for a client. It is bounded. A publisher never
// waits for a subscriber.
type outbox struct {
	limit int           // bytes
	ready chan struct{} // there are items, or no more will come

	mu     sync.Mutex
	items  []item
	bytes  int // of the items that are not yet written
	closed bool
}

func newOutbox(limit int) *outbox {
	return &outbox{limit: limit, ready: make(chan struct{}, 1)}
}

// put adds an item. A closed outbox drops it. The error is errSlow if the outbox is
// full.
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

// close makes put drop everything from now on. The items in the outbox stay.
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

// take returns all items, and whether more may come. The caller must call written for
// each.
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
