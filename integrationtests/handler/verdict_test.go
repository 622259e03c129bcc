package handler_test

import (
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// ambiguousHeads are heads that parsers read differently, with the bytes that follow
// them. Most of them are malformed.
var ambiguousHeads = map[string]struct{ head, body string }{
	"in order":                {"GET /health HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"a body":                  {"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n", "hello"},
	"bare LF":                 {"GET /p HTTP/1.1\nHost: h\n\n", ""},
	"a bare LF in front":      {"GET /p HTTP/1.1\nHost: h\r\n\r\n", ""},
	"a bare LF at the end":    {"GET /p HTTP/1.1\r\nHost: h\r\n\n", ""},
	"bare LF and a body":      {"POST /p HTTP/1.1\nHost: h\nContent-Length: 5\n\n", "hello"},
	"bare CR":                 {"GET /p HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", ""},
	"bare CR in the line":     {"GET /p HTTP/1.1\rHost: h\r\n\r\n", ""},
	"CR CR LF":                {"GET /p HTTP/1.1\r\r\nHost: h\r\n\r\n", ""},
	"folded":                  {"GET /p HTTP/1.1\r\nHost: h\r\nX: y\r\n z\r\n\r\n", ""},
	"folded at first":         {"GET /p HTTP/1.1\r\n X: y\r\nHost: h\r\n\r\n", ""},
	"space before a colon":    {"GET /p HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n", ""},
	"no colon":                {"GET /p HTTP/1.1\r\nHost: h\r\nX\r\n\r\n", ""},
	"no name":                 {"GET /p HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", ""},
	"a name that is no token": {"GET /p HTTP/1.1\r\nHost: h\r\nX(Y): z\r\n\r\n", ""},
	"NUL in a value":          {"GET /p HTTP/1.1\r\nHost: h\r\nX: \x00\r\n\r\n", ""},
	"escape in a value":       {"GET /p HTTP/1.1\r\nHost: h\r\nX: \x1b[2J\r\n\r\n", ""},
	"DEL in a value":          {"GET /p HTTP/1.1\r\nHost: h\r\nX: \x7f\r\n\r\n", ""},
	"obs-text in a value":     {"GET /p HTTP/1.1\r\nHost: h\r\nX: \xe9\r\n\r\n", ""},
	"no Host":                 {"GET /p HTTP/1.1\r\nX: y\r\n\r\n", ""},
	"two Hosts":               {"GET /p HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", ""},
	"an empty Host":           {"GET /p HTTP/1.1\r\nHost:\r\n\r\n", ""},
	"Host is no host":         {"GET /p HTTP/1.1\r\nHost: a b\r\n\r\n", ""},
	"Host with escapes":       {"GET /p HTTP/1.1\r\nHost: %68\r\n\r\n", ""},
	"two lengths, the same":   {"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "hello"},
	"two lengths":             {"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "hello"},
	"a signed length":         {"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\n", "hello"},
	"an empty length":         {"GET /p HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n", ""},
	"a length and chunks":     {"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"},
	"chunks in HTTP/1.0":      {"POST /p HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"},
	"another coding":          {"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", ""},
	"HTTP/1.0":                {"GET /p HTTP/1.0\r\n\r\n", ""},
	"HTTP/1.2":                {"GET /p HTTP/1.2\r\nHost: h\r\n\r\n", ""},
	"raw bytes in the target": {"GET /\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"a fragment":              {"GET /p#f HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"a cut escape":            {"GET /%4 HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"a tab in the target":     {"GET /a\tb HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"a space in the target":   {"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"two spaces":              {"GET /p  HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"GET *":                   {"GET * HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"OPTIONS *":               {"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"another scheme":          {"GET ftp://h/p HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"userinfo":                {"GET http://u@h/p HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"an unknown method":       {"BREW /p HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"another expectation":     {"GET /p HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", ""},
	"Connection of two words": {"GET /p HTTP/1.1\r\nHost: h\r\nConnection: a b\r\n\r\n", ""},
	"almost Upgrade":          {"GET /p HTTP/1.1\r\nHost: h\r\nUpgrade-Insecure-Requests: 1\r\nX : y\r\n\r\n", ""},
	"Upgrade in a value":      {"GET /p HTTP/1.1\nHost: h\nX: Upgrade: tcp\n\n", ""},
	"Upgrade in the body":     {"POST /p HTTP/1.1\nHost: h\nContent-Length: 14\n\n", "\nUpgrade: tcp\n"},
	"about Preflight-Tunnel":  {"GET /p HTTP/1.1\r\nHost: h\r\nPreflight-Tunnel: x\r\n\r\n", ""},
	"a little too large":      {"GET /p HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 17<<10) + "\r\n\r\n", ""},
	"a little too long":       {"GET /" + strings.Repeat("x", 17<<10) + " HTTP/1.1\r\nHost: h\r\n\r\n", ""},
	"malformed and too large": {"GET /p HTTP/1.1\nHost: h\nX: " + strings.Repeat("x", 17<<10) + "\n\n", ""},
	"much too large":          {"GET /p HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 40<<10) + "\r\n\r\n", ""},
	"much too long":           {"GET /" + strings.Repeat("x", 40<<10) + " HTTP/1.1\r\nHost: h\r\n\r\n", ""},
}

// replyTo returns the answer of a server on n to bytes sent in pieces, until
// the server closes the connection because no more bytes come. The Date is
// removed.
func replyTo(t testing.TB, n *testkit.Network, said string, piece int) string {
	t.Helper()
	c := n.Dial(t)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		testkit.WriteInPieces(c, said, piece) // the server may close before it has read all bytes
	}()
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	<-sent
	return testkit.GoldenDate.ReplaceAllString(string(got), "\r\n")
}

// net/http judges a request for Handler, whether it is the first of its
// connection or not, and however it is cut. The result is the same as on a
// server without a PreflightListener.
func TestHandlerVerdictIsThatOfNetHTTP(t *testing.T) {
	for name, tt := range ambiguousHeads {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alone, n := testkit.NewNetwork(), testkit.NewNetwork()
				s := &http.Server{
					Handler: testkit.ReportHandler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 11 * time.Minute, MaxHeaderBytes: 16 << 10,
					DisableGeneralOptionsHandler: true, ErrorLog: log.New(io.Discard, "", 0),
				}
				served := make(chan struct{})
				go func() { defer close(served); s.Serve(alone) }()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, Handler: testkit.ReportHandler})
				accepted := testkit.AcceptAll(t, l)

				said := tt.head + tt.body
				want := replyTo(t, alone, said, len(said))
				for _, piece := range []int{len(said), 1, 100} {
					switch {
					case piece == 1 && len(said) > 1<<10:
						continue // the result is the same, and the test would be slow
					case piece < len(said) && testkit.Doubtful(tt.head):
						continue // it may be delivered as plain before it shows that it is HTTP
					}
					require.Equal(t, want, replyTo(t, n, said, piece), "as the first, in pieces of %d", piece)
					require.Equal(t, replyTo(t, alone, testkit.Get+said, piece), replyTo(t, n, testkit.Get+said, piece), "as the second, in pieces of %d", piece)
				}
				require.True(t, strings.HasSuffix(replyTo(t, n, testkit.Get+said, len(said)), want), "as the first and as the second")
				require.Empty(t, accepted)
				s.Close()
				<-served
			})
		})
	}
}

// A request with Upgrade is judged by our rules, malformed or not, for any
// protocol. The result is the same as on a listener without Handler.
func TestHandlerVerdictOnUpgrade(t *testing.T) {
	handled := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("%s %s was served", r.Method, r.URL) })
	for name, tt := range ambiguousHeads {
		if strings.HasPrefix(name, "much too") {
			continue // net/http refuses it before it reaches Upgrade
		}
		for _, token := range []string{"tcp", "websocket"} {
			t.Run(name+", "+token, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					bare, n := testkit.NewNetwork(), testkit.NewNetwork()
					testkit.AcceptAll(t, testkit.Listen(t, &preflight.PreflightListener{Listener: bare}))
					accepted := testkit.AcceptAll(t, testkit.Listen(t, &preflight.PreflightListener{Listener: n, Handler: handled}))
					// The line ends in the same way as the first one.
					first, _, _ := strings.Cut(tt.head, "\n")
					end := first[strings.LastIndex(first, "HTTP/1.")+len("HTTP/1.x"):] + "\n"
					lines := strings.TrimSuffix(strings.TrimSuffix(tt.head, "\n"), "\r")
					said := lines + "Upgrade: " + token + end + end
					// The result consists of the status and the broken rule.
					verdict := func(answer string) string {
						status, _, _ := strings.Cut(answer, "\r\n")
						_, body, _ := strings.Cut(answer, "\r\n\r\n")
						return status + "\n" + body
					}
					want := verdict(replyTo(t, bare, said, len(said)))
					if !strings.HasPrefix(want, "HTTP/1.1 4") || strings.HasPrefix(want, "HTTP/1.1 426") {
						return // it is valid, or an upgrade to another protocol
					}
					for _, piece := range []int{len(said), 100, 7} {
						if piece < len(said) && testkit.Doubtful(said) {
							continue
						}
						require.Equal(t, want, verdict(replyTo(t, n, said, piece)), "in pieces of %d", piece)
					}
					require.Empty(t, accepted)
				})
			})
		}
	}
}

// If the first request breaks a rule, a later one is not refused for it.
func TestHandlerVerdictIsOfOneRequest(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Handler: testkit.ReportHandler})
	accepted := testkit.AcceptAll(t, l)
	for name, upgrade := range map[string]string{"websocket": testkit.WebSocketRequest, "tcp": testkit.Request()} {
		t.Run(name, func(t *testing.T) {
			c := testkit.DialClient(t, l)
			c.Send(t, ambiguousHeads["a little too large"].head+upgrade)
			require.Equal(t, 200, c.Answer("GET").StatusCode)
			if name == "tcp" {
				require.Equal(t, 101, c.Answer("GET").StatusCode)
				testkit.Talk(t, c, testkit.NextTunnel(t, accepted))
				return
			}
			require.Equal(t, "GET /socket HTTP/1.1 0 <nil>", c.Refused(t, "GET").Text)
		})
	}
}

// A malformed head that is not complete may be that of an upgrade request. It
// is refused with the rule that it has broken.
func TestHandlerVerdictOnAnUnfinishedHead(t *testing.T) {
	const head, rule = "GET /p HTTP/1.1\nHost: h\nX: \x00", "a line ends with a bare LF: RFC 9112 §2.2 (byte 15 of the head)\n"
	handled := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("%s %s was served", r.Method, r.URL) })
	for name, tt := range map[string]struct {
		ends func(t *testing.T, n *testkit.Network, l *preflight.PreflightListener)
		at   time.Duration
		want string // "" means the end without an answer
	}{
		// The client has one second to read the answer.
		"in time":        {func(*testing.T, *testkit.Network, *preflight.PreflightListener) {}, 11 * time.Second, rule},
		"by Close":       {func(_ *testing.T, _ *testkit.Network, l *preflight.PreflightListener) { l.Close() }, 5 * time.Second, ""},
		"by an eviction": {func(t *testing.T, n *testkit.Network, _ *preflight.PreflightListener) { n.Dial(t) }, 5 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, Handler: handled, MaxPending: 1})
				accepted := testkit.AcceptAll(t, l)
				start := time.Now()
				c := n.Dial(t)
				for _, piece := range []string{head[:20], head[20:]} {
					c.Send(t, piece)
				}
				time.AfterFunc(5*time.Second, func() { tt.ends(t, n, l) })
				got, err := io.ReadAll(c)
				require.NoError(t, err)
				if tt.want == "" {
					require.Empty(t, got)
				} else {
					require.Regexp(t, "^HTTP/1.1 400 ", string(got))
					require.Contains(t, string(got), tt.want)
				}
				require.Equal(t, tt.at, time.Since(start))
				require.Empty(t, accepted)
			})
		})
	}
	t.Run("by its client", func(t *testing.T) {
		l := testkit.Listen(t, &preflight.PreflightListener{Handler: handled})
		testkit.AcceptAll(t, l)
		c := testkit.DialClient(t, l)
		c.Send(t, head)
		require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
		a := c.Refused(t, "GET")
		require.Equal(t, 400, a.StatusCode)
		require.Equal(t, rule, a.Text)
	})
}
