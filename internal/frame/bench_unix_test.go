//go:build unix

package frame

import (
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"
)

// cpu returns the processor time of the process, which is that of both sides.
func cpu() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// A benchPair is a connection and what it is called in a report.
type benchPair struct {
	name     string
	from, to net.Conn
}

func benchPairs(b *testing.B, up bool) []benchPair {
	pairs := []benchPair{}
	c, s := tcpPipe(b)
	pairs = append(pairs, benchPair{"raw", c, s})
	for _, carrier := range carriers {
		c, s := tcpPipe(b)
		client := New(c, Config{WebSocket: carrier.webSocket, Client: true})
		server := New(s, Config{WebSocket: carrier.webSocket})
		if up {
			pairs = append(pairs, benchPair{carrier.name, client, server})
		} else {
			pairs = append(pairs, benchPair{carrier.name, server, client})
		}
	}
	return pairs
}

var readSize = 64 << 10

// stream sends total bytes in writes of size, to a reader with a buffer of size.
func stream(b *testing.B, p benchPair, size, total int) {
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, readSize)
		for n := 0; n < total; {
			m, err := p.to.Read(buf)
			if n += m; err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	buf := make([]byte, size)
	for n := 0; n < total; n += size {
		if _, err := p.from.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

func echo(b *testing.B, p benchPair, size, rounds int) {
	go func() {
		buf := make([]byte, size)
		for range rounds {
			if _, err := io.ReadFull(p.to, buf); err != nil {
				return
			}
			p.to.Write(buf)
		}
	}()
	buf := make([]byte, size)
	for range rounds {
		if _, err := p.from.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(p.from, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRatio compares the processor time of both sides to that of bare TCP,
// in the same run, round by round. It reports the medians of the ratios.
func BenchmarkRatio(b *testing.B) {
	kinds := []struct {
		name string
		up   bool
		run  func(b *testing.B, p benchPair)
	}{
		{"64KiB/up", true, func(b *testing.B, p benchPair) { stream(b, p, 64<<10, 128<<20) }},
		{"64KiB/down", false, func(b *testing.B, p benchPair) { stream(b, p, 64<<10, 128<<20) }},
		{"4KiB/up", true, func(b *testing.B, p benchPair) { stream(b, p, 4<<10, 48<<20) }},
		{"4KiB/down", false, func(b *testing.B, p benchPair) { stream(b, p, 4<<10, 48<<20) }},
		{"512B/up", true, func(b *testing.B, p benchPair) { stream(b, p, 512, 8<<20) }},
		{"512B/down", false, func(b *testing.B, p benchPair) { stream(b, p, 512, 8<<20) }},
		{"64B/echo", true, func(b *testing.B, p benchPair) { echo(b, p, 64, 4000) }},
	}
	for _, kind := range kinds {
		b.Run(kind.name, func(b *testing.B) {
			pairs := benchPairs(b, kind.up)
			ratios := make([][]float64, len(pairs))
			for _, p := range pairs {
				kind.run(b, p) // windows and pools grow
			}
			for i := 0; b.Loop(); i++ {
				used := make([]float64, len(pairs))
				for j := range pairs {
					k := (i + j) % len(pairs)
					begin := cpu()
					kind.run(b, pairs[k])
					used[k] = float64(cpu() - begin)
				}
				for k := range pairs {
					ratios[k] = append(ratios[k], used[k]/used[0])
				}
			}
			for k, p := range pairs[1:] {
				r := ratios[k+1]
				slices.Sort(r)
				b.ReportMetric(r[len(r)/2], fmt.Sprintf("%s/raw", p.name))
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
