package telemetry_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A logbook keeps the records of a Logger.
type logbook struct {
	mu      sync.Mutex
	records []map[string]any
}

func (b *logbook) Write(line []byte) (int, error) {
	var record map[string]any
	if err := json.Unmarshal(line, &record); err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = append(b.records, record)
	return len(line), nil
}

func (b *logbook) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: level}))
}

func (b *logbook) take() []map[string]any {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.records)
}

const (
	ordinaryOf10 = "OPTIONS / HTTP/1.0\r\n\r\n" // HAProxy's option httpchk
	secretField  = "X-Secret: s3cr3t\r\n"
)

// TestReasons: a handshake that is refused or fails has its reason in the log and in the
// telemetry, in the same word, once. No record holds what the client sent.
func TestReasons(t *testing.T) {
	testkit.CaptureLog(t)
	server, client := testkit.TLSConfigs(t)
	hello := string(testkit.ClientHello(t, client))
	deny := func(status int) func(*preflight.PreflightListener) {
		return func(l *preflight.PreflightListener) {
			l.Authorize = func(*http.Request) (http.Header, error) {
				return nil, &preflight.StatusError{StatusCode: status, Body: []byte("s3cr3t")}
			}
		}
	}
	requireUpgrade := func(l *preflight.PreflightListener) { l.RequireUpgrade = true }
	trusting := func(l *preflight.PreflightListener) { l.TrustedProxies = testkit.Prefixes("127.0.0.0/8") }
	tunnel := strings.TrimSuffix(testkit.Request(), "\r\n") + secretField + "\r\n"
	for _, test := range []struct {
		name, sent string
		set        func(*preflight.PreflightListener)
		reason     string
		level      string
		status     float64
		stage      string
		kind       string // of telemetry
	}{
		{"HTTP/1.0", "GET /s3cr3t HTTP/1.0\r\nHost: h\r\nConnection: close\r\nPreflight-Carriers: upgrade\r\n" + secretField + "\r\n", nil, "http10", "DEBUG", 426, "", "refused"},
		{"no Upgrade", "GET /s3cr3t HTTP/1.1\r\nHost: h\r\nPreflight-Carriers: upgrade\r\n" + secretField + "\r\n", nil, "no-upgrade", "DEBUG", 426, "", "refused"},
		{"an ordinary request", "GET /s3cr3t HTTP/1.1\r\nHost: h\r\n\r\n", nil, "no-upgrade", "DEBUG", 426, "", "refused"},
		{"a health check of HAProxy", ordinaryOf10, nil, "health-check", "DEBUG", 426, "", "refused"},
		{"a health check of Kubernetes", "GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: kube-probe/1.31\r\n\r\n", nil, "health-check", "DEBUG", 426, "", "refused"},
		{"malformed", "GET / HTTP/1.1\nHost: s3cr3t\n\n", nil, "head", "DEBUG", 400, "", "refused"},
		{"refused by Authorize", tunnel, deny(403), "authorize", "DEBUG", 403, "", "refused"},
		{"an outage behind Authorize", tunnel, deny(503), "authorize", "WARN", 503, "", "refused"},
		{"a panic in Authorize", tunnel, func(l *preflight.PreflightListener) {
			l.Authorize = func(*http.Request) (http.Header, error) { panic("s3cr3t") }
		}, "panic", "ERROR", 500, "", "refused"},
		{"an answer that cannot be sent", tunnel, deny(200), "internal", "ERROR", 500, "", "refused"},
		{"plain", "\x00s3cr3t", requireUpgrade, "plain", "DEBUG", 0, "", "refused"},
		{"a ClientHello without TLSConfig", hello, requireUpgrade, "tls-hello", "DEBUG", 0, "", "refused"},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", requireUpgrade, "http2-preface", "DEBUG", 0, "", "refused"},
		{"a PROXY header of a peer that is not trusted", testkit.ThroughProxy + tunnel, nil, "proxy-header", "DEBUG", 400, "", "refused"},
		{"a malformed PROXY header of a trusted peer", "PROXY TCP4 s3cr3t\r\n", trusting, "bad-proxy-header", "WARN", 0, "read the PROXY header", "failed"},
		{"a PROXY header of a trusted peer beyond MaxHeaderBytes", testkit.ThroughProxy, func(l *preflight.PreflightListener) {
			trusting(l)
			l.MaxHeaderBytes = 16
		}, "bad-proxy-header", "WARN", 0, "read the PROXY header", "failed"},
		{"a malformed address of a trusted peer", strings.TrimSuffix(testkit.Request(), "\r\n") + "X-Forwarded-For: s3cr3t!\r\n\r\n", trusting, "client-address", "WARN", 400, "", "refused"},
		{"a bad TLS handshake", hello[:11] + strings.Repeat("\xff", len(hello)-11), func(l *preflight.PreflightListener) { l.TLSConfig = server }, "tls", "DEBUG", 0, "TLS handshake", "failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, log := testkit.NewRecorder(), new(logbook)
			l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t), Telemetry: e.Watch(), Logger: log.logger(slog.LevelDebug)}
			if test.set != nil {
				test.set(l)
			}
			testkit.AcceptAll(t, l)
			c := testkit.DialTCP(t, l.Addr())
			_, err := io.WriteString(c, test.sent)
			require.NoError(t, err)
			if test.kind == "failed" {
				c.CloseWrite() // fails if the listener has reset the connection already
			}
			io.ReadAll(c)
			c.Close()
			require.NoError(t, l.Shutdown(t.Context()))

			records := log.take()
			require.Len(t, records, 1, "%v", records)
			record := records[0]
			require.Equal(t, "handshake "+test.kind, record["msg"])
			require.Equal(t, test.reason, record["reason"])
			require.Equal(t, test.level, record["level"])
			require.Equal(t, c.LocalAddr().String(), record["peer"])
			if test.status > 0 {
				require.Equal(t, test.status, record["status"])
			}
			if test.stage != "" {
				require.Equal(t, test.stage, record["stage"])
			}
			require.NotContains(t, strings.ToLower(mustJSON(t, record)), "s3cr3t")
			require.EqualValues(t, 1, countOf(e, "preflight.kind="+test.kind, "preflight.reason="+test.reason), "%v", e.Sums)
		})
	}
}

// TestReasonOfPlain: on a listener that lets plain connections in, TLS and HTTP/2 are plain,
// and counted as such with what they are. Nothing is logged.
func TestReasonOfPlain(t *testing.T) {
	_, client := testkit.TLSConfigs(t)
	for reason, sent := range map[string]string{
		"tls-hello":     string(testkit.ClientHello(t, client)),
		"http2-preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"":              "\x00",
	} {
		e, log := testkit.NewRecorder(), new(logbook)
		l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t), Telemetry: e.Watch(), Logger: log.logger(slog.LevelDebug)}
		c := testkit.DialTCP(t, l.Addr())
		_, err := io.WriteString(c, sent)
		require.NoError(t, err)
		conn, err := l.Accept()
		require.NoError(t, err)
		got := make([]byte, len(sent))
		_, err = io.ReadFull(conn, got)
		require.NoError(t, err)
		require.Equal(t, sent, string(got))
		conn.Close()
		require.NoError(t, l.Shutdown(t.Context()))
		want := "server.handshake.duration preflight.kind=plain"
		if reason != "" {
			want += ",preflight.reason=" + reason
		}
		require.EqualValues(t, 1, e.Sum(want))
		require.EqualValues(t, 1, e.Sum("server.connection.duration preflight.kind=plain"))
		require.Empty(t, log.take())
	}
}

// TestReasonOfProbe: a probe is logged for debugging, and no failure of telemetry.
func TestReasonOfProbe(t *testing.T) {
	e, log := testkit.NewRecorder(), new(logbook)
	l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t), RequireUpgrade: true, Telemetry: e.Watch(), Logger: log.logger(slog.LevelDebug)}
	testkit.AcceptAll(t, l)
	testkit.ProbeEnds["reset"](testkit.DialTCP(t, l.Addr()))
	testkit.ProbeEventually(t, e, testkit.Probes, 1)
	require.NoError(t, l.Shutdown(t.Context()))
	records := log.take()
	require.Len(t, records, 1)
	require.Equal(t, "probe", records[0]["reason"])
	require.Equal(t, "DEBUG", records[0]["level"])
}

// TestReasonOfClose: a handshake that Close of the listener ends is no timeout, and no failure
// of the client.
func TestReasonOfClose(t *testing.T) {
	server, client := testkit.TLSConfigs(t)
	hello := string(testkit.ClientHello(t, client))
	for name, test := range map[string]struct{ sent, stage string }{
		"half a request":     {testkit.Request()[:20], "read the upgrade request"},
		"half a ClientHello": {hello[:len(hello)/2], "TLS handshake"},
		"during Authorize":   {testkit.Request(), "authorize"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, log, n := testkit.NewRecorder(), new(logbook), testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{
					Listener: n, TLSConfig: server, Telemetry: e.Watch(), Logger: log.logger(slog.LevelDebug),
					Authorize: func(r *http.Request) (http.Header, error) {
						<-r.Context().Done()
						return nil, r.Context().Err()
					},
				})
				testkit.AcceptAll(t, l)
				n.Dial(t).Send(t, test.sent)
				synctest.Wait()
				require.NoError(t, l.Close())
				synctest.Wait()
				records := log.take()
				require.Len(t, records, 1, "%v", records)
				require.Equal(t, "draining", records[0]["reason"], "%v", records)
				require.Equal(t, test.stage, records[0]["stage"])
				require.EqualValues(t, 1, countOf(e, "preflight.reason=draining"), "%v", e.Sums)
			})
		})
	}
}

// TestReasonsOfServeHTTP: the refusals of a mounted listener have reasons too.
func TestReasonsOfServeHTTP(t *testing.T) {
	hide := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(struct{ http.ResponseWriter }{w}, r) })
	}
	for reason, test := range map[string]struct {
		set     func(*preflight.PreflightListener)
		wrap    func(http.Handler) http.Handler
		request string
		level   string
	}{
		"misconfigured": {set: func(l *preflight.PreflightListener) { l.MaxPending = -1 }, request: testkit.Request(), level: "ERROR"},
		"no-hijack":     {wrap: hide, request: testkit.Request(), level: "ERROR"},
		"draining":      {set: func(l *preflight.PreflightListener) { l.Close() }, request: testkit.Request(), level: "DEBUG"},
		"no-upgrade":    {request: "GET / HTTP/1.1\r\nHost: h\r\n\r\n", level: "DEBUG"},
		"health-check":  {request: ordinaryOf10, level: "DEBUG"},
	} {
		t.Run(reason, func(t *testing.T) {
			e, log := testkit.NewRecorder(), new(logbook)
			l := &preflight.PreflightListener{Telemetry: e.Watch(), Logger: log.logger(slog.LevelDebug)}
			if test.set != nil {
				test.set(l)
			}
			h := http.Handler(l)
			if test.wrap != nil {
				h = test.wrap(h)
			}
			s := httptest.NewServer(h)
			c := testkit.DialTCP(t, s.Listener.Addr())
			_, err := io.WriteString(c, test.request)
			require.NoError(t, err)
			_, err = http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			c.Close()
			s.Close()
			records := log.take()
			require.Len(t, records, 1)
			require.Equal(t, reason, records[0]["reason"])
			require.Equal(t, test.level, records[0]["level"])
			require.Equal(t, c.LocalAddr().String(), records[0]["peer"])
			require.EqualValues(t, 1, countOf(e, "preflight.kind=refused", "preflight.reason="+reason), "%v", e.Sums)
		})
	}
}

// TestReasonsOfTheDialer: a dial that fails has the code of its error as its reason.
func TestReasonsOfTheDialer(t *testing.T) {
	for reason, test := range map[string]struct {
		answer string
		ctx    func(context.Context) context.Context
	}{
		"no-listener": {answer: "HTTP/1.1 200 OK\r\n\r\n"},
		"no-upgrade":  {answer: "HTTP/1.1 426 U\r\nPreflight-Refusal: no-upgrade\r\n\r\n"},
		"ssh":         {answer: "SSH-2.0-x\r\n"},
		"ended":       {},
		"canceled": {ctx: func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx
		}},
	} {
		t.Run(reason, func(t *testing.T) {
			ln, e, ctx := testkit.ListenTCP(t), testkit.NewRecorder(), t.Context()
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					testkit.ReadRequest(c)
					io.WriteString(c, test.answer)
					c.Close()
				}
			}()
			if test.ctx != nil {
				ctx = test.ctx(ctx)
			}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Telemetry: e.Watch()}
			_, err := d.DialContext(ctx, "tcp", ln.Addr().String())
			require.Error(t, err)
			require.EqualValues(t, 1, countOf(e, "client.handshake.duration", "preflight.reason="+reason), "%v", e.Sums)
		})
	}
}

// TestLoggerPanics: a Logger that panics does not disturb a handshake.
func TestLoggerPanics(t *testing.T) {
	printed := testkit.CaptureLog(t)
	l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t), Logger: slog.New(panickingHandler{})}
	testkit.AcceptAll(t, l)
	c := testkit.DialTCP(t, l.Addr())
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(answer, []byte("HTTP/1.1 426 ")))
	c.Close()
	require.NoError(t, l.Shutdown(t.Context()))
	require.Contains(t, printed.String(), "panic in PreflightListener.Logger")
}

type panickingHandler struct{ slog.Handler }

func (panickingHandler) Enabled(context.Context, slog.Level) bool { panic(errors.New("a fault")) }

func mustJSON(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// countOf returns how many handshakes have all of the attributes. They have ended.
func countOf(e *testkit.Recorder, parts ...string) (n int64) {
	for name, sum := range e.Sums {
		if strings.Contains(name, "handshake.duration") && !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(name, part) }) {
			n += sum
		}
	}
	return n
}
