package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/preflight-go/preflight"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"
)

const keyChurn = "churn"

const opChurn = "churn"

// The rows of short connections.
const (
	churnTCP = "bare TCP, and X-Forwarded-For"
	churnAll = "preflight, everything set"
)

var churnPeers = []*peer{
	{churnTCP, "bare TCP, with the bytes of the next row", listenTCP, dialForwardedTCP},
	{churnAll, "PreflightListener with Authorize, TrustedProxies and the SDK of OpenTelemetry", listenAll, dialForwarded},
}

// forwarded are the fields of a client behind a reverse proxy.
var forwarded = func() http.Header {
	h := fields.Clone()
	h.Set("X-Forwarded-For", "192.0.2.1")
	return h
}()

func dialForwardedTCP(s *site) (dialFunc, error) {
	return dialFloor(s, func(address string) []byte { return requestOf(address, forwarded) }), nil
}

func dialForwarded(s *site) (dialFunc, error) {
	d := &preflight.PreflightDialer{NetDialer: s.net, Path: target, Header: forwarded}
	return func(ctx context.Context, address string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", address)
	}, nil
}

// listenAll has a listener with everything that does something for each connection.
func listenAll(s *site, handle func(net.Conn)) (string, error) {
	l, err := preflightListener(nil)
	if err != nil {
		return "", err
	}
	granted := []byte(fields.Get("Authorization"))
	l.Authorize = func(r *http.Request) (http.Header, error) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), granted) == 0 {
			return nil, errors.New("not granted")
		}
		return nil, nil
	}
	l.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	tracers := trace.NewTracerProvider(trace.WithSampler(trace.AlwaysSample()), trace.WithBatcher(nowhere{}))
	l.Telemetry = &preflight.Telemetry{
		TracerProvider: tracers,
		MeterProvider:  metric.NewMeterProvider(metric.WithReader(metric.NewManualReader())),
		Propagator:     propagation.TraceContext{},
	}
	s.settle = func() error { return tracers.ForceFlush(context.Background()) }
	go acceptAll(l, func(c net.Conn) {
		if c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr() != netip.AddrFrom4([4]byte{192, 0, 2, 1}) {
			c.Close() // the client waits in vain, and the measurement fails
			return
		}
		handle(c)
	})
	return l.Addr().String(), nil
}

const (
	churnLife    = 100 * time.Millisecond
	churnDialers = 1000
	churnWindows = 10
)

func (b *bench) churnN() int {
	if b.quick {
		return 3000
	}
	return 100000
}

// churn dials connections that each live for a while, o.Dialers at a time.
func (c *client) churn(o order) error {
	c.site.spread.Store(true)
	defer c.site.spread.Store(false)
	return each(o, func(int) error {
		end := time.Now().Add(churnLife)
		conn, err := c.dial(context.Background(), o.Address)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := sendEcho(conn, 1); err != nil {
			return err
		}
		time.Sleep(time.Until(end))
		return nil
	})
}

// The quantities of short connections.
const (
	heapFirst  = "heap, first"
	heapLast   = "heap, last"
	heapGrowth = "heap growth"
	rssFirst   = "RSS, first"
	rssLast    = "RSS, last"
	goroutines = "goroutines"
)

// shortConnections measures a listener that accepts connections in a row that do not live
// long.
func (b *bench) shortConnections(ctx context.Context) (*section, error) {
	const title = "Short connections in a row"
	n := b.churnN()
	s := &section{
		key: keyChurn, title: title,
		text: fmt.Sprintf("%d connections that live for %v each: dial, handshake, an echo, close; %d dialers, in %d parts. The rows take turns after each part, and a ratio compares parts. CPU, allocations and bytes are those of the server for one connection. Heap (live objects) and RSS after a garbage collection: after the first part, and after the last one. Growth is the difference in bytes for each 1000 connections. `goroutines` is how many more there are in the end than before the first connection.",
			n, churnLife, churnDialers, churnWindows),
		columns: []column{
			ratio("time, ratio", elapsed), median("per s", rate, "%.0f"),
			median("server CPU µs", serverCPU, "%.0f"), ratio("ratio", serverCPU),
			median("allocs", serverAllocs, "%.1f"), median("B", serverBytes, "%.0f"),
			median("heap KiB, first", heapFirst, "%.0f"), median("last", heapLast, "%.0f"), median("growth, B", heapGrowth, "%.0f"),
			median("RSS MiB, first", rssFirst, "%.1f"), median("last", rssLast, "%.1f"), median("goroutines", goroutines, "%.0f"),
		},
		samples: newSamples(names(churnPeers)...),
	}
	type past struct {
		parts        int
		begun, first usage
	}
	of := map[string]*past{churnTCP: {}, churnAll: {}}
	part := n / churnWindows
	return s, b.rotate(ctx, title, s.samples.rows, b.pair, churnWindows, func(p *pair, first bool) error {
		row, add, past := p.peer, s.samples.add, of[p.peer]
		if first {
			a, err := p.server.do(order{Op: "collect"})
			if err != nil {
				return err
			}
			past.begun = a.Used
		}
		client, server, err := p.order(order{Op: opChurn, N: part, Dialers: min(churnDialers, part)})
		if err != nil {
			return err
		}
		add(row, elapsed, client.Elapsed.Seconds())
		add(row, rate, float64(part)/client.Elapsed.Seconds())
		add(row, serverCPU, micros(server.CPU, part))
		add(row, serverAllocs, float64(server.Allocs)/float64(part))
		add(row, serverBytes, float64(server.Bytes)/float64(part))
		a, err := p.server.do(order{Op: "collect"})
		if err != nil {
			return err
		}
		resident, err := p.server.rss()
		if err != nil {
			return err
		}
		switch past.parts++; past.parts {
		case 1:
			past.first = a.Used
			add(row, heapFirst, float64(a.Used.Live)/(1<<10))
			add(row, rssFirst, float64(resident)/(1<<20))
		case churnWindows:
			add(row, heapLast, float64(a.Used.Live)/(1<<10))
			add(row, rssLast, float64(resident)/(1<<20))
			add(row, heapGrowth, float64(a.Used.Live-past.first.Live)/float64(n-part)*1000)
			add(row, goroutines, float64(a.Used.Goroutines-past.begun.Goroutines))
		}
		return nil
	})
}

// churnBudgets are the limits of short connections: nothing of them may stay. A leak of one
// pointer for each connection would be 8000 bytes for each 1000.
func (r *results) churnBudgets() []budget {
	s := r.section(keyChurn)
	return []budget{
		{what: "short connections, everything set: bytes of heap that stay of 1000", limit: 8000, value: s.median(churnAll, heapGrowth)},
		{what: "short connections, everything set: goroutines that stay", limit: 0, value: s.median(churnAll, goroutines)},
	}
}
