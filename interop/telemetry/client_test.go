package telemetry

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// answer runs a server that reads one request and answers with text.
func answer(t *testing.T, text string) (address string) {
	t.Helper()
	l := lab.Listen(t)
	var served sync.WaitGroup
	served.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(lab.Timeout))
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			io.WriteString(c, text)
		}
	})
	t.Cleanup(served.Wait)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// TestClientOutcome requires the attributes of each way in which an attempt can end.
func TestClientOutcome(t *testing.T) {
	closed := lab.Listen(t)
	closed.Close()
	withCause, cancelCause := context.WithCancelCause(context.Background())
	silent := lab.Listen(t)
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, test := range map[string]struct {
		dialer  preflight.PreflightDialer
		ctx     context.Context
		address string
		metric  string
		status  string
		events  []string
	}{
		"refused": {
			dialer:  preflight.PreflightDialer{Carriers: []preflight.Carrier{preflight.CarrierUpgrade}},
			address: answer(t, "HTTP/1.1 403 "+secret+"\r\nX: "+secret+"\r\nContent-Length: 7\r\n\r\n"+secret),
			metric:  refusedUpgradeBy("403", "forbidden"), events: []string{"connect", "request_written", "first_byte"},
		},
		"malformed": {
			address: answer(t, "HTTP/1.1 101 Switching\r\n"+secret+" : x\r\n\r\n"),
			metric:  "error.type=malformed preflight.carrier=upgrade preflight.kind=failed preflight.reason=malformed", status: "read the answer", events: []string{"connect", "request_written", "first_byte"},
		},
		"not HTTP": {
			address: answer(t, "SSH-2.0-"+secret+"\r\n"),
			metric:  "error.type=malformed preflight.carrier=upgrade preflight.kind=failed preflight.reason=ssh", status: "read the answer", events: []string{"connect", "request_written", "first_byte"},
		},
		"interim answers without an end": {
			address: answer(t, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 12)),
			metric:  "error.type=malformed preflight.carrier=upgrade preflight.kind=failed preflight.reason=too-much", status: "read the answer", events: []string{"connect", "request_written", "first_byte"},
		},
		"a refusal of NetDialer's": {
			dialer:  preflight.PreflightDialer{NetDialer: &preflight.PreflightDialer{}},
			address: answer(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
			metric:  "error.type=403 preflight.carrier=upgrade preflight.kind=failed preflight.reason=403", status: "dial",
		},
		"eof": {
			address: answer(t, ""),
			metric:  "error.type=eof preflight.carrier=upgrade preflight.kind=failed preflight.reason=ended", status: "wait for the 101", events: []string{"connect", "request_written"},
		},
		"timeout": {
			dialer:  preflight.PreflightDialer{HandshakeTimeout: 20 * time.Millisecond},
			address: silent.Addr().String(),
			metric:  "error.type=timeout preflight.carrier=upgrade preflight.kind=failed preflight.reason=silent", status: "wait for the 101", events: []string{"connect", "request_written"},
		},
		"canceled": {
			ctx: canceled, address: silent.Addr().String(),
			metric: "error.type=canceled preflight.carrier=upgrade preflight.kind=failed preflight.reason=canceled", status: "dial",
		},
		"canceled with a cause": {
			dialer: preflight.PreflightDialer{GetHeader: func(context.Context, *preflight.StatusError) (http.Header, error) {
				cancelCause(errors.New(secret))
				return nil, nil
			}},
			ctx: withCause, address: silent.Addr().String(),
			metric: "error.type=canceled preflight.carrier=upgrade preflight.kind=failed preflight.reason=canceled", status: "dial",
		},
		"connection refused": {
			address: closed.Addr().String(),
			metric:  "error.type=connection_refused preflight.carrier=upgrade preflight.kind=failed preflight.reason=connection-refused", status: "dial",
		},
		"dns": {
			address: "nowhere.invalid:80",
			metric:  "error.type=dns preflight.carrier=upgrade preflight.kind=failed preflight.reason=dns", status: "dial",
		},
		"tls": {
			dialer:  preflight.PreflightDialer{TLSConfig: &tls.Config{}},
			address: plain.Listener.Addr().String(),
			metric:  "error.type=tls preflight.carrier=upgrade preflight.kind=failed preflight.reason=not-tls", status: "TLS handshake", events: []string{"connect"},
		},
		"GetHeader": {
			dialer: preflight.PreflightDialer{GetHeader: func(context.Context, *preflight.StatusError) (http.Header, error) {
				return nil, errors.New(secret)
			}},
			address: silent.Addr().String(),
			metric:  "error.type=_OTHER preflight.kind=failed preflight.reason=other",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newObserver()
			d := test.dialer
			d.Telemetry, d.Path, d.Host = e.Telemetry, "/?token="+secret, secret+".example"
			d.Header = http.Header{"Authorization": {"Bearer " + secret}}
			ctx := test.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			_, err := d.DialContext(ctx, "tcp", test.address)
			require.Error(t, err)
			metrics := e.metrics(t)
			require.Equal(t, int64(1), metrics["client.handshake.duration "+test.metric], "%v %v", err, metrics)
			requireQuiet(t, metrics)
			requireSecret(t, e)
			s := e.span(t)
			require.Equal(t, "GET", s.Name())
			require.Equal(t, "client", s.SpanKind().String())
			require.Equal(t, codes.Error, s.Status().Code)
			require.Equal(t, test.status, s.Status().Description)
			require.Equal(t, test.events, events(s))
			require.Contains(t, text(s.Attributes()), strings.Fields(test.metric)[0])
			host, port, _ := net.SplitHostPort(test.address)
			require.Contains(t, text(s.Attributes()), "server.address="+host+" server.port="+port)
		})
	}
}

// TestClientAddress requires that a password in an address, where none belongs, is not
// recorded.
func TestClientAddress(t *testing.T) {
	e := newObserver()
	_, err := (&preflight.PreflightDialer{Telemetry: e.Telemetry, Host: "edge.example"}).Dial("tcp", "user:"+secret+"@127.0.0.1:1")
	require.Error(t, err)
	require.Contains(t, text(e.span(t).Attributes()), "server.address=127.0.0.1 server.port=1")
	requireSecret(t, e)
}

// TestClientPanic requires that a panic in a dial ends the attempt.
func TestClientPanic(t *testing.T) {
	e := newObserver()
	d := &preflight.PreflightDialer{Telemetry: e.Telemetry, GetHeader: func(context.Context, *preflight.StatusError) (http.Header, error) {
		panic(secret)
	}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // this is not what ends the attempt
	require.PanicsWithValue(t, secret, func() { d.DialContext(ctx, "tcp", "127.0.0.1:1") })
	metrics := e.metrics(t)
	require.Equal(t, int64(1), metrics["client.handshake.duration error.type=panic preflight.kind=failed preflight.reason=panic"])
	requireQuiet(t, metrics)
	requireSecret(t, e)
}

// TestClientStages dials through a forward proxy, over TLS and with TLS inside. The first
// attempt gets a 401, and the second one succeeds.
func TestClientStages(t *testing.T) {
	server := httptest.NewTLSServer(nil) // for its certificate
	defer server.Close()
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig
	e, far := newObserver(), newObserver()
	address, stop := serve(t, &preflight.PreflightListener{
		TLSConfig: &tls.Config{Certificates: server.TLS.Certificates},
		Telemetry: far.Telemetry,
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.Header.Get("Authorization") == "" {
				return nil, &preflight.StatusError{StatusCode: 401}
			}
			return nil, nil
		},
	}, func(c *preflight.Conn) { io.Copy(c, c) })
	forward := httptest.NewServer(http.HandlerFunc(connect))
	defer forward.Close()
	proxy, err := url.Parse(forward.URL)
	require.NoError(t, err)
	d := &preflight.PreflightDialer{
		Proxy: http.ProxyURL(proxy), TLSConfig: roots, TunnelTLSConfig: roots, Host: "example.com", Telemetry: e.Telemetry,
		GetHeader: func(_ context.Context, refused *preflight.StatusError) (http.Header, error) {
			if refused == nil {
				return nil, nil
			}
			return http.Header{"Authorization": {secret}}, nil
		},
	}
	c, err := d.Dial("tcp", address)
	require.NoError(t, err)
	c.SetDeadline(time.Now().Add(lab.Timeout))
	_, err = io.WriteString(c, "hello")
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 5))
	require.NoError(t, err)
	require.Equal(t, int64(1), e.metrics(t)["client.connection.active preflight.carrier=upgrade preflight.kind=upgraded"])
	c.Close()
	c.Close()
	stop()

	require.Len(t, e.spans(), 2)
	require.Equal(t, []string{"connect", "proxy_connect", "tls", "request_written", "first_byte"}, events(e.spans()[0]))
	require.Equal(t, []string{"connect", "proxy_connect", "tls", "request_written", "first_byte", "upgraded", "tunnel_tls"}, events(e.spans()[1]))
	require.Equal(t, codes.Error, e.spans()[0].Status().Code)
	require.Equal(t, codes.Unset, e.spans()[1].Status().Code)
	metrics := e.metrics(t)
	requireQuiet(t, metrics)
	requireSecret(t, e)
	for name, n := range map[string]int64{
		"handshake.duration " + refusedUpgradeBy("401", "authorize"): 1,
		"handshake.duration http.response.status_code=101 preflight.carrier=upgrade preflight.kind=upgraded": 1,
		"connection.duration preflight.carrier=upgrade preflight.kind=upgraded":                              1,
		"connection.io network.io.direction=receive preflight.carrier=upgrade preflight.kind=upgraded":       5,
		"connection.io network.io.direction=transmit preflight.carrier=upgrade preflight.kind=upgraded":      5,
	} {
		require.Equal(t, n, metrics["client."+name], name)
		require.Equal(t, n, far.metrics(t)["server."+name], name)
	}
	for i, s := range far.spans() {
		require.Equal(t, e.spans()[i].SpanContext().SpanID(), s.Parent().SpanID())
	}
}

// connect is a forward proxy.
func connect(w http.ResponseWriter, r *http.Request) {
	server, err := net.Dial("tcp", r.Host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer server.Close()
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(server, client)
		server.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(client, server)
	client.Close()
	<-ended
}

// TestClientPropagation requires that the trace and the baggage of the client's context
// arrive. They must not replace a field that the user has set.
func TestClientPropagation(t *testing.T) {
	got := make(chan *http.Request, 1)
	far := newObserver()
	address, _ := serve(t, &preflight.PreflightListener{Telemetry: far.Telemetry}, func(c *preflight.Conn) { got <- c.Request() })
	member, err := baggage.NewMember("who", "jane")
	require.NoError(t, err)
	bag, err := baggage.New(member)
	require.NoError(t, err)
	state, err := trace.ParseTraceState("vendor=1")
	require.NoError(t, err)
	parent := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state,
	})
	ctx := trace.ContextWithSpanContext(baggage.ContextWithBaggage(t.Context(), bag), parent)
	dial := func(d *preflight.PreflightDialer) *http.Request {
		t.Helper()
		c, err := d.DialContext(ctx, "tcp", address)
		require.NoError(t, err)
		defer c.Close()
		return <-got
	}

	e := newObserver()
	r := dial(&preflight.PreflightDialer{Telemetry: e.Telemetry})
	require.Equal(t, parent.TraceID(), traceOf(r.Context()).TraceID())
	require.Equal(t, "vendor=1", traceOf(r.Context()).TraceState().String())
	require.Equal(t, "jane", baggage.FromContext(r.Context()).Member("who").Value())
	require.Equal(t, e.span(t).SpanContext().SpanID(), far.span(t).Parent().SpanID())
	require.Equal(t, parent.SpanID(), e.span(t).Parent().SpanID())

	own := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r = dial(&preflight.PreflightDialer{Telemetry: newObserver().Telemetry, Header: http.Header{
		"TRACEPARENT": {own}, "Baggage": {"a=1", "b=2"},
	}})
	require.Equal(t, []string{own}, r.Header.Values("Traceparent"))
	require.Empty(t, r.Header.Values("Tracestate"), "it belongs to another traceparent")
	require.Equal(t, []string{"a=1", "b=2"}, r.Header.Values("Baggage"))
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", traceOf(r.Context()).TraceID().String())
	require.Equal(t, "1", baggage.FromContext(r.Context()).Member("a").Value())
	require.Equal(t, "2", baggage.FromContext(r.Context()).Member("b").Value())

	// Two propagators that write the same field write it once.
	double := newObserver()
	double.Propagator = propagation.NewCompositeTextMapPropagator(double.Propagator, propagation.TraceContext{})
	r = dial(&preflight.PreflightDialer{Telemetry: double.Telemetry})
	require.Len(t, r.Header.Values("Traceparent"), 1)
	require.Equal(t, parent.TraceID(), traceOf(r.Context()).TraceID())

	// A faulty propagator does no harm, and its faults are reported.
	var faults []error
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { faults = append(faults, err) }))
	defer otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	faulty := newObserver()
	faulty.Propagator = faultyPropagator{}
	r = dial(&preflight.PreflightDialer{Telemetry: faulty.Telemetry})
	require.Equal(t, []string{"fine"}, r.Header.Values("X-Fine"))
	require.Len(t, faults, 2)
	for _, err := range faults {
		require.NotContains(t, err.Error(), secret)
	}
}

type faultyPropagator struct{ propagation.TraceContext }

func (faultyPropagator) Inject(_ context.Context, c propagation.TextMapCarrier) {
	c.Set("Content-Length", secret)
	c.Set("X-Broken", secret+"\r\nX: y")
	c.Set("X-Fine", "fine")
}

// global observes the global providers, which can be set only once.
var global = newObserver()

// TestGlobal requires that the zero Telemetry uses the global providers, even if they are
// set later.
func TestGlobal(t *testing.T) {
	telemetry := new(preflight.Telemetry)
	address, stop := serve(t, &preflight.PreflightListener{Telemetry: telemetry}, func(*preflight.Conn) {})
	dial := func() {
		c, err := (&preflight.PreflightDialer{Telemetry: telemetry}).Dial("tcp", address)
		require.NoError(t, err)
		c.Close()
	}
	dial()
	otel.SetTracerProvider(global.TracerProvider)
	otel.SetMeterProvider(global.MeterProvider)
	otel.SetTextMapPropagator(global.Propagator)
	before := len(global.spans())
	dial()
	stop()
	spans := global.spans()[before:]
	require.Len(t, spans, 2)
	require.Equal(t, spans[0].SpanContext().TraceID(), spans[1].SpanContext().TraceID())
	metrics := global.metrics(t)
	require.NotZero(t, metrics["client.handshake.duration http.response.status_code=101 preflight.carrier=upgrade preflight.kind=upgraded"])
	require.NotZero(t, metrics["server.handshake.duration http.response.status_code=101 preflight.carrier=upgrade preflight.kind=upgraded"])
}
