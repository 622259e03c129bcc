package preflight

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/preflight-go/preflight/internal/wire"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Telemetry reports the handshakes of a [PreflightDialer] or a [PreflightListener] to
// OpenTelemetry. A nil *Telemetry is off and costs nothing. The zero value uses the
// global providers. One Telemetry may serve any number of dialers and listeners. It must
// not be copied or changed after its first use.
//
// A dial creates one client span for each attempt, with events for its stages, and sends
// the context of the span with the upgrade request. The listener continues that trace
// with one server span for each handshake that ends in a tunnel, a refusal or a failure.
// Plain connections and requests for Handler have no span. The Context of
// [Conn.Request] carries the trace, so that an application can continue it. Spans are
// named after the method. docs/telemetry.md lists the metrics. Spans and metrics never contain
// a header value, a path or the text of an error.
//
// A client that resets its connection before it has sent anything, such as a health check
// that only connects, is a probe. A client that ends its connection in order before it
// has sent anything is a probe if plain connections are refused, and a plain connection
// otherwise. A probe is counted under the kind probe, has no span, and is not a failure.
//
// If a provider, an object that it created (a sampler, a span processor) or the
// propagator panics, the panic is printed with its stack, and the handshake continues.
type Telemetry struct {
	// TracerProvider creates the spans. nil means [otel.GetTracerProvider].
	TracerProvider trace.TracerProvider

	// MeterProvider creates the metrics. nil means [otel.GetMeterProvider].
	MeterProvider metric.MeterProvider

	// Propagator writes the trace context into the upgrade request and reads it
	// from there. It replaces no field that the user has set. nil means
	// [otel.GetTextMapPropagator]. What it writes, including baggage, adds to the
	// head, which should stay below 7 KiB.
	Propagator propagation.TextMapPropagator

	once           sync.Once
	ready          bool // false if a provider panicked
	client, server role
}

const scope = "github.com/preflight-go/preflight"

// The kinds are the outcomes of a handshake.
const (
	kindUpgraded = "upgraded"
	kindPlain    = "plain"
	kindHTTP     = "http"    // passed to Handler
	kindRefused  = "refused" // by an HTTP answer; a plain connection without one
	kindFailed   = "failed"
	kindProbe    = "probe" // the client has sent nothing
)

// inTelemetry names the code of the application that panicked, for contain.
const inTelemetry = "what Telemetry calls"

const (
	kindKey    = attribute.Key("preflight.kind")
	carrierKey = attribute.Key("preflight.carrier")
	reasonKey  = attribute.Key("preflight.reason")
)

// The events of a client span each mark the end of a stage.
const (
	eventConnect   = "preflight.connect"
	eventProxy     = "preflight.proxy_connect"
	eventTLS       = "preflight.tls"
	eventWritten   = "preflight.request_written"
	eventFirstByte = "preflight.first_byte"
	eventUpgraded  = "preflight.upgraded"
	eventTunnelTLS = "preflight.tunnel_tls"
)

// A role is what the telemetry of one side needs. It is made once: to make the options
// and the attributes for each handshake would cost more than the handshake. A nil *role
// is off.
type role struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	span       []trace.SpanStartOption

	handshakes metric.Float64Histogram // durations
	pending    metric.Int64UpDownCounter
	active     metric.Int64UpDownCounter
	lifetimes  metric.Float64Histogram
	io         metric.Int64Counter
	evictions  metric.Int64Counter // of the listener
	falls      metric.Int64Counter // of the dialer

	outcomes map[outcomeKey]*outcome
}

// An outcomeKey tells the outcomes of handshakes apart.
type outcomeKey struct {
	kind    string
	carrier Carrier // of kindUpgraded
	reason  string  // of kindPlain, if it is known; of the handshake alone
}

// An outcome holds the attributes of a handshake that ended well.
type outcome struct {
	span           []attribute.KeyValue
	handshake      []metric.RecordOption
	lifetime       []metric.RecordOption
	active         []metric.AddOption
	received, sent []metric.AddOption
}

// clientSide returns the role of a dialer; nil if t is nil.
func (t *Telemetry) clientSide() *role {
	if t == nil || !t.prepared() {
		return nil
	}
	return &t.client
}

// serverSide returns the role of a listener; nil if t is nil.
func (t *Telemetry) serverSide() *role {
	if t == nil || !t.prepared() {
		return nil
	}
	return &t.server
}

func (t *Telemetry) prepared() bool {
	t.once.Do(t.prepare)
	return t.ready
}

func (t *Telemetry) prepare() {
	defer contain(inTelemetry)
	tracers, meters, propagator := t.TracerProvider, t.MeterProvider, t.Propagator
	if tracers == nil {
		tracers = otel.GetTracerProvider()
	}
	if meters == nil {
		meters = otel.GetMeterProvider()
	}
	if propagator == nil {
		propagator = otel.GetTextMapPropagator()
	}
	tracer := tracers.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))
	meter := meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	t.client.prepare("client", trace.SpanKindClient, meter)
	t.server.prepare("server", trace.SpanKindServer, meter)
	t.client.tracer, t.client.propagator = tracer, propagator
	t.server.tracer, t.server.propagator = tracer, propagator
	var err error
	t.server.evictions, err = meter.Int64Counter("preflight.server.evictions", metric.WithUnit("{handshake}"),
		metric.WithDescription("Handshakes cut short at MaxPending to make room for others."))
	report(err)
	t.client.falls, err = meter.Int64Counter("preflight.client.falls", metric.WithUnit("{fall}"),
		metric.WithDescription("Dials that went on to their next carrier."))
	report(err)
	t.ready = true
}

func (r *role) prepare(side string, kind trace.SpanKind, meter metric.Meter) {
	r.span = []trace.SpanStartOption{trace.WithSpanKind(kind)}
	name := func(metric string) string { return "preflight." + side + "." + metric }
	var err error
	r.handshakes, err = meter.Float64Histogram(name("handshake.duration"), metric.WithUnit("s"),
		metric.WithDescription("Duration of handshakes."),
		// The buckets that semconv recommends for http.server.request.duration.
		metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10))
	report(err)
	r.pending, err = meter.Int64UpDownCounter(name("handshake.pending"), metric.WithUnit("{handshake}"),
		metric.WithDescription("Handshakes under way."))
	report(err)
	r.active, err = meter.Int64UpDownCounter(name("connection.active"), metric.WithUnit("{connection}"),
		metric.WithDescription("Connections that are open behind their handshakes."))
	report(err)
	r.lifetimes, err = meter.Float64Histogram(name("connection.duration"), metric.WithUnit("s"),
		metric.WithDescription("Time from the end of the handshake until the connection is closed."),
		// Proxies close idle connections at 30 s, 60 s and 15 min.
		metric.WithExplicitBucketBoundaries(0.1, 1, 10, 29, 31, 59, 61, 300, 890, 910, 3600, 21600, 86400))
	report(err)
	r.io, err = meter.Int64Counter(name("connection.io"), metric.WithUnit("By"),
		metric.WithDescription("Bytes of the application, recorded when the connection is closed."))
	report(err)
	r.outcomes = make(map[outcomeKey]*outcome)
	for _, kind := range []string{kindPlain, kindHTTP, kindProbe} {
		key := outcomeKey{kind: kind}
		r.outcomes[key] = newOutcome(key)
	}
	for _, reason := range []string{reasonClientHello, reasonHTTP2} {
		key := outcomeKey{kind: kindPlain, reason: reason}
		r.outcomes[key] = newOutcome(key)
	}
	for _, carrier := range allCarriers {
		key := outcomeKey{kind: kindUpgraded, carrier: carrier}
		r.outcomes[key] = newOutcome(key, semconv.HTTPResponseStatusCode(http.StatusSwitchingProtocols))
	}
}

func newOutcome(key outcomeKey, status ...attribute.KeyValue) *outcome {
	common := []attribute.KeyValue{kindKey.String(key.kind)}
	if key.carrier != "" {
		common = append(common, carrierKey.String(string(key.carrier)))
	}
	with := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(append(more, common...)...))
	}
	of := status
	if key.reason != "" {
		of = append(of, reasonKey.String(key.reason))
	}
	return &outcome{
		span: slices.Concat([]attribute.KeyValue{
			semconv.HTTPRequestMethodGet,
			semconv.NetworkProtocolName("http"), semconv.NetworkProtocolVersion("1.1"),
		}, status, common[1:]),
		handshake: []metric.RecordOption{with(of...)},
		lifetime:  []metric.RecordOption{with()},
		active:    []metric.AddOption{with()},
		received:  []metric.AddOption{with(semconv.NetworkIODirectionReceive)},
		sent:      []metric.AddOption{with(semconv.NetworkIODirectionTransmit)},
	}
}

// report passes on an error of creating a metric. It does not end a handshake.
func report(err error) {
	if err != nil {
		otel.Handle(err)
	}
}

// addPending adds n to the number of handshakes in progress.
func (r *role) addPending(n int64) {
	if r != nil {
		r.add(r.pending, context.Background(), n, nil)
	}
}

// evicted counts a handshake that was ended to make room.
func (r *role) evicted() {
	if r != nil {
		r.add(r.evictions, context.Background(), 1, nil)
	}
}

// fell counts a dial that moves to its next carrier, because refused answered carrier. The
// reason is the code of the listener, or the status where no listener has answered.
func (r *role) fell(carrier Carrier, refused *StatusError) {
	if r == nil {
		return
	}
	reason := refused.Reason
	if reason == "" {
		reason = refused.ErrorType()
	}
	r.add(r.falls, context.Background(), 1, []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(
		carrierKey.String(string(carrier)), reasonKey.String(reason)))})
}

// add adds n to a counter.
func (r *role) add(to adder, ctx context.Context, n int64, options []metric.AddOption) {
	defer contain(inTelemetry)
	to.Add(ctx, n, options...)
}

// An adder is a counter of any kind.
type adder interface {
	Add(ctx context.Context, n int64, options ...metric.AddOption)
}

// stageOf returns the stage in which a handshake failed.
func stageOf(err error) string {
	var at *stageError
	if errors.As(err, &at) {
		return at.stage
	}
	return ""
}

// errorType returns the error.type of a handshake that failed. The values are few and
// fixed, so that they can be an attribute of metrics.
func errorType(err error) string {
	var refused *StatusError
	var dns *net.DNSError
	var broken *wire.Error
	switch {
	case errors.As(err, &refused):
		return refused.ErrorType()
	case errors.Is(err, context.Canceled):
		return "canceled"
	case isTimeout(err):
		return "timeout"
	case errors.As(err, new(*plainError)):
		return "plain_refused"
	case err == errEvicted:
		return "evicted"
	case err == errClosing:
		return "closing"
	case errors.Is(err, errPanic):
		return "panic"
	case errors.As(err, &dns):
		return "dns"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection_refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection_reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "eof"
	case errors.As(err, &broken):
		return "malformed"
	}
	switch stage := stageOf(err); {
	case strings.HasPrefix(stage, stageTLS):
		return "tls"
	case stage == stageUpgrade.read, stage == stageConnect.read, stage == stagePROXY:
		return "malformed"
	}
	return semconv.ErrorTypeOther.Value.AsString()
}
