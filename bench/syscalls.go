package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func haveStrace() bool {
	_, err := exec.LookPath("strace")
	return err == nil
}

// A tracer has strace show the calls of a process, with the kind of their descriptors
// (-y), because the runtime itself also reads and writes.
type tracer struct{ file, of string }

func (b *bench) tracer(calls string) *tracer {
	b.traces++
	return &tracer{filepath.Join(b.site.dir, fmt.Sprintf("strace-%d", b.traces)), calls}
}

func (t *tracer) command() []string {
	return []string{"strace", "-f", "-y", "-s", "0", "-o", t.file, "-e", "trace=" + t.of}
}

// calls returns the calls on sockets that succeeded, after the process has ended.
func (t *tracer) calls() (map[string]float64, error) {
	f, err := os.Open(t.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	calls := make(map[string]float64)
	begun := make(map[string]string) // by thread, if a call of another thread interrupts it
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		thread, call, _ := strings.Cut(lines.Text(), " ")
		call = strings.TrimSpace(call)
		if start, ok := strings.CutSuffix(call, "<unfinished ...>"); ok {
			begun[thread] = start
			continue
		}
		if _, rest, ok := strings.Cut(call, " resumed>"); ok {
			call = begun[thread] + rest
		}
		name, _, ok := strings.Cut(call, "(")
		if ok && strings.Contains(call, "<socket:[") && !strings.Contains(call, " = -1 ") {
			calls[name]++
		}
	}
	return calls, lines.Err()
}

// handshakeCalls are the calls for a connection, from socket or accept to close. Calls that
// wait for other goroutines or for readiness do not belong to a handshake.
const handshakeCalls = "socket,connect,accept4,read,recvfrom,write,writev,sendto,setsockopt,getsockopt,getsockname,getpeername,epoll_ctl,shutdown,close"

func (b *bench) syscalls(ctx context.Context) (*section, error) {
	s := &section{
		key: keySyscalls, title: "System calls of a handshake",
		text: fmt.Sprintf("Successful calls on sockets for one connection with one dialer, counted by strace: the difference between processes that make %d and %d connections. `all` includes accept or connect, socket options, epoll_ctl and close, but not calls that wait (futex, epoll_pwait). The last read of the application finds the end, fails and is not counted. One of the client's socket options belongs to the measurement.",
			b.traced, 2*b.traced),
		columns: []column{
			median("server read", "server read", "%.2f"), median("write", "server write", "%.2f"), median("all", "server all", "%.1f"),
			median("client read", "client read", "%.2f"), median("write", "client write", "%.2f"), median("all", "client all", "%.1f"),
		},
		samples: newSamples(names(peers)...),
	}
	if !haveStrace() {
		return s, nil
	}
	for _, peer := range s.samples.rows {
		fmt.Fprintf(b.progress, "system calls: %s\n", peer)
		server1, client1, err := b.trace(ctx, peer, b.traced)
		if err != nil {
			return nil, err
		}
		server2, client2, err := b.trace(ctx, peer, 2*b.traced)
		if err != nil {
			return nil, err
		}
		s.samples.addCalls(peer, "server", server1, server2, b.traced)
		s.samples.addCalls(peer, "client", client1, client2, b.traced)
	}
	return s, nil
}

func (s *samples) addCalls(row, side string, before, after map[string]float64, n int) {
	sum := func(names ...string) (per float64) {
		for _, name := range names {
			per += (after[name] - before[name]) / float64(n)
		}
		return per
	}
	s.add(row, side+" read", sum("read", "recvfrom"))
	s.add(row, side+" write", sum("write", "writev", "sendto"))
	s.add(row, side+" all", sum(strings.Split(handshakeCalls, ",")...))
}

// trace counts the calls of both sides for n handshakes, and the other calls of the
// processes.
func (b *bench) trace(ctx context.Context, peer string, n int) (server, client map[string]float64, err error) {
	st, ct := b.tracer(handshakeCalls), b.tracer(handshakeCalls)
	p := &pair{peer: peer}
	if p.server, err = b.start(ctx, st.command(), "server", peer); err != nil {
		return nil, nil, err
	}
	if p.client, err = b.start(ctx, ct.command(), "client", peer); err != nil {
		p.server.stop()
		return nil, nil, err
	}
	_, _, err = p.order(order{Op: "handshake", N: n, Dialers: 1})
	if err = errors.Join(err, p.stop()); err != nil {
		return nil, nil, err
	}
	server, err = st.calls()
	if err != nil {
		return nil, nil, err
	}
	client, err = ct.calls()
	return server, client, err
}
