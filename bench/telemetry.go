package main

import (
	"context"

	"github.com/preflight-go/preflight"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

func noopTelemetry() *preflight.Telemetry {
	return &preflight.Telemetry{
		TracerProvider: tracenoop.NewTracerProvider(),
		MeterProvider:  metricnoop.NewMeterProvider(),
		Propagator:     propagation.TraceContext{},
	}
}

func sdkTelemetry() *preflight.Telemetry {
	return &preflight.Telemetry{
		TracerProvider: trace.NewTracerProvider(trace.WithSampler(trace.AlwaysSample()), trace.WithBatcher(nowhere{})),
		MeterProvider:  metric.NewMeterProvider(metric.WithReader(metric.NewManualReader())),
		Propagator:     propagation.TraceContext{},
	}
}

// nowhere is an exporter that discards spans.
type nowhere struct{}

func (nowhere) ExportSpans(context.Context, []trace.ReadOnlySpan) error { return nil }
func (nowhere) Shutdown(context.Context) error                          { return nil }
