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
		TracerProvider: RecordingTracers{Recorder: e}, MeterProvider: recordingMeters{recorder: e},
		Propagator: recordingPropagator{propagation.TraceContext{}, e},
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

type recordingMeters struct {
	metricnoop.MeterProvider
	recorder *Recorder
}

func (p recordingMeters) Meter(string, ...metric.MeterOption) metric.Meter {
	p.recorder.calls("Meter")
	return recordingMeter{recorder: p.recorder}
}

type recordingMeter struct {
	metricnoop.Meter
	recorder *Recorder
}

func (m recordingMeter) Float64Histogram(name string, _ ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return recordingHistogram{name: name, recorder: m.recorder}, nil
}

func (m recordingMeter) Int64Counter(name string, _ ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return recordingCounter{name: name, recorder: m.recorder}, nil
}

func (m recordingMeter) Int64UpDownCounter(name string, _ ...metric.Int64UpDownCounterOption) (metric.Int64UpDownCounter, error) {
	return recordingUpDown{name: name, recorder: m.recorder}, nil
}

type recordingHistogram struct {
	metricnoop.Float64Histogram
	name     string
	recorder *Recorder
}

func (h recordingHistogram) Record(_ context.Context, _ float64, options ...metric.RecordOption) {
	h.recorder.add(h.name, metric.NewRecordConfig(options).Attributes(), 1)
}

type recordingCounter struct {
	metricnoop.Int64Counter
	name     string
	recorder *Recorder
}

func (c recordingCounter) Add(_ context.Context, n int64, options ...metric.AddOption) {
	c.recorder.add(c.name, metric.NewAddConfig(options).Attributes(), n)
}

type recordingUpDown struct {
	metricnoop.Int64UpDownCounter
	name     string
	recorder *Recorder
}

func (c recordingUpDown) Add(_ context.Context, n int64, options ...metric.AddOption) {
	c.recorder.add(c.name, metric.NewAddConfig(options).Attributes(), n)
}

type RecordingTracers struct {
	tracenoop.TracerProvider
	Recorder *Recorder
}

func (p RecordingTracers) Tracer(string, ...trace.TracerOption) trace.Tracer {
	p.Recorder.calls("Tracer")
	return RecordingTracer{Recorder: p.Recorder}
}

type RecordingTracer struct {
	tracenoop.Tracer
	Recorder *Recorder
}

func (t RecordingTracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	t.Recorder.calls("Start")
	t.Recorder.mu.Lock()
	t.Recorder.spans = append(t.Recorder.spans, name)
	t.Recorder.mu.Unlock()
	ctx, span := t.Tracer.Start(ctx, name, options...)
	return ctx, recordingSpan{span, t.Recorder}
}

// A recordingSpan reports that it is recording, so that all of its methods are
// called.
type recordingSpan struct {
	trace.Span
	recorder *Recorder
}

func (s recordingSpan) IsRecording() bool { return true }

func (s recordingSpan) End(...trace.SpanEndOption) { s.recorder.calls("End") }

func (s recordingSpan) AddEvent(string, ...trace.EventOption) { s.recorder.calls("AddEvent") }

func (s recordingSpan) SetAttributes(...attribute.KeyValue) { s.recorder.calls("SetAttributes") }

type recordingPropagator struct {
	propagation.TextMapPropagator
	recorder *Recorder
}

func (p recordingPropagator) Inject(ctx context.Context, c propagation.TextMapCarrier) {
	p.recorder.calls("Inject")
	p.TextMapPropagator.Inject(ctx, c)
}

func (p recordingPropagator) Extract(ctx context.Context, c propagation.TextMapCarrier) context.Context {
	p.recorder.calls("Extract")
	return p.TextMapPropagator.Extract(ctx, c)
}
