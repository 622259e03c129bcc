package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

// describeMachine describes the machine and the versions.
func describeMachine() []string {
	var of []string
	add := func(what, value string) { of = append(of, what+": "+value) }
	add("CPU", fmt.Sprintf("%d × %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name")))
	add("Memory", field("/proc/meminfo", "MemTotal"))
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	add("Kernel", strings.TrimSpace(string(kernel)))
	load, _ := os.ReadFile("/proc/loadavg")
	add("Load before the run", strings.TrimSpace(string(load)))
	add("Go", runtime.Version())
	if info, ok := debug.ReadBuildInfo(); ok {
		versions := make(map[string]string)
		for _, m := range info.Deps {
			versions[m.Path] = m.Version
		}
		for _, path := range []string{
			"github.com/coder/websocket", "github.com/gorilla/websocket", "github.com/gobwas/ws", "github.com/xtls/xray-core", "github.com/sagernet/sing-box",
			"github.com/pires/go-proxyproto", "github.com/soheilhy/cmux", "go.opentelemetry.io/otel/sdk",
		} {
			if v := versions[path]; v != "" {
				add(path, v)
			}
		}
	}
	for _, p := range proxies {
		if path, err := p.find(); err == nil {
			out, _ := exec.Command(path, "-v").CombinedOutput()
			line, _, _ := bytes.Cut(out, []byte("\n"))
			add(p.name, string(line))
		} else {
			add(p.name, "not installed")
		}
	}
	for _, name := range relayBinaries {
		out, err := exec.Command(name, "--version").CombinedOutput()
		line, _, _ := bytes.Cut(out, []byte("\n"))
		if err != nil {
			line = []byte("not installed")
		}
		add(name, string(line))
	}
	if out, err := exec.Command("strace", "-V").Output(); err == nil {
		line, _, _ := bytes.Cut(out, []byte("\n"))
		add("strace", string(line))
	} else {
		add("strace", "not installed")
	}
	add("Date", time.Now().UTC().Format(time.DateOnly))
	return of
}

// field returns the value of the first line that begins with name.
func field(file, name string) string {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// raiseFiles raises the limit of descriptors. If that fails, it reduces the number of
// connections, and notes that.
func (b *bench) raiseFiles() (notes []string) {
	const others = 200 // descriptors of the runtime, and of good clients
	want := uint64(others + max(b.idle, b.stuck, b.growth[len(b.growth)-1]))
	limit := syscall.Rlimit{Cur: want, Max: want}
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		return []string{err.Error()}
	}
	limit.Max = max(want, now.Max)
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		return nil
	}
	// Only root may raise the hard limit.
	limit = syscall.Rlimit{Cur: now.Max, Max: now.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return []string{err.Error()}
	}
	most := int(now.Max) - others
	fit := func(n *int) {
		if *n > most {
			notes = append(notes, fmt.Sprintf("%d connections were to be held, of which RLIMIT_NOFILE (%d) allows %d.", *n, now.Max, most))
			*n = most
		}
	}
	fit(&b.idle)
	fit(&b.stuck)
	steps := slices.Clone(b.growth) // other efforts share the slice
	for i := range steps {
		fit(&steps[i])
	}
	b.growth = slices.Compact(steps)
	return notes
}
