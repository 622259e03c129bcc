package frame

import "testing"

func BenchmarkOne(b *testing.B) {
	for _, up := range []bool{true, false} {
		dir := "down"
		if up {
			dir = "up"
		}
		for _, size := range []int{512, 4096, 65536} {
			for _, p := range benchPairs(b, up) {
				name := dir + "/" + p.name + "/" + map[int]string{512: "512", 4096: "4K", 65536: "64K"}[size]
				b.Run(name, func(b *testing.B) {
					begin := cpu()
					stream(b, p, size, size*b.N)
					b.ReportMetric(float64(cpu()-begin)/float64(b.N), "cpu-ns/op")
				})
			}
		}
	}
}
