package frame

import (
	"net"
	"sync/atomic"
	"testing"
)

type counter struct {
	net.Conn
	reads, writes atomic.Int64
}

func (c *counter) Read(p []byte) (int, error)  { c.reads.Add(1); return c.Conn.Read(p) }
func (c *counter) Write(p []byte) (int, error) { c.writes.Add(1); return c.Conn.Write(p) }

func BenchmarkCalls(b *testing.B) {
	for _, size := range []int{512, 4096, 65536} {
		for i, carrier := range carriers {
			c, s := tcpPipe(b)
			cc, sc := &counter{Conn: c}, &counter{Conn: s}
			if i == 0 {
				stream(b, benchPair{"", cc, sc}, size, 8<<20)
				b.Logf("%d raw: %d writes %d reads", size, cc.writes.Load(), sc.reads.Load())
				cc.writes.Store(0)
				sc.reads.Store(0)
			}
			stream(b, benchPair{"", New(cc, Config{WebSocket: carrier.webSocket, Client: true}), New(sc, Config{WebSocket: carrier.webSocket})}, size, 8<<20)
			b.Logf("%d %s: %d writes %d reads", size, carrier.name, cc.writes.Load(), sc.reads.Load())
		}
	}
}
