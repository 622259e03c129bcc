package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight/internal/wire"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// begin begins the observation of a handshake. It returns nil if telemetry is off.
func (r *role) begin() *observation {
	if r == nil {
		return nil
	}
	return &observation{role: r, since: time.Now(), base: context.Background(), ctx: context.Background()}
}

// An observation is what telemetry knows of a handshake and of the connection after it. A
// nil *observation observes nothing: telemetry is off.
type observation struct {
	role    *role
	since   time.Time         // the handshake began, or the connection behind it
	base    context.Context   // what the request came with
	ctx     context.Context   // and the span, as long as the handshake lasts
	span    trace.Span        // nil: not begun, or ended
	past    trace.SpanContext // of a span that has ended; the span itself is large
	method  string            // of the request; "": none has come
	address string            // what is dialed; on the client's side
	carrier Carrier           // that a tunnel has, or that is tried; "": not known yet
	outcome *outcome          // nil: the handshake has not ended, or not well
	ended   bool

	// head is what the propagator reads; Conn.Request needs it too. lines is what
	// the propagator writes. user are the fields that the user has set.
	head  string
	lines []byte
	user  http.Header

	received, sent atomic.Int64 // not yet recorded
	closed         atomic.Bool

	conn Conn // the connection after the handshake; here it needs no allocation of its own
}

// dial begins the span of an attempt to dial address. The returned context carries it.
func (o *observation) dial(ctx context.Context, address string) context.Context {
	if o == nil {
		return ctx
	}
	o.address = address[strings.LastIndex(address, "@")+1:] // before it stands a password
	return o.start(ctx, http.MethodGet)
}

// tries notes the carrier that an attempt asks for.
func (o *observation) tries(carrier Carrier) {
	if o != nil {
		o.carrier = carrier
	}
}

// arrive begins the span of an upgrade request. The returned context carries it. If ctx
// already carries a span, it is the parent: that of an HTTP server on which the listener
// is mounted.
func (o *observation) arrive(ctx context.Context, method, head []byte) context.Context {
	if o == nil {
		return ctx
	}
	return o.arrived(ctx, method, head)
}

// arrived is arrive if telemetry is on. It is separate because it needs more stack.
func (o *observation) arrived(ctx context.Context, method, head []byte) context.Context {
	o.head = string(head)
	o.base = ctx
	if !trace.SpanContextFromContext(ctx).IsValid() {
		o.extract()
	}
	return o.start(o.base, knownMethod(method))
}

// extract continues the trace of the request.
func (o *observation) extract() {
	defer contain(inTelemetry)
	if ctx := o.role.propagator.Extract(o.base, (*traceCarrier)(o)); ctx != nil {
		o.base = ctx
	}
}

// request returns the head of the request, and its context for the time after the
// handshake. A plain connection has no head.
func (o *observation) request() (head []byte, ctx context.Context) {
	ctx = context.WithoutCancel(o.base)
	if o.past.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, o.past)
	}
	return []byte(o.head), ctx
}

// dropHead frees the head if there is an http.Request instead.
func (o *observation) dropHead() {
	if o != nil {
		o.head = ""
	}
}

func (o *observation) start(ctx context.Context, method string) context.Context {
	o.method = method
	if method == otherMethod {
		method = "HTTP" // as semconv names such a span
	}
	o.ctx = ctx
	o.startSpan(method, o.role.span)
	return o.ctx
}

// startSpan starts the span in o.ctx. If that fails, a span without effect replaces it.
func (o *observation) startSpan(name string, options []trace.SpanStartOption) {
	defer contain(inTelemetry)
	o.span = noSpan
	if ctx, span := o.role.tracer.Start(o.ctx, name, options...); ctx != nil && span != nil {
		o.ctx, o.span = ctx, span
	}
}

var noSpan = trace.SpanFromContext(context.Background())

// otherMethod replaces unknown methods, which would make too many span names.
const otherMethod = "_OTHER"

// knownMethod returns the method of a request as it appears in a span.
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
	if o == nil {
		return
	}
	defer contain(inTelemetry)
	if o.span.IsRecording() {
		o.span.AddEvent(name)
	}
}

// panicked records a panic of the application's code. It reports false if the span does
// not show it. The value is left out, because it may contain a secret.
func (o *observation) panicked(v any) (shown bool) {
	if o == nil || o.ended {
		return false
	}
	defer contain(inTelemetry)
	o.ensureSpan()
	if !o.span.IsRecording() {
		return false
	}
	o.span.AddEvent("exception", trace.WithAttributes(
		semconv.ExceptionType(fmt.Sprintf("%T", v)), semconv.ExceptionStacktrace(string(debug.Stack()))))
	return true
}

// ensureSpan starts a span for a handshake that received no request.
func (o *observation) ensureSpan() {
	if o.span == nil {
		o.startSpan("HTTP", append(o.role.span[:1:1], trace.WithTimestamp(o.since)))
	}
}

// handedOn ends a handshake of a listener that succeeded. It is not inlined, so that the
// key of the outcome is not on the small stack of a handshake.
//
//go:noinline
func (o *observation) handedOn(h *handover) {
	if o != nil {
		o.done(h.outcome())
	}
}

// done ends a handshake that succeeded.
func (o *observation) done(key outcomeKey) {
	if o == nil {
		return
	}
	to, now := o.role.outcomes[key], time.Now()
	if o.span != nil {
		o.endSpan(codes.Unset, "", to.span)
	}
	o.record(o.role.handshakes, o.ctx, now.Sub(o.since), to.handshake)
	o.ended, o.outcome, o.since = true, to, now
	o.ctx, o.span = nil, nil
	if key.kind != kindHTTP {
		o.role.add(o.role.active, o.base, 1, to.active)
	}
}

// endSpan ends the span with what is known of the handshake.
func (o *observation) endSpan(code codes.Code, description string, attributes []attribute.KeyValue) {
	defer contain(inTelemetry)
	span := o.span
	defer span.End()
	o.past = span.SpanContext()
	if !span.IsRecording() {
		return
	}
	span.SetStatus(code, description)
	span.SetAttributes(o.withServer(attributes)...)
	if code == codes.Error && o.method != "" {
		span.SetAttributes(semconv.HTTPRequestMethodKey.String(o.method))
	}
}

// record records a duration.
func (o *observation) record(in metric.Float64Histogram, ctx context.Context, d time.Duration, options []metric.RecordOption) {
	defer contain(inTelemetry)
	in.Record(ctx, d.Seconds(), options...)
}

// fail ends a handshake, unless it has ended already, with err. If ctx, which bounded the
// handshake, has ended, that is the cause, whatever err is.
func (o *observation) fail(ctx context.Context, err error) {
	if o == nil || o.ended {
		return
	}
	o.ended = true
	if o.probe(err) {
		return
	}
	stage, reason := stageOf(err), reasonFor(err)
	if _, refused := err.(*StatusError); !refused && err != errPanic && ctx.Err() != nil && !errors.Is(err, errAborted) {
		err = ctx.Err()
		reason = reasonFor(err)
	}
	attributes := []attribute.KeyValue{kindKey.String(kindFailed), semconv.ErrorTypeKey.String(errorType(err)), reasonKey.String(reason)}
	refused, ok := err.(*StatusError) // not one that NetDialer has met
	if ok {
		attributes = append(attributes, semconv.HTTPResponseStatusCode(refused.StatusCode))
	}
	if ok || err == errClosing || errors.As(err, new(*plainError)) {
		attributes[0] = kindKey.String(kindRefused)
	}
	if o.carrier != "" {
		attributes = append(attributes, carrierKey.String(string(o.carrier)))
	}
	o.ensureSpan()
	o.endSpan(codes.Error, stage, attributes[1:])
	o.record(o.role.handshakes, o.ctx, time.Since(o.since), []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attributes...))})
}

// probe counts a client that has sent nothing, and reports whether this was one. A probe
// has no span: there was no handshake, and health checks connect every few seconds.
func (o *observation) probe(err error) bool {
	var probe probeError
	if o.span != nil || !errors.As(err, &probe) {
		return false
	}
	o.record(o.role.handshakes, o.ctx, time.Since(o.since), o.role.outcomes[outcomeKey{kind: kindProbe}].handshake)
	return true
}

// withServer adds the dialed address, if there is one.
func (o *observation) withServer(attributes []attribute.KeyValue) []attribute.KeyValue {
	if o.address == "" {
		return attributes
	}
	attributes = slices.Clip(attributes) // which are those of others too
	host, port, err := net.SplitHostPort(o.address)
	if err != nil { // of a Unix socket
		return append(attributes, semconv.ServerAddress(o.address))
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return append(attributes, semconv.ServerAddress(host))
	}
	return append(attributes, semconv.ServerAddress(host), semconv.ServerPort(n))
}

// newConn creates the connection after the handshake.
func (o *observation) newConn(c net.Conn, remote *net.TCPAddr, heads *heads, leftover []byte, watch *watch) *Conn {
	var conn *Conn
	hasEarly := len(leftover) > 0 || watch != nil
	if o == nil {
		conn = allocate(hasEarly)
	} else if conn = &o.conn; hasEarly {
		conn.early = new(early)
	}
	conn.init(c, remote, heads, leftover, watch)
	conn.obs = o
	return conn
}

// read counts n bytes that the application has read.
func (o *observation) read(n int64) {
	if o != nil {
		o.count(&o.received, n)
	}
}

// wrote counts n bytes that the application has written.
func (o *observation) wrote(n int64) {
	if o != nil {
		o.count(&o.sent, n)
	}
}

// count adds n to sum, which close records. A copy in the kernel may report its bytes
// after the connection was closed; those are recorded at once.
func (o *observation) count(sum *atomic.Int64, n int64) {
	sum.Add(n)
	if o.closed.Load() {
		o.recordIO()
	}
}

func (o *observation) recordIO() {
	if n := o.received.Swap(0); n > 0 {
		o.role.add(o.role.io, o.base, n, o.outcome.received)
	}
	if n := o.sent.Swap(0); n > 0 {
		o.role.add(o.role.io, o.base, n, o.outcome.sent)
	}
}

// close ends the connection.
func (o *observation) close() {
	if o == nil || o.closed.Swap(true) {
		return
	}
	o.role.add(o.role.active, o.base, -1, o.outcome.active)
	o.record(o.role.lifetimes, o.base, time.Since(o.since), o.outcome.lifetime)
	o.recordIO()
}

// inject appends the trace context to the fields of a request. user are the fields that
// the user has set.
func (o *observation) inject(b []byte, user http.Header) (injected []byte) {
	injected = b // also if the propagator panics
	if o == nil {
		return b
	}
	defer contain(inTelemetry)
	defer func() { o.lines, o.user = nil, nil }() // b is borrowed
	o.lines, o.user = b, user
	o.role.propagator.Inject(o.ctx, (*traceCarrier)(o))
	return o.lines
}

// A traceCarrier is the source or the destination of the trace context.
type traceCarrier observation

// Set appends a field line.
func (c *traceCarrier) Set(name, value string) {
	if err := checkField(name, []string{value}, reserved); err != nil {
		otel.Handle(fmt.Errorf("preflight: the propagator of Telemetry: %w", err))
		return
	}
	for own := range c.user {
		// A tracestate belongs to its traceparent (W3C Trace Context §3.3).
		if strings.EqualFold(own, name) || strings.EqualFold(own, "traceparent") && strings.EqualFold(name, "tracestate") {
			return
		}
	}
	for line := range bytes.SplitSeq(c.lines, []byte("\r\n")) {
		own, _, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(own, []byte(name)) { // of two propagators, the first
			return
		}
	}
	c.lines = wire.AppendField(c.lines, name, value)
}

// Get returns the first value of a field.
func (c *traceCarrier) Get(name string) string {
	for own, value := range c.fields {
		if strings.EqualFold(own, name) {
			return value
		}
	}
	return ""
}

// Values returns all values of a field, for propagation.ValuesGetter: baggage may come
// in several lines.
func (c *traceCarrier) Values(name string) (values []string) {
	for own, value := range c.fields {
		if strings.EqualFold(own, name) {
			values = append(values, value)
		}
	}
	return values
}

// Keys returns the names of the fields.
func (c *traceCarrier) Keys() (names []string) {
	for name := range c.fields {
		names = append(names, name)
	}
	return names
}

// fields iterates over the fields of the head, which the strict parser has accepted.
func (c *traceCarrier) fields(yield func(name, value string) bool) {
	_, fields, _ := strings.Cut(c.head, "\r\n")
	for line := range strings.SplitSeq(fields, "\r\n") {
		name, value, ok := strings.Cut(line, ":")
		if ok && !yield(name, strings.Trim(value, " \t")) {
			return
		}
	}
}
