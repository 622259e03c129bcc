package mount_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// hndHiding hides the methods of a ResponseWriter that are not in the
// interface, as some middlewares do.
type hndHiding struct{ http.ResponseWriter }

// wrappingWriter hides them too, but has Unwrap.
type wrappingWriter struct{ hndHiding }

func (w wrappingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// headLines returns the lines of a head in order. The head must have a Date of
// now.
func headLines(t testing.TB, raw string) []string {
	t.Helper()
	head, _, _ := strings.Cut(raw, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	slices.Sort(lines[1:])
	i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "Date: ") })
	require.Positive(t, i, raw)
	_, err := time.Parse(http.TimeFormat, lines[i][len("Date: "):])
	require.NoError(t, err)
	return slices.Delete(lines, i, i+1)
}

// Every refusal is compared field by field. Another request is glued to each of
// them and must not be answered.
func TestMountRefusals(t *testing.T) {
	mount := func(l *preflight.PreflightListener) http.Handler { return l }
	closed := new(preflight.PreflightListener)
	require.NoError(t, closed.Close())
	draining := new(preflight.PreflightListener)
	require.NoError(t, draining.Shutdown(context.Background()))
	const upgrade = "Connection: Upgrade"
	for _, tt := range []struct {
		name    string
		code    string
		h       http.Handler
		request string
		status  string
		fields  []string // in addition to those of every refusal
		text    string   // in the body
	}{
		{"ordinary", "no-upgrade", mount(&preflight.PreflightListener{}), testkit.Get, "426 Upgrade Required", []string{upgrade, "Upgrade: tcp, tcps, websocket"}, "has no Upgrade field; if the client sent one, a proxy on the way removed it"},
		{"POST", "no-upgrade", mount(&preflight.PreflightListener{}), "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", "426 Upgrade Required", []string{upgrade, "Upgrade: tcp, tcps, websocket"}, "has no Upgrade field"},
		{"HEAD", "no-upgrade", mount(&preflight.PreflightListener{}), "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "426 Upgrade Required", []string{upgrade, "Upgrade: tcp, tcps, websocket"}, ""},
		{"HTTP/1.0", "http10", mount(&preflight.PreflightListener{}), "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "426 Upgrade Required", []string{upgrade, "Upgrade: tcp, tcps, websocket"}, "nginx: proxy_http_version 1.1"},
		{"WebSocket", "protocol", mount(&preflight.PreflightListener{}), testkit.WebSocketRequest, "426 Upgrade Required", []string{upgrade, "Upgrade: tcp, tcps, websocket"}, "with the subprotocol preflight.v1"},
		{"several protocols", "protocol", mount(&preflight.PreflightListener{Protocols: []string{"amps/5", "tcp"}}), testkit.WebSocketRequest, "426 Upgrade Required", []string{upgrade, "Upgrade: amps/5, tcp, websocket"}, "with the subprotocol preflight.v1"},
		{"not listed in Connection", "no-connection", mount(&preflight.PreflightListener{}), "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: tcp\r\n\r\n", "426 Upgrade Required", []string{upgrade + "!", "Upgrade: tcp, tcps, websocket"}, "Upgrade without"},
		{"method", "method", mount(&preflight.PreflightListener{}), testkit.BrokenRequests[0].Request, "405 Method Not Allowed", []string{"Allow: GET"}, "is a GET"},
		{"Authorize", "authorize", mount(&preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) { return nil, testkit.ErrOther }}), testkit.Request(), "403 Forbidden", nil, "not authorized"},
		{"closed", "unavailable", closed, testkit.Request(), "503 Service Unavailable", []string{"Retry-After: 1"}, "shutting down"},
		{"closed, ordinary", "unavailable", closed, testkit.Get, "503 Service Unavailable", []string{"Retry-After: 1"}, "shutting down"},
		{"after Shutdown", "unavailable", draining, testkit.Request(), "503 Service Unavailable", []string{"Retry-After: 1"}, "shutting down"},
		{"misconfigured", "internal", mount(&preflight.PreflightListener{Protocols: []string{"a b"}}), testkit.Request(), "500 Internal Server Error", nil, "misconfigured"},
		{"misconfigured, with Handler", "internal", mount(&preflight.PreflightListener{MaxPending: -1, Handler: testkit.ReportHandler}), testkit.Get, "500 Internal Server Error", nil, "misconfigured"},
		{"hidden", "internal", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			new(preflight.PreflightListener).ServeHTTP(hndHiding{w}, r)
		}), testkit.Request(), "500 Internal Server Error", nil, "does a middleware hide http.Hijacker?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := testkit.ListenTCP(t)
			testkit.ServeHTTP(t, n, tt.h)
			a := testkit.Refused(t, n, tt.request+testkit.Request())
			if !strings.HasPrefix(tt.request, "HEAD ") {
				require.Equal(t, strconv.Itoa(len(a.Text)), a.Header.Get("Content-Length"))
				require.Contains(t, a.Text, tt.text)
			} else {
				require.True(t, strings.HasSuffix(a.Raw, "\r\n\r\n"), a.Raw)
			}
			version := strings.TrimSuffix(tt.request[strings.Index(tt.request, "HTTP/1."):][:8], " ")
			want := append([]string{
				"Cache-Control: no-store",
				"Content-Length: " + a.Header.Get("Content-Length"),
				"Content-Type: text/plain; charset=utf-8",
				"Preflight-Carriers: upgrade, framed, websocket",
				"Preflight-Refusal: " + tt.code,
				"X-Content-Type-Options: nosniff",
			}, tt.fields...)
			if i := slices.Index(want, upgrade+"!"); i >= 0 {
				want[i] = "Connection: close, Upgrade" // the answer was written by this package, not by net/http
			} else {
				want = append(want, "Connection: close")
			}
			slices.Sort(want)
			require.Equal(t, append([]string{version + " " + tt.status}, want...), headLines(t, a.Raw))
		})
	}
}

// A mounted listener gives the same answers as one that accepts connections
// itself.
func TestMountRefusesLikeAccept(t *testing.T) {
	l, n := testkit.Listen(t, &preflight.PreflightListener{}), testkit.ListenTCP(t)
	testkit.AcceptAll(t, l)
	testkit.ServeHTTP(t, n, l)
	for _, request := range []string{
		testkit.Get, testkit.WebSocketRequest, "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		own, mounted := testkit.Refused(t, l, request), testkit.Refused(t, n, request)
		require.Equal(t, own.StatusCode, mounted.StatusCode)
		require.Equal(t, own.Text, mounted.Text)
		for _, a := range []testkit.Answer{own, mounted} {
			a.Header.Set("Date", "")
			a.Header.Set("Connection", strings.Join(testkit.ConnectionFields(a.Raw), ", "))
		}
		require.Equal(t, own.Header, mounted.Header)
	}
}

// A middleware with Unwrap does not prevent the upgrade.
func TestMountBehindMiddleware(t *testing.T) {
	for _, handler := range []bool{false, true} {
		l := new(preflight.PreflightListener)
		if handler {
			l.Handler = testkit.WebSocketHandlers["Hijack, then write"]
		}
		accepted := testkit.AcceptAll(t, l)
		n := testkit.ListenTCP(t)
		testkit.ServeHTTP(t, n, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			l.ServeHTTP(wrappingWriter{hndHiding{wrappingWriter{hndHiding{w}}}}, r)
		}))
		c, _ := testkit.Upgraded(t, n, testkit.Request())
		testkit.Talk(t, c, testkit.NextTunnel(t, accepted))
		if handler {
			c, _ := testkit.Upgraded(t, n, testkit.WebSocketRequest)
			testkit.Carry(t, "a frame", c, c.R)
		}
	}
}

// A misconfigured listener names the wrong setting to its operator, and not to
// its clients.
func TestMountMisconfigured(t *testing.T) {
	l := &preflight.PreflightListener{MaxHeaderBytes: -1}
	n := testkit.ListenTCP(t)
	testkit.ServeHTTP(t, n, l)
	a := testkit.Refused(t, n, testkit.Request())
	require.Equal(t, http.StatusInternalServerError, a.StatusCode)
	require.NotContains(t, a.Text, "MaxHeaderBytes", "the client must not learn the setting")
	_, err := l.Accept()
	require.ErrorContains(t, err, "PreflightListener.MaxHeaderBytes is negative")
}

// A listener can have both: its own connections and those of a server.
func TestMountBesideAListener(t *testing.T) {
	inner := testkit.ListenTCP(t)
	l := testkit.Listen(t, &preflight.PreflightListener{Listener: inner})
	require.Equal(t, inner.Addr(), l.Addr())
	accepted := testkit.AcceptAll(t, l)
	n := testkit.ListenTCP(t)
	serveMounted(t, n, l)
	for range 3 {
		for _, at := range []net.Listener{l, n} {
			c, _ := testkit.Upgraded(t, at, upgradeRequest)
			testkit.Talk(t, c, testkit.NextTunnel(t, accepted))
		}
	}
	plain := testkit.DialClient(t, l)
	plain.Send(t, "hello\n")
	testkit.Skip(t, testkit.NextTunnel(t, accepted), "hello\n")

	tunnel, _ := testkit.Upgraded(t, n, upgradeRequest)
	conn := testkit.NextTunnel(t, accepted)
	require.NoError(t, l.Close())
	require.Equal(t, http.StatusServiceUnavailable, testkit.Refused(t, n, upgradeRequest).StatusCode)
	testkit.Talk(t, tunnel, conn)
	c := testkit.DialClient(t, n)
	c.Send(t, testkit.Get)
	c.Got(t)
	_, err := net.Dial("tcp", inner.Addr().String())
	require.Error(t, err)
}

// The limit of a head is that of the listener, even if that of the server is
// much larger. net/http may exceed it by at most 8 KiB: 4 KiB that it adds to
// its limit, and 4 KiB of its buffer.
func TestMountMaxHeaderBytes(t *testing.T) {
	for _, mounted := range []bool{false, true} {
		for _, later := range []bool{false, true} {
			for _, size := range []int{1000, 10_300, 60_000} {
				t.Run(fmt.Sprintf("%d bytes, mounted %t, later %t", size, mounted, later), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n, l := testkit.NewNetwork(), &preflight.PreflightListener{MaxHeaderBytes: 1000, Handler: testkit.ReportHandler}
						if mounted {
							testkit.ServeHTTP(t, n, l)
						} else {
							l.Listener = n
						}
						accepted := testkit.AcceptAll(t, l)
						c := n.Dial(t)
						if later {
							require.Equal(t, testkit.Got, (<-c.Ask(testkit.Get)).Text)
						}
						head := testkit.Request("X: ")
						head = testkit.Request("X: " + strings.Repeat("x", size-len(head)))
						go io.WriteString(c, head)
						a := c.Answer("GET")
						require.NoError(t, a.Err)
						if size == 1000 {
							require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
							testkit.Talk(t, c, testkit.NextConn(t, accepted))
							return
						}
						require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, a.StatusCode)
						c.Ended(t)
						require.Empty(t, accepted)
					})
				})
			}
		}
	}
}
