//go:build unix

package frame

import (
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"
)

// cpu returns the processor time of the process. Both sides run in it.
func cpu() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkRatio compares the processor time of both sides with that of TCP without
// framing. It measures all of them in each round. It reports the medians of the ratios, and
// the time of TCP. The reader always has a buffer of 64 KiB.
func BenchmarkRatio(b *testing.B) {
	stream := func(size, total int) func(b *testing.B, from, to net.Conn) {
		return func(b *testing.B, from, to net.Conn) { benchStream(b, from, to, size, total) }
	}
	echo := func(b *testing.B, from, to net.Conn) { benchEcho(b, from, to, 64, 4000) }
	for _, row := range []struct {
		name string
		down bool
		run  func(b *testing.B, from, to net.Conn)
	}{
		{"64KiB/up", false, stream(64<<10, 128<<20)},
		{"64KiB/down", true, stream(64<<10, 128<<20)},
		{"4KiB/up", false, stream(4<<10, 48<<20)},
		{"4KiB/down", true, stream(4<<10, 48<<20)},
		{"512B/up", false, stream(512, 8<<20)},
		{"512B/down", true, stream(512, 8<<20)},
		{"64B/echo", false, echo},
	} {
		b.Run(row.name, func(b *testing.B) {
			names := []string{"raw"}
			a, z := tcpPipe(b)
			pairs := [][2]net.Conn{{a, z}}
			for _, carrier := range carriers {
				a, z := tcpPipe(b)
				client, server := sides(carrier.webSocket, a, z, Config{})
				pair := [2]net.Conn{client, server}
				if row.down {
					pair = [2]net.Conn{server, client}
				}
				names, pairs = append(names, carrier.name), append(pairs, pair)
			}
			used := make([][]float64, len(pairs))
			round := func(i int) {
				for j := range pairs {
					k := (i + j) % len(pairs)
					begin := cpu()
					row.run(b, pairs[k][0], pairs[k][1])
					used[k] = append(used[k], float64(cpu()-begin))
				}
			}
			round(0) // a warm-up, in which windows and pools grow
			for k := range used {
				used[k] = nil
			}
			rounds := 0
			for b.Loop() {
				round(rounds)
				rounds++
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(used[0])/1e6, "ms-raw")
			for k := 1; k < len(pairs); k++ {
				ratios := make([]float64, rounds)
				for i := range ratios {
					ratios[i] = used[k][i] / used[0][i]
				}
				b.ReportMetric(median(ratios), names[k]+"/raw")
			}
		})
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// benchStream sends total bytes in Writes of size.
func benchStream(b *testing.B, from, to net.Conn, size, total int) {
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 64<<10)
		for n := 0; n < total; {
			m, err := to.Read(buf)
			if n += m; err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	buf := make([]byte, size)
	for n := 0; n < total; n += size {
		if _, err := from.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// benchEcho sends size bytes in both directions, in each round.
func benchEcho(b *testing.B, from, to net.Conn, size, rounds int) {
	go func() {
		buf := make([]byte, size)
		for range rounds {
			if _, err := io.ReadFull(to, buf); err != nil {
				return
			}
			to.Write(buf)
		}
	}()
	buf := make([]byte, size)
	for range rounds {
		if _, err := from.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(from, buf); err != nil {
			b.Fatal(err)
		}
	}
}
