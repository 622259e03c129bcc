package main

import (
	"context"
	"fmt"
)

// The keys of the other sections.
const (
	keyMemory    = "memory"
	keySyscalls  = "syscalls"
	keyTelemetry = "telemetry"
	keySteady    = "steady"
	keyFraming   = "framing"
)

func (b *bench) telemetry(ctx context.Context) (*section, error) {
	of := append([]string{ours}, names(telemetryPeers)...)
	return b.handshakes(ctx, handshaking{
		key: keyTelemetry, title: "Telemetry",
		text: " `Telemetry` is nil in the first row. The other rows have the no-op providers and the SDK. The SDK samples every span, batches the spans for an exporter that drops them, and aggregates all metrics. With the SDK the client also sends `traceparent`, 70 bytes.",
		of:   of, start: b.pair, repetitions: b.repetitions, n: b.many, dialers: 64,
	})
}

// The quantities of work in memory.
const (
	allocs = "allocs"
	bytesN = "bytes"
)

func (b *bench) inMemory(ctx context.Context) (*section, error) {
	const title = "In memory"
	s := &section{
		key: keyMemory, title: title,
		text: fmt.Sprintf("Parsing, and whole exchanges over a connection in memory, %d times in each of %d repetitions. A ratio compares with the first row of its kind. The last kind is two benchmarks of the library itself, with a head of 176 bytes and a deadline. They measure what `preflight.Server` does before it makes a Conn.", b.feats, b.repetitions),
		columns: []column{
			{"time, ratio", func(s *samples, row string) string { return s.ratio(row, firstFeat(row), elapsed).String() }},
			median("ns", elapsed, "%.0f"), median("allocs", allocs, "%.1f"), median("B", bytesN, "%.0f"),
		},
		samples: newSamples(),
	}
	for _, f := range feats {
		s.samples.rows = append(s.samples.rows, f.String())
	}
	s.samples.rows = append(s.samples.rows, exchangeOurs, exchangeByHand)
	program, err := b.buildExchange(ctx)
	if err != nil {
		return nil, err
	}
	p, err := b.start(ctx, nil, "memory")
	if err != nil {
		return nil, err
	}
	defer p.stop()
	return s, b.repeat(title, b.repetitions, len(feats)+1, func(i int, first bool) error {
		if i == len(feats) {
			return b.exchange(ctx, program, s.samples)
		}
		row := feats[i].String()
		if first {
			if _, err := p.do(order{Op: row, N: b.feats / 10}); err != nil {
				return err
			}
		}
		a, err := p.do(order{Op: row, N: b.feats})
		if err != nil {
			return err
		}
		s.samples.add(row, elapsed, float64(a.Elapsed)/float64(b.feats))
		s.samples.add(row, allocs, float64(a.Used.Allocs)/float64(b.feats))
		s.samples.add(row, bytesN, float64(a.Used.Bytes)/float64(b.feats))
		return nil
	})
}

// firstFeat returns the row with which the others of its group are compared.
func firstFeat(row string) string {
	if row == exchangeOurs || row == exchangeByHand {
		return exchangeOurs
	}
	for _, f := range feats {
		if f.String() == row {
			for _, first := range feats {
				if first.group == f.group {
					return first.String()
				}
			}
		}
	}
	return ""
}

// The quantities of connections in use.
const (
	throughput = "throughput"
	bulkCPU    = "bulk CPU"
	bulkAllocs = "bulk allocs"
	echoTime   = "echo time"
	echoCPU    = "echo CPU"
	echoAllocs = "echo allocs"
)

const giB = 1 << 30

// A using is a section about connections in use.
type using struct {
	key, title, text string
	of               []string // peers
}

func (b *bench) steady(ctx context.Context) (*section, error) {
	return b.inUse(ctx, using{key: keySteady, title: "One connection in use", of: names(peers)})
}

func (b *bench) inUse(ctx context.Context, of using) (*section, error) {
	s := &section{
		key: of.key, title: of.title,
		text: fmt.Sprintf("%d MiB in writes and reads of %d KiB, and %d messages of %d bytes that are sent back one by one, without the handshake; %d repetitions. CPU and allocations are those of both sides. %s",
			b.bulk>>20, bulkChunk>>10, b.echoes, echoSize, b.few, pinned) + of.text,
		columns: []column{
			ratio("bulk time, ratio", elapsed), median("MiB/s", throughput, "%.0f"), median("CPU s/GiB", bulkCPU, "%.2f"), median("allocs/GiB", bulkAllocs, "%.0f"),
			ratio("echo time, ratio", echoTime), median("µs", echoTime, "%.1f"), median("CPU µs", echoCPU, "%.1f"), median("allocs", echoAllocs, "%.2f"),
		},
		samples: newSamples(of.of...),
	}
	return s, b.rotate(ctx, of.title, s.samples.rows, b.pinnedPair, b.few, func(p *pair, first bool) error {
		if first {
			if _, err := p.client.do(order{Op: "connect", Address: p.server.hello.Address}); err != nil {
				return err
			}
			if _, _, err := p.order(order{Op: "bulk", Bytes: b.bulk / 8}); err != nil {
				return err
			}
			if _, _, err := p.order(order{Op: "echo", N: b.echoes / 8}); err != nil {
				return err
			}
		}
		client, server, err := p.order(order{Op: "bulk", Bytes: b.bulk})
		if err != nil {
			return err
		}
		gib := float64(b.bulk) / giB
		s.samples.add(p.peer, elapsed, client.Elapsed.Seconds())
		s.samples.add(p.peer, throughput, gib*1024/client.Elapsed.Seconds())
		s.samples.add(p.peer, bulkCPU, (server.CPU+client.Used.CPU).Seconds()/gib)
		s.samples.add(p.peer, bulkAllocs, float64(server.Allocs+client.Used.Allocs)/gib)
		if client, server, err = p.order(order{Op: "echo", N: b.echoes}); err != nil {
			return err
		}
		s.samples.add(p.peer, echoTime, micros(client.Elapsed, b.echoes))
		s.samples.add(p.peer, echoCPU, micros(server.CPU+client.Used.CPU, b.echoes))
		s.samples.add(p.peer, echoAllocs, float64(server.Allocs+client.Used.Allocs)/float64(b.echoes))
		return nil
	})
}
