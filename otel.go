package preflight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/preflight-go/preflight/internal/wire"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Telemetry makes the handshakes of a [PreflightDialer] or a [PreflightListener]
// visible by OpenTelemetry. A nil *Telemetry is off and costs nothing; the zero
// value uses the global providers. One Telemetry may serve any number of dialers
// and listeners. It must not be copied or changed after its first use.
//
// A dial makes one client span for each attempt, with events for its stages, and
// sends its context with the upgrade request. On the listener's side one server
// span continues that trace for each handshake that ends in a tunnel, a refusal or
// a failure; plain connections and requests for Handler have none. The Context
// of [Conn.Request] carries it, so that an application can go on with the trace.
// Spans are named after the method. They and the metrics, which the README
// lists, never hold a header value, a path or the text of an error.
type Telemetry struct {
	// TracerProvider makes the spans; nil means that of [otel.GetTracerProvider].
	TracerProvider trace.TracerProvider

	// MeterProvider makes the metrics; nil means that of [otel.GetMeterProvider].
	MeterProvider metric.MeterProvider

	// Propagator writes the trace context into the upgrade request, where it
	// replaces no field that the user has set, and reads it there; nil means that
	// of [otel.GetTextMapPropagator]. Whatever it writes, baggage included, adds to
	// the head, which should stay below 7 KiB.
	Propagator propagation.TextMapPropagator

	once           sync.Once
	client, server role
}

const scope = "github.com/preflight-go/preflight"

// The kinds of a connection: what became of its handshake.
const (
	kindUpgraded = "upgraded"
	kindPlain    = "plain"
	kindHTTP     = "http"    // it is Handler's
	kindRefused  = "refused" // by an HTTP answer, or a plain connection without a word
	kindFailed   = "failed"
)

const kindKey = attribute.Key("preflight.kind")

// The events of a client span: a stage is done.
const (
	eventConnect   = "preflight.connect"
	eventProxy     = "preflight.proxy_connect"
	eventTLS       = "preflight.tls"
	eventWritten   = "preflight.request_written"
	eventFirstByte = "preflight.first_byte"
	eventUpgraded  = "preflight.upgraded"
	eventTunnelTLS = "preflight.tunnel_tls"
)

// A role is what the telemetry of one side needs, made once: options and
// attributes that are made for each handshake cost more than the handshake. A nil
// *role is off.
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

	outcomes map[string]*outcome // by kind
}

// An outcome is a good end of a handshake, as it is recorded.
type outcome struct {
	span           []attribute.KeyValue
	handshake      []metric.RecordOption
	lifetime       []metric.RecordOption
	active         []metric.AddOption
	received, sent []metric.AddOption
}

// clientSide is the role of a dialer; nil if t is.
func (t *Telemetry) clientSide() *role {
	if t == nil {
		return nil
	}
	t.once.Do(t.prepare)
	return &t.client
}

// serverSide is the role of a listener; nil if t is.
func (t *Telemetry) serverSide() *role {
	if t == nil {
		return nil
	}
	t.once.Do(t.prepare)
	return &t.server
}

func (t *Telemetry) prepare() {
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
		metric.WithDescription("Handshakes ended at MaxPending to make room for others."))
	report(err)
}

func (r *role) prepare(side string, kind trace.SpanKind, meter metric.Meter) {
	r.span = []trace.SpanStartOption{trace.WithSpanKind(kind)}
	name := func(metric string) string { return "preflight." + side + "." + metric }
	var err error
	r.handshakes, err = meter.Float64Histogram(name("handshake.duration"), metric.WithUnit("s"),
		metric.WithDescription("Duration of handshakes."),
		// Those that semconv has for http.server.request.duration.
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
		// Proxies close what is idle at 30 s, 60 s and 15 min.
		metric.WithExplicitBucketBoundaries(0.1, 1, 10, 29, 31, 59, 61, 300, 890, 910, 3600, 21600, 86400))
	report(err)
	r.io, err = meter.Int64Counter(name("connection.io"), metric.WithUnit("By"),
		metric.WithDescription("Bytes of the application, recorded when the connection is closed."))
	report(err)
	r.outcomes = map[string]*outcome{
		kindUpgraded: newOutcome(kindUpgraded, semconv.HTTPResponseStatusCode(http.StatusSwitchingProtocols)),
		kindPlain:    newOutcome(kindPlain),
		kindHTTP:     newOutcome(kindHTTP),
	}
}

func newOutcome(kind string, status ...attribute.KeyValue) *outcome {
	with := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(append(more, kindKey.String(kind))...))
	}
	return &outcome{
		span:      spanAttributes(http.MethodGet, status...),
		handshake: []metric.RecordOption{with(status...)},
		lifetime:  []metric.RecordOption{with()},
		active:    []metric.AddOption{with()},
		received:  []metric.AddOption{with(semconv.NetworkIODirectionReceive)},
		sent:      []metric.AddOption{with(semconv.NetworkIODirectionTransmit)},
	}
}

func spanAttributes(method string, more ...attribute.KeyValue) []attribute.KeyValue {
	return append([]attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(method),
		semconv.NetworkProtocolName("http"),
		semconv.NetworkProtocolVersion("1.1"),
	}, more...)
}

// report hands on an error of making a metric, which is none of a handshake.
func report(err error) {
	if err != nil {
		otel.Handle(err)
	}
}

// underWay counts n more handshakes under way.
func (r *role) underWay(n int64) {
	if r != nil {
		r.pending.Add(context.Background(), n)
	}
}

// evicted counts a handshake that was ended to make room.
func (r *role) evicted() {
	if r != nil {
		r.evictions.Add(context.Background(), 1)
	}
}

// begin begins a handshake; nil if nobody looks.
func (r *role) begin() *observation {
	if r == nil {
		return nil
	}
	return &observation{role: r, since: time.Now(), base: context.Background(), ctx: context.Background()}
}

// An observation is a handshake, and the connection behind it, in the eyes of
// telemetry. A nil *observation is that of nobody who looks.
type observation struct {
	role    *role
	since   time.Time         // the handshake began, or the connection behind it
	base    context.Context   // what the request came with
	ctx     context.Context   // and the span, as long as the handshake lasts
	span    trace.Span        // nil: not begun, or ended
	past    trace.SpanContext // of a span that has ended; the span itself is large
	method  string            // of the request; "": none has come
	address string            // what is dialed; on the client's side
	outcome *outcome          // nil: the handshake has not ended, or not well
	ended   bool

	// What the propagator reads, which Conn.Request needs too, or what it
	// writes, and beside which fields.
	head  string
	lines []byte
	user  http.Header

	received, sent atomic.Int64 // and not recorded
	closed         atomic.Bool

	conn Conn // the one behind the handshake; here it costs no allocation of its own
}

// dial begins the span of an attempt to dial address, which is in the context
// it returns.
func (o *observation) dial(ctx context.Context, address string) context.Context {
	if o == nil {
		return ctx
	}
	o.address = address
	return o.start(ctx, http.MethodGet)
}

// arrive begins the span of an upgrade request, which is in the context it
// returns. A span that is already there is the parent: that of an HTTP server on
// which the listener is mounted.
func (o *observation) arrive(ctx context.Context, method, head []byte) context.Context {
	if o == nil {
		return ctx
	}
	o.head = string(head)
	if !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = o.role.propagator.Extract(ctx, (*carrier)(o))
	}
	o.base = ctx
	return o.start(ctx, knownMethod(method))
}

// request is the head of the request, and its context for the time after the
// handshake. There is no head on a plain connection.
func (o *observation) request() (head []byte, ctx context.Context) {
	ctx = context.WithoutCancel(o.base)
	if o.past.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, o.past)
	}
	return []byte(o.head), ctx
}

func (o *observation) start(ctx context.Context, method string, options ...trace.SpanStartOption) context.Context {
	if options == nil {
		options = o.role.span
	}
	o.method = method
	if method == otherMethod {
		method = "HTTP" // as semconv names such a span
	}
	o.ctx, o.span = o.role.tracer.Start(ctx, method, options...)
	return o.ctx
}

// otherMethod stands for none, and for those that would make too many names.
const otherMethod = "_OTHER"

// knownMethod is the method of a request as a span has it.
func knownMethod(method []byte) string {
	for _, known := range [...]string{
		http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace,
	} {
		if string(method) == known {
			return known
		}
	}
	return otherMethod
}

// event adds an event to the span.
func (o *observation) event(name string) {
	if o != nil && o.span.IsRecording() {
		o.span.AddEvent(name)
	}
}

// panicked records a panic of the application's code. It reports false if
// nobody will see it. The value is left out, which may hold a secret.
func (o *observation) panicked(v any) bool {
	if o == nil {
		return false
	}
	o.ensureSpan()
	if !o.span.IsRecording() {
		return false
	}
	o.span.AddEvent("exception", trace.WithAttributes(
		semconv.ExceptionType(fmt.Sprintf("%T", v)), semconv.ExceptionStacktrace(string(debug.Stack()))))
	return true
}

// ensureSpan makes a span for a handshake that has come to no request.
func (o *observation) ensureSpan() {
	if o.span == nil {
		o.start(o.ctx, otherMethod, append(o.role.span[:1:1], trace.WithTimestamp(o.since))...)
	}
}

// done ends a handshake well.
func (o *observation) done(kind string) {
	if o == nil {
		return
	}
	to, now := o.role.outcomes[kind], time.Now()
	if o.span != nil {
		if o.span.IsRecording() {
			attributes := to.span
			if o.address != "" {
				attributes = append(attributes[:len(attributes):len(attributes)], serverOf(o.address)...)
			}
			o.span.SetAttributes(attributes...)
		}
		o.span.End()
		o.past = o.span.SpanContext()
	}
	o.role.handshakes.Record(o.ctx, now.Sub(o.since).Seconds(), to.handshake...)
	o.ended, o.outcome, o.since = true, to, now
	o.ctx, o.span = nil, nil
	if kind != kindHTTP {
		o.role.active.Add(o.base, 1, to.active...)
	}
}

// fail ends a handshake that has not ended yet with err.
func (o *observation) fail(err error) {
	if o == nil || o.ended {
		return
	}
	o.ended = true
	attributes := []attribute.KeyValue{kindKey.String(kindFailed), semconv.ErrorTypeKey.String(errorType(err))}
	var refused *StatusError
	switch {
	case errors.As(err, &refused):
		attributes[0] = kindKey.String(kindRefused)
		attributes = append(attributes, semconv.HTTPResponseStatusCode(refused.StatusCode))
	case err == errPlain, err == errClosing:
		attributes[0] = kindKey.String(kindRefused)
	}
	o.ensureSpan()
	if o.span.IsRecording() {
		o.span.SetStatus(codes.Error, stageOf(err))
		o.span.SetAttributes(spanAttributes(o.method, attributes[1:]...)...)
		if o.address != "" {
			o.span.SetAttributes(serverOf(o.address)...)
		}
	}
	o.span.End()
	o.role.handshakes.Record(o.ctx, time.Since(o.since).Seconds(), metric.WithAttributeSet(attribute.NewSet(attributes...)))
}

// serverOf describes what is dialed.
func serverOf(address string) []attribute.KeyValue {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return []attribute.KeyValue{semconv.ServerAddress(address)}
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return []attribute.KeyValue{semconv.ServerAddress(host)}
	}
	return []attribute.KeyValue{semconv.ServerAddress(host), semconv.ServerPort(n)}
}

// newConn is newConn for the connection behind the handshake.
func (o *observation) newConn(c net.Conn, remote *net.TCPAddr, heads heads, rest []byte, watch *watch) *Conn {
	if o == nil {
		return newConn(c, remote, heads, rest, watch)
	}
	o.conn.init(c, remote, heads, rest, watch)
	o.conn.seen = o
	return &o.conn
}

// read counts n bytes that the application has read.
func (o *observation) read(n int64) {
	if o != nil {
		o.count(&o.received, n)
	}
}

// wrote counts n bytes that it has written.
func (o *observation) wrote(n int64) {
	if o != nil {
		o.count(&o.sent, n)
	}
}

// count leaves the record to close, but what a copy in the kernel reports when
// the connection has been closed under it.
func (o *observation) count(sum *atomic.Int64, n int64) {
	sum.Add(n)
	if o.closed.Load() {
		o.recordIO()
	}
}

func (o *observation) recordIO() {
	if n := o.received.Swap(0); n > 0 {
		o.role.io.Add(o.base, n, o.outcome.received...)
	}
	if n := o.sent.Swap(0); n > 0 {
		o.role.io.Add(o.base, n, o.outcome.sent...)
	}
}

// close ends the connection.
func (o *observation) close() {
	if o == nil || o.closed.Swap(true) {
		return
	}
	o.role.active.Add(o.base, -1, o.outcome.active...)
	o.role.lifetimes.Record(o.base, time.Since(o.since).Seconds(), o.outcome.lifetime...)
	o.recordIO()
}

// inject appends the trace context to the fields of a request. user are the fields that
// the user has set.
func (o *observation) inject(b []byte, user http.Header) []byte {
	if o == nil {
		return b
	}
	o.lines, o.user = b, user
	o.role.propagator.Inject(o.ctx, (*carrier)(o))
	b = o.lines
	o.lines, o.user = nil, nil
	return b
}

// A carrier is where the trace context comes from, or goes to.
type carrier observation

// Set appends a field line.
func (c *carrier) Set(name, value string) {
	if err := checkHeader(http.Header{name: {value}}, reserved); err != nil {
		otel.Handle(fmt.Errorf("preflight: the propagator of Telemetry: %w", err))
		return
	}
	for own := range c.user {
		if strings.EqualFold(own, name) {
			return
		}
	}
	c.lines = wire.AppendField(c.lines, name, value)
}

// Get is the value of a field, the first of several.
func (c *carrier) Get(name string) string {
	for own, value := range c.fields {
		if strings.EqualFold(own, name) {
			return value
		}
	}
	return ""
}

// Values are all of them, as propagation.ValuesGetter has it: baggage may come
// in several lines.
func (c *carrier) Values(name string) (values []string) {
	for own, value := range c.fields {
		if strings.EqualFold(own, name) {
			values = append(values, value)
		}
	}
	return values
}

// Keys are the names of the fields.
func (c *carrier) Keys() (names []string) {
	for name := range c.fields {
		names = append(names, name)
	}
	return names
}

// fields walks over the fields of the head, which the strict parser has accepted.
func (c *carrier) fields(yield func(name, value string) bool) {
	_, fields, _ := strings.Cut(c.head, "\r\n")
	for line := range strings.SplitSeq(fields, "\r\n") {
		name, value, ok := strings.Cut(line, ":")
		if ok && !yield(name, strings.Trim(value, " \t")) {
			return
		}
	}
}

// stageOf is what a handshake was doing when it failed.
func stageOf(err error) string {
	var at *stageError
	if errors.As(err, &at) {
		return at.stage
	}
	return ""
}

// errorType is the error.type of a handshake that failed: few and fixed, so that
// they can be an attribute of metrics.
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
	case err == errPlain:
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
	case strings.HasPrefix(stageOf(err), stageTLS):
		return "tls"
	case errors.As(err, &broken):
		return "malformed"
	}
	return semconv.ErrorTypeOther.Value.AsString()
}
