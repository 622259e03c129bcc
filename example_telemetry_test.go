package preflight_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/preflight-go/preflight"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// A printer prints the spans that end. A program has the TracerProvider of the
// OpenTelemetry SDK in its place: examples/observability shows how.
type printer struct{ noop.TracerProvider }

func (printer) Tracer(string, ...trace.TracerOption) trace.Tracer { return printTracer{} }

type printTracer struct{ noop.Tracer }

func (printTracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	config := trace.NewSpanStartConfig(options...)
	span := &printSpan{name: fmt.Sprint(config.SpanKind(), " ", name)}
	return trace.ContextWithSpan(ctx, span), span
}

type printSpan struct {
	noop.Span
	name   string
	status string // of the answer
	failed bool
}

func (*printSpan) IsRecording() bool { return true }

func (s *printSpan) SetAttributes(attributes ...attribute.KeyValue) {
	for _, a := range attributes {
		if a.Key == "http.response.status_code" {
			s.status = a.Value.String()
		}
	}
}

func (s *printSpan) SetStatus(code codes.Code, _ string) { s.failed = code == codes.Error }

func (s *printSpan) End(...trace.SpanEndOption) {
	fmt.Printf("%s: %s, failed: %t\n", s.name, s.status, s.failed)
}

// Each attempt of a dialer is a span, and so is each handshake of a listener,
// which has a Telemetry of its own or the same. The zero Telemetry uses the global
// providers of OpenTelemetry.
func ExampleTelemetry() {
	ln := &preflight.PreflightListener{
		Listener: listenLocal(),
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.URL.Path != "/client/greet" {
				return nil, &preflight.StatusError{StatusCode: http.StatusNotFound}
			}
			return nil, nil
		},
	}
	defer ln.Close()
	go greet(ln)

	t := &preflight.Telemetry{TracerProvider: printer{}}
	for _, path := range []string{"/client/greet", "/client/gret"} {
		d := &preflight.PreflightDialer{Path: path, Telemetry: t}
		conn, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			continue // the span has it
		}
		conn.Close()
	}
	// Output:
	// client GET: 101, failed: false
	// client GET: 404, failed: true
}
