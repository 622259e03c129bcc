package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

const (
	keyCommand       = "command"
	keyCommandMemory = "command memory"
)

// The quantities of a relay that is a program.
const (
	upCPU       = "up CPU"
	downCPU     = "down CPU"
	bothCPU     = "up and down CPU"
	descriptors = "descriptors"
)

// A running is a chain that runs.
type running struct {
	client, server *process
	relays         []*relayProcess
}

// A relayProcess is a relay that runs.
type relayProcess struct {
	row     string
	address string
	cmd     *exec.Cmd
	log     *os.File
	ended   chan struct{}
}

// chain starts a chain. The relay at the end starts first, because some programs dial as
// soon as they run.
func (b *bench) chain(ctx context.Context, c chain, binaries map[string]string) (r *running, err error) {
	r = new(running)
	defer func() {
		if err != nil {
			r.stop()
		}
	}()
	if r.server, err = b.start(ctx, nil, "server", c.server); err != nil {
		return r, err
	}
	at := relayPlace{target: r.server.hello.Address, next: r.server.hello.Address}
	r.relays = make([]*relayProcess, len(c.relays))
	for i := len(c.relays) - 1; i >= 0; i-- {
		if r.relays[i], err = b.startRelay(ctx, c.relays[i], binaries[c.relays[i].binary], at); err != nil {
			return r, err
		}
		at.next = r.relays[i].address
	}
	if r.client, err = b.start(ctx, nil, "client", c.client); err != nil {
		return r, err
	}
	return r, r.use(1)
}

// startRelay runs a relay until it is stopped.
func (b *bench) startRelay(ctx context.Context, of relayProgram, binary string, at relayPlace) (*relayProcess, error) {
	var said []byte
	const attempts = 5
	for range attempts {
		addresses, err := freeAddresses(1)
		if err != nil {
			return nil, err
		}
		at.listen = addresses[0]
		args, err := of.args(b, at)
		if err != nil {
			return nil, err
		}
		p := &relayProcess{row: of.row, address: at.listen, cmd: exec.CommandContext(ctx, binary, args...), ended: make(chan struct{})}
		if p.log, err = os.CreateTemp(b.site.dir, of.binary+"-*.log"); err != nil {
			return nil, err
		}
		p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
		if err := p.cmd.Start(); err != nil {
			return nil, err
		}
		go func() {
			defer close(p.ended)
			p.cmd.Wait() // it is killed
		}()
		// Another process can take a port after freeAddresses has found it.
		if listens(p.address, p.ended) {
			return p, nil
		}
		p.stop()
		said, _ = os.ReadFile(p.log.Name())
	}
	return nil, fmt.Errorf("%s does not start: %s", of.row, said)
}

func (p *relayProcess) stop() {
	p.cmd.Process.Kill()
	<-p.ended
	p.log.Close()
}

func (p *relayProcess) process() *process { return &process{hello: answer{PID: p.cmd.Process.Pid}} }

func (r *running) stop() {
	for _, p := range []*process{r.client, r.server} {
		if p != nil {
			p.stop()
		}
	}
	for _, p := range r.relays {
		if p != nil {
			p.stop()
		}
	}
}

// use opens n connections and has one message come back on each. So each of them has
// passed all relays. They stay open.
func (r *running) use(n int) error {
	_, err := r.client.do(order{Op: opUse, Address: r.relays[0].address, N: n, Dialers: min(n, holders)})
	if err != nil {
		err = fmt.Errorf("%s: %d connections: %w", r.relays[0].row, n, err)
	}
	return err
}

// transfer sends bytes on the first connection, and adds what each relay has used for them.
func (r *running) transfer(s *samples, t transfer) (sum []float64, err error) {
	before := make([]float64, len(r.relays))
	for i, p := range r.relays {
		used, err := cpuOf(p.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		before[i] = used.Seconds()
	}
	client, err := r.client.do(t.order(t.bytes))
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", r.relays[0].row, t.name, err)
	}
	gib := float64(t.bytes) / giB
	for i, p := range r.relays {
		used, err := cpuOf(p.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		sum = append(sum, (used.Seconds()-before[i])/gib)
		if s != nil {
			s.add(p.row, t.name, sum[i])
			s.add(p.row, t.name+throughput, gib*1024/client.Elapsed.Seconds())
		}
	}
	return sum, nil
}

// asPrograms measures the command preflight and other programs as relays.
func (b *bench) asPrograms(ctx context.Context) (*section, error) {
	const title = "Relays that are programs"
	here, binaries, missing := b.chainsHere()
	s := &section{
		key: keyCommand, title: title,
		text: fmt.Sprintf("CPU of the process of each relay for %d MiB in Writes of 64 KiB, from the client (up) and then from the server (down), on one connection; %d repetitions. In the rows of preflight, the other end of the tunnel is the library. A row of a program that needs its own other half (chisel, wstunnel), or that stands beside it, is one half of a chain of both: client, first half, second half, server. ghostunnel has TLS on one side, and chisel has SSH in WebSocket. RFC 6455 wants the frames of a client to be masked. wstunnel does so only if it is told to. The row `%s` is a loop that reads and writes, and does nothing else: the floor of a relay that must touch the bytes. Where nothing must touch them, the kernel moves them (splice).%s",
			b.bulk>>20, b.few, copyLoop, absent(missing)),
		columns: []column{
			ratio("CPU, ratio", bothCPU), median("CPU s/GiB, up", upCPU, "%.2f"), median("down", downCPU, "%.2f"),
			median("MiB/s, up", upCPU+throughput, "%.0f"), median("down", downCPU+throughput, "%.0f"),
		},
		samples: newSamples(relayRows(here)...),
	}
	if err := b.buildCommand(ctx); err != nil {
		return nil, err
	}
	var all []*running
	defer func() {
		for _, r := range all {
			r.stop()
		}
	}()
	for _, c := range here {
		r, err := b.chain(ctx, c, binaries)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	up, down := transfer{upCPU, opUp, 64 << 10, b.bulk}, transfer{downCPU, opDown, 64 << 10, b.bulk}
	return s, b.repeat(title, b.few, len(all), func(i int, first bool) error {
		if first {
			for _, t := range []transfer{up, down} {
				t.bytes /= 8
				if _, err := all[i].transfer(nil, t); err != nil {
					return err
				}
			}
		}
		ups, err := all[i].transfer(s.samples, up)
		if err != nil {
			return err
		}
		downs, err := all[i].transfer(s.samples, down)
		if err != nil {
			return err
		}
		for j, p := range all[i].relays {
			s.samples.add(p.row, bothCPU, ups[j]+downs[j])
		}
		return nil
	})
}

func absent(missing []string) string {
	if len(missing) == 0 {
		return ""
	}
	return " **Not installed, and not measured: " + strings.Join(missing, ", ") + ".**"
}

func relayRows(of []chain) (rows []string) {
	for _, c := range of {
		for _, p := range c.relays {
			rows = append(rows, p.row)
		}
	}
	return rows
}

// relaysOthers are the descriptors of a relay for other things, and the connections before
// the measured ones.
const relaysOthers = 200

// idleRelays returns how many relays are held. A relay has two descriptors.
func (b *bench) idleRelays() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	const slack = 2 * 2 * relaysOthers // HAProxy counts its own too, and does not start without them
	return min(b.idle, (int(limit.Cur)-slack)/2)
}

// relayMemory measures what an idle connection costs a relay.
func (b *bench) relayMemory(ctx context.Context) (*section, error) {
	const title = "Relays that are programs, idle"
	here, binaries, missing := b.chainsHere()
	n, repetitions := b.idleRelays(), min(2, b.few)
	s := &section{
		key: keyCommandMemory, title: title,
		text: fmt.Sprintf("RSS and descriptors of the process of each relay for each of %d connections, after one message of %d bytes has come back on each; %d repetitions, each with new processes. The memory of a program in Go includes garbage, because another process cannot ask for a collection. A relay has two connections; chisel has all of them in one.%s",
			n, echoSize, repetitions, absent(missing)),
		columns: []column{ratio("RSS, ratio", rss), median("RSS", rss, "%.0f"), median("descriptors", descriptors, "%.2f")},
		samples: newSamples(relayRows(here)...),
	}
	if err := b.buildCommand(ctx); err != nil {
		return nil, err
	}
	return s, b.repeat(title, repetitions, len(here), func(i int, _ bool) error {
		r, err := b.chain(ctx, here[i], binaries)
		if err != nil {
			return err
		}
		defer r.stop()
		return r.hold(s.samples, n)
	})
}

// hold adds what each of n connections costs each relay. Some come first, for what is
// created only once.
func (r *running) hold(s *samples, n int) error {
	if err := r.use(relaysOthers / 2); err != nil {
		return err
	}
	type cost struct {
		rss   int64
		files int
	}
	costs := func() (of []cost, err error) {
		for _, p := range r.relays {
			memory, err := p.process().rss()
			if err != nil {
				return nil, err
			}
			files, err := p.process().files()
			if err != nil {
				return nil, err
			}
			of = append(of, cost{memory, files})
		}
		return of, nil
	}
	before, err := costs()
	if err != nil {
		return err
	}
	if err := r.use(n); err != nil {
		return err
	}
	after, err := costs()
	if err != nil {
		return err
	}
	for i, p := range r.relays {
		s.add(p.row, rss, float64(after[i].rss-before[i].rss)/float64(n))
		s.add(p.row, descriptors, float64(after[i].files-before[i].files)/float64(n))
	}
	return nil
}

// commandBudgets are the limits of the command preflight beside other programs that are
// installed.
func (r *results) commandBudgets() (of []budget) {
	s := r.section(keyCommand)
	within := func(row, base string, limit float64) {
		ratio := s.ratio(row, base, bothCPU)
		of = append(of, budget{what: row + ": CPU / " + base, limit: limit, value: ratio.median, spread: ratio.half})
	}
	within(serveRaw, haproxyTCP, 1.15)
	within(servePlain, haproxyTCP, 1.15)
	within(forwardRaw, haproxyTCP, 1.15)
	for _, other := range [][2]string{{chiselServer, chiselClient}, {wstunnelServer, wstunnelClient}} {
		if slices.Contains(s.rows, other[0]) {
			within(pairedServe, other[0], 0.5)
			within(pairedForward, other[1], 0.5)
		}
	}
	return of
}
