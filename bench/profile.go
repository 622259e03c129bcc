package main

import (
	"bytes"
	"context"
	"fmt"
	"image/color"
	"runtime/pprof"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

const (
	keyProfile  = "profile"
	keyCarriers = "profile-carriers"
)

// The classes of CPU time. The chart stacks them in this order.
const (
	inKernel    = "kernel"
	inScheduler = "scheduler and netpoll"
	inMemoryOf  = "allocation, GC, stacks"
	inNet       = "package net"
	inMasking   = "masking, SHA-1, base64"
	inOurs      = "preflight"
	inOthers    = "application and others"
)

var classes = []struct {
	name  string
	color color.Color
}{
	{inKernel, color.RGBA{0x8a, 0x8a, 0x8a, 0xff}},
	{inScheduler, color.RGBA{0x56, 0xb4, 0xe9, 0xff}},
	{inMemoryOf, color.RGBA{0xe6, 0x9f, 0x00, 0xff}},
	{inNet, color.RGBA{0x00, 0x9e, 0x73, 0xff}},
	{inMasking, color.RGBA{0x6a, 0x3d, 0x9a, 0xff}},
	{inOurs, color.RGBA{0xc4, 0x2e, 0x12, 0xff}},
	{inOthers, color.RGBA{0xcc, 0x79, 0xa7, 0xff}},
}

// The quantities of a profile, beside the classes.
const (
	totalCPU = "total"
	ticks    = "samples"
)

// A profiler is the profile that a process makes of itself.
type profiler struct{ out bytes.Buffer }

// start begins the profile. It has 100 samples for each second of CPU.
func (p *profiler) start() error {
	p.out.Reset()
	return pprof.StartCPUProfile(&p.out)
}

// stop ends the profile. It adds the samples of each class.
func (p *profiler) stop() (map[string]int64, error) {
	pprof.StopCPUProfile()
	of, err := profile.Parse(&p.out)
	if err != nil {
		return nil, err
	}
	return sortedSamples(of), nil
}

func sortedSamples(of *profile.Profile) map[string]int64 {
	in := make(map[string]int64)
	for _, s := range of.Sample {
		var stack []string // begins with the innermost function
		for _, l := range s.Location {
			for _, line := range l.Line {
				stack = append(stack, line.Function.Name)
			}
		}
		in[classOf(stack)] += s.Value[0]
	}
	return in
}

// classOf sorts a stack. System calls are those of the kernel, unless the runtime makes them to
// wait for work and to wake threads. The runtime's own functions are those of the scheduler, or
// of the memory. What copies, compares or hashes belongs to its caller, and so do packages that
// serve many, such as sync and bytes.
func classOf(stack []string) string {
	has := func(in []string, names ...string) bool {
		return slices.ContainsFunc(in, func(f string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(f, name) })
		})
	}
	if len(stack) == 0 {
		return inScheduler
	}
	if has(stack, "runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.bgscavenge", "runtime.mallocgc", "runtime.gcAssistAlloc", "runtime.gcStart", "runtime.growslice", "runtime.wbBufFlush",
		"runtime.copystack", "runtime.stackalloc", "runtime.malg") {
		return inMemoryOf
	}
	if has(stack[:1], "internal/runtime/syscall", "syscall.RawVforkSyscall") {
		if slices.Contains(stack, "runtime.netpoll") || slices.Contains(stack, "runtime.netpollBreak") {
			return inScheduler
		}
		return inKernel
	}
	for _, f := range stack {
		switch {
		case has([]string{f}, helpers...):
		case strings.HasPrefix(f, "runtime."):
			return inScheduler
		case strings.Contains(f, "preflight/internal/websocket") && strings.Contains(strings.ToLower(f), "mask"),
			has([]string{f}, "crypto/", "encoding/base64"):
			return inMasking
		case strings.HasPrefix(f, "github.com/preflight-go/preflight") && !strings.HasPrefix(f, "github.com/preflight-go/preflight/bench"):
			return inOurs
		case has([]string{f}, "net.", "internal/poll.", "syscall."):
			return inNet
		case has([]string{f}, "main.", "github.com/", "net/", "bufio."):
			return inOthers
		}
	}
	return inOthers
}

// helpers are the functions of the runtime that work for their caller.
var helpers = []string{
	"runtime.mem", "runtime.duff", "runtime.map", "runtime.strequal", "runtime.strhash", "runtime.efaceeq", "runtime.ifaceeq",
	"runtime.cmpstring", "runtime.typeAssert", "runtime.assertE2I", "runtime.getitab", "runtime.nanotime", "runtime.walltime",
	"runtime.interequal", "runtime.nilinterequal", "runtime.conv", "runtime.rand", "runtime.vdso",
}

// profiled runs an order with the pair, and adds the CPU time of both sides by class, for each
// of n operations. The rows are named by the sides; "" leaves a side out.
func (p *pair) profiled(s *samples, o order, n int, serverRow, clientRow string) error {
	for _, side := range []*process{p.server, p.client} {
		if _, err := side.do(order{Op: opProfile}); err != nil {
			return err
		}
	}
	client, server, err := p.order(o)
	if err != nil {
		return err
	}
	for _, side := range []struct {
		*process
		row  string
		used usage
	}{{p.server, serverRow, server}, {p.client, clientRow, client.Used}} {
		a, err := side.do(order{Op: opProfiled})
		if err != nil {
			return err
		}
		if side.row == "" {
			continue
		}
		var all int64
		for _, n := range a.Samples {
			all += n
		}
		total := micros(side.used.CPU, n)
		s.add(side.row, totalCPU, total)
		s.add(side.row, ticks, float64(all))
		for _, class := range classes {
			s.add(side.row, class.name, total*float64(a.Samples[class.name])/float64(max(all, 1)))
		}
	}
	return nil
}

const (
	opProfile  = "profile"
	opProfiled = "profiled"
)

func profileColumns(of string) []column {
	columns := []column{median("µs for each "+of, totalCPU, "%.1f")}
	for _, class := range classes {
		columns = append(columns, median(class.name, class.name, "%.1f"))
	}
	return append(columns, median("samples", ticks, "%.0f"))
}

// howProfiled is the text of both sections.
const howProfiled = " CPU time (rusage), divided among classes by the samples of a CPU profile (100 for each second). `kernel` is all system calls of the connection. `scheduler and netpoll` is the runtime of Go, and the system calls by which it waits for work and wakes threads. `preflight` is the library's own code. The standard error of a class is about the square root of its samples: with 400 samples, a class of a tenth is ±1.5 of a hundred."

// profiledPeers are those whose handshake is profiled.
var profiledPeers = []string{bareTCP, ours, framedWS, byHand}

func (b *bench) profileHandshakes(ctx context.Context) (*section, error) {
	const title = "Where the time of a handshake goes"
	n := 100000
	if b.quick {
		n = 6000
	}
	s := &section{
		key: keyProfile, title: title,
		text:    fmt.Sprintf("%d times dial, handshake and close, with 64 dialers.", n) + howProfiled,
		columns: profileColumns("handshake"),
		samples: newSamples(),
	}
	for _, side := range []string{"server", "client"} {
		for _, peer := range profiledPeers {
			s.samples.rows = append(s.samples.rows, peer+", "+side)
		}
	}
	return s, b.rotate(ctx, title, profiledPeers, b.pair, 1, func(p *pair, _ bool) error {
		if _, _, err := p.order(order{Op: "handshake", N: 500, Dialers: 64}); err != nil {
			return err
		}
		return p.profiled(s.samples, order{Op: "handshake", N: n, Dialers: 64}, n, p.peer+", server", p.peer+", client")
	})
}

// profileCarriers profiles Writes of 64 KiB, and the Reads of the other side.
func (b *bench) profileCarriers(ctx context.Context) (*section, error) {
	const title = "Where the time of 64 KiB goes"
	const chunk = 64 << 10
	bytes := int64(16 << 30)
	if b.quick {
		bytes = 256 << 20
	}
	s := &section{
		key: keyCarriers, title: title,
		text:    fmt.Sprintf("%d MiB in Writes of 64 KiB from the client (up), and on WebSocket also from the server (down), whose frames have no mask. The reader has a buffer of %d KiB. The read is that of 64 KiB, however many calls it takes. %s", bytes>>20, transferBuffer>>10, pinned) + howProfiled,
		columns: profileColumns("64 KiB"),
		samples: newSamples(),
	}
	carriers := []string{bareTCP, ours, framedTCP, framedWS}
	row := func(peer, direction, call string) string { return peer + direction + ", " + call }
	for _, call := range []string{"Write", "Read"} {
		for _, peer := range carriers {
			if peer == framedWS {
				s.samples.rows = append(s.samples.rows, row(peer, " up", call), row(peer, " down", call))
				continue
			}
			s.samples.rows = append(s.samples.rows, row(peer, "", call))
		}
	}
	return s, b.rotate(ctx, title, carriers, b.pinnedPair, 1, func(p *pair, _ bool) error {
		if _, err := p.client.do(order{Op: "connect", Address: p.server.hello.Address}); err != nil {
			return err
		}
		if _, _, err := p.order(order{Op: opUp, Bytes: bytes / 16, Chunk: chunk}); err != nil {
			return err
		}
		up := ""
		if p.peer == framedWS {
			up = " up"
		}
		n := int(bytes / chunk)
		err := p.profiled(s.samples, order{Op: opUp, Bytes: bytes, Chunk: chunk}, n, row(p.peer, up, "Read"), row(p.peer, up, "Write"))
		if err == nil && p.peer == framedWS {
			err = p.profiled(s.samples, order{Op: opDown, Bytes: bytes, Chunk: chunk}, n, row(p.peer, " down", "Write"), row(p.peer, " down", "Read"))
		}
		return err
	})
}
