package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/examples/quickstart/broker"
	"github.com/stretchr/testify/require"
)

// The page itself is tested in a browser, see interop/browser.

const limit = 30 * time.Second // fails a test that would otherwise hang

// start runs the program until the end of the test, and returns its address.
func start(t *testing.T, args ...string) (address string, usage *strings.Builder) {
	t.Helper()
	cfg, err := parseFlags(append([]string{"-listen", "127.0.0.1:0"}, args...))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	out := &ready{printed: make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, cfg, out) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	select {
	case <-out.printed:
	case err := <-ended:
		require.FailNow(t, "the program has ended", err)
	}
	_, url, _ := strings.Cut(out.text.String(), "http://")
	address, _, _ = strings.Cut(url, "/")
	return address, &out.text
}

// A ready is an output that closes printed with the first text.
type ready struct {
	text    strings.Builder
	printed chan struct{}
	first   sync.Once
}

func (w *ready) Write(b []byte) (int, error) {
	defer w.first.Do(func() { close(w.printed) })
	return w.text.Write(b)
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: limit}
	response, err := client.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}

func TestPage(t *testing.T) {
	address, _ := start(t)
	for path, want := range map[string][2]string{
		"/":                       {"text/html; charset=utf-8", "<title>Line broker</title>"},
		"/app.js":                 {"text/javascript; charset=utf-8", "import { RefusalError, connect }"},
		"/style.css":              {"text/css; charset=utf-8", "prefers-color-scheme: dark"},
		"/preflight/preflight.js": {"text/javascript; charset=utf-8", "export async function connect"},
	} {
		response, body := get(t, "http://"+address+path)
		require.Equal(t, http.StatusOK, response.StatusCode, path)
		require.Equal(t, want[0], response.Header.Get("Content-Type"), path)
		require.Equal(t, "default-src 'self'; img-src data:", response.Header.Get("Content-Security-Policy"), path)
		require.Contains(t, body, want[1], path)
	}
	response, _ := get(t, "http://"+address+"/preflight/package.json")
	require.Equal(t, http.StatusNotFound, response.StatusCode, "not for a page")
}

// TestOnePort requires that a plain client, a tunnel by an upgrade and a tunnel by WebSocket
// meet in the same topic.
func TestOnePort(t *testing.T) {
	address, _ := start(t)
	plain, err := net.Dial("tcp", address)
	require.NoError(t, err)
	for name, dial := range map[string]func() (net.Conn, error){
		"plain":     func() (net.Conn, error) { return net.Dial("tcp", address) },
		"upgrade":   func() (net.Conn, error) { return dialURL(t, "tcp://"+address+"/lines?http_preflight=true") },
		"websocket": func() (net.Conn, error) { return dialURL(t, "ws://"+address+"/lines") },
	} {
		subscriber, err := dial()
		require.NoError(t, err, name)
		defer subscriber.Close()
		subscriber.SetDeadline(time.Now().Add(limit))
		lines := json.NewDecoder(bufio.NewReader(subscriber))
		exchange := func(to net.Conn, sent, want broker.Line) {
			require.NoError(t, json.NewEncoder(to).Encode(sent), name)
			var got broker.Line
			require.NoError(t, lines.Decode(&got), name)
			require.Equal(t, want, got, name)
		}
		exchange(subscriber, broker.Line{Command: "subscribe", Topic: name}, broker.Line{Command: "subscribed", Topic: name})
		hello := json.RawMessage(`"hello"`)
		exchange(plain, broker.Line{Command: "publish", Topic: name, Data: hello}, broker.Line{Command: "message", Topic: name, Data: hello})
	}
	require.NoError(t, plain.Close())
}

func dialURL(t *testing.T, url string) (net.Conn, error) {
	conn, err := new(preflight.PreflightDialer).DialURL(t.Context(), url)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

func TestOrigins(t *testing.T) {
	address, _ := start(t, "-origin", "https://app.example", "-origin", "https://*.pages.example")
	_, port, _ := net.SplitHostPort(address)
	for origin, status := range map[string]string{
		"http://" + address:         "101",
		"http://localhost:" + port:  "101",
		"https://app.example":       "101",
		"https://one.pages.example": "101",
		"http://app.example":        "403",
		"http://127.0.0.1":          "403",
		"null":                      "403",
	} {
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		conn.SetDeadline(time.Now().Add(limit))
		_, err = io.WriteString(conn, "GET /lines HTTP/1.1\r\nHost: "+address+"\r\nOrigin: "+origin+"\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		require.NoError(t, err)
		line, err := bufio.NewReader(conn).ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, line, "HTTP/1.1 "+status+" ", origin)
		conn.Close()
	}
}

// TestUsage runs the commands that the program prints for other clients.
func TestUsage(t *testing.T) {
	address, usage := start(t)
	subscriber, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer subscriber.Close()
	subscriber.SetDeadline(time.Now().Add(limit))
	lines := bufio.NewScanner(subscriber)
	require.NoError(t, json.NewEncoder(subscriber).Encode(broker.Line{Command: "subscribe", Topic: "greetings"}))
	require.True(t, lines.Scan())

	for _, name := range []string{"plain TCP", "by preflight"} {
		_, command, ok := strings.Cut(usage.String(), "\n  "+name+" ")
		require.True(t, ok, name)
		command, pipe, _ := strings.Cut(strings.TrimSpace(command[:strings.IndexByte(command, '\n')]), " | ")
		host, port, _ := net.SplitHostPort(address)
		require.Equal(t, "nc -N "+host+" "+port, pipe)
		sent, err := exec.Command("sh", "-c", command).Output()
		require.NoError(t, err)
		conn, err := net.Dial("tcp", address) // what nc does
		require.NoError(t, err)
		_, err = conn.Write(sent)
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		require.True(t, lines.Scan(), name)
		require.JSONEq(t, `{"c":"message","t":"greetings","d":"`+strings.Replace(name, "plain", "by", 1)+`"}`, lines.Text())
		conn.Close()
	}
}

func TestFlags(t *testing.T) {
	_, err := parseFlags([]string{"-port", "1"})
	require.ErrorContains(t, err, "-port")
	cfg, err := parseFlags(nil)
	require.NoError(t, err)
	require.Equal(t, config{listen: "127.0.0.1:9007"}, cfg)

	cfg.listen, cfg.origins = "127.0.0.1:0", []string{"app.example"}
	err = run(t.Context(), cfg, io.Discard)
	require.ErrorContains(t, err, `the origin "app.example" must begin with a scheme`)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	err = run(t.Context(), config{listen: ln.Addr().String()}, io.Discard)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
}

func TestReachable(t *testing.T) {
	for address, want := range map[string]string{
		"0.0.0.0:9007":     "http://127.0.0.1:9007",
		"[::]:80":          "http://127.0.0.1",
		"[::1]:8080":       "http://[::1]:8080",
		"192.168.1.5:9007": "http://192.168.1.5:9007",
	} {
		addr, err := net.ResolveTCPAddr("tcp", address)
		require.NoError(t, err)
		host, port := reachable(addr)
		require.Equal(t, want, origin(host, port))
	}
}
