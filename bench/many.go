package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

const keyBusy = "busy"

// The quantities of many tunnels in use. Those of bulk are named after this prefix.
const (
	messageRate = "messages per second"
	inBulk      = "bulk "
	gcServer    = "server GC"
	gcClient    = "client GC"
)

// tails are the quantiles of the latency of a message.
var tails = []struct {
	name string
	of   float64
}{{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}}

const (
	opTalk   = "talk"
	opDuplex = "duplex"

	talkSize    = 1 << 10
	duplexChunk = 16 << 10
)

// busyPeers are bare TCP, the carriers, and two WebSocket libraries.
var busyPeers = []string{bareTCP, ours, framedTCP, framedWS, gorillaWS, coderWS}

// busyRow is a row of a number of tunnels. It is compared with the row of bare TCP and the
// same number.
func busyRow(peer string, n int) string { return fmt.Sprintf("%s, %d", peer, n) }

func busyBase(row string) string {
	return bareTCP + row[strings.LastIndex(row, ", "):]
}

// A busy effort is how much many tunnels do in a repetition, all together.
type busyEffort struct {
	repetitions int
	tunnels     []int
	messages    int
	bytes       int64 // in each direction
}

func (b *bench) busyEffort() busyEffort {
	if b.quick {
		return busyEffort{1, []int{1, 20, 200}, 2000, 8 << 20}
	}
	return busyEffort{5, []int{1, 100, 1000}, 60000, 128 << 20}
}

// busyTunnels measures throughput and latency of tunnels that are all in use at once.
func (b *bench) busyTunnels(ctx context.Context) (*section, error) {
	const title = "Many tunnels in use at once"
	e := b.busyEffort()
	s := &section{
		key: keyBusy, title: title,
		text: fmt.Sprintf("The number of tunnels stands behind the name of each row, and a ratio compares with bare TCP and as many connections. Messages: each tunnel sends %d bytes, waits until they are back, and sends the next; %d messages together (a tenth of them with 1 tunnel). With many tunnels a message waits mostly for the other tunnels, so its latency follows from the throughput. Bulk: each tunnel sends and receives at the same time, in Writes of %d KiB, %d MiB each way together. GC is the share of the CPU of that side which the garbage collector uses, by runtime/metrics. %d repetitions, each with new processes. %s",
			talkSize, e.messages, duplexChunk>>10, e.bytes>>20, e.repetitions, pinned),
		samples: newSamples(),
	}
	for _, n := range e.tunnels {
		for _, peer := range busyPeers {
			s.samples.rows = append(s.samples.rows, busyRow(peer, n))
		}
	}
	s.columns = append(s.columns, busyRatio("messages: time, ratio", elapsed), median("per s", messageRate, "%.0f"))
	for _, tail := range tails {
		s.columns = append(s.columns, busyRatio(tail.name+", ratio", tail.name), median("µs", tail.name, "%.0f"))
	}
	s.columns = append(s.columns, median("server GC %", gcServer, "%.1f"), median("client GC %", gcClient, "%.1f"),
		busyRatio("bulk: time, ratio", inBulk+elapsed), median("MiB/s each way", inBulk+throughput, "%.0f"),
		median("server GC %", inBulk+gcServer, "%.1f"), median("client GC %", inBulk+gcClient, "%.1f"))
	return s, b.repeat(title, e.repetitions, len(busyPeers), func(i int, _ bool) error {
		p, err := b.pinnedPair(ctx, busyPeers[i])
		if err != nil {
			return err
		}
		defer p.stop()
		held := 0
		for _, n := range e.tunnels {
			a := order{Op: "hold", Address: p.server.hello.Address, N: n - held, Dialers: min(holders, n-held)}
			if _, err := p.client.do(a); err != nil {
				return fmt.Errorf("%s: %w", p.peer, err)
			}
			held = n
			if err := e.measure(p, n, s.samples); err != nil {
				return err
			}
		}
		return nil
	})
}

func busyRatio(head, quantity string) column {
	return column{head, func(s *samples, row string) string { return s.ratio(row, busyBase(row), quantity).String() }}
}

// measure uses all n tunnels of a pair.
func (e busyEffort) measure(p *pair, n int, s *samples) error {
	row, messages := busyRow(p.peer, n), e.messages
	if n == 1 {
		messages /= 10
	}
	for _, o := range []order{{Op: opTalk, Bytes: int64(messages) / 8}, {Op: opDuplex, Bytes: e.bytes / 8}} {
		o.N = n
		if _, _, err := p.order(o); err != nil { // the first ones are slower
			return err
		}
	}
	// run returns the answer, and adds the shares of the garbage collector.
	run := func(prefix string, o order) (answer, error) {
		for _, side := range []*process{p.server, p.client} {
			if _, err := side.do(order{Op: "collect"}); err != nil {
				return answer{}, err
			}
		}
		client, server, err := p.order(o)
		s.add(row, prefix+gcServer, server.collecting())
		s.add(row, prefix+gcClient, client.Used.collecting())
		return client, err
	}
	a, err := run("", order{Op: opTalk, N: n, Bytes: int64(messages)})
	if err != nil {
		return err
	}
	s.add(row, elapsed, micros(a.Elapsed, messages))
	s.add(row, messageRate, float64(messages)/a.Elapsed.Seconds())
	for i, tail := range tails {
		s.add(row, tail.name, micros(a.Tails[i], 1))
	}
	if a, err = run(inBulk, order{Op: opDuplex, N: n, Bytes: e.bytes}); err != nil {
		return err
	}
	s.add(row, inBulk+elapsed, a.Elapsed.Seconds())
	s.add(row, inBulk+throughput, float64(e.bytes)/(1<<20)/a.Elapsed.Seconds())
	return nil
}

// collecting returns the share of the garbage collector in percent, up to the end of the
// last collection. It is 0 if there was no collection.
func (u usage) collecting() float64 {
	if u.Busy <= 0 {
		return 0
	}
	return float64(u.GC) / float64(u.Busy) * 100
}

// among calls f for each of the first o.N held connections at once, with its share of
// o.Bytes.
func (c *client) among(o order, f func(i int, conn net.Conn, share int64) error) error {
	var all sync.WaitGroup
	failed := make(chan error, o.N)
	for i, conn := range c.held[:o.N] {
		share := o.Bytes / int64(o.N)
		if int64(i) < o.Bytes%int64(o.N) {
			share++
		}
		all.Go(func() {
			if err := f(i, conn, share); err != nil {
				failed <- err
			}
		})
	}
	all.Wait()
	close(failed)
	return <-failed
}

// talk sends o.Bytes messages on o.N tunnels, and returns the tails of their latency.
func (c *client) talk(o order) ([]time.Duration, error) {
	took := make([][]time.Duration, o.N)
	for i := range took {
		took[i] = make([]time.Duration, 0, o.Bytes/int64(o.N)+1)
	}
	err := c.among(o, func(i int, conn net.Conn, messages int64) error {
		if err := send(conn, commandTalk, messages); err != nil {
			return err
		}
		buf := make([]byte, talkSize)
		binary.BigEndian.PutUint64(buf, uint64(i))
		for range messages {
			start := time.Now()
			if _, err := conn.Write(buf); err != nil {
				return err
			}
			if _, err := io.ReadFull(conn, buf); err != nil {
				return err
			}
			took[i] = append(took[i], time.Since(start))
		}
		if of := binary.BigEndian.Uint64(buf); messages > 0 && of != uint64(i) {
			return fmt.Errorf("tunnel %d has a message of tunnel %d", i, of)
		}
		return nil
	})
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	var of []time.Duration
	for _, tail := range tails {
		if len(all) > 0 {
			of = append(of, all[int(math.Ceil(tail.of*float64(len(all))))-1])
		}
	}
	return of, err
}

// duplex sends o.Bytes on o.N tunnels, and receives as many at the same time.
func (c *client) duplex(o order) error {
	return c.among(o, func(_ int, conn net.Conn, n int64) error {
		if err := send(conn, commandDuplex, n); err != nil {
			return err
		}
		sent := make(chan error, 1)
		go func() {
			out := chunks.take()
			defer chunks.put(out)
			var err error
			for left := n; left > 0 && err == nil; left -= duplexChunk {
				_, err = conn.Write(out[:min(duplexChunk, left)])
			}
			sent <- err
		}()
		in := chunks.take()
		defer chunks.put(in)
		for left := n; left > 0; {
			m, err := conn.Read(in[:min(duplexChunk, left)])
			if left -= int64(m); err != nil && left > 0 {
				conn.Close() // ends the other direction too
				<-sent
				return err
			}
		}
		return <-sent
	})
}

// A chunkList keeps buffers for the next load. The garbage collector empties a sync.Pool, and
// then the application's own buffers would be what it collects.
type chunkList struct {
	mu   sync.Mutex
	free []*[duplexChunk]byte
}

var chunks chunkList

func (l *chunkList) take() *[duplexChunk]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := len(l.free) - 1
	if last < 0 {
		return new([duplexChunk]byte)
	}
	b := l.free[last]
	l.free = l.free[:last]
	return b
}

func (l *chunkList) put(b *[duplexChunk]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = append(l.free, b)
}

// serveMany sends back what arrives: n messages, or n bytes as they come.
func serveMany(c net.Conn, command byte, n int64) error {
	if command == commandTalk {
		return sendBack(c, talkSize, n)
	}
	buf := chunks.take()
	defer chunks.put(buf)
	for n > 0 {
		m, err := c.Read(buf[:min(duplexChunk, n)])
		if m > 0 {
			if _, err := c.Write(buf[:m]); err != nil {
				return err
			}
		}
		if n -= int64(m); err != nil && n > 0 {
			return err
		}
	}
	return nil
}
