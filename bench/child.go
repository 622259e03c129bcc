package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// childArg is the first argument of a child process.
const childArg = "child"

// A role executes orders.
type role func(order) (answer, error)

// child runs a role in a process of its own, until the end of its input.
func child(args []string) error {
	s := newSite(args[0])
	hello := answer{PID: os.Getpid()}
	play, err := s.role(args[1:], &hello)
	if err != nil {
		hello.Error = err.Error()
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(hello); err != nil || hello.Error != "" {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return err
		}
		a, err := s.carryOut(o, play)
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return in.Err()
}

func (s *site) role(args []string, hello *answer) (role, error) {
	if args[0] == "memory" {
		return inMemory, nil
	}
	p, err := peerNamed(args[1])
	if err != nil {
		return nil, err
	}
	switch args[0] {
	case "server":
		hello.Address, err = p.listen(s, application)
		return nil, err
	case "relay":
		hello.Address, err = s.relay(p, args[2], args[3])
		return nil, err
	case "client":
		dial, err := p.dialer(s)
		c := &client{site: s, dial: dial}
		return c.carryOut, err
	}
	return nil, fmt.Errorf("there is no role %q", args[0])
}

// carryOut executes an order and measures what it uses, or returns what has been used so
// far.
func (s *site) carryOut(o order, play role) (a answer, err error) {
	switch o.Op {
	case "usage":
		a.Used = used()
		return a, nil
	case "collect":
		if s.settle != nil {
			if err := s.settle(); err != nil {
				return a, err
			}
		}
		for range 2 { // the second collection empties the pools
			runtime.GC()
		}
		debug.FreeOSMemory()
		a.Used = used()
		return a, nil
	case opHeap:
		a.Samples, err = liveHeap()
		return a, err
	case opProfile:
		return a, s.profiler.start()
	case opProfiled:
		a.Samples, err = s.profiler.stop()
		return a, err
	}
	before := used()
	start := time.Now()
	a, err = play(o)
	a.Elapsed = time.Since(start)
	a.Used = used().since(before)
	return a, err
}

// used returns what this process has used so far.
func used() usage {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err) // it fails only for bad arguments: getrusage(2)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	gc, busy := collectorCPU()
	return usage{
		CPU:    time.Duration(r.Utime.Nano() + r.Stime.Nano()),
		Allocs: int64(m.Mallocs), Bytes: int64(m.TotalAlloc),
		Heap: int64(m.HeapInuse), Stack: int64(m.StackInuse),
		Live: int64(m.HeapAlloc), Goroutines: runtime.NumGoroutine(),
		GC: gc, Busy: busy,
	}
}

// cpuClasses are read in this order: the garbage collector, all, and idle.
var cpuClasses = []metrics.Sample{
	{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/cpu/classes/idle:cpu-seconds"},
}

// collectorCPU returns the CPU of the garbage collector, and that of all but idle
// processors. The runtime updates both at the end of each collection.
func collectorCPU() (gc, busy time.Duration) {
	metrics.Read(cpuClasses)
	seconds := func(i int) time.Duration { return time.Duration(cpuClasses[i].Value.Float64() * 1e9) }
	return seconds(0), seconds(1) - seconds(2)
}

// A client is the role of a process that dials.
type client struct {
	site *site
	dial dialFunc
	held []net.Conn
}

func (c *client) carryOut(o order) (a answer, err error) {
	switch o.Op {
	case "handshake":
		a.Latency, err = c.handshakes(o)
	case "hold":
		err = c.hold(o, c.dial)
	case opUse:
		err = c.hold(o, func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := c.dial(ctx, address)
			if err == nil {
				err = sendEcho(conn, 1)
			}
			return conn, err
		})
	case "connect":
		var conn net.Conn
		if conn, err = c.dial(context.Background(), o.Address); err == nil {
			c.held = append(c.held, conn)
		}
	case opSilent:
		err = c.holdAfter(o, nil)
	case opStuck:
		err = c.holdAfter(o, request(o.Address)[:stuckBytes])
	case opHello:
		err = c.holdAfter(o, halfHello)
	case "bulk":
		err = sendBulk(c.held[0], o.Bytes)
	case opUp:
		err = sendUp(c.held[0], o.Bytes, o.Chunk)
	case opDown:
		err = sendDown(c.held[0], o.Bytes, o.Chunk)
	case opEcho:
		err = sendEcho(c.held[0], o.N)
	case opTalk:
		a.Tails, err = c.talk(o)
	case opChurn:
		err = c.churn(o)
	case opDuplex:
		err = c.duplex(o)
	default:
		err = fmt.Errorf("there is no order %q", o.Op)
	}
	return a, err
}

// holdAfter opens connections, and sends only part on each.
func (c *client) holdAfter(o order, part []byte) error {
	return c.hold(o, func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := c.site.net.DialContext(ctx, "tcp", address)
		if err == nil {
			_, err = conn.Write(part)
		}
		return conn, err
	})
}

// opUse is the order for connections that have been used once.
const opUse = "use"

// The orders for connections without a handshake.
const (
	opSilent = "silent"
	opStuck  = "stuck"
	opHello  = "half a ClientHello"
)

// stuckBytes is how many bytes of its head a stuck client sends.
const stuckBytes = 48

// each calls f o.N times in o.Dialers goroutines, and returns the first error.
func each(o order, f func(i int) error) error {
	var next atomic.Int64
	var workers sync.WaitGroup
	failed := make(chan error, o.Dialers)
	for range o.Dialers {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < o.N; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	workers.Wait()
	close(failed)
	return <-failed
}

// handshakes dials, performs the handshake and closes. It returns the median latency.
func (c *client) handshakes(o order) (time.Duration, error) {
	took := make([]time.Duration, o.N)
	err := each(o, func(i int) error {
		start := time.Now()
		conn, err := c.dial(context.Background(), o.Address)
		if err != nil {
			return err
		}
		took[i] = time.Since(start)
		return conn.Close()
	})
	slices.Sort(took)
	return took[o.N/2], err
}

// hold opens connections and keeps them.
func (c *client) hold(o order, dial dialFunc) error {
	c.site.spread.Store(true)
	defer c.site.spread.Store(false)
	conns := make([]net.Conn, o.N)
	err := each(o, func(i int) (err error) {
		conns[i], err = dial(context.Background(), o.Address)
		return err
	})
	c.held = append(c.held, conns...)
	return err
}
