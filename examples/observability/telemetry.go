package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/preflight-go/preflight"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

// scope is the name of the tracer for the spans of this program.
const scope = "github.com/preflight-go/preflight/examples/observability"

// export sets up OpenTelemetry with the exporters that the environment names, such as a
// collector. Without such variables it prints a short form to out. flush sends what has not
// been sent, and shuts the exporters down.
func export(ctx context.Context, out io.Writer) (t *preflight.Telemetry, flush func() error, err error) {
	var spanOptions []autoexport.SpanOption
	var metricOptions []autoexport.MetricOption
	var printed metric.Reader
	var batch []trace.BatchSpanProcessorOption
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		batch = append(batch, trace.WithBatchTimeout(time.Minute)) // so that a batch has complete trees
		spanOptions = append(spanOptions, autoexport.WithFallbackSpanExporter(
			func(context.Context) (trace.SpanExporter, error) { return tree{out}, nil }))
		metricOptions = append(metricOptions, autoexport.WithFallbackMetricReader(
			func(context.Context) (metric.Reader, error) {
				printed = metric.NewManualReader()
				return printed, nil
			}))
	}
	service, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "preflight-observability")),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv()) // the last one takes precedence
	if err != nil {
		return nil, nil, err
	}
	spans, err := autoexport.NewSpanExporter(ctx, spanOptions...)
	if err != nil {
		return nil, nil, fmt.Errorf("the exporter of spans: %w", err)
	}
	traces := trace.NewTracerProvider(trace.WithResource(service), trace.WithBatcher(spans, batch...))
	reader, err := autoexport.NewMetricReader(ctx, metricOptions...)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("the exporter of metrics: %w", err), traces.Shutdown(ctx))
	}
	metrics := metric.NewMeterProvider(metric.WithResource(service), metric.WithReader(reader))
	flush = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		err := traces.Shutdown(ctx)
		if printed != nil {
			err = errors.Join(err, printMetrics(ctx, out, printed))
		}
		return errors.Join(err, metrics.Shutdown(ctx))
	}
	return &preflight.Telemetry{
		TracerProvider: traces,
		MeterProvider:  metrics,
		Propagator:     propagation.TraceContext{}, // the server continues the client's trace
	}, flush, nil
}
