package snippets_test

import (
	"context"
	"fmt"
	"log"

	"github.com/preflight-go/preflight"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Spans of both sides and of the application.
func Example_telemetry() {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	tracer := provider.Tracer("application")
	inner := listen()

	otel.SetTracerProvider(provider)
	defer otel.SetTracerProvider(noop.NewTracerProvider())

	t := &preflight.Telemetry{} // the global providers; or set its fields
	l := &preflight.PreflightListener{Listener: inner, Telemetry: t}
	d := &preflight.PreflightDialer{Path: "/client/amps/json", Telemetry: t}
	defer l.Close()

	dialed := make(chan error, 1)
	go func() {
		conn, err := d.Dial("tcp", inner.Addr().String())
		if err == nil {
			conn.Close()
		}
		dialed <- err
	}()
	conn, err := l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, span := tracer.Start(conn.(*preflight.Conn).Request().Context(), "session")
	work(ctx)
	span.End()
	if err := <-dialed; err != nil {
		log.Fatal(err)
	}
	started := spans.Started()
	fmt.Println(len(started), "spans")
	fmt.Println("the session is in the trace of the handshake:", span.SpanContext().TraceID() == serverSpan(started).TraceID())
	// Output:
	// 3 spans
	// the session is in the trace of the handshake: true
}

// work is what the application does in its session.
func work(context.Context) {}

// serverSpan returns the span of the listener.
func serverSpan(spans []sdktrace.ReadWriteSpan) trace.SpanContext {
	for _, span := range spans {
		if span.SpanKind() == trace.SpanKindServer {
			return span.SpanContext()
		}
	}
	return trace.SpanContext{}
}
