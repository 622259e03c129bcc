package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/preflight-go/preflight"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"
)

// TelemetryFlags are those of a command that runs for long.
type TelemetryFlags struct {
	Metrics string `placeholder:"HOST:PORT" help:"Serve metrics for Prometheus at http://HOST:PORT/metrics. The variables of OpenTelemetry (OTEL_METRICS_EXPORTER, OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_ENDPOINT, ...) work too. Without the flag and the variables nothing is exported."`
}

// telemetry is what reports the handshakes and the tunnels; its zero value reports nothing.
type telemetry struct {
	*preflight.Telemetry
	dials    bool // an exporter opens connections
	shutdown []func(context.Context) error
}

// start begins to export as the flag and the environment say.
func (f TelemetryFlags) start(ctx context.Context, log *slog.Logger) (*telemetry, error) {
	if f.Metrics != "" {
		host, port, err := net.SplitHostPort(f.Metrics)
		if err != nil {
			return nil, fmt.Errorf("--metrics: %q is not HOST:PORT", f.Metrics)
		}
		for name, value := range map[string]string{
			"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_HOST": host, "OTEL_EXPORTER_PROMETHEUS_PORT": port,
		} {
			os.Setenv(name, value)
		}
	}
	metrics, traces := exporter("METRICS"), exporter("TRACES")
	t := &telemetry{dials: metrics == "otlp" || traces == "otlp"}
	if metrics == "none" && traces == "none" {
		return t, nil
	}
	if os.Getenv("OTEL_SERVICE_NAME") == "" {
		os.Setenv("OTEL_SERVICE_NAME", "preflight")
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("telemetry failed", "error", err) }))
	t.Telemetry = new(preflight.Telemetry)
	if metrics != "none" {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, fmt.Errorf("metrics by %s: %w", metrics, err)
		}
		provider := metric.NewMeterProvider(metric.WithReader(reader))
		t.MeterProvider = provider
		t.shutdown = append(t.shutdown, provider.Shutdown)
	}
	if traces != "none" {
		spans, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return nil, fmt.Errorf("traces by %s: %w", traces, err)
		}
		provider := trace.NewTracerProvider(trace.WithBatcher(spans))
		t.TracerProvider, t.Propagator = provider, propagation.TraceContext{}
		t.shutdown = append(t.shutdown, provider.Shutdown)
	}
	return t, nil
}

// exporter returns the exporter that the environment names for a signal. The specification
// makes otlp the default. Here nothing is exported unless a variable asks for it.
func exporter(signal string) string {
	if name := os.Getenv("OTEL_" + signal + "_EXPORTER"); name != "" {
		return name
	}
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != "" {
		return "otlp"
	}
	return "none"
}

// flushTimeout bounds the last export.
const flushTimeout = 2 * time.Second

// stop exports what is left.
func (t *telemetry) stop(log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	var err error
	for _, shutdown := range t.shutdown {
		err = errors.Join(err, shutdown(ctx))
	}
	if err != nil {
		log.Warn("telemetry failed", "error", err)
	}
}
