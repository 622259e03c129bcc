package telemetry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
)

// secret is in each place of a request that may hold a secret.
const secret = "hunter2"

const request = "GET /path?token=" + secret + " HTTP/1.1\r\nHost: " + secret + ".example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" +
	"Authorization: Bearer " + secret + "\r\n"

// TestServerOutcome requires the attributes of each way in which a handshake can end.
func TestServerOutcome(t *testing.T) {
	authorize := func(err error) func(*http.Request) (http.Header, error) {
		return func(*http.Request) (http.Header, error) { return nil, err }
	}
	for name, test := range map[string]struct {
		listener *preflight.PreflightListener
		send     string
		stay     bool   // the client does not close its direction
		metric   string // attributes of the duration
		span     string // the name of the span; "": there is none
		status   string // the description of the status of the span
	}{
		"upgraded": {send: request + "\r\n", metric: "http.response.status_code=101 preflight.carrier=upgrade preflight.kind=upgraded", span: "GET"},
		"plain":    {send: "\x00" + secret, metric: "preflight.kind=plain"},
		"http": {
			listener: &preflight.PreflightListener{Handler: http.NotFoundHandler()},
			send:     "GET /" + secret + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", metric: "preflight.kind=http",
		},
		"400": {send: "GET / HTTP/1.1\r\nHost: h\r\n" + secret + " : x\r\n\r\n", metric: refusedBy("400", "head"), span: "HTTP"},
		"401": {
			listener: &preflight.PreflightListener{Authorize: authorize(&preflight.StatusError{StatusCode: 401, Body: []byte(secret), Header: http.Header{"X": {secret}}})},
			send:     request + "\r\n", metric: refusedUpgradeBy("401", "authorize"), span: "GET",
		},
		"403": {
			listener: &preflight.PreflightListener{Authorize: authorize(errors.New(secret))},
			send:     request + "\r\n", metric: refusedUpgradeBy("403", "authorize"), span: "GET",
		},
		"405": {send: strings.Replace(request, "GET", "POST", 1) + "\r\n", metric: refusedBy("405", "method"), span: "POST"},
		"426": {send: strings.Replace(request, "Upgrade: tcp", "Upgrade: "+secret, 1) + "\r\n", metric: refusedBy("426", "protocol"), span: "GET"},
		"408": {
			listener: &preflight.PreflightListener{HandshakeTimeout: 50 * time.Millisecond},
			send:     request, stay: true, metric: refusedBy("408", "too-slow"), span: "HTTP",
		},
		"414": {
			listener: &preflight.PreflightListener{MaxHeaderBytes: 64},
			send:     "GET /" + strings.Repeat(secret, 100), metric: refusedBy("414", "too-large"), span: "HTTP",
		},
		"431": {
			listener: &preflight.PreflightListener{MaxHeaderBytes: 200},
			send:     request + "X: " + strings.Repeat(secret, 100), metric: refusedBy("431", "too-large"), span: "HTTP",
		},
		"HTTP/1.0": {send: "GET / HTTP/1.0\r\n\r\n", metric: refusedBy("426", "health-check"), span: "GET"},
		"a malformed PROXY header": {
			listener: &preflight.PreflightListener{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
			send:     "PROXY TCP4 " + secret + "\r\n", metric: "error.type=malformed preflight.kind=failed preflight.reason=bad-proxy-header", span: "HTTP", status: "read the PROXY header",
		},
		"a plain connection is refused": {
			listener: &preflight.PreflightListener{RequireUpgrade: true},
			send:     "\x00" + secret, metric: "error.type=plain_refused preflight.kind=refused preflight.reason=plain", span: "HTTP",
		},
		"TLS fails": {
			listener: &preflight.PreflightListener{TLSConfig: noCertificate},
			send:     clientHello(t), metric: "error.type=tls preflight.kind=failed preflight.reason=tls", span: "HTTP", status: "TLS handshake",
		},
		"TLS stalls": {
			listener: &preflight.PreflightListener{HandshakeTimeout: 50 * time.Millisecond, TLSConfig: noCertificate},
			send:     clientHello(t)[:20], stay: true, metric: "error.type=timeout preflight.kind=failed preflight.reason=timeout", span: "HTTP", status: "TLS handshake",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newObserver()
			l := test.listener
			if l == nil {
				l = new(preflight.PreflightListener)
			}
			l.Telemetry = e.Telemetry
			address, stop := serve(t, l, func(c *preflight.Conn) { io.Copy(io.Discard, c) })
			c := lab.DialTCP(t, address)
			_, err := io.WriteString(c, test.send)
			require.NoError(t, err)
			if !test.stay {
				c.CloseWrite()
			}
			io.Copy(io.Discard, c)
			c.Close()
			stop()

			metrics := e.metrics(t)
			require.Equal(t, int64(1), metrics["server.handshake.duration "+test.metric], "%v", metrics)
			requireQuiet(t, metrics)
			requireSecret(t, e)
			if test.span == "" {
				require.Empty(t, e.spans())
				return
			}
			s := e.span(t)
			require.Equal(t, test.span, s.Name())
			require.Equal(t, "server", s.SpanKind().String())
			attributes := text(s.Attributes())
			for _, a := range strings.Fields(test.metric) {
				if !strings.HasPrefix(a, "preflight.") {
					require.Contains(t, attributes, a)
				}
			}
			if name == "upgraded" {
				require.Equal(t, codes.Unset, s.Status().Code)
				return
			}
			require.Equal(t, codes.Error, s.Status().Code)
			require.Equal(t, test.status, s.Status().Description)
			require.NotContains(t, attributes, "network.protocol", "a failed handshake has no protocol")
		})
	}
}

// refusedBy returns the attributes of a refusal.
func refusedBy(status, reason string) string {
	return "error.type=" + status + " http.response.status_code=" + status + " preflight.kind=refused preflight.reason=" + reason
}

// refusedUpgradeBy is refusedBy for a request whose carrier was known.
func refusedUpgradeBy(status, reason string) string {
	return strings.Replace(refusedBy(status, reason), "preflight.kind", "preflight.carrier=upgrade preflight.kind", 1)
}

// clientHello returns the first record of a TLS client.
func clientHello(t *testing.T) string {
	t.Helper()
	l := lab.Listen(t)
	go func() {
		if c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true}); err == nil {
			c.Close()
		}
	}()
	c, err := l.Accept()
	require.NoError(t, err)
	defer c.Close()
	record := make([]byte, 5)
	_, err = io.ReadFull(c, record)
	require.NoError(t, err)
	rest := make([]byte, int(record[3])<<8|int(record[4]))
	_, err = io.ReadFull(c, rest)
	require.NoError(t, err)
	return string(append(record, rest...))
}

// requireQuiet requires that the gauges of pending handshakes and active connections are zero.
func requireQuiet(t *testing.T, metrics map[string]int64) {
	t.Helper()
	for name, n := range metrics {
		if strings.Contains(name, ".pending") || strings.Contains(name, ".active") {
			require.Zero(t, n, name)
		}
	}
}

// requireSecret requires that no span and no metric holds the secret.
func requireSecret(t *testing.T, e observer) {
	t.Helper()
	for name := range e.metrics(t) {
		require.NotContains(t, name, secret)
	}
	for _, s := range e.spans() {
		require.NotContains(t, s.Name()+s.Status().Description+text(s.Attributes()), secret)
		for _, event := range s.Events() {
			require.NotContains(t, event.Name+text(event.Attributes), secret)
		}
	}
}

// TestServerPanic requires that a panic in Authorize is recorded by telemetry, or printed if
// there is no telemetry.
func TestServerPanic(t *testing.T) {
	var printed bytes.Buffer
	log.SetOutput(&printed)
	defer log.SetOutput(os.Stderr)
	panics := func(*http.Request) (http.Header, error) { panic(errors.New(secret)) }
	refused := func(t *testing.T, telemetry *preflight.Telemetry) {
		t.Helper()
		address, stop := serve(t, &preflight.PreflightListener{Authorize: panics, Telemetry: telemetry}, func(*preflight.Conn) {})
		_, err := new(preflight.PreflightDialer).Dial("tcp", address)
		var e *preflight.StatusError
		require.ErrorAs(t, err, &e)
		require.Equal(t, 500, e.StatusCode)
		stop()
	}

	e := newObserver()
	refused(t, e.Telemetry)
	require.Empty(t, printed.String())
	s := e.span(t)
	require.Len(t, s.Events(), 1)
	require.Equal(t, "exception", s.Events()[0].Name)
	require.Contains(t, text(s.Events()[0].Attributes), "exception.type=*errors.errorString")
	require.Contains(t, text(s.Events()[0].Attributes), "server_test.go")
	require.Equal(t, int64(1), e.metrics(t)["server.handshake.duration "+refusedUpgradeBy("500", "panic")])
	requireSecret(t, e)

	refused(t, nil)
	require.Contains(t, printed.String(), secret)
}

// TestServerCutOff requires that Close ends handshakes, and connections that Accept has not
// returned.
func TestServerCutOff(t *testing.T) {
	e := newObserver()
	l := &preflight.PreflightListener{Listener: lab.Listen(t), Telemetry: e.Telemetry}
	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.Close()
		}
		accepted <- err
	}()
	taken, stalled, waiting := lab.DialTCP(t, l.Addr().String()), lab.DialTCP(t, l.Addr().String()), lab.DialTCP(t, l.Addr().String())
	_, err := io.WriteString(taken, request+"\r\n")
	require.NoError(t, err)
	require.NoError(t, <-accepted)
	_, err = io.WriteString(stalled, request)
	require.NoError(t, err)
	_, err = io.WriteString(waiting, request+"\r\n")
	require.NoError(t, err)
	lab.WaitUntil(t, "two handshakes are pending, of which one has its answer", func() bool {
		return e.metrics(t)["server.handshake.pending"] == 2 && len(e.spans()) == 2
	})
	require.NoError(t, l.Close())
	lab.WaitUntil(t, "no handshake is pending", func() bool { return e.metrics(t)["server.handshake.pending"] == 0 })
	metrics := e.metrics(t)
	require.Equal(t, int64(2), metrics["server.handshake.duration http.response.status_code=101 preflight.carrier=upgrade preflight.kind=upgraded"])
	require.Equal(t, int64(1), metrics["server.handshake.duration error.type=canceled preflight.kind=failed preflight.reason=draining"])
	require.Equal(t, int64(2), metrics["server.connection.duration preflight.carrier=upgrade preflight.kind=upgraded"])
	requireQuiet(t, metrics)
}

// TestServerEvictedLayers evicts handshakes before their request.
func TestServerEvictedLayers(t *testing.T) {
	for name, first := range map[string]string{"TLS": clientHello(t)[:20], "PROXY header": "PROXY TCP4 192.0.2.1"} {
		t.Run(name, func(t *testing.T) {
			e := newObserver()
			l := &preflight.PreflightListener{
				MaxPending: 1, Telemetry: e.Telemetry, TLSConfig: noCertificate,
				TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			}
			address, stop := serve(t, l, func(c *preflight.Conn) { c.Close() })
			_, err := io.WriteString(lab.DialTCP(t, address), first)
			require.NoError(t, err)
			good, err := new(preflight.PreflightDialer).Dial("tcp", address)
			require.NoError(t, err)
			good.Close()
			stop()
			require.Equal(t, int64(1), e.metrics(t)["server.handshake.duration error.type=evicted preflight.kind=failed preflight.reason=evicted"])
		})
	}
}

// noCertificate fails each handshake. Its error holds the secret.
var noCertificate = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return nil, errors.New(secret)
}}

// TestServerEvictions requires that evictions are counted. An evicted connection is accepted
// as plain, or closed.
func TestServerEvictions(t *testing.T) {
	e := newObserver()
	l := &preflight.PreflightListener{MaxPending: 1, Telemetry: e.Telemetry}
	address, stop := serve(t, l, func(c *preflight.Conn) { c.Close() })
	silent := lab.DialTCP(t, address)
	stalled := lab.DialTCP(t, address)
	_, err := io.WriteString(stalled, request)
	require.NoError(t, err)
	good, err := new(preflight.PreflightDialer).Dial("tcp", address)
	require.NoError(t, err)
	good.Close()
	silent.Close()
	stop()
	metrics := e.metrics(t)
	require.Equal(t, int64(2), metrics["server.evictions"], "%v", metrics)
	require.Equal(t, int64(1), metrics["server.handshake.duration preflight.kind=plain"])
	require.Equal(t, int64(1), metrics["server.handshake.duration error.type=evicted preflight.kind=failed preflight.reason=evicted"])
	requireQuiet(t, metrics)
}

// TestServerMounted mounts the listener on an HTTP server. Its span must be the parent.
func TestServerMounted(t *testing.T) {
	e, around := newObserver(), newObserver()
	l := &preflight.PreflightListener{Telemetry: e.Telemetry}
	requests := make(chan *http.Request, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			requests <- c.(*preflight.Conn).Request()
			c.Close()
		}
	}()
	tracer := around.TracerProvider.Tracer("around")
	inner := lab.Listen(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, span := tracer.Start(r.Context(), "around")
		defer span.End()
		l.ServeHTTP(w, r.WithContext(ctx))
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(inner) }()
	defer func() {
		server.Close()
		require.ErrorIs(t, <-served, http.ErrServerClosed)
		l.Close()
	}()

	c, err := (&preflight.PreflightDialer{Telemetry: newObserver().Telemetry}).Dial("tcp", inner.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	r := <-requests
	lab.WaitUntil(t, "the span of the HTTP server has ended", func() bool { return len(around.spans()) == 1 })
	require.Equal(t, around.span(t).SpanContext().SpanID(), e.span(t).Parent().SpanID())
	require.Equal(t, e.span(t).SpanContext().SpanID(), traceOf(r.Context()).SpanID())
	require.NoError(t, r.Context().Err())

	response, err := http.Get("http://" + inner.Addr().String())
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, 426, response.StatusCode)
	lab.WaitUntil(t, "the refusal is counted", func() bool { return e.metrics(t)["server.handshake.duration "+refusedBy("426", "no-upgrade")] == 1 })
	require.Len(t, e.spans(), 2)
	require.Equal(t, codes.Error, e.spans()[1].Status().Code)
	http.DefaultClient.CloseIdleConnections()
}

// TestServerContext requires that Authorize and the application see the same span, in a
// context that is still valid after the handshake.
func TestServerContext(t *testing.T) {
	type key struct{}
	e := newObserver()
	authorized := make(chan context.Context, 1)
	l := &preflight.PreflightListener{Telemetry: e.Telemetry, Authorize: func(r *http.Request) (http.Header, error) {
		authorized <- r.Context()
		*r = *r.WithContext(context.WithValue(r.Context(), key{}, "value"))
		return nil, nil
	}}
	got := make(chan context.Context, 1)
	address, _ := serve(t, l, func(c *preflight.Conn) { got <- c.Request().Context() })
	c, err := new(preflight.PreflightDialer).Dial("tcp", address)
	require.NoError(t, err)
	defer c.Close()
	ctx := <-got
	require.Equal(t, e.span(t).SpanContext().SpanID(), traceOf(ctx).SpanID())
	require.Equal(t, traceOf(ctx).SpanID(), traceOf(<-authorized).SpanID())
	require.Equal(t, "value", ctx.Value(key{}))
	require.NoError(t, ctx.Err())
}
