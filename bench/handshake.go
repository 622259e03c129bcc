package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// The quantities of handshakes.
const (
	elapsed      = "time"
	latency      = "latency"
	rate         = "rate"
	serverCPU    = "server CPU"
	clientCPU    = "client CPU"
	serverAllocs = "server allocs"
	serverBytes  = "server bytes"
	clientAllocs = "client allocs"
	clientBytes  = "client bytes"
)

// The keys of sections, by which budgets and plots find them.
const (
	keyOne   = "handshake-1"
	keyLoose = "handshake-1-loose"
	keyMany  = "handshake-64"
)

// A handshaking is a section about handshakes.
type handshaking struct {
	key, title, text string
	of               []string                // peers
	base             func(row string) string // with which a row is compared; nil: the first one
	start            func(context.Context, string) (*pair, error)
	repetitions      int
	n, dialers       int // in a repetition
}

func (b *bench) handshakeOne(ctx context.Context) (*section, error) {
	return b.handshakes(ctx, handshaking{
		key: keyOne, title: "Handshake, one dialer",
		text: " " + pinned + " Framed tunnels are aborted. p50 is the time of the dial alone.",
		of:   withTimed(append(names(peers), framedTCP, framedWS)), start: b.pinnedPair, repetitions: b.repetitions, n: b.one, dialers: 1,
	})
}

// handshakeLoose lets the kernel choose the processors of both sides, as most users do.
func (b *bench) handshakeLoose(ctx context.Context) (*section, error) {
	return b.handshakes(ctx, handshaking{
		key: keyLoose, title: "Handshake, one dialer, not pinned",
		text: " The kernel may run both sides on any processor. One side then sometimes waits while threads of the other look for work. Four times as many repetitions compensate for that.",
		of:   withTimed([]string{bareTCP, ours, plain, byHand}), start: b.pair, repetitions: 4 * b.repetitions, n: b.one, dialers: 1,
	})
}

func (b *bench) handshakeMany(ctx context.Context) (*section, error) {
	return b.handshakes(ctx, handshaking{
		key: keyMany, title: "Handshake, 64 dialers at once",
		of: withTimed(names(peers)), start: b.pair, repetitions: b.repetitions, n: b.many, dialers: 64,
	})
}

// withTimed adds timed behind the first peer.
func withTimed(of []string) []string { return slices.Insert(of, 1, timed.name) }

func micros(d time.Duration, n int) float64 { return float64(d) / float64(n) / 1e3 }

func (b *bench) handshakes(ctx context.Context, of handshaking) (*section, error) {
	ratio := against(of.base)
	s := &section{
		key: of.key, title: of.title,
		text: fmt.Sprintf("Dial, handshake, close: %d times in each of %d repetitions. CPU in µs, allocations and bytes are for one connection, from accept to close.", of.n, of.repetitions) + of.text,
		columns: []column{
			ratio("time, ratio", elapsed), median("per s", rate, "%.0f"), median("p50 µs", latency, "%.0f"),
			median("server CPU", serverCPU, "%.0f"), ratio("ratio", serverCPU),
			median("client CPU", clientCPU, "%.0f"), ratio("ratio", clientCPU),
			median("server allocs", serverAllocs, "%.1f"), median("B", serverBytes, "%.0f"),
			median("client allocs", clientAllocs, "%.1f"), median("B", clientBytes, "%.0f"),
		},
		samples: newSamples(of.of...),
	}
	return s, b.rotate(ctx, of.title, of.of, of.start, of.repetitions, func(p *pair, first bool) error {
		if first { // creates what is created only once
			if _, _, err := p.order(order{Op: "handshake", N: 2 * of.dialers, Dialers: of.dialers}); err != nil {
				return err
			}
		}
		client, server, err := p.order(order{Op: "handshake", N: of.n, Dialers: of.dialers})
		if err != nil {
			return err
		}
		s.samples.handshake(p.peer, of.n, client, server)
		return nil
	})
}

// handshake adds what n handshakes took.
func (s *samples) handshake(row string, n int, client answer, server usage) {
	s.add(row, elapsed, micros(client.Elapsed, n))
	s.add(row, rate, float64(n)/client.Elapsed.Seconds())
	s.add(row, latency, micros(client.Latency, 1))
	s.add(row, serverCPU, micros(server.CPU, n))
	s.add(row, clientCPU, micros(client.Used.CPU, n))
	s.add(row, serverAllocs, float64(server.Allocs)/float64(n))
	s.add(row, serverBytes, float64(server.Bytes)/float64(n))
	s.add(row, clientAllocs, float64(client.Used.Allocs)/float64(n))
	s.add(row, clientBytes, float64(client.Used.Bytes)/float64(n))
}

// rotate starts the processes of some peers. In each repetition it calls f for each of
// them, and begins with another peer each time.
func (b *bench) rotate(ctx context.Context, title string, of []string, start func(context.Context, string) (*pair, error), repetitions int, f func(p *pair, first bool) error) error {
	var pairs []*pair
	defer func() {
		for _, p := range pairs {
			p.stop()
		}
	}()
	for _, name := range of {
		p, err := start(ctx, name)
		if err != nil {
			return err
		}
		pairs = append(pairs, p)
	}
	return b.repeat(title, repetitions, len(pairs), func(i int, first bool) error { return f(pairs[i], first) })
}

// repeat calls f for 0 to n-1 in each repetition, rotated by one each time.
func (b *bench) repeat(title string, repetitions, n int, f func(i int, first bool) error) error {
	for rep := range repetitions {
		fmt.Fprintf(b.progress, "%s: %d of %d\n", title, rep+1, repetitions)
		for i := range n {
			if err := f((i+rep)%n, rep == 0); err != nil {
				return err
			}
		}
	}
	return nil
}
