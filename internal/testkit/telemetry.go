package testkit

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

// A Recorder records what one side reports: the sums of its metrics, and the
// spans that it starts. Fault may be nil. It is called with the name of each
// call, before that call.
type Recorder struct {
	mu    sync.Mutex
	Sums  map[string]int64 // by name and attributes; for a histogram the count
	spans []string
	Fault func(call string)
}

func NewRecorder() *Recorder { return &Recorder{Sums: make(map[string]int64)} }

func (e *Recorder) Watch() *preflight.Telemetry {
	return &preflight.Telemetry{
		TracerProvider: EyeTracers{Recorder: e}, MeterProvider: eyeMeters{eye: e},
		Propagator: eyePropagator{propagation.TraceContext{}, e},
	}
}

// Sum returns the current value of a metric. of is its name without the prefix,
// and its attributes.
func (e *Recorder) Sum(of string) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.Sums["preflight."+of]
}

func (e *Recorder) Started() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.spans)
}

func (e *Recorder) calls(name string) {
	if e.Fault != nil {
		e.Fault(name)
	}
}

func (e *Recorder) add(name string, set attribute.Set, n int64) {
	e.calls(name)
	encoded := set.Encoded(attribute.DefaultEncoder())
	if encoded != "" {
		name += " " + encoded
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.Sums[name] += n
}

type eyeMeters struct {
	metricnoop.MeterProvider
	eye *Recorder
}

func (p eyeMeters) Meter(string, ...metric.MeterOption) metric.Meter {
	p.eye.calls("Meter")
	return eyeMeter{eye: p.eye}
}

type eyeMeter struct {
	metricnoop.Meter
	eye *Recorder
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
	eye  *Recorder
}

func (h eyeHistogram) Record(_ context.Context, _ float64, options ...metric.RecordOption) {
	h.eye.add(h.name, metric.NewRecordConfig(options).Attributes(), 1)
}

type eyeCounter struct {
	metricnoop.Int64Counter
	name string
	eye  *Recorder
}

func (c eyeCounter) Add(_ context.Context, n int64, options ...metric.AddOption) {
	c.eye.add(c.name, metric.NewAddConfig(options).Attributes(), n)
}

type eyeUpDown struct {
	metricnoop.Int64UpDownCounter
	name string
	eye  *Recorder
}

func (c eyeUpDown) Add(_ context.Context, n int64, options ...metric.AddOption) {
	c.eye.add(c.name, metric.NewAddConfig(options).Attributes(), n)
}

type EyeTracers struct {
	tracenoop.TracerProvider
	Recorder *Recorder
}

func (p EyeTracers) Tracer(string, ...trace.TracerOption) trace.Tracer {
	p.Recorder.calls("Tracer")
	return EyeTracer{Recorder: p.Recorder}
}

type EyeTracer struct {
	tracenoop.Tracer
	Recorder *Recorder
}

func (t EyeTracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	t.Recorder.calls("Start")
	t.Recorder.mu.Lock()
	t.Recorder.spans = append(t.Recorder.spans, name)
	t.Recorder.mu.Unlock()
	ctx, span := t.Tracer.Start(ctx, name, options...)
	return ctx, eyeSpan{span, t.Recorder}
}

// An eyeSpan reports that it is recording, so that all of its methods are
// called.
type eyeSpan struct {
	trace.Span
	eye *Recorder
}

func (s eyeSpan) IsRecording() bool { return true }

func (s eyeSpan) End(...trace.SpanEndOption) { s.eye.calls("End") }

func (s eyeSpan) AddEvent(string, ...trace.EventOption) { s.eye.calls("AddEvent") }

func (s eyeSpan) SetAttributes(...attribute.KeyValue) { s.eye.calls("SetAttributes") }

type eyePropagator struct {
	propagation.TextMapPropagator
	eye *Recorder
}

func (p eyePropagator) Inject(ctx context.Context, c propagation.TextMapCarrier) {
	p.eye.calls("Inject")
	p.TextMapPropagator.Inject(ctx, c)
}

func (p eyePropagator) Extract(ctx context.Context, c propagation.TextMapCarrier) context.Context {
	p.eye.calls("Extract")
	return p.TextMapPropagator.Extract(ctx, c)
}
