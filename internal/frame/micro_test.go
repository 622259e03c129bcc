package frame

import (
	"fmt"
	"net"
	"testing"
)

type sink struct{ net.Conn }

func (sink) Write(p []byte) (int, error) { return len(p), nil }

// source repeats what it holds for ever.
type source struct {
	net.Conn
	data []byte
	at   int
}

func (s *source) Read(p []byte) (n int, err error) {
	for n < len(p) {
		m := copy(p[n:], s.data[s.at:])
		n += m
		if s.at += m; s.at == len(s.data) {
			s.at = 0
		}
	}
	return n, nil
}

type recorder struct {
	net.Conn
	b []byte
}

func (r *recorder) Write(p []byte) (int, error) { r.b = append(r.b, p...); return len(p), nil }

func BenchmarkOwn(b *testing.B) {
	for _, size := range []int{64, 512, 4096, 65536} {
		for _, carrier := range carriers {
			for _, client := range []bool{true, false} {
				b.Run(fmt.Sprintf("write/%s/client=%v/%d", carrier.name, client, size), func(b *testing.B) {
					c := New(sink{}, Config{WebSocket: carrier.webSocket, Client: client})
					p := make([]byte, size)
					b.SetBytes(int64(size))
					begin := cpu()
					for b.Loop() {
						c.Write(p)
					}
					b.ReportMetric(float64(cpu()-begin)/float64(b.N), "cpu-ns/op")
				})
				b.Run(fmt.Sprintf("read/%s/client=%v/%d", carrier.name, client, size), func(b *testing.B) {
					r := &recorder{}
					w := New(r, Config{WebSocket: carrier.webSocket, Client: !client})
					w.Write(make([]byte, size))
					c := New(&source{data: r.b}, Config{WebSocket: carrier.webSocket, Client: client})
					p := make([]byte, size)
					b.SetBytes(int64(size))
					begin := cpu()
					for b.Loop() {
						c.Read(p)
					}
					b.ReportMetric(float64(cpu()-begin)/float64(b.N), "cpu-ns/op")
				})
			}
		}
	}
}
