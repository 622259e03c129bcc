package preflight_test

import (
	"context"
	"sync"

	"github.com/preflight-go/preflight"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// An eye notes what one side reports: the sums of its metrics and the spans it
// starts. fault, which may be nil, is called with the name of each call before it.
type eye struct {
	mu    sync.Mutex
	sums  map[string]int64 // by name and attributes; of a histogram the count
	spans []string
	fault func(call string)
}

func newEye() *eye { return &eye{sums: make(map[string]int64)} }

func (e *eye) telemetry() *preflight.Telemetry {
	return &preflight.Telemetry{
		TracerProvider: eyeTracers{eye: e}, MeterProvider: eyeMeters{eye: e},
		Propagator: eyePropagator{propagation.TraceContext{}, e},
	}
}

// sum is a metric as it stands, by its name without the prefix, and attributes.
func (e *eye) sum(of string) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sums["preflight."+of]
}

func (e *eye) started() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.spans)
}

func (e *eye) calls(name string) {
	if e.fault != nil {
		e.fault(name)
	}
}

func (e *eye) add(name string, set attribute.Set, n int64) {
	e.calls(name)
	encoded := set.Encoded(attribute.DefaultEncoder())
	if encoded != "" {
		name += " " + encoded
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sums[name] += n
}

type eyeMeters struct {
	metricnoop.MeterProvider
	eye *eye
}

func (p eyeMeters) Meter(string, ...metric.MeterOption) metric.Meter {
	p.eye.calls("Meter")
	return eyeMeter{eye: p.eye}
}

type eyeMeter struct {
	metricnoop.Meter
	eye *eye
}

func (m eyeMeter) Float64Histogram(name string, _ ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return eyeHistogram{name: name, eye: m.eye}, nil
}

func (m eyeMeter) Int64Counter(name string, _ ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return eyeCounter{name: name, eye: m.eye}, nil
}

func (m eyeMeter) Int64UpDownCounter(name string, _ ...metric.Int64UpDownCounterOption) (metric.Int64UpDownCounter, error) {
	return eyeUpDown{name: name, eye: m.eye}, nil
}

type eyeHistogram struct {
	metricnoop.Float64Histogram
	name string
	eye  *eye
}

func (h eyeHistogram) Record(_ context.Context, _ float64, options ...metric.RecordOption) {
	h.eye.add(h.name, metric.NewRecordConfig(options).Attributes(), 1)
}

type eyeCounter struct {
	metricnoop.Int64Counter
	name string
	eye  *eye
}

func (c eyeCounter) Add(_ context.Context, n int64, options ...metric.AddOption) {
	c.eye.add(c.name, metric.NewAddConfig(options).Attributes(), n)
}

type eyeUpDown struct {
	metricnoop.Int64UpDownCounter
	name string
	eye  *eye
}

func (c eyeUpDown) Add(_ context.Context, n int64, options ...metric.AddOption) {
	c.eye.add(c.name, metric.NewAddConfig(options).Attributes(), n)
}

type eyeTracers struct {
	tracenoop.TracerProvider
	eye *eye
}

func (p eyeTracers) Tracer(string, ...trace.TracerOption) trace.Tracer {
	p.eye.calls("Tracer")
	return eyeTracer{eye: p.eye}
}

type eyeTracer struct {
	tracenoop.Tracer
	eye *eye
}

func (t eyeTracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	t.eye.calls("Start")
	t.eye.mu.Lock()
	t.eye.spans = append(t.eye.spans, name)
	t.eye.mu.Unlock()
	ctx, span := t.Tracer.Start(ctx, name, options...)
	return ctx, eyeSpan{span, t.eye}
}

// An eyeSpan records, so that all of its methods are called.
type eyeSpan struct {
	trace.Span
	eye *eye
}

func (s eyeSpan) IsRecording() bool { return true }

func (s eyeSpan) End(...trace.SpanEndOption) { s.eye.calls("End") }

func (s eyeSpan) AddEvent(string, ...trace.EventOption) { s.eye.calls("AddEvent") }

func (s eyeSpan) SetAttributes(...attribute.KeyValue) { s.eye.calls("SetAttributes") }

type eyePropagator struct {
	propagation.TextMapPropagator
	eye *eye
}

func (p eyePropagator) Inject(ctx context.Context, c propagation.TextMapCarrier) {
	p.eye.calls("Inject")
	p.TextMapPropagator.Inject(ctx, c)
}

func (p eyePropagator) Extract(ctx context.Context, c propagation.TextMapCarrier) context.Context {
	p.eye.calls("Extract")
	return p.TextMapPropagator.Extract(ctx, c)
}
