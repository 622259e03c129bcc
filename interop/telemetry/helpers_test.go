// Package telemetry tests what the SDK of OpenTelemetry is told, which the root
// module does not depend on.
package telemetry

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// TestMain fails if a goroutine of the library outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	var left string
	for range 100 {
		buf := make([]byte, 8<<20)
		left = ""
		for i, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if i > 0 && strings.Contains(stack, "preflight") {
				left += stack + "\n\n"
			}
		}
		if left == "" {
			os.Exit(code)
		}
		<-time.After(20 * time.Millisecond)
	}
	fmt.Fprintln(os.Stderr, "goroutines left over:\n"+left)
	os.Exit(1)
}

// patience ends a test that would otherwise hang. No test expects it to pass.
const patience = 30 * time.Second

// An eye sees what one side reports.
type eye struct {
	*preflight.Telemetry
	recorder *tracetest.SpanRecorder
	reader   *sdkmetric.ManualReader
}

func newEye() eye {
	e := eye{recorder: tracetest.NewSpanRecorder(), reader: sdkmetric.NewManualReader()}
	e.Telemetry = &preflight.Telemetry{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(e.recorder)),
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(e.reader)),
		Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	}
	return e
}

// metrics are the points of all metrics, by name and attributes, without the
// prefix: the values of sums, the counts of histograms.
func (e eye) metrics(t *testing.T) map[string]int64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	require.NoError(t, e.reader.Collect(context.Background(), &data))
	points := make(map[string]int64)
	for _, of := range data.ScopeMetrics {
		require.Equal(t, "github.com/preflight-go/preflight", of.Scope.Name)
		for _, m := range of.Metrics {
			add := func(set attribute.Set, n int64) {
				points[strings.TrimSuffix(strings.TrimPrefix(m.Name, "preflight.")+" "+text(set.ToSlice()), " ")] = n
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				require.Equal(t, "s", m.Unit)
				for _, p := range data.DataPoints {
					add(p.Attributes, int64(p.Count))
				}
			default:
				require.Fail(t, "unexpected", "%T", data)
			}
		}
	}
	return points
}

// spans are those that have ended, in this order.
func (e eye) spans() []sdktrace.ReadOnlySpan { return e.recorder.Ended() }

// span is the only one that has ended.
func (e eye) span(t *testing.T) sdktrace.ReadOnlySpan {
	t.Helper()
	require.Len(t, e.spans(), 1)
	return e.spans()[0]
}

// text is a list of attributes in the order of their names.
func text(attributes []attribute.KeyValue) string {
	var all []string
	for _, a := range attributes {
		all = append(all, string(a.Key)+"="+a.Value.String())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func events(s sdktrace.ReadOnlySpan) (names []string) {
	for _, e := range s.Events() {
		names = append(names, strings.TrimPrefix(e.Name, "preflight."))
	}
	return names
}

// serve accepts from l, which gets a loopback listener if it has none, and runs
// handle for every connection until stop is called, or the test ends.
func serve(t *testing.T, l *preflight.PreflightListener, handle func(*preflight.Conn)) (address string, stop func()) {
	t.Helper()
	if l.Listener == nil {
		l.Listener = listen(t)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(patience))
			all.Go(func() {
				defer c.Close()
				handle(c.(*preflight.Conn))
			})
		}
	})
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		l.Close()
		all.Wait()
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// dialTCP connects without a handshake.
func dialTCP(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// eventually waits for a condition.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for timeout := time.After(patience); !condition(); {
		select {
		case <-poll.C:
		case <-timeout:
			require.FailNow(t, "the condition did not come about")
		}
	}
}

// traceOf is the trace that a context is in.
func traceOf(ctx context.Context) trace.SpanContext { return trace.SpanContextFromContext(ctx) }
