package main

import (
	"context"
	"fmt"
	"slices"
)

const keyStuck = "stuck"

// The quantities of servers with stuck clients.
const (
	rateAlone   = "rate alone"
	rateFew     = "rate, few stuck"
	rateMany    = "rate, many stuck"
	ratioOfFew  = "ratio, few stuck"
	ratioOfMany = "ratio, many stuck"
)

const (
	fewStuck    = 200
	goodDialers = 8
	bursts      = 5
	// blockedReader is the row of a server that only reads.
	blockedReader = "bare TCP, blocked in Read"
)

// stuckPeers are the peers that read a head. TLS, PROXY headers and plain clients have
// no head, and in the WebSocket libraries net/http reads it.
func stuckPeers() []string {
	of := names(peers)
	return slices.DeleteFunc(of, func(name string) bool {
		return slices.Contains([]string{plain, coderWS, gorillaWS, proxyHdr, goTLS}, name)
	})
}

// stuckClients measures the cost of clients that send only part of their head, and their
// effect on good clients.
func (b *bench) stuckClients(ctx context.Context) (*section, error) {
	const title = "Clients that are stuck"
	repetitions := min(3, b.few)
	s := &section{
		key: keyStuck, title: title,
		text: fmt.Sprintf("Clients that send %d bytes of their head and then nothing. Memory: bytes of the server process for each of %d of them, compared with connections on which the server only waits in Read. Rate: handshakes per second of good clients (%d dialers, the median of %d times %d), alone, beside %d and beside %d stuck clients. A ratio compares with the rate alone in the same repetition, of %d. Timeouts and limits are set so high that they have no effect (MaxPending is 4096 and HandshakeTimeout 10 s by default).",
			stuckBytes, b.stuck, goodDialers, bursts, b.many, min(fewStuck, b.stuck/2), b.stuck, repetitions),
		columns: append(memoryColumns(), median("rate alone", rateAlone, "%.0f"), spreadOf("few stuck, ratio", ratioOfFew), spreadOf("many stuck, ratio", ratioOfMany)),
		samples: newSamples(append([]string{blockedReader}, stuckPeers()...)...),
	}
	rows := s.samples.rows
	return s, b.repeat(title, repetitions, len(rows), func(i int, _ bool) error {
		if rows[i] == blockedReader {
			return b.loaded(ctx, bareTCP, func(l *load) error {
				if _, err := l.open("hold", b.stuck); err != nil {
					return err
				}
				return l.addMemory(s.samples, rows[i])
			})
		}
		return b.loaded(ctx, rows[i], func(l *load) error { return b.stick(l, s.samples) })
	})
}

func (b *bench) stick(l *load, s *samples) error {
	good := func() (float64, error) {
		var rates []float64
		for range bursts {
			a, _, err := l.order(order{Op: "handshake", N: b.many, Dialers: goodDialers})
			if err != nil {
				return 0, err
			}
			rates = append(rates, float64(b.many)/a.Elapsed.Seconds())
		}
		return quantile(rates, 0.5), nil
	}
	if _, err := good(); err != nil { // the first ones are slower
		return err
	}
	alone, err := good()
	if err != nil {
		return err
	}
	s.add(l.peer, rateAlone, alone)
	few := min(fewStuck, b.stuck/2)
	for _, step := range []struct {
		more           int
		rate, quantity string
	}{
		{few, rateFew, ratioOfFew},
		{b.stuck - few, rateMany, ratioOfMany},
	} {
		if _, err := l.open(opStuck, step.more); err != nil {
			return err
		}
		r, err := good()
		if err != nil {
			return err
		}
		s.add(l.peer, step.rate, r)
		s.add(l.peer, step.quantity, r/alone)
	}
	return l.addMemory(s, l.peer)
}
