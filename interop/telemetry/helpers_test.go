// Package telemetry tests spans and metrics with the SDK of OpenTelemetry. The root module
// depends only on its API.
package telemetry

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// An observer records the spans and the metrics of one side.
type observer struct {
	*preflight.Telemetry
	recorder *tracetest.SpanRecorder
	reader   *sdkmetric.ManualReader
}

func newObserver() observer {
	o := observer{recorder: tracetest.NewSpanRecorder(), reader: sdkmetric.NewManualReader()}
	o.Telemetry = &preflight.Telemetry{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(o.recorder)),
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(o.reader)),
		Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	}
	return o
}

// metrics returns the points of all metrics: the values of sums, and the counts of
// histograms. A key is the name, without the prefix preflight., and the attributes.
func (o observer) metrics(t *testing.T) map[string]int64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	require.NoError(t, o.reader.Collect(context.Background(), &data))
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
				require.Fail(t, "unexpected kind of metric", "%T", data)
			}
		}
	}
	return points
}

// spans returns the spans that have ended, in the order of their ends.
func (o observer) spans() []sdktrace.ReadOnlySpan { return o.recorder.Ended() }

// span requires that one span has ended, and returns it.
func (o observer) span(t *testing.T) sdktrace.ReadOnlySpan {
	t.Helper()
	require.Len(t, o.spans(), 1)
	return o.spans()[0]
}

// text returns a list of attributes, sorted by name.
func text(attributes []attribute.KeyValue) string {
	var all []string
	for _, a := range attributes {
		all = append(all, string(a.Key)+"="+a.Value.String())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// events returns the names of the events of a span, without the prefix preflight.
func events(s sdktrace.ReadOnlySpan) (names []string) {
	for _, e := range s.Events() {
		names = append(names, strings.TrimPrefix(e.Name, "preflight."))
	}
	return names
}

// serve runs handle for each connection of l, as lab.StartServer does. stop shuts the
// server down, and waits until all of its connections are closed and counted. Without it,
// the end of the test does that.
func serve(t *testing.T, l *preflight.PreflightListener, handle func(*preflight.Conn)) (address string, stop func()) {
	t.Helper()
	server := lab.StartServer(t, l, handle)
	stop = sync.OnceFunc(func() { server.Shutdown(t) })
	t.Cleanup(stop)
	return server.Address, stop
}

// traceOf returns the trace of a context.
func traceOf(ctx context.Context) trace.SpanContext { return trace.SpanContextFromContext(ctx) }
