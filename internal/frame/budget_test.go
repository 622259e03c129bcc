//go:build !race

// The race detector itself allocates.

package frame

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Write and Read allocate nothing, over TCP and over other transports.
func TestBudgetAllocations(t *testing.T) {
	for _, carrier := range carriers {
		for _, wrapped := range []bool{false, true} {
			for _, size := range []int{1, 64, 512, 4 << 10, 64 << 10, 200_000} {
				var a, b net.Conn
				a, b = tcpPipe(t)
				if wrapped {
					a, b = struct{ net.Conn }{a}, struct{ net.Conn }{b}
				}
				client, server := sides(carrier.webSocket, a, b, Config{KeepAlivePeriod: time.Hour, MaxIdleTimeout: 3 * time.Hour})
				echoed := make(chan error)
				go func() {
					buf := make([]byte, size)
					for {
						if _, err := io.ReadFull(server, buf); err != nil {
							echoed <- err
							return
						}
						server.Write(buf)
					}
				}()
				p := make([]byte, size)
				allocs := testing.AllocsPerRun(50, func() {
					client.Write(p)
					io.ReadFull(client, p)
				})
				// A garbage collection during the test may empty the pools.
				assert.Less(t, allocs, 1.0, "%s, wrapped %v: a round of %d bytes", carrier.name, wrapped, size)
				client.Close()
				<-echoed
				server.Close()
			}
		}
	}
}

// An idle connection takes these size classes of the allocator.
func TestBudgetSize(t *testing.T) {
	conn, ws := unsafe.Sizeof(Conn{}), unsafe.Sizeof(webSocket{})
	assert.LessOrEqual(t, conn, uintptr(448))
	assert.LessOrEqual(t, conn+ws, uintptr(480), "one allocation")
}

// Reading controls allocates nothing, for any number of controls.
func TestBudgetControlFlood(t *testing.T) {
	for _, k := range kinds {
		p := peer{kind: k}
		one := join(p.capsule(0x12345678, "unknown"), p.pong(1), p.data(""), p.data("x"))
		if k.webSocket {
			one = append(one, p.frame(0x8a, []byte("pong"))...)
		}
		c := k.above(&reader{r: &repeat{b: join(p.data("x"), one)}}, Config{})
		buf := make([]byte, 1000)
		allocs := testing.AllocsPerRun(100, func() {
			_, err := c.Read(buf)
			require.NoError(t, err)
		})
		assert.Zero(t, allocs)
	}
}

// Framing makes as many calls to the transport as the application makes. Reading may
// take a few more, for the bytes of the headers.
func TestBudgetCalls(t *testing.T) {
	const total = 16 << 20
	for _, k := range kinds {
		for _, size := range []int{64 << 10, 4 << 10, 512} {
			raw := total / size
			r := &recorder{}
			c := k.above(r, Config{})
			p := pattern(size)
			for range raw {
				_, err := c.Write(p)
				require.NoError(t, err)
			}
			assert.Len(t, r.calls, raw, "%v: writes of %d bytes", k, size)

			transport := &reader{r: bytes.NewReader(bytes.Join(r.calls, nil))}
			other := kind{k.webSocket, !k.client}.above(transport, Config{})
			n := 0
			for n < total {
				m, err := other.Read(p)
				require.NoError(t, err)
				n += m
			}
			assert.LessOrEqual(t, float64(transport.calls), 1.05*float64(raw), "%v: reads of %d bytes", k, size)
		}
	}
}

// An idle connection has no goroutine and uses little memory, even after large writes.
func TestBudgetIdle(t *testing.T) {
	const count = 300
	// Memory of earlier tests would be freed during this one.
	waitFor(func() bool { return runningAt("frame.(*Conn).") == 0 })
	for _, carrier := range carriers {
		var transports []net.Conn
		for range count {
			a, b := tcpPipe(t)
			transports = append(transports, a, b)
		}
		var conns []*Conn
		p := make([]byte, 64<<10)
		settle := func() uint64 {
			for range 3 {
				runtime.GC() // also empties the pools
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		goroutines, heap := runtime.NumGoroutine(), settle()
		for i := 0; i < len(transports); i += 2 {
			client, server := sides(carrier.webSocket, transports[i], transports[i+1], Config{KeepAlivePeriod: time.Hour})
			conns = append(conns, client, server)
			for _, way := range [][2]*Conn{{client, server}, {server, client}} {
				go way[0].Write(p)
				_, err := io.ReadFull(way[1], p)
				require.NoError(t, err)
			}
		}
		waitFor(func() bool { return runtime.NumGoroutine() <= goroutines })
		each := (float64(settle()) - float64(heap)) / float64(len(conns))
		t.Logf("%s: %.0f bytes", carrier.name, each)
		assert.LessOrEqual(t, each, 900.0, carrier.name)
		runtime.KeepAlive(conns)
		for i, c := range conns {
			c.Close()
			transports[i].Close()
		}
	}
}
