//go:build !race

// The race detector allocates too.

package telemetry

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// TestBudget bounds the allocations that the SDK adds to a handshake.
func TestBudget(t *testing.T) {
	sdk := func(sampler sdktrace.Sampler) *preflight.Telemetry {
		return &preflight.Telemetry{
			TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler), sdktrace.WithSpanProcessor(drop{})),
			MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader())),
			Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
		}
	}
	const parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
	for name, test := range map[string]struct {
		cost  func(*testing.T, *preflight.Telemetry) float64
		never float64
		limit float64
	}{
		"server":               {serverCost(request + "\r\n"), 2, 4},
		"server, with a trace": {serverCost(request + parent + "\r\n"), 4, 6},
		// The SDK alone needs seven allocations for a span and four events.
		"client": {clientCost, 3, 10},
	} {
		t.Run(name, func(t *testing.T) {
			off := test.cost(t, nil)
			never := test.cost(t, sdk(sdktrace.NeverSample())) - off
			always := test.cost(t, sdk(sdktrace.AlwaysSample())) - off
			t.Logf("%v allocations, %v more with the SDK, %v more with a sampled span", off, never, always)
			require.LessOrEqual(t, never, test.never)
			require.LessOrEqual(t, always, test.limit)
		})
	}
}

type drop struct{}

func (drop) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (drop) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (drop) Shutdown(context.Context) error                  { return nil }
func (drop) ForceFlush(context.Context) error                { return nil }

// serverCost returns a function that counts the allocations of one accepted connection.
func serverCost(head string) func(*testing.T, *preflight.Telemetry) float64 {
	return func(t *testing.T, telemetry *preflight.Telemetry) float64 {
		inner := &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		l := &preflight.PreflightListener{Listener: inner, Telemetry: telemetry}
		defer l.Close()
		c := &memoryConn{in: head}
		accept := func() {
			c.read = 0
			go func() { inner.conns <- c }()
			conn, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		}
		return testing.AllocsPerRun(2000, accept)
	}
}

// clientCost counts the allocations of a dial.
func clientCost(t *testing.T, telemetry *preflight.Telemetry) float64 {
	c := &memoryConn{in: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"}
	d := &preflight.PreflightDialer{NetDialer: pipe{c}, Host: "edge.example", Path: "/client/amps/json/with/a/long/path", Telemetry: telemetry}
	return testing.AllocsPerRun(2000, func() {
		c.read = 0
		conn, err := d.Dial("tcp", "edge.example:80")
		if err != nil {
			t.Error(err)
			return
		}
		conn.Close()
	})
}

type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error   { close(l.closed); return nil }
func (l *memoryListener) Addr() net.Addr { return memoryAddr }

// A memoryConn reads in, and then io.EOF. It does not allocate.
type memoryConn struct {
	net.Conn
	in   string
	read int
}

func (c *memoryConn) Read(b []byte) (int, error) {
	n := copy(b, c.in[c.read:])
	if c.read += n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *memoryConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) LocalAddr() net.Addr              { return memoryAddr }
func (c *memoryConn) RemoteAddr() net.Addr             { return memoryAddr }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

var memoryAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
