// Bench measures preflight and its peers side by side, in one run on one machine,
// and writes RESULTS.md and the plots beside it. It runs on Linux.
//
//	go -C bench run .             # some minutes
//	go -C bench run -tags heavy . # with Xray-core and sing-box, as in RESULTS.md
//	go -C bench run . -quick      # every row with few repetitions, to stdout
//
// The folder has a workspace of its own. In that of the root, the many modules of
// Xray-core and sing-box would slow down every go command.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if isMeasured(os.Args[1:]) {
		return
	}
	quick := flag.Bool("quick", false, "few repetitions; the report goes to stdout if there is no -out")
	out := flag.String("out", "", "the directory of RESULTS.md and the plots; the default is that of this program in the repository")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e := full
	if *quick {
		e = little
	} else if *out == "" {
		*out = home()
	}
	r, err := run(ctx, e, os.Stderr)
	if err == nil && *out == "" {
		_, err = io.WriteString(os.Stdout, r.markdown())
	} else if err == nil {
		err = r.write(*out)
	}
	end(err)
}

// isMeasured runs a measured process, if args are those of one.
func isMeasured(args []string) bool {
	switch {
	case len(args) > 0 && args[0] == childArg:
		end(child(args[1:]))
		return true
	case len(args) == 3 && args[0] == copyArg:
		end(copyRelay(args[1], args[2]))
		return true
	}
	return false
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// home is the folder of RESULTS.md, relative to the root of the repository or to the
// folder itself.
func home() string {
	if _, err := os.Stat(filepath.Join("bench", "RESULTS.md")); err == nil {
		return "bench"
	}
	return "."
}

// An effort says how often, and how much, is measured.
type effort struct {
	quick       bool
	repetitions int   // of handshakes, in memory, of telemetry
	one, many   int   // handshakes of a repetition, with 1 and with 64 dialers
	feats       int   // of each in memory
	few         int   // repetitions of what takes longer
	bulk        int64 // bytes
	echoes      int
	framings    int // repetitions of framed tunnels
	traced      int // handshakes under strace
	idle, stuck int // connections
	growth      []int
}

var (
	full = effort{
		repetitions: 15, one: 400, many: 800, feats: 20000,
		few: 5, bulk: 256 << 20, echoes: 4000, framings: 11, traced: 200,
		idle: 10000, stuck: 10000, growth: []int{100, 1000, 10000, 30000},
	}
	little = effort{
		quick:       true,
		repetitions: 3, one: 100, many: 300, feats: 2000,
		few: 2, bulk: 64 << 20, echoes: 1000, framings: 2, traced: 25,
		idle: 500, stuck: 500, growth: []int{100, 500, 1000},
	}
)

// A bench is a run of the program.
type bench struct {
	effort
	site     *site
	progress io.Writer
	traces   int // files of strace
	unpinned bool
}

// run measures everything.
func run(ctx context.Context, e effort, progress io.Writer) (*results, error) {
	dir, err := os.MkdirTemp("", "preflight-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := &bench{effort: e, site: newSite(dir), progress: progress}
	if err := b.site.writeCertificates(); err != nil {
		return nil, err
	}
	r := &results{quick: e.quick, machine: describeMachine()}
	r.notes = b.raiseFiles()
	start := time.Now()
	for _, measure := range []func(context.Context) (*section, error){
		b.handshakeOne, b.handshakeLoose, b.handshakeMany, b.inMemory, b.syscalls, b.telemetry, b.throughProxies,
		b.handshakeTLS, b.resumption, b.steady, b.steadyTLS, b.framing, b.busyTunnels, b.profileHandshakes, b.profileCarriers, b.relayed, b.relayedTLS, b.asPrograms, b.relayMemory, b.shortConnections, b.idleConnections, b.stuckClients, b.waitingClients, b.memoryMap, b.growing,
	} {
		s, err := measure(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx) // err is only a symptom of it
		}
		if err != nil {
			return nil, err
		}
		r.sections = append(r.sections, s)
	}
	if b.unpinned {
		r.notes = append(r.notes, "Without taskset, or with one processor, no process was pinned: one dialer is measured twice as if not pinned, and the times of messages back and forth say nothing.")
	}
	r.took = time.Since(start)
	return r, nil
}
