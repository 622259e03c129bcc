package telemetry

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// TestTelemetry requires one trace from the client, through a proxy, to the application of
// the server, although the protocol of the application has no traces.
func TestTelemetry(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	telemetry := &preflight.Telemetry{TracerProvider: provider, Propagator: propagation.TraceContext{}}
	tracer := provider.Tracer("application")
	address := lab.Serve(t, &preflight.PreflightListener{Telemetry: telemetry}, func(c *preflight.Conn) {
		lines := bufio.NewReader(c)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			_, span := tracer.Start(c.Request().Context(), "line")
			io.WriteString(c, line)
			span.End()
		}
	})
	f := lab.StartNginx(t, address).Plain
	ctx, root := tracer.Start(t.Context(), "client")
	d := f.Dialer()
	d.Telemetry = telemetry
	d.Header = http.Header{"Authorization": {"Bearer hunter2"}}
	conn, err := d.DialContext(ctx, "tcp", f.Address)
	require.NoError(t, err)
	c := lab.WithDeadline(t, conn)
	require.NoError(t, lab.Echo(c, []byte("hello\n")))
	c.Close()
	root.End()
	lab.WaitUntil(t, "all spans have ended", func() bool { return len(recorder.Ended()) == 4 })

	spans := make(map[string]sdktrace.ReadOnlySpan)
	for _, s := range recorder.Ended() {
		spans[s.SpanKind().String()+" "+s.Name()] = s
	}
	for child, parent := range map[string]string{
		"client GET":    "internal client",
		"server GET":    "client GET",
		"internal line": "server GET",
	} {
		require.Contains(t, spans, child)
		require.Equal(t, spans[parent].SpanContext().SpanID(), spans[child].Parent().SpanID(), child)
		require.Equal(t, root.SpanContext().TraceID(), spans[child].SpanContext().TraceID())
	}
	require.True(t, spans["server GET"].Parent().IsRemote())
	require.Equal(t, trace.SpanContextFromContext(context.Background()), spans["internal client"].Parent())
}
