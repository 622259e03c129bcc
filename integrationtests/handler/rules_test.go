package handler_test

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
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A request that names our protocol but cannot be upgraded is refused with the
// same reason on every way to the listener. Handler never gets it, because its
// bytes are meant for a tunnel.
func TestHandlerNeverSeesABrokenUpgrade(t *testing.T) {
	handled := make(chan string, 9)
	l := testkit.Listen(t, &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			handled <- r.Method + " " + r.URL.Path
		}
		testkit.ReportHandler(w, r)
	})})
	accepted := testkit.AcceptAll(t, l)
	ways := testkit.Ways(t, l)
	for _, tt := range testkit.BrokenRequests {
		for _, way := range ways {
			t.Run(tt.Name+" "+way.Name, func(t *testing.T) {
				c := way.Dial(t)
				c.Send(t, tt.Request+"GET /second HTTP/1.1\r\nHost: h\r\n\r\n")
				a := c.Refused(t, tt.Request)
				require.Equal(t, tt.Want, a.StatusCode, a.Text)
				if tt.Want == http.StatusMethodNotAllowed {
					require.Equal(t, "GET", a.Header.Get("Allow"))
				}
				require.Empty(t, handled)
				require.Empty(t, accepted)
			})
		}
	}
	// An ordinary request without these goes to Handler.
	for _, way := range ways {
		c := way.Dial(t)
		c.Send(t, "GET /other HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp2\r\n\r\n")
		require.Equal(t, http.StatusOK, c.Refused(t, "GET").StatusCode)
		require.Equal(t, "GET /other", <-handled)
	}
}

// The table shows which kind of connection is accepted, and where it goes.
func TestListenerTable(t *testing.T) {
	type listener = preflight.PreflightListener
	authorize := func(*http.Request) (http.Header, error) { return http.Header{"X-Vetted": {"yes"}}, nil }
	for _, row := range []struct {
		name       string
		l          func() *listener
		plain      bool
		authorized bool
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
				{"preflight", testkit.Request()},
				{"ordinary", testkit.Get},
				{"malformed", "GET /health HTTP/1.1\r\nHost : h\r\n\r\n"},
				{"broken preflight", testkit.BrokenRequests[0].Request},
			} {
				t.Run(fmt.Sprintf("%s, Handler %t, %s", row.name, handler, kind.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						handled := 0
						n, l := testkit.NewNetwork(), row.l()
						l.Listener = n
						if handler {
							l.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handled++; testkit.ReportHandler(w, r) })
						}
						accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
						c := n.Dial(t)
						if kind.sent == "hello\n" || kind.sent == "" {
							c.Send(t, kind.sent)
							if row.plain {
								conn := testkit.NextConn(t, accepted)
								require.Nil(t, conn.Request())
								testkit.Skip(t, conn, kind.sent)
								testkit.Talk(t, c, conn)
							} else {
								c.Ended(t) // without an answer
							}
							require.Empty(t, accepted)
							require.Zero(t, handled)
							return
						}
						a := <-c.Ask(kind.sent)
						require.NoError(t, a.Err)
						switch {
						case kind.name == "preflight":
							require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
							require.Equal(t, row.authorized, a.Header.Get("X-Vetted") == "yes")
							testkit.Talk(t, c, testkit.NextConn(t, accepted))
						case kind.name == "ordinary" && handler:
							require.Equal(t, http.StatusOK, a.StatusCode)
							require.Equal(t, testkit.Got, a.Text)
							require.Equal(t, 1, handled)
							require.Equal(t, testkit.Got, (<-c.Ask(testkit.Get)).Text, "the connection is kept alive")
							handled = 0
						default:
							want := map[string]int{"ordinary": 426, "malformed": 400, "broken preflight": 405}
							require.Equal(t, want[kind.name], a.StatusCode)
							c.Ended(t)
						}
						require.Empty(t, accepted)
						require.Zero(t, handled)
					})
				})
			}
		}
	}
}

// A connection of Handler is never a pending handshake. An upgrade request on
// it is one.
func TestHandlerIsNotPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, release := testkit.NewNetwork(), make(chan struct{})
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/block":
				<-release
			case "/socket":
				testkit.WebSocketHandlers["Hijack, then write"](w, r)
				return
			}
			testkit.ReportHandler(w, r)
		})})
		accepted := testkit.AcceptAll(t, l)
		start := time.Now()
		idle, later, blocked, socket := n.Dial(t), n.Dial(t), n.Dial(t), n.Dial(t)
		require.Equal(t, testkit.Got, (<-idle.Ask(testkit.Get)).Text)
		require.Equal(t, testkit.Got, (<-later.Ask(testkit.Get)).Text)
		blockedAnswer := blocked.Ask("GET /block HTTP/1.1\r\nHost: h\r\n\r\n")
		require.Equal(t, 101, (<-socket.Ask(testkit.WebSocketRequest)).StatusCode)
		for range 3 {
			c := n.Dial(t)
			require.Equal(t, 101, (<-c.Ask(testkit.Request())).StatusCode)
			testkit.Talk(t, c, <-accepted)
		}
		require.Equal(t, 101, (<-later.Ask(testkit.Request())).StatusCode)
		testkit.Talk(t, later, <-accepted)
		require.Equal(t, testkit.Got, (<-idle.Ask(testkit.Get)).Text)
		require.Zero(t, time.Since(start), "no client waited, and none was evicted")

		close(release)
		require.Equal(t, "GET /block HTTP/1.1 0 <nil>", (<-blockedAnswer).Text)
		testkit.Carry(t, "a frame", socket, socket.R)
	})
}

// A listener with an empty Protocols leaves upgrade requests to Handler.
// Handler can mount other listeners by path: several servers on one port, each
// with its own rules. They learn the client's address from the listener that
// accepted the connection.
func TestHandlerMountsListenersByPath(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	authorized := make(chan string, 9)
	a := &preflight.PreflightListener{}
	b := &preflight.PreflightListener{TrustedProxies: trusted, Authorize: func(r *http.Request) (http.Header, error) {
		authorized <- r.RemoteAddr
		if r.URL.Path == "/b/no" {
			return nil, errors.New("no")
		}
		return http.Header{"X-B": {"yes"}}, nil
	}}
	mux := http.NewServeMux()
	mux.Handle("/a/", a)
	mux.Handle("/b/", b)
	mux.Handle("GET /health", testkit.ReportHandler)
	l := testkit.Listen(t, &preflight.PreflightListener{Protocols: []string{}, Handler: mux, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	own, toA, toB := testkit.AcceptAll(t, l), testkit.AcceptAll(t, a), testkit.AcceptAll(t, b)

	const proxy, xff = "PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n", "X-Forwarded-For: 203.0.113.1, 198.51.100.9"
	request := func(path string) string { return strings.Replace(testkit.Request(xff), "/t", path, 1) }
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
		{"a path without a listener", proxy, "/c/x", 404, nil, "", false},
	} {
		for _, later := range []bool{false, true} {
			require.True(t, t.Run(fmt.Sprintf("%s, later %t", tt.name, later), func(t *testing.T) {
				c := testkit.DialClient(t, l)
				c.Send(t, tt.proxy)
				if later {
					c.Send(t, testkit.Get)
					c.Got(t)
				}
				remote := tt.remote
				if remote == "" {
					remote = c.LocalAddr().String()
				}
				c.Send(t, request(tt.path)+testkit.Get)
				if tt.want == 101 {
					answer := c.Answer("GET")
					require.Equal(t, 101, answer.StatusCode)
					require.Equal(t, tt.asked, answer.Header.Get("X-B") == "yes")
					conn := testkit.NextTunnel(t, tt.to)
					require.Equal(t, remote, conn.RemoteAddr().String())
					require.Equal(t, remote, conn.Request().RemoteAddr)
					require.Equal(t, tt.path, conn.Request().URL.Path)
					require.IsType(t, &net.TCPConn{}, conn.NetConn())
					testkit.Skip(t, conn, testkit.Get)
					testkit.Talk(t, c, conn)
				} else {
					require.Equal(t, tt.want, c.Refused(t, "GET").StatusCode)
				}
				if tt.asked {
					require.Equal(t, remote, <-authorized)
				}
				for _, none := range []<-chan *preflight.Conn{own, toA, toB} {
					require.Empty(t, none)
				}
				require.Empty(t, authorized)
			}))
		}
	}

	// Each is closed independently.
	require.NoError(t, a.Close())
	c := testkit.DialClient(t, l)
	c.Send(t, request("/a/x"))
	require.Equal(t, http.StatusServiceUnavailable, c.Refused(t, "GET").StatusCode)
	c, _ = testkit.Upgraded(t, l, request("/b/x"))
	testkit.Talk(t, c, testkit.NextTunnel(t, toB))
	plain := testkit.DialClient(t, l)
	plain.Send(t, "hello\n")
	testkit.Skip(t, testkit.NextTunnel(t, own), "hello\n")
}
