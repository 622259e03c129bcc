package preflight_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// hndBroken are requests that name our protocol and may not be upgraded.
var hndBroken = []struct {
	name, request string
	want          int
}{
	{"POST", "POST /t HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405},
	{"POST with a body", "POST /t HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 5\r\n\r\nhello", 405},
	{"HEAD", "HEAD /t HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405},
	{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405},
	{"CONNECT", "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 405},
	{"HTTP/1.0", "GET /t HTTP/1.0\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 426},
	{"HTTP/1.0 without Host", "GET /t HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", 426},
	{"HTTP/1.0 kept alive", "POST /t HTTP/1.0\r\nHost: h\r\nConnection: Upgrade, keep-alive\r\nUpgrade: tcp\r\n\r\n", 426},
	{"not listed", "GET /t HTTP/1.1\r\nHost: h\r\nUpgrade: tcp\r\n\r\n", 426},
	{"not listed in Connection", "GET /t HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nUpgrade: websocket, TCP\r\n\r\n", 426},
	{"a body", lisRequest("Content-Length: 5") + "hello", 400},
	{"a body that does not come", lisRequest("Content-Length: 500"), 400},
	{"chunks", lisRequest("Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n", 400},
	{"no chunks", lisRequest("Transfer-Encoding: chunked") + "0\r\n\r\n", 400},
	{"chunks and a trailer", lisRequest("Transfer-Encoding: chunked", "Trailer: X") + "0\r\nX: y\r\n\r\n", 400},
	{"a trailer", lisRequest("Trailer: X"), 400},
	{"a body that is expected", lisRequest("Content-Length: 5", "Expect: 100-continue"), 400},
	{"an expectation", lisRequest("Expect: a-miracle"), 417},
	{"Host twice", lisRequest("Host: other.example"), 400},
	{"Host is no host", strings.Replace(lisRequest(), "h.example", "h example", 1), 400},
	{"no Host", strings.Replace(lisRequest(), "Host: h.example\r\n", "", 1), 400},
	{"an empty Host", strings.Replace(lisRequest(), "h.example", "", 1), 400},
	{"raw bytes in the target", strings.Replace(lisRequest(), "/t", "/\xc3\xa9", 1), 400},
	{"a list of no protocols", lisRequest("Upgrade: @"), 400},
	{"Connection is no list of tokens", lisRequest("Connection: a b"), 400},
}

// A request that names our protocol and may not be upgraded is refused for the
// same reason whichever way it comes, and is never Handler's: what it carries is
// for a tunnel.
func TestHandlerNeverSeesABrokenUpgrade(t *testing.T) {
	handled := make(chan string, 9)
	l := listen(t, &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			handled <- r.Method + " " + r.URL.Path
		}
		hndReport(w, r)
	})})
	accepted := lisServe(t, l)
	ways := hndWays(t, l)
	for _, tt := range hndBroken {
		for _, way := range ways {
			t.Run(tt.name+" "+way.name, func(t *testing.T) {
				c := way.dial(t)
				c.send(t, tt.request+"GET /second HTTP/1.1\r\nHost: h\r\n\r\n")
				a := c.refused(t, tt.request)
				require.Equal(t, tt.want, a.StatusCode, a.body)
				if tt.want == http.StatusMethodNotAllowed {
					require.Equal(t, "GET", a.Header.Get("Allow"))
				}
				require.Empty(t, handled)
				require.Empty(t, accepted)
			})
		}
	}
	// What is ordinary beside these is Handler's.
	for _, way := range ways {
		c := way.dial(t)
		c.send(t, "GET /other HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp2\r\n\r\n")
		require.Equal(t, http.StatusOK, c.refused(t, "GET").StatusCode)
		require.Equal(t, "GET /other", <-handled)
	}
}

// Who gets in, and where to: the whole table.
func TestListenerTable(t *testing.T) {
	type listener = preflight.PreflightListener
	authorize := func(*http.Request) (http.Header, error) { return http.Header{"X-Vetted": {"yes"}}, nil }
	for _, row := range []struct {
		name   string
		l      func() *listener
		plain  bool
		vetted bool
	}{
		{"zero value", func() *listener { return &listener{} }, true, false},
		{"AllowPlain", func() *listener { return &listener{AllowPlain: true} }, true, false},
		{"Authorize", func() *listener { return &listener{Authorize: authorize} }, false, true},
		{"Authorize, AllowPlain", func() *listener { return &listener{Authorize: authorize, AllowPlain: true} }, true, true},
		{"RequireUpgrade", func() *listener { return &listener{RequireUpgrade: true} }, false, false},
		{"RequireUpgrade, Authorize", func() *listener { return &listener{RequireUpgrade: true, Authorize: authorize} }, false, true},
	} {
		for _, handler := range []bool{false, true} {
			for _, kind := range []struct{ name, sent string }{
				{"plain", "hello\n"},
				{"silent", ""},
				{"preflight", lisRequest()},
				{"ordinary", hndGet},
				{"malformed", "GET /health HTTP/1.1\r\nHost : h\r\n\r\n"},
				{"broken preflight", hndBroken[0].request},
			} {
				t.Run(fmt.Sprintf("%s, Handler %t, %s", row.name, handler, kind.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						handled := 0
						n, l := lisNewNet(), row.l()
						l.Listener = n
						if handler {
							l.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handled++; hndReport(w, r) })
						}
						accepted := lisServe(t, listen(t, l))
						c := n.dial(t)
						if kind.sent == "hello\n" || kind.sent == "" {
							c.send(t, kind.sent)
							if row.plain {
								conn := lisNext(t, accepted)
								require.Nil(t, conn.Request())
								lisSkip(t, conn, kind.sent)
								lisTalk(t, c, conn)
							} else {
								c.ended(t) // without a word
							}
							require.Empty(t, accepted)
							require.Zero(t, handled)
							return
						}
						a := <-c.ask(kind.sent)
						require.NoError(t, a.err)
						switch {
						case kind.name == "preflight":
							require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
							require.Equal(t, row.vetted, a.Header.Get("X-Vetted") == "yes")
							lisTalk(t, c, lisNext(t, accepted))
						case kind.name == "ordinary" && handler:
							require.Equal(t, http.StatusOK, a.StatusCode)
							require.Equal(t, hndGot, a.body)
							require.Equal(t, 1, handled)
							require.Equal(t, hndGot, (<-c.ask(hndGet)).body, "it is kept alive")
							handled = 0
						default:
							want := map[string]int{"ordinary": 426, "malformed": 400, "broken preflight": 405}
							require.Equal(t, want[kind.name], a.StatusCode)
							c.ended(t)
						}
						require.Empty(t, accepted)
						require.Zero(t, handled)
					})
				})
			}
		}
	}
}

// A connection of Handler's is no handshake under way, whatever it is doing. An
// upgrade request on it is one.
func TestHandlerIsNotPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, release := lisNewNet(), make(chan struct{})
		l := listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/block":
				<-release
			case "/socket":
				hndSockets["Hijack, then write"](w, r)
				return
			}
			hndReport(w, r)
		})})
		accepted := lisServe(t, l)
		start := time.Now()
		idle, later, blocked, socket := n.dial(t), n.dial(t), n.dial(t), n.dial(t)
		require.Equal(t, hndGot, (<-idle.ask(hndGet)).body)
		require.Equal(t, hndGot, (<-later.ask(hndGet)).body)
		blockedAnswer := blocked.ask("GET /block HTTP/1.1\r\nHost: h\r\n\r\n")
		require.Equal(t, 101, (<-socket.ask(hndSocket)).StatusCode)
		for range 3 {
			c := n.dial(t)
			require.Equal(t, 101, (<-c.ask(lisRequest())).StatusCode)
			lisTalk(t, c, <-accepted)
		}
		require.Equal(t, 101, (<-later.ask(lisRequest())).StatusCode)
		lisTalk(t, later, <-accepted)
		require.Equal(t, hndGot, (<-idle.ask(hndGet)).body)
		require.Zero(t, time.Since(start), "nobody has waited, and nobody has had to go")

		close(release)
		require.Equal(t, "GET /block HTTP/1.1 0 <nil>", (<-blockedAnswer).body)
		lisCarry(t, "a frame", socket, socket.r)
	})
}

// With no protocols of its own a listener leaves upgrade requests to Handler,
// which mounts others by path: several servers on one port, each with rules of
// its own. Whose connection it is they learn from the one that has accepted it.
func TestHandlerMountsListenersByPath(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	vetted := make(chan string, 9)
	a := &preflight.PreflightListener{}
	b := &preflight.PreflightListener{TrustedProxies: trusted, Authorize: func(r *http.Request) (http.Header, error) {
		vetted <- r.RemoteAddr
		if r.URL.Path == "/b/no" {
			return nil, errors.New("no")
		}
		return http.Header{"X-B": {"yes"}}, nil
	}}
	mux := http.NewServeMux()
	mux.Handle("/a/", a)
	mux.Handle("/b/", b)
	mux.Handle("GET /health", hndReport)
	l := listen(t, &preflight.PreflightListener{Protocols: []string{}, Handler: mux, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	own, toA, toB := lisServe(t, l), lisServe(t, a), lisServe(t, b)

	const proxy, xff = "PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n", "X-Forwarded-For: 203.0.113.1, 198.51.100.9"
	request := func(path string) string { return strings.Replace(lisRequest(xff), "/t", path, 1) }
	for _, tt := range []struct {
		name, proxy, path string
		want              int
		to                <-chan *preflight.Conn
		remote            string // "" is the peer
		asked             bool
	}{
		{"a", "", "/a/x", 101, toA, "", false},
		{"b", "", "/b/x", 101, toB, "", true},
		{"a behind a proxy", proxy, "/a/x", 101, toA, "192.0.2.7:1234", false},
		{"b behind a proxy", proxy, "/b/x", 101, toB, "198.51.100.9:0", true},
		{"b refuses", proxy, "/b/no", 403, nil, "198.51.100.9:0", true},
		{"nobody's path", proxy, "/c/x", 404, nil, "", false},
	} {
		for _, later := range []bool{false, true} {
			require.True(t, t.Run(fmt.Sprintf("%s, later %t", tt.name, later), func(t *testing.T) {
				c := lisDial(t, l)
				c.send(t, tt.proxy)
				if later {
					c.send(t, hndGet)
					c.got(t)
				}
				remote := tt.remote
				if remote == "" {
					remote = c.LocalAddr().String()
				}
				c.send(t, request(tt.path)+hndGet)
				if tt.want == 101 {
					answer := c.answer("GET")
					require.Equal(t, 101, answer.StatusCode)
					require.Equal(t, tt.asked, answer.Header.Get("X-B") == "yes")
					conn := hndNext(t, tt.to)
					require.Equal(t, remote, conn.RemoteAddr().String())
					require.Equal(t, remote, conn.Request().RemoteAddr)
					require.Equal(t, tt.path, conn.Request().URL.Path)
					require.IsType(t, &net.TCPConn{}, conn.NetConn())
					lisSkip(t, conn, hndGet)
					lisTalk(t, c, conn)
				} else {
					require.Equal(t, tt.want, c.refused(t, "GET").StatusCode)
				}
				if tt.asked {
					require.Equal(t, remote, <-vetted)
				}
				for _, none := range []<-chan *preflight.Conn{own, toA, toB} {
					require.Empty(t, none)
				}
				require.Empty(t, vetted)
			}))
		}
	}

	// Each is closed by itself.
	require.NoError(t, a.Close())
	c := lisDial(t, l)
	c.send(t, request("/a/x"))
	require.Equal(t, http.StatusServiceUnavailable, c.refused(t, "GET").StatusCode)
	c, _ = lisUpgraded(t, l, request("/b/x"))
	lisTalk(t, c, hndNext(t, toB))
	plain := lisDial(t, l)
	plain.send(t, "hello\n")
	lisSkip(t, hndNext(t, own), "hello\n")
}
