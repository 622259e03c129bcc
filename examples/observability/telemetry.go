package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/preflight-go/preflight"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutmetric"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

// scope is the name under which this program makes spans of its own.
const scope = "github.com/preflight-go/preflight/examples/observability"

// export sets up OpenTelemetry: to out, but to a collector if the environment
// names one. flush sends what has not been sent, and ends it.
func export(ctx context.Context, out io.Writer) (t *preflight.Telemetry, flush func() error, err error) {
	var spanOptions []autoexport.SpanOption
	var metricOptions []autoexport.MetricOption
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		spanOptions = append(spanOptions, autoexport.WithFallbackSpanExporter(
			func(context.Context) (trace.SpanExporter, error) {
				return stdouttrace.New(stdouttrace.WithWriter(out))
			}))
		metricOptions = append(metricOptions, autoexport.WithFallbackMetricReader(
			func(context.Context) (metric.Reader, error) {
				exporter, err := stdoutmetric.New(stdoutmetric.WithWriter(out))
				return metric.NewPeriodicReader(exporter), err
			}))
	}
	service, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "preflight-observability")),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv()) // the last one wins
	if err != nil {
		return nil, nil, err
	}
	spans, err := autoexport.NewSpanExporter(ctx, spanOptions...)
	if err != nil {
		return nil, nil, fmt.Errorf("the exporter of spans: %w", err)
	}
	traces := trace.NewTracerProvider(trace.WithResource(service), trace.WithBatcher(spans))
	reader, err := autoexport.NewMetricReader(ctx, metricOptions...)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("the exporter of metrics: %w", err), traces.Shutdown(ctx))
	}
	metrics := metric.NewMeterProvider(metric.WithResource(service), metric.WithReader(reader))
	flush = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		return errors.Join(traces.Shutdown(ctx), metrics.Shutdown(ctx))
	}
	return &preflight.Telemetry{
		TracerProvider: traces,
		MeterProvider:  metrics,
		Propagator:     propagation.TraceContext{}, // the server continues the client's trace
	}, flush, nil
}
