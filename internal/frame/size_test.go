package frame

import (
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"
	"unsafe"
)

func heapPer(n int, f func() any) float64 {
	keep := make([]any, n)
	runtime.GC()
	runtime.GC()
	var a, b runtime.MemStats
	runtime.ReadMemStats(&a)
	for i := range keep {
		keep[i] = f()
	}
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&b)
	runtime.KeepAlive(keep)
	return float64(b.HeapAlloc-a.HeapAlloc) / float64(n)
}
func TestSize(t *testing.T) {
	fmt.Println(unsafe.Sizeof(Conn{}), unsafe.Sizeof(state{}))
	for _, ws := range []bool{false, true} {
		fmt.Println(ws, heapPer(5000, func() any { return New(struct{ net.Conn }{}, Config{WebSocket: ws, KeepAlivePeriod: time.Hour}) }), heapPer(5000, func() any {
			return New(struct{ net.Conn }{}, Config{WebSocket: ws, KeepAlivePeriod: time.Hour, MaxIdleTimeout: time.Hour})
		}))
	}
}
