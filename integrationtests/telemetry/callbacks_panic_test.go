package telemetry_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
)

// faultyTelemetry returns telemetry that always panics in one of its calls.
func faultyTelemetry(in string) *testkit.Recorder {
	e := testkit.NewRecorder()
	e.Fault = func(call string) {
		if call == in {
			panic("a fault of " + in)
		}
	}
	return e
}

// serverCalls are the calls into the application's telemetry on the
// listener's side, clientCalls those on the dialer's side.
var (
	serverCalls = []string{
		"Tracer", "Meter", "Start", "Extract", "AddEvent", "SetAttributes", "End",
		"preflight.server.handshake.pending", "preflight.server.handshake.duration",
		"preflight.server.connection.active", "preflight.server.connection.duration", "preflight.server.connection.io",
		"preflight.server.evictions",
	}
	clientCalls = []string{
		"Tracer", "Meter", "Start", "Inject", "AddEvent", "SetAttributes", "End",
		"preflight.client.handshake.pending", "preflight.client.handshake.duration",
		"preflight.client.connection.active", "preflight.client.connection.duration", "preflight.client.connection.io",
	}
)

// A call into telemetry may panic on any goroutine. The process continues,
// every client gets the same result as without telemetry, and every place
// becomes free again.
func TestTelemetryPanicsOnTheListenersSide(t *testing.T) {
	for _, in := range serverCalls {
		t.Run(in, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { serveFaulty(t, in) })
		})
	}
}

func serveFaulty(t *testing.T, in string) {
	printed, n := testkit.CaptureLog(t), testkit.NewNetwork()
	l := testkit.Listen(t, &preflight.PreflightListener{
		Listener: n, MaxPending: 1, Telemetry: faultyTelemetry(in).Watch(), Handler: http.NotFoundHandler(),
		Authorize: func(r *http.Request) (http.Header, error) {
			switch r.URL.Path {
			case "/panic":
				panic("a fault of Authorize")
			case "/refused":
				return nil, testkit.ErrOther
			}
			return nil, nil
		},
	})
	accepted := testkit.AcceptAll(t, l)
	tunnel := func() {
		c := n.Dial(t).Upgraded(t, testkit.Request())
		conn := <-accepted
		testkit.Talk(t, c, conn)
		conn.Close()
	}
	ask := func(request string) int {
		c := n.Dial(t)
		defer c.Close()
		return (<-c.Ask(request)).StatusCode
	}
	for range 3 {
		tunnel()
		require.Equal(t, 500, ask(strings.Replace(testkit.Request(), "/t", "/panic", 1)))
		require.Equal(t, 403, ask(strings.Replace(testkit.Request(), "/t", "/refused", 1)))
		require.Equal(t, 400, ask("GET / HTTP/1.1\r\n\r\n"))
		require.Equal(t, 404, ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n"))
		n.Dial(t).Close() // a probe
		slow := n.Dial(t)
		slow.Send(t, "GET /") // it is evicted after a second
		tunnel()
		slow.Ended(t)
	}
	require.NoError(t, l.Shutdown(t.Context()), "everything is counted once")
	require.Contains(t, printed.String(), "panic in what Telemetry calls: a fault of "+in)
	require.Contains(t, printed.String(), "callbacks_panic_test.go", "the stack names the function that panicked")
}

func TestTelemetryPanicsOnTheDialersSide(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(r *http.Request) (http.Header, error) {
		if r.URL.Path == "/refused" {
			return nil, testkit.ErrOther
		}
		return nil, nil
	}})
	testkit.ServeEcho(t, l)
	for _, in := range clientCalls {
		t.Run(in, func(t *testing.T) {
			printed, e := testkit.CaptureLog(t), faultyTelemetry(in)
			d := preflight.PreflightDialer{Telemetry: e.Watch()}
			for range 3 {
				c, err := d.Dial("tcp", l.Addr().String())
				require.NoError(t, err)
				testkit.Carry(t, "hello", c, c)
				require.NoError(t, c.Close())
				d.Path = "/refused"
				_, err = d.Dial("tcp", l.Addr().String())
				require.Equal(t, 403, testkit.StatusError(t, err).StatusCode)
				d.Path = ""
			}
			require.Contains(t, printed.String(), "panic in what Telemetry calls: a fault of "+in)
		})
	}
}

// nilTracer is a tracer and a propagator that return nil.
type nilTracer struct{ testkit.RecordingTracer }

func (nilTracer) Start(context.Context, string, ...trace.SpanStartOption) (context.Context, trace.Span) {
	return nil, nil
}

type nilTracers struct{ testkit.RecordingTracers }

func (p nilTracers) Tracer(string, ...trace.TracerOption) trace.Tracer {
	return nilTracer{testkit.RecordingTracer{Recorder: p.Recorder}}
}

// Values that a tracer returns are not trusted.
func TestTelemetryReturnsNothing(t *testing.T) {
	e := testkit.NewRecorder()
	telemetry := e.Watch()
	telemetry.TracerProvider = nilTracers{testkit.RecordingTracers{Recorder: e}}
	l := testkit.Listen(t, &preflight.PreflightListener{Telemetry: telemetry})
	testkit.ServeEcho(t, l)
	d := preflight.PreflightDialer{Telemetry: telemetry}
	c, err := d.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	testkit.Carry(t, "hello", c, c)
	require.NoError(t, c.(*preflight.Conn).CloseWrite())
	_, err = io.ReadAll(c)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.EqualValues(t, 1, e.Sum("client.connection.duration preflight.carrier=upgrade,preflight.kind=upgraded"))
}
