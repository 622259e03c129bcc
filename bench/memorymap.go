package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

const keyMap = "memory map"

const opHeap = "heap"

// exactHeap is the environment in which each allocation is in the heap profile.
var exactHeap = []string{"env", "GODEBUG=memprofilerate=1"}

// The owners of memory.
const (
	ofGoroutine = "goroutine"
	ofNet       = "package net"
	ofOthers    = "others"
	// ofOurs is the prefix of what the library has allocated. The name of what follows.
	ofOurs = "preflight: "
)

// liveHeap returns the bytes of objects by owner. Its process must have been started in
// exactHeap.
func liveHeap() (map[string]int64, error) {
	if runtime.MemProfileRate != 1 {
		return nil, fmt.Errorf("a sample of the heap is taken each %d bytes, not each byte", runtime.MemProfileRate)
	}
	for range 5 { // two empty the pools, and the profile is some collections old
		runtime.GC()
	}
	n, _ := runtime.MemProfile(nil, false)
	records := make([]runtime.MemProfileRecord, n+100)
	n, ok := runtime.MemProfile(records, false)
	if !ok {
		return nil, fmt.Errorf("the heap profile has %d records", n)
	}
	of := make(map[string]int64)
	for _, r := range records[:n] {
		var stack []string // begins with the innermost function
		frames := runtime.CallersFrames(r.Stack())
		for more := true; more; {
			var f runtime.Frame
			f, more = frames.Next()
			stack = append(stack, f.Function)
		}
		of[ownerOf(stack)] += r.InUseBytes()
	}
	return of, nil
}

// ownerOf returns who has allocated, from the innermost function that says so.
func ownerOf(stack []string) string {
	const module = "github.com/preflight-go/preflight"
	for _, f := range stack {
		switch name, inModule := strings.CutPrefix(f, module); {
		case strings.HasPrefix(f, "runtime.malg"):
			return ofGoroutine
		case strings.HasPrefix(f, "net."), strings.HasPrefix(f, "internal/poll."):
			return ofNet
		case strings.HasPrefix(f, "main."), inModule && strings.HasPrefix(name, "/bench."):
			return ofOthers
		case inModule && strings.Contains(name, ".init."): // New of a sync.Pool; its caller says more
		case inModule:
			return ofOurs + name
		}
	}
	return ofOthers
}

// ourNames says what the library allocates in these functions. What is missing appears under
// the name of its function.
var ourNames = map[string]string{
	".newExchange":                 "handshake",
	".(*buffer).keep":              "what has arrived",
	".allocate":                    "Conn",
	".(*exchange).answer":          "head",
	".(*PreflightListener).frame":  "hooks of the end",
	".(*PreflightListener).handOn": "hooks of the end",

	"/internal/frame.allocate":               "layer of the capsules",
	"/internal/frame.(*Conn).startKeepAlive": "timer of PINGs",
}

// kernelCaches are the slab caches of a connection. Others change for other reasons.
var kernelCaches = []string{"TCP", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "eventpoll_pwq", "ep_head", "lsm_file_cache", "lsm_inode_cache"}

// kernelMemory returns the bytes of slab caches. Where slabinfo may not be read, there is one
// sum of all caches.
func kernelMemory() (map[string]int64, error) {
	slab := make(map[string]int64)
	if b, err := os.ReadFile("/proc/slabinfo"); err == nil { // slabinfo(5); root may read it
		for line := range strings.Lines(string(b)) {
			var name string
			var active, all, size int64
			if n, _ := fmt.Sscan(line, &name, &active, &all, &size); n == 4 && slices.Contains(kernelCaches, name) {
				slab[name] = active * size
			}
		}
	} else {
		var kib int64
		if _, err := fmt.Sscan(field("/proc/meminfo", "Slab"), &kib); err != nil {
			return nil, err
		}
		slab["all"] = kib << 10
	}
	return slab, nil
}

// A mapped row is a peer, and what its clients do.
type mapped struct{ row, peer, op string }

var mappedRows = []mapped{
	{blockedReader, bareTCP, "hold"},
	{waitsSilent, waitingPeer.name, opSilent}, {waitsHead, waitingPeer.name, opStuck}, {waitsHello, waitingPeer.name, opHello},
	{"idle tunnel, " + ours, ours, "hold"}, {"idle tunnel, " + framedTCP, framedTCP, "hold"}, {"idle tunnel, " + framedWS, framedWS, "hold"},
}

// The quantities of the map, beside those of each held connection.
const (
	restOfRSS = "rest of RSS"
	ofOursAll = "preflight"
	slabAll   = "slab"
	slabOf    = "slab: "
)

// memoryMap shows where the memory of a waiting connection is.
func (b *bench) memoryMap(ctx context.Context) (*section, error) {
	const title = "Where the memory of a waiting connection is"
	exact := b.idle / 5
	s := &section{
		key: keyMap, title: title,
		text: fmt.Sprintf("Bytes for each connection. RSS, stack and heap are those of the server process with %d connections. The next columns divide the heap by what has allocated it, from a heap profile of each allocation with %d connections: the descriptor of a goroutine, package net, the library, and the rest. RSS beside stack and heap is mostly the runtime's own: what it polls a descriptor with, and pages that are not full. The kernel's memory is that of both ends, because one machine has both: the slab caches of sockets, files and epoll. No data waits in the buffers of the sockets.",
			b.idle, exact),
		columns: []column{
			median("RSS", rss, "%.0f"), median("stack", stackUsed, "%.0f"), median("heap", heapInUse, "%.0f"),
			median("goroutine", ofGoroutine, "%.0f"), median("package net", ofNet, "%.0f"), median("preflight", ofOursAll, "%.0f"), median("others", ofOthers, "%.0f"),
			median("RSS beside stack and heap", restOfRSS, "%.0f"),
			median("kernel: slab", slabAll, "%.0f"),
			listed("the library's objects", ofOurs), listed("slab caches", slabOf),
		},
		samples: newSamples(),
	}
	for _, m := range mappedRows {
		s.samples.rows = append(s.samples.rows, m.row)
	}
	return s, b.repeat(title, 1, len(mappedRows), func(i int, _ bool) error {
		m := mappedRows[i]
		if err := b.mapResident(ctx, m, s.samples); err != nil {
			return err
		}
		return b.mapHeap(ctx, m, exact, s.samples)
	})
}

// listed is a column of all quantities with a prefix, the largest first.
func listed(head, prefix string) column {
	return column{head, func(s *samples, row string) string {
		var of []string
		for quantity := range s.values[row] {
			if strings.HasPrefix(quantity, prefix) {
				of = append(of, quantity)
			}
		}
		slices.SortFunc(of, func(a, b string) int {
			return cmp.Or(cmp.Compare(s.median(row, b), s.median(row, a)), cmp.Compare(a, b))
		})
		for i, quantity := range of {
			of[i] = fmt.Sprintf("%s %.0f", strings.TrimPrefix(quantity, prefix), s.median(row, quantity))
		}
		return strings.Join(of, ", ")
	}}
}

// least is the smallest number of bytes for each connection that is listed.
const least = 8

// mapResident measures the memory of the server process and of the kernel.
func (b *bench) mapResident(ctx context.Context, m mapped, s *samples) error {
	return b.loaded(ctx, m.peer, func(l *load) error {
		slab, err := kernelMemory()
		if err != nil {
			return err
		}
		if err := l.openUnseen(m.op, b.idle); err != nil {
			return err
		}
		if err := l.addMemory(s, m.row); err != nil {
			return err
		}
		s.add(m.row, restOfRSS, s.median(m.row, rss)-s.median(m.row, stackUsed)-s.median(m.row, heapInUse))
		slabNow, err := kernelMemory()
		if err != nil {
			return err
		}
		n, all := float64(l.held), 0.0
		for name, size := range slabNow {
			of := float64(size-slab[name]) / n
			if all += of; of >= least {
				s.add(m.row, slabOf+name, of)
			}
		}
		s.add(m.row, slabAll, all)
		return nil
	})
}

// openUnseen is open, but waits for goroutines. To look at the descriptors in /proc, the
// kernel would need memory for each.
func (l *load) openUnseen(op string, n int) error {
	before, err := l.server.do(order{Op: "usage"})
	if err != nil {
		return err
	}
	if _, err := l.client.do(order{Op: op, Address: l.server.hello.Address, N: n, Dialers: holders}); err != nil {
		return fmt.Errorf("%s: %s %d: %w", l.peer, op, n, err)
	}
	l.held += n
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-poll.C {
		now, err := l.server.do(order{Op: "usage"})
		if err != nil {
			return err
		}
		if now.Used.Goroutines >= before.Used.Goroutines+n {
			return l.server.hasRead()
		}
	}
	return fmt.Errorf("%s: %s: the server has not the goroutines that it should have", l.peer, op)
}

// mapHeap measures the objects of n connections by what has allocated them.
func (b *bench) mapHeap(ctx context.Context, m mapped, n int, s *samples) error {
	p, err := b.pairUnder(ctx, m.peer, exactHeap, nil)
	if err != nil {
		return err
	}
	defer p.stop()
	l, err := b.load(p)
	if err != nil {
		return err
	}
	before, err := p.server.do(order{Op: opHeap})
	if err != nil {
		return err
	}
	if _, err := l.open(m.op, n); err != nil {
		return err
	}
	after, err := p.server.do(order{Op: opHeap})
	if err != nil {
		return err
	}
	objects := map[string]float64{ofGoroutine: 0, ofNet: 0, ofOthers: 0, ofOursAll: 0}
	for owner, size := range after.Samples {
		of := float64(size-before.Samples[owner]) / float64(n)
		function, ours := strings.CutPrefix(owner, ofOurs)
		if !ours {
			objects[owner] += of
			continue
		}
		objects[ofOursAll] += of
		name := cmp.Or(ourNames[function], strings.TrimPrefix(function, "."))
		if of >= least {
			objects[ofOurs+name] += of
		}
	}
	for quantity, of := range objects {
		s.add(m.row, quantity, of)
	}
	return nil
}
