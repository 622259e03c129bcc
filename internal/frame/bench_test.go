package frame

import (
	"bytes"
	"fmt"
	"testing"
)

// The benchmarks measure the cost of framing for each call, without a real transport.
func BenchmarkWrite(b *testing.B) {
	eachBenchmark(b, func(b *testing.B, k kind, size int) {
		c := k.above(&reader{}, Config{}) // accepts everything
		p := make([]byte, size)
		for b.Loop() {
			c.Write(p)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	eachBenchmark(b, func(b *testing.B, k kind, size int) {
		r := &recorder{}
		kind{k.webSocket, !k.client}.above(r, Config{}).Write(make([]byte, size))
		c := k.above(&reader{r: &repeat{b: bytes.Join(r.calls, nil)}}, Config{})
		p := make([]byte, size)
		for b.Loop() {
			c.Read(p)
		}
	})
}

func eachBenchmark(b *testing.B, run func(b *testing.B, k kind, size int)) {
	for _, k := range kinds {
		for _, size := range []int{64, 512, 4 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("%v/%d", k, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				run(b, k, size)
			})
		}
	}
}
