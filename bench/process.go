package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// An order is a line of JSON that says what a child process does.
type order struct {
	Op      string
	Address string
	N       int
	Dialers int
	Bytes   int64
	Chunk   int // of a Write
}

// An answer is a line of JSON too.
type answer struct {
	Error   string
	Address string // of a server
	PID     int
	Elapsed time.Duration
	Latency time.Duration // median
	Tails   []time.Duration
	Samples map[string]int64 // of a profile, by class
	Used    usage
}

// usage is what a process has used, so far or for an order.
type usage struct {
	CPU           time.Duration
	Allocs, Bytes int64
	Heap, Stack   int64 // in use
	Live          int64 // bytes of objects, garbage included until it is collected
	Goroutines    int
	GC, Busy      time.Duration // CPU of the garbage collector and of all, up to the last collection
}

// A process is a child process. It ends at the end of its standard input.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	hello  answer
}

// patience ends what would otherwise hang. No measurement takes so long.
const patience = 2 * time.Minute

// start runs this program again in a role. wrap may have a command to run it under, such as
// strace.
func (b *bench) start(ctx context.Context, wrap []string, role ...string) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := append(append(wrap, exe, childArg, b.site.dir), role...)
	p := &process{cmd: exec.CommandContext(ctx, args[0], args[1:]...)}
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdout = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if p.hello, err = p.answer(); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w", strings.Join(role, " "), err)
	}
	return p, nil
}

func (p *process) do(o order) (answer, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return answer{}, err
	}
	if _, err := p.stdin.Write(append(b, '\n')); err != nil {
		return answer{}, err
	}
	return p.answer()
}

func (p *process) answer() (a answer, err error) {
	// This ends a child that hangs, and so ends its output.
	defer time.AfterFunc(patience, func() { p.cmd.Process.Kill() }).Stop()
	line, err := p.stdout.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, err
}

func (p *process) stop() error {
	p.stdin.Close()
	defer time.AfterFunc(patience, func() { p.cmd.Process.Kill() }).Stop()
	return p.cmd.Wait()
}

// A pair is the two processes of a peer.
type pair struct {
	peer           string
	server, client *process
}

func (b *bench) pair(ctx context.Context, peer string) (*pair, error) {
	return b.pairUnder(ctx, peer, nil, nil)
}

// pinned says so of pairs that are.
const pinned = "Each side has one processor for itself (taskset)."

// pinnedPair runs each process on a processor of its own, as if it were a machine of its
// own. If the kernel chooses, a round trip can take three times as long in one minute as
// in the next.
func (b *bench) pinnedPair(ctx context.Context, peer string) (*pair, error) {
	return b.pairUnder(ctx, peer, b.onProcessor(0), b.onProcessor(1))
}

// onProcessor returns the command that runs a process on one processor.
func (b *bench) onProcessor(n int) []string {
	if _, err := exec.LookPath("taskset"); err != nil || n >= runtime.NumCPU() {
		b.unpinned = true
		return nil
	}
	return []string{"taskset", "-c", strconv.Itoa(n)}
}

func (b *bench) pairUnder(ctx context.Context, peer string, server, client []string) (p *pair, err error) {
	p = &pair{peer: peer}
	if p.server, err = b.start(ctx, server, "server", peer); err != nil {
		return nil, err
	}
	if p.client, err = b.start(ctx, client, "client", peer); err != nil {
		p.server.stop()
		return nil, err
	}
	return p, nil
}

func (p *pair) stop() error { return errors.Join(p.client.stop(), p.server.stop()) }

// order has the client execute o with the server of the pair. It waits until the server has
// finished too, and returns what each of them has used.
func (p *pair) order(o order) (client answer, server usage, err error) {
	if o.Address == "" {
		o.Address = p.server.hello.Address
	}
	files, err := p.server.files()
	if err != nil {
		return client, server, err
	}
	before, err := p.server.do(order{Op: "usage"})
	if err != nil {
		return client, server, err
	}
	if client, err = p.client.do(o); err != nil {
		return client, server, fmt.Errorf("%s: %s: %w", p.peer, o.Op, err)
	}
	if err = p.server.until(func(n int) bool { return n <= files }); err != nil {
		return client, server, err
	}
	after, err := p.server.do(order{Op: "usage"})
	return client, after.Used.since(before.Used), err
}

func (u usage) since(before usage) usage {
	u.CPU -= before.CPU
	u.Allocs -= before.Allocs
	u.Bytes -= before.Bytes
	u.Heap -= before.Heap
	u.Stack -= before.Stack
	u.GC -= before.GC
	u.Busy -= before.Busy
	return u
}

func (p *process) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(p.hello.PID), name)
}

// files returns the number of open descriptors of the process.
func (p *process) files() (int, error) {
	d, err := os.Open(p.proc("fd"))
	if err != nil {
		return 0, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	return len(names), err
}

// until waits for a number of open descriptors.
func (p *process) until(ok func(files int) bool) error {
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-poll.C {
		if n, err := p.files(); err != nil || ok(n) {
			return err
		}
	}
	return fmt.Errorf("%s: it has not the descriptors that it should have", strings.Join(p.cmd.Args, " "))
}

// hasRead waits until the receive buffers of all connections of the server are
// empty.
func (p *process) hasRead() error {
	_, port, _ := strings.Cut(p.hello.Address, ":")
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	local := fmt.Sprintf(":%04X", number)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-poll.C {
		table, err := os.ReadFile("/proc/net/tcp") // proc_net_tcp(5)
		if err != nil {
			return err
		}
		if !unread(string(table), local) {
			return nil
		}
	}
	return errors.New("the server does not read what it is sent")
}

func unread(table, local string) bool {
	const established = "01"
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if strings.HasSuffix(f[1], local) && f[3] == established && !strings.HasSuffix(f[4], ":00000000") {
			return true
		}
	}
	return false
}

// rss returns the resident memory in bytes.
func (p *process) rss() (int64, error) {
	b, err := os.ReadFile(p.proc("statm"))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b)) // size resident ...
	pages, err := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
