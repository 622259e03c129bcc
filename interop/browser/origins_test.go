package browser

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// TestOrigins requires that AllowedOrigins decides which pages may open tunnels. The pages of
// all names below "example" come from this machine.
func TestOrigins(t *testing.T) {
	browser, pages := startChromium(t), lab.Port(servePages(t))
	page := func(name string) string { return "http://" + name + ":" + pages }
	opaque := page("app.example") + sandboxed
	for _, test := range []struct {
		name    string
		allowed []string
		page    string
		opens   bool
	}{
		{"Zero", nil, page("evil.example"), false},
		{"ZeroSameMachine", nil, page("127.0.0.1"), false},
		{"ZeroSandboxed", nil, opaque, false},
		{"Listed", []string{page("app.example")}, page("app.example"), true},
		{"NotListed", []string{page("app.example")}, page("evil.example"), false},
		{"BelowListed", []string{page("app.example")}, page("evil.app.example"), false},
		{"OtherPort", []string{"http://app.example"}, page("app.example"), false},
		{"OtherScheme", []string{"https://app.example:" + pages}, page("app.example"), false},
		{"Wildcard", []string{page("*.app.example")}, page("one.app.example"), true},
		{"WildcardLabels", []string{page("*.app.example")}, page("one.two.app.example"), true},
		{"WildcardItself", []string{page("*.app.example")}, page("app.example"), false},
		{"WildcardSuffix", []string{page("*.app.example")}, page("evil-app.example"), false},
		{"Any", []string{"*"}, page("evil.example"), true},
		{"AnyButSandboxed", []string{"*"}, opaque, false},
		{"Sandboxed", []string{"null"}, opaque, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := startEcho(t, test.allowed)
			tb := openTab(t, browser, test.page)
			require.Equal(t, test.opens, server.opens(tb, server.address))
		})
	}

	// An attacker has a page and a name of its own. When the page has been loaded, the name
	// leads to the server. To the browser and to a server that compares Origin with Host,
	// the page then comes from the server.
	t.Run("Rebinding", func(t *testing.T) {
		server := startEcho(t, nil)
		name := "rebound.example:" + lab.Port(server.address)
		server.leadTo("127.0.0.1:" + pages)
		tb := openTab(t, browser, "http://"+name)
		require.Equal(t, "A page", evaluate[string](tb, "document.title"))
		server.leadTo(server.behind)
		require.False(t, server.opens(tb, name))
		require.Contains(t, server.request(), "\r\nHost: "+name+"\r\n")
		require.Contains(t, server.request(), "\r\nOrigin: http://"+name+"\r\n")
	})
}

// sandboxed is the path of a page without an origin. Browsers send "null" for it.
const sandboxed = "/sandboxed"

// servePages serves a page under every name.
func servePages(t *testing.T) (address string) {
	t.Helper()
	l := lab.Listen(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		w.Header().Set("Content-Type", "text/html")
		if r.URL.Path == sandboxed {
			w.Header().Set("Content-Security-Policy", "sandbox allow-scripts")
		}
		io.WriteString(w, `<title>A page</title><link rel="icon" href="data:,">`)
	})}
	lab.RunServer(t, func() { server.Serve(l) }, server.Close)
	return l.Addr().String()
}

// An echoServer is an echo server behind a relay, which records what a browser exchanges with
// it. A page sees no more than that a WebSocket did not open.
type echoServer struct {
	*relay
	behind string // the address of the listener
}

func startEcho(t *testing.T, allowed []string) *echoServer {
	t.Helper()
	l := &preflight.PreflightListener{AllowedOrigins: allowed}
	behind := lab.Serve(t, l, func(c *preflight.Conn) { io.Copy(c, c) })
	return &echoServer{startRelay(t, behind), behind}
}

// opens reports whether the page can open a tunnel to the address. If it cannot, the server
// must have refused the origin.
func (s *echoServer) opens(tb *tab, address string) bool {
	tb.Helper()
	// The bytes of FINAL_DATA with one byte of data. The answer is DATA with that byte.
	outcome := evaluate[string](tb, fmt.Sprintf(`new Promise((resolve) => {
		const socket = new WebSocket('ws://%s/lines', 'preflight.v1');
		socket.binaryType = 'arraybuffer';
		socket.onopen = () => socket.send(Uint8Array.of(0xad, 0x70, 0xf1, 0x01, 1, 42));
		socket.onmessage = ({ data }) => resolve([...new Uint8Array(data)].join(' '));
		socket.onclose = ({ code }) => resolve('closed: ' + code);
	})`, address))
	if outcome == "173 112 241 0 1 42" {
		return true
	}
	require.Equal(tb, "closed: 1006", outcome)
	lab.WaitUntil(tb.T, "the console says why", func() bool { return strings.Contains(tb.messages(), "Unexpected response code: 403") })
	answer := s.answer()
	require.True(tb, strings.HasPrefix(answer, "HTTP/1.1 403 Forbidden\r\n"), answer)
	require.Contains(tb, answer, "\r\nPreflight-Refusal: origin\r\n")
	return false
}
