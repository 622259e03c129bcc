package frame

import (
	"fmt"
	"net"
	"testing"
)

func stream2(b *testing.B, from, to net.Conn, wsize, rsize, total int) {
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, rsize)
		for n := 0; n < total; {
			m, err := to.Read(buf)
			if n += m; err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	buf := make([]byte, wsize)
	for n := 0; n < total; n += wsize {
		if _, err := from.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	<-done
}

func BenchmarkTwo(b *testing.B) {
	for _, s := range [][2]int{{512, 512}, {518, 512}, {526, 512}, {512, 512}, {518, 512}, {526, 512}, {520, 520}, {65536, 65536}, {65552, 65536}, {65536, 65536}, {65552, 65536}} {
		c, d := tcpPipe(b)
		b.Run(fmt.Sprint(s), func(b *testing.B) {
			begin := cpu()
			stream2(b, c, d, s[0], s[1], s[0]*b.N)
			b.ReportMetric(float64(cpu()-begin)/float64(b.N), "cpu-ns/op")
		})
	}
}
