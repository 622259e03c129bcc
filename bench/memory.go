package main

import (
	"context"
	"fmt"
)

// The keys of the sections about many connections.
const (
	keyIdle   = "idle"
	keyGrowth = "growth"
)

// The quantities of each held connection.
const (
	rss       = "RSS"
	heapInUse = "heap"
	stackUsed = "stack"
)

// holders is the number of dialers that open the held connections.
const holders = 16

// A load is a pair whose server holds connections.
type load struct {
	*pair
	files int
	rss   int64
	usage usage
	held  int
}

// load starts a load. It first creates what is created only once: the pools, the first
// threads.
func (b *bench) load(p *pair) (*load, error) {
	if _, _, err := p.order(order{Op: "handshake", N: 100, Dialers: holders}); err != nil {
		return nil, err
	}
	l := &load{pair: p}
	var err error
	if l.rss, l.usage, err = l.memory(); err != nil {
		return nil, err
	}
	l.files, err = p.server.files()
	return l, err
}

func (l *load) memory() (rss int64, u usage, err error) {
	a, err := l.server.do(order{Op: "collect"})
	if err != nil {
		return 0, u, err
	}
	rss, err = l.server.rss()
	return rss, a.Used, err
}

// open makes the client hold n more connections, by the order op. It waits until the server
// has read all data.
func (l *load) open(op string, n int) (answer, error) {
	a, err := l.client.do(order{Op: op, Address: l.server.hello.Address, N: n, Dialers: holders})
	if err != nil {
		return a, fmt.Errorf("%s: %s %d: %w", l.peer, op, n, err)
	}
	l.held += n
	if err := l.server.until(func(files int) bool { return files >= l.files+l.held }); err != nil {
		return a, err
	}
	return a, l.server.hasRead()
}

// addMemory adds what each of the connections costs.
func (l *load) addMemory(s *samples, row string) error {
	rssNow, u, err := l.memory()
	if err != nil {
		return err
	}
	n := float64(l.held)
	s.add(row, rss, float64(rssNow-l.rss)/n)
	s.add(row, heapInUse, float64(u.Heap-l.usage.Heap)/n)
	s.add(row, stackUsed, float64(u.Stack-l.usage.Stack)/n)
	return nil
}

// loaded calls f with a load of processes that end with it.
func (b *bench) loaded(ctx context.Context, peer string, f func(*load) error) error {
	p, err := b.pair(ctx, peer)
	if err != nil {
		return err
	}
	defer p.stop()
	l, err := b.load(p)
	if err != nil {
		return err
	}
	return f(l)
}

func memoryColumns() []column {
	return []column{
		ratio("RSS, ratio", rss), median("RSS", rss, "%.0f"), median("heap", heapInUse, "%.0f"), median("stack", stackUsed, "%.0f"),
	}
}

func (b *bench) idleConnections(ctx context.Context) (*section, error) {
	const title = "Idle connections"
	s := &section{
		key: keyIdle, title: title,
		text: fmt.Sprintf("Bytes of the server process for each of %d connections that have finished their handshake and wait in Read, after a garbage collection; %d repetitions, each with new processes. The memory of the kernel is not included.",
			b.idle, min(2, b.few)),
		columns: memoryColumns(),
		samples: newSamples(append(names(peers), framedTCP, framedWS)...),
	}
	rows := s.samples.rows
	return s, b.repeat(title, min(2, b.few), len(rows), func(i int, _ bool) error {
		return b.loaded(ctx, rows[i], func(l *load) error {
			if _, err := l.open("hold", b.idle); err != nil {
				return err
			}
			return l.addMemory(s.samples, rows[i])
		})
	})
}

// grown are the peers whose cost is measured for several numbers of connections.
var grown = []string{bareTCP, ours}

func growthRow(peer string, n int) string { return fmt.Sprintf("%s, %d", peer, n) }

func (b *bench) growing(ctx context.Context) (*section, error) {
	const title = "Cost as connections grow"
	s := &section{
		key: keyGrowth, title: title,
		text:    fmt.Sprintf("For each connection, when the server holds so many: memory of all of them, and the time and CPU of the handshakes since the row before, with %d dialers; %d repetitions.", holders, min(2, b.few)),
		columns: append(memoryColumns()[1:], median("handshake µs", elapsed, "%.0f"), median("server CPU µs", serverCPU, "%.0f")),
		samples: newSamples(),
	}
	for _, n := range b.growth {
		for _, peer := range grown {
			s.samples.rows = append(s.samples.rows, growthRow(peer, n))
		}
	}
	return s, b.repeat(title, min(2, b.few), len(grown), func(i int, _ bool) error {
		return b.loaded(ctx, grown[i], func(l *load) error {
			for _, n := range b.growth {
				row, more := growthRow(grown[i], n), n-l.held
				before, err := l.server.do(order{Op: "usage"})
				if err != nil {
					return err
				}
				a, err := l.open("hold", more)
				if err != nil {
					return err
				}
				after, err := l.server.do(order{Op: "usage"})
				if err != nil {
					return err
				}
				s.samples.add(row, elapsed, micros(a.Elapsed, more))
				s.samples.add(row, serverCPU, micros(after.Used.since(before.Used).CPU, more))
				if err := l.addMemory(s.samples, row); err != nil {
					return err
				}
			}
			return nil
		})
	})
}
