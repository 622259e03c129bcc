package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// relay accepts as one peer, dials backend as another peer, and copies with io.Copy,
// as relays do.
func (s *site) relay(from *peer, to, backend string) (address string, err error) {
	p, err := peerNamed(to)
	if err != nil {
		return "", err
	}
	dial, err := p.dialer(s)
	if err != nil {
		return "", err
	}
	return from.listen(s, func(in net.Conn) {
		defer in.Close()
		out, err := dial(context.Background(), backend)
		if err != nil {
			return
		}
		defer out.Close()
		var back sync.WaitGroup
		back.Go(func() { io.Copy(in, out) })
		io.Copy(out, in)
		out.Close() // ends the other direction too
		back.Wait()
	})
}

const keyRelay = "relay"

// The quantities that are counted under strace.
const (
	splices    = "splice"
	readsWrite = "read+write"
)

// relays are pairs: the peer that accepts, and the peer that dials.
var relays = [][2]string{
	{bareTCP, bareTCP}, {ours, ours}, {ours, bareTCP}, {bareTCP, ours},
	{byHand, bareTCP}, {proxyHdr, bareTCP}, {cmuxHTTP, bareTCP}, {coderWS, bareTCP}, {goTLS, bareTCP},
}

func relayName(r [2]string) string { return r[0] + " / " + r[1] }

// tracedBulk is how many bytes are sent through a relay under strace.
const tracedBulk = 64 << 20

// A relaying is a section about relays.
type relaying struct {
	key, title, text string
	of               [][2]string
	base             func(row string) string // with which a row is compared; nil: the first one
	repetitions      int
}

func (b *bench) relayed(ctx context.Context) (*section, error) {
	s, err := b.relay(ctx, relaying{
		key: keyRelay, title: "Relay with io.Copy", of: relays,
		repetitions: b.repetitions, // the kernel moves the bytes in few milliseconds, which vary
		text:        fmt.Sprintf(" strace counts the calls for %d MiB. If the kernel moves the bytes (splice), there are few reads and writes.", tracedBulk>>20),
	})
	if err != nil || !haveStrace() {
		return s, err
	}
	s.columns = append(s.columns, median("splice", splices, "%.0f"), median("read+write", readsWrite, "%.0f"))
	for _, r := range relays {
		calls, err := b.traceRelay(ctx, r)
		if err != nil {
			return nil, err
		}
		s.samples.add(relayName(r), splices, calls["splice"])
		s.samples.add(relayName(r), readsWrite, calls["read"]+calls["write"])
	}
	return s, nil
}

// relay has three processes of its own: the client, the relay, and the server
// behind it. CPU is that of the relay only.
func (b *bench) relay(ctx context.Context, of relaying) (*section, error) {
	s := &section{
		key: of.key, title: of.title,
		text: fmt.Sprintf("One process accepts, dials, and moves %d MiB between the two connections by io.Copy; %d repetitions. CPU is that of this process.",
			b.bulk>>20, of.repetitions) + of.text,
		columns: []column{
			against(of.base)("CPU, ratio", relayCPU), median("CPU s/GiB", relayCPU, "%.2f"), median("MiB/s", throughput, "%.0f"),
		},
		samples: newSamples(),
	}
	for _, r := range of.of {
		s.samples.rows = append(s.samples.rows, relayName(r))
	}
	var all []*relayProcesses
	defer func() {
		for _, p := range all {
			p.stop()
		}
	}()
	for _, r := range of.of {
		p, err := b.relayProcesses(ctx, nil, r)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return s, b.repeat(of.title, of.repetitions, len(of.of), func(i int, first bool) error {
		if first {
			if _, _, err := all[i].bulk(b.bulk / 8); err != nil {
				return err
			}
		}
		client, relay, err := all[i].bulk(b.bulk)
		if err != nil {
			return err
		}
		gib := float64(b.bulk) / giB
		row := relayName(of.of[i])
		s.samples.add(row, relayCPU, relay.CPU.Seconds()/gib)
		s.samples.add(row, throughput, gib*1024/client.Elapsed.Seconds())
		return nil
	})
}

const relayCPU = "relay CPU"

// relayProcesses are a client, a relay in the place of the server, and the server
// behind the relay.
type relayProcesses struct {
	pair
	behind *process
}

func (b *bench) relayProcesses(ctx context.Context, wrap []string, r [2]string) (p *relayProcesses, err error) {
	p = &relayProcesses{pair: pair{peer: relayName(r)}}
	if p.behind, err = b.start(ctx, nil, "server", r[1]); err != nil {
		return nil, err
	}
	if p.server, err = b.start(ctx, wrap, "relay", r[0], r[1], p.behind.hello.Address); err != nil {
		p.behind.stop()
		return nil, err
	}
	if p.client, err = b.start(ctx, nil, "client", r[0]); err != nil {
		p.server.stop()
		p.behind.stop()
		return nil, err
	}
	if _, err := p.client.do(order{Op: "connect", Address: p.server.hello.Address}); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w", p.peer, err)
	}
	return p, nil
}

func (p *relayProcesses) stop() error { return errors.Join(p.pair.stop(), p.behind.stop()) }

// bulk sends n bytes through the relay, and returns what the relay has used. When the
// client has its answer, all bytes have passed the relay.
func (p *relayProcesses) bulk(n int64) (client answer, relay usage, err error) {
	before, err := p.server.do(order{Op: "usage"})
	if err != nil {
		return client, relay, err
	}
	client, err = p.client.do(order{Op: "bulk", Bytes: n})
	if err != nil {
		return client, relay, fmt.Errorf("%s: %w", p.peer, err)
	}
	after, err := p.server.do(order{Op: "usage"})
	return client, after.Used.since(before.Used), err
}

// traceRelay counts the calls of a relay.
func (b *bench) traceRelay(ctx context.Context, r [2]string) (map[string]float64, error) {
	t := b.tracer("splice,read,write")
	p, err := b.relayProcesses(ctx, t.command(), r)
	if err != nil {
		return nil, err
	}
	_, _, err = p.bulk(tracedBulk)
	if err = errors.Join(err, p.stop()); err != nil {
		return nil, err
	}
	return t.calls()
}
