package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/websocket"
	"github.com/preflight-go/preflight/internal/wire"
)

const (
	framedTCP = "framed"
	framedWS  = "websocket"
)

// framedPeers are tunnels on the two framed carriers, and one more library that is only
// compared with them.
var framedPeers = []*peer{
	{framedTCP, "preflight with CarrierFramed", listenPreflight(nil), dialCarrier(preflight.CarrierFramed)},
	{framedWS, "preflight with CarrierWebSocket", listenPreflight(nil), dialCarrier(preflight.CarrierWebSocket)},
	{gobwasWS, "WebSocket, with our own Read and Write over wsutil's Reader and Writer", listenGobwas, dialGobwas},
}

func dialCarrier(carrier preflight.Carrier) func(*site) (dialFunc, error) {
	return func(s *site) (dialFunc, error) {
		d := &preflight.PreflightDialer{NetDialer: s.net, Path: target, Header: fields, Carriers: []preflight.Carrier{carrier}}
		var checked atomic.Bool
		return func(ctx context.Context, address string) (net.Conn, error) {
			c, err := d.DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			tunnel := c.(*preflight.Conn)
			// Once: Carrier parses both heads.
			if checked.CompareAndSwap(false, true) && tunnel.Carrier() != carrier {
				return nil, fmt.Errorf("the tunnel is not %s", carrier)
			}
			return abortedConn{tunnel}, nil
		}, nil
	}
}

// An abortedConn is reset on close, as the others are, and does without the exchange
// that ends a framed tunnel.
type abortedConn struct{ *preflight.Conn }

func (c abortedConn) Close() error {
	var bottom net.Conn = c.Conn
	for {
		layer, ok := bottom.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		bottom = layer.NetConn()
	}
	bottom.Close()
	return c.Conn.Close()
}

// A transfer is a load of one direction.
type transfer struct {
	name  string
	op    string
	chunk int   // of a Write
	bytes int64 // or the messages of an echo
}

const (
	opUp   = "up"
	opDown = "down"
	opEcho = "echo"
)

// Places in transfers.
const (
	largeUp  = 0
	mediumUp = 2
	echoes   = 6
)

// transfers are what the budgets of framing speak of.
func (b *bench) transfers() []transfer {
	of := []transfer{
		{"64 KiB up", opUp, 64 << 10, 256 << 20}, {"64 KiB down", opDown, 64 << 10, 256 << 20},
		{"4 KiB up", opUp, 4 << 10, 128 << 20}, {"4 KiB down", opDown, 4 << 10, 128 << 20},
		{"512 B up", opUp, 512, 32 << 20}, {"512 B down", opDown, 512, 32 << 20},
		{"64 B echo", opEcho, echoSize, 8000},
	}
	if b.quick {
		for i := range of {
			of[i].bytes /= 8
		}
	}
	return of
}

func (t transfer) cpu() string    { return t.name + " CPU" }
func (t transfer) allocs() string { return t.name + " allocs" }

// framing measures the CPU of both sides of framed tunnels, relative to bare TCP.
func (b *bench) framing(ctx context.Context) (*section, error) {
	const title = "Framed tunnels in use"
	transfers := b.transfers()
	s := &section{
		key: keyFraming, title: title,
		text: fmt.Sprintf("CPU of both sides, in terms of bare TCP, for data in Writes of each size from the client (up) and from the server (down), and for messages of %d bytes that are sent back one by one; %d repetitions. The reader has a buffer of %d KiB. The other WebSocket libraries have the buffers that they choose themselves, but gobwas/ws, which has one for a whole message. The last columns are allocations of both sides. %s",
			echoSize, b.framings, transferBuffer>>10, pinned),
		samples: newSamples(append([]string{bareTCP, ours, framedTCP, framedWS}, websockets...)...),
	}
	for _, t := range transfers {
		s.columns = append(s.columns, ratio(t.name, t.cpu()))
	}
	s.columns = append(s.columns,
		median("allocs for each echo", transfers[echoes].allocs(), "%.2f"), median("for each Write of 4 KiB up", transfers[mediumUp].allocs(), "%.2f"))
	return s, b.rotate(ctx, title, s.samples.rows, b.pinnedPair, b.framings, func(p *pair, first bool) error {
		if first {
			if _, err := p.client.do(order{Op: "connect", Address: p.server.hello.Address}); err != nil {
				return err
			}
			for _, t := range transfers {
				if _, _, err := p.order(t.order(t.bytes / 8)); err != nil {
					return err
				}
			}
		}
		for _, t := range transfers {
			client, server, err := p.order(t.order(t.bytes))
			if err != nil {
				return err
			}
			s.samples.add(p.peer, t.cpu(), (server.CPU + client.Used.CPU).Seconds())
			s.samples.add(p.peer, t.allocs(), float64(server.Allocs+client.Used.Allocs)/float64(t.writes()))
		}
		return nil
	})
}

// websockets are those that framing is compared with.
var websockets = []string{coderWS, gorillaWS, gobwasWS}

func (t transfer) order(n int64) order {
	if t.op == opEcho {
		return order{Op: opEcho, N: int(n)}
	}
	return order{Op: t.op, Bytes: n, Chunk: t.chunk}
}

func (t transfer) writes() int64 {
	if t.op == opEcho {
		return t.bytes
	}
	return t.bytes / int64(t.chunk)
}

// transferBuffer is that of a reader.
const transferBuffer = 64 << 10

// serveTransfer serves the commands up and down. The number holds the size of a Write
// above the number of bytes.
func serveTransfer(c net.Conn, command byte, n int64) error {
	if command == commandDown {
		return writeAll(c, n&(1<<chunkShift-1), int(n>>chunkShift))
	}
	if err := readAll(c, n); err != nil {
		return err
	}
	_, err := c.Write([]byte{0})
	return err
}

const chunkShift = 40

func sendUp(c net.Conn, n int64, chunk int) error {
	if err := send(c, commandUp, n); err != nil {
		return err
	}
	if err := writeAll(c, n, chunk); err != nil {
		return err
	}
	return readAll(c, 1)
}

func sendDown(c net.Conn, n int64, chunk int) error {
	if err := send(c, commandDown, n|int64(chunk)<<chunkShift); err != nil {
		return err
	}
	return readAll(c, n)
}

func readAll(c net.Conn, n int64) error {
	buf := make([]byte, transferBuffer)
	for n > 0 {
		m, err := c.Read(buf[:min(int64(len(buf)), n)])
		if n -= int64(m); err != nil && n > 0 {
			return err
		}
	}
	return nil
}

func writeAll(c net.Conn, n int64, chunk int) error {
	buf := make([]byte, chunk)
	binary.BigEndian.PutUint64(buf, uint64(n)) // so that not all of it is zero
	for n > 0 {
		m, err := c.Write(buf[:min(int64(chunk), n)])
		if n -= int64(m); err != nil {
			return err
		}
	}
	return nil
}

// headLen is the length of the head of a request for each framed tunnel. The server keeps
// a copy of it as long as the tunnel.
var headLen = map[string]int{
	framedTCP: len(wire.AppendFields(wire.AppendRequest(nil, target, memoryAddress,
		&wire.Terms{Protocol: "tcp", Framed: true}, "", []preflight.Carrier{preflight.CarrierFramed}), fields)),
	framedWS: len(wire.AppendFields(wire.AppendRequest(nil, target, memoryAddress,
		&wire.Terms{Protocol: "tcp", WebSocket: true}, websocket.NewKey(), []preflight.Carrier{preflight.CarrierWebSocket}), fields)),
}

// framingBudgets are the limits of framed tunnels: CPU of both sides, memory, handshake.
func (r *results) framingBudgets() (of []budget) {
	s, idle := r.section(keyFraming), r.section(keyIdle)
	limits := map[string]map[string]float64{
		framedTCP: {"64 KiB up": 1.20, "64 KiB down": 1.20, "4 KiB up": 1.30, "4 KiB down": 1.30, "512 B up": 1.20, "512 B down": 1.20, "64 B echo": 1.10},
		framedWS:  {"64 KiB up": 1.45, "64 KiB down": 1.20, "4 KiB up": 1.50, "4 KiB down": 1.40, "512 B up": 1.25, "512 B down": 1.20, "64 B echo": 1.10},
	}
	add := func(row, base string, t transfer, limit float64) {
		ratio := s.ratio(row, base, t.cpu())
		of = append(of, budget{what: fmt.Sprintf("%s, %s: CPU / %s", row, t.name, base), limit: limit, value: ratio.median, spread: ratio.half})
	}
	transfers := new(bench).transfers()
	for _, row := range []string{framedTCP, framedWS} {
		for _, t := range transfers {
			add(row, bareTCP, t, limits[row][t.name])
		}
		of = append(of, budget{what: row + ", idle: RSS / bare TCP, beside one copy of the head", limit: 1.30,
			value: (idle.median(row, rss) - float64(headLen[row])) / idle.median(bareTCP, rss)})
	}
	one := r.section(keyOne).ratio(framedWS, ours, latency)
	of = append(of, budget{what: "websocket, handshake, 1 dialer: time / preflight", limit: 1.35, value: one.median, spread: one.half})
	for _, base := range websockets {
		limit := 1.0
		if base == coderWS {
			limit = 1. / 3
		}
		add(framedWS, base, transfers[largeUp], limit)
	}
	return of
}
