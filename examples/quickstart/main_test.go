package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain fails if a goroutine outlives the tests.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	retry := time.NewTicker(20 * time.Millisecond)
	for range 250 {
		if runtime.NumGoroutine() <= before {
			break
		}
		<-retry.C // goroutines that are about to end have some time
	}
	if left := runtime.NumGoroutine(); code == 0 && left > before {
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%d goroutines before the tests, %d after:\n%s\n", before, left, stacks[:runtime.Stack(stacks, true)])
		code = 1
	}
	os.Exit(code)
}

// configOf returns the configuration of a command line.
func configOf(t *testing.T, args ...string) config {
	t.Helper()
	cfg, err := parseFlags(args)
	require.NoError(t, err)
	return cfg
}

// TestFarewell requires that the two lines at the end of the output are lines of run.
func TestFarewell(t *testing.T) {
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	code, _, _ := strings.Cut(farewell, "What to try next")
	shown := 0
	for line := range strings.Lines(code) {
		if line, _, ok := strings.Cut(strings.TrimSpace(line), "   "); ok {
			require.Contains(t, string(source), "\n\t"+line+"\n")
			shown++
		}
	}
	require.Equal(t, 2, shown)
}

func TestEveryMessageArrives(t *testing.T) {
	for _, proxy := range []string{"go", "nginx", "websocket"} {
		t.Run(proxy, func(t *testing.T) {
			t.Parallel()
			if proxy == "nginx" {
				needNginx(t)
			}
			var out bytes.Buffer
			require.NoError(t, run(t.Context(), configOf(t, "-proxy", proxy, "-for", "1500ms"), &out))

			text := out.String()
			for _, part := range []string{
				// What the client sent, and what the server received.
				`    GET /client/amps/json HTTP/1.1\r\n`,
				`    GET /amps/json HTTP/1.1\r\n`,
				`    Upgrade: tcp\r\n`,
				// The messages, and then the connections.
				`  WebSocket subscriber <- #1 {"hello":"world"}`,
				`  WebSocket subscriber <- #2 {"hello":"world"}`,
				`  plain TCP subscriber <- #1 {"hello":"world"}`,
				`  plain TCP subscriber <- #2 {"hello":"world"}`,
				"GET /admin/ (200 OK)",
				"  TCP by preflight /amps/json  2          0",
				"  WebSocket /amps/json         0          2",
				"  plain TCP                    0          2",
				"OK: every message arrived at both subscribers, in order (2 of 2)",
				"What to try next:",
			} {
				require.Contains(t, text, "\n"+part)
			}
			require.Equal(t, 2, strings.Count(text, `HTTP/1.1 101 Switching Protocols\r\n`), "the 101 on both sides of the proxy")
			require.NotContains(t, text, "#3")
			byWebSocket := proxy == "websocket"
			require.Equal(t, byWebSocket, strings.Contains(text, withoutUpgrade))
			if byWebSocket {
				require.Equal(t, 2, strings.Count(text, `GET /client/amps/json HTTP/1.1\r\n`), "for tcp, and then for websocket")
			}
		})
	}
}

func TestUntilCtrlC(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &interrupter{after: "-> #2", interrupt: cancel}
	require.NoError(t, run(ctx, configOf(t, "-for", "0"), out))
	require.Contains(t, out.text.String(), "OK: every message arrived at both subscribers, in order (2 of 2)")
}

// An interrupter is an output that ends the program when a text is written to it.
type interrupter struct {
	text      strings.Builder
	after     string
	interrupt func()
}

func (w *interrupter) Write(b []byte) (int, error) {
	n, err := w.text.Write(b)
	if strings.Contains(w.text.String(), w.after) {
		w.interrupt()
	}
	return n, err
}

func TestLostMessages(t *testing.T) {
	for _, test := range []struct {
		name string
		lose func(t *testing.T, to *backends)
		want []string
	}{
		{
			"the first one to WebSocket",
			func(t *testing.T, to *backends) { to.ws = without(t, `"n":1,`, fromServer, to.ws) },
			[]string{"missing at the WebSocket subscriber: messages [1] of 2"},
		},
		{
			"the last one of the publisher",
			func(t *testing.T, to *backends) { to.tcp = without(t, `"n":2,`, toServer, to.tcp) },
			[]string{
				"missing at the WebSocket subscriber: messages [2] of 2",
				"missing at the plain TCP subscriber: messages [2] of 2",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cfg := configOf(t, "-for", "1500ms")
			cfg.startProxy = func(ctx context.Context, listen string, to backends) (string, func() error, error) {
				test.lose(t, &to)
				return startGoProxy(ctx, listen, to)
			}
			var out bytes.Buffer
			err := run(t.Context(), cfg, &out)
			require.EqualError(t, err, strings.Join(test.want, "\n"))
			require.NotContains(t, out.String(), "OK: ")
		})
	}
}

func TestNginxEndsEarly(t *testing.T) {
	t.Parallel()
	needNginx(t)
	cfg := configOf(t, "-for", "0")
	out := &interrupter{after: "-> #1"}
	cfg.startProxy = func(ctx context.Context, listen string, to backends) (string, func() error, error) {
		actual, stop, err := startNginx(ctx, listen, to)
		out.interrupt = sync.OnceFunc(func() { stop() })
		return actual, stop, err
	}
	err := run(t.Context(), cfg, out)
	require.ErrorContains(t, err, "missing at the WebSocket subscriber: messages [1] of 1")
	require.ErrorContains(t, err, "nginx ended by itself")
}

func TestNginxIsNotInstalled(t *testing.T) {
	t.Parallel()
	_, err := find([]string{"no-such-nginx", "/no/such/nginx"})
	require.ErrorContains(t, err, "apt-get install nginx")
}

func TestNginxDoesNotStart(t *testing.T) {
	t.Parallel()
	needNginx(t)
	to := backends{tcp: "127.0.0.1:1", ws: "127.0.0.1:1", admin: "127.0.0.1:no-port"}
	_, _, err := startNginx(t.Context(), "127.0.0.1:0", to)
	require.ErrorContains(t, err, "nginx did not start; its error log:\n")
	require.ErrorContains(t, err, "invalid port in upstream \"127.0.0.1:no-port\"")
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	for _, proxy := range []string{"go", "nginx"} {
		if proxy == "nginx" {
			needNginx(t)
		}
		err := run(t.Context(), configOf(t, "-proxy", proxy, "-listen", ln.Addr().String()), io.Discard)
		require.ErrorContains(t, err, "start the proxy: listen tcp "+ln.Addr().String(), proxy)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-proxy", "apache"}, {"-for", "-1s"}, {"-for", "soon"}} {
		_, err := parseFlags(args)
		require.ErrorContains(t, err, args[0], args)
	}
	cfg := configOf(t)
	require.Equal(t, 3*time.Second, cfg.duration)
	require.Equal(t, "127.0.0.1:0", cfg.listen)
}

func needNginx(t *testing.T) {
	t.Helper()
	if _, err := find(nginxPaths); err != nil {
		t.Fatal("this test runs nginx: ", err)
	}
}

const (
	toServer = iota
	fromServer
)

// without returns the address of a relay to a server. In one direction, the relay drops each
// line that has a certain text. A WebSocket server sends such lines too, each after the few
// bytes of a frame header.
func without(t *testing.T, text string, direction int, server string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var relays sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		relays.Wait()
	})
	relay := func(to, from net.Conn, lossy bool) {
		defer to.Close()
		defer from.Close()
		if !lossy {
			io.Copy(to, from)
			return
		}
		for lines := bufio.NewReader(from); ; {
			line, err := lines.ReadString('\n')
			if !strings.Contains(line, text) {
				io.WriteString(to, line)
			}
			if err != nil {
				return
			}
		}
	}
	relays.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", server)
			if err != nil {
				client.Close()
				continue
			}
			relays.Go(func() { relay(server, client, direction == toServer) })
			relays.Go(func() { relay(client, server, direction == fromServer) })
		}
	})
	return ln.Addr().String()
}
