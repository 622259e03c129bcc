package handler_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A WebSocket handler takes over its connection as on any server of net/http:
// it writes the 101 and every byte itself.
func TestHandlerSockets(t *testing.T) {
	printed := testkit.CaptureLog(t)
	for name, socket := range testkit.WebSocketHandlers {
		backend := testkit.ListenTCP(t)
		testkit.ServeHTTP(t, backend, socket)
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: backend.Addr().String()})
		for kind, h := range map[string]http.Handler{name: socket, "ReverseProxy to " + name: proxy} {
			l := testkit.Listen(t, &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/socket" {
					h.ServeHTTP(w, r)
					return
				}
				testkit.ReportHandler(w, r)
			})})
			accepted := testkit.AcceptAll(t, l)
			for _, way := range testkit.Ways(t, l) {
				t.Run(kind+" "+way.Name, func(t *testing.T) {
					glued := ""
					if h != http.Handler(proxy) { // this drops the bytes that come before the 101
						glued = strings.Repeat(testkit.Get, 300)
					}
					c := way.Dial(t)
					c.Send(t, testkit.WebSocketRequest+glued)
					head := c.Head(t)
					require.True(t, strings.HasPrefix(head, "HTTP/1.1 101 "), head)
					require.Equal(t, []string{"Upgrade"}, testkit.ConnectionFields(head))
					testkit.Skip(t, c.R, glued)
					for range 3 {
						c.Send(t, testkit.Get)
						testkit.Skip(t, c.R, testkit.Get)
					}
					// Close ends the connections of the listener. This
					// connection no longer is one.
					require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
					c.Ended(t)
				})
			}
			require.Empty(t, accepted)
		}
	}
	require.Empty(t, printed.String(), "net/http logs an error if an answer is used after Hijack")
}

// A connection that Handler has hijacked survives Close. On one that it hijacks
// while the listener drains, the 101 has no "close".
func TestHandlerSocketsWhileEnding(t *testing.T) {
	for name, socket := range testkit.WebSocketHandlers {
		t.Run(name, func(t *testing.T) {
			l := testkit.Listen(t, &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/socket" {
					socket(w, r)
					return
				}
				testkit.ReportHandler(w, r)
			})})
			testkit.AcceptAll(t, l)
			var clients []*testkit.Client
			for range 3 {
				c := testkit.DialClient(t, l)
				c.Send(t, testkit.Get)
				c.Got(t)
				clients = append(clients, c)
			}
			tunnel, _ := testkit.Upgraded(t, l, testkit.Request()) // Shutdown waits for this one
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			require.ErrorIs(t, l.Shutdown(ctx), context.Canceled)

			clients[0].Send(t, testkit.Get+testkit.Get)
			require.Equal(t, testkit.Got, clients[0].Refused(t, "GET").Text, "an ordinary answer ends the connection")
			clients[1].Send(t, testkit.Request()+testkit.Get)
			require.Equal(t, http.StatusServiceUnavailable, clients[1].Refused(t, "GET").StatusCode)
			c := clients[2]
			c.Send(t, testkit.WebSocketRequest)
			require.Equal(t, []string{"Upgrade"}, testkit.ConnectionFields(c.Head(t)))
			testkit.Carry(t, "a frame", c, c.R) // now it is hijacked
			require.NoError(t, tunnel.Close())
			l.Close()
			testkit.Carry(t, "another frame", c, c.R)
		})
	}
}

// Close ends the connections of Handler and does not wait for them. Some
// clients do not read the last message of TLS, and crypto/tls would wait five
// seconds for each of them.
func TestHandlerCloseDoesNotWait(t *testing.T) {
	serverTLS, clientTLS := testkit.TLSConfigs(t)
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", secure), func(t *testing.T) {
			n, entered := testkit.NewNetwork(), make(chan struct{})
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, TLSConfig: serverTLS, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/block" {
					close(entered)
					<-r.Context().Done()
				}
				testkit.ReportHandler(w, r)
			})})
			testkit.AcceptAll(t, l)
			var clients []*testkit.Client
			for range 8 {
				c := n.Dial(t)
				if secure {
					c = testkit.Secure(t, c, clientTLS)
				}
				require.Equal(t, testkit.Got, (<-c.Ask(testkit.Get)).Text)
				clients = append(clients, c)
			}
			clients[0].Send(t, "GET /block HTTP/1.1\r\nHost: h\r\n\r\n")
			<-entered
			closed := make(chan error, 1)
			go func() { closed <- l.Close() }()
			select {
			case err := <-closed:
				require.NoError(t, err)
			case <-time.After(testkit.Patience):
				require.FailNow(t, "Close does not return")
			}
			for _, c := range clients {
				require.True(t, c.Server.Closed.Load())
			}
		})
	}
}

// finalAnswers are answers to a request with Upgrade that do not take over the
// connection, with their status. 0 means no answer.
var finalAnswers = map[string]struct {
	status int
	answer http.HandlerFunc
}{
	"nothing": {200, func(w http.ResponseWriter, r *http.Request) {}},
	"Write":   {200, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "no") }},
	"large":   {200, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 100_000)) }},
	"Copy": {200, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, struct{ io.Reader }{strings.NewReader(strings.Repeat("no", 1000))})
	}},
	"Copy of nothing": {200, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, struct{ io.Reader }{strings.NewReader("")}) }},
	"Flush":           {200, func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); io.WriteString(w, "no") }},
	"Flush by ResponseController": {200, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		io.WriteString(w, "no")
	}},
	"a length": {200, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "2")
		io.WriteString(w, "no")
	}},
	"404": {404, http.NotFound},
	"204": {204, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }},
	"304": {304, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(304) }},
	"426": {426, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(426)
		w.(http.Flusher).Flush()
	}},
	"keep-alive": {200, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "keep-alive")
		w.Header().Set("Keep-Alive", "timeout=60")
		io.WriteString(w, "no")
	}},
	"keep-alive, behind the writer": {200, func(w http.ResponseWriter, r *http.Request) {
		for {
			inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
			if !ok {
				break
			}
			w = inner.Unwrap()
		}
		w.Header().Set("Connection", "keep-alive")
		w.Header().Set("Content-Length", "2")
		w.WriteHeader(200)
		io.WriteString(w, "no")
	}},
	"keep-alive, by ResponseController": {200, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "keep-alive")
		rc := http.NewResponseController(w)
		if err := errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Time{}), rc.EnableFullDuplex(), rc.Flush()); err != nil {
			panic(err)
		}
		io.WriteString(w, "no")
	}},
	"keep-alive, behind a middleware": {200, func(w http.ResponseWriter, r *http.Request) {
		w = wrappedWriter{w}
		w.Header().Set("Connection", "keep-alive")
		if err := http.NewResponseController(w).Flush(); err != nil {
			panic(err)
		}
		io.WriteString(w, "no")
	}},
	"changes its mind": {404, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(404)
		w.Header().Set("Connection", "keep-alive")
		w.WriteHeader(200)
	}},
	"after an interim answer": {200, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "no")
	}},
	"a 101 without Hijack": {0, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(101)
	}},
	"an abort": {0, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }},
}

// wrappedWriter is the ResponseWriter of a middleware.
type wrappedWriter struct{ http.ResponseWriter }

func (w wrappedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// upgradeRequests are requests with Upgrade that go to Handler.
var upgradeRequests = map[string]string{
	"websocket":  "GET /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
	"h2c":        "GET /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
	"anything":   "GET /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x!~/7\r\n\r\n",
	"nothing":    "GET /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade:\r\n\r\n",
	"not listed": "GET /up HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n\r\n",
	"old":        "GET /up HTTP/1.0\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
	"a body":     "POST /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
	"chunks":     "POST /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"HEAD":       "HEAD /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
	"OPTIONS *":  "OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}

// A proxy that has seen Upgrade may forward all later bytes without parsing
// them. So bytes after a request with Upgrade are never parsed as a request.
// Only a 101 keeps the connection open.
func TestHandlerLastAnswer(t *testing.T) {
	testkit.CaptureLog(t) // net/http logs the second WriteHeader
	for name, tt := range finalAnswers {
		t.Run(name, func(t *testing.T) {
			second := make(chan string, 9)
			l := testkit.Listen(t, &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Header["Upgrade"] != nil:
					tt.answer(w, r)
				case r.URL.Path == "/second":
					second <- r.RemoteAddr
				default:
					testkit.ReportHandler(w, r)
				}
			})})
			accepted := testkit.AcceptAll(t, l)
			ways := testkit.Ways(t, l)
			for asking, request := range upgradeRequests {
				for _, way := range ways {
					what := fmt.Sprintf("%s, %s", asking, way.Name)
					c := way.Dial(t)
					c.Send(t, request+"GET /second HTTP/1.1\r\nHost: h\r\n\r\n"+testkit.Request())
					if tt.status == 0 {
						c.Ended(t)
					} else {
						if strings.HasPrefix(name, "after an interim") {
							require.Equal(t, http.StatusEarlyHints, c.Answer("GET").StatusCode)
						}
						a := c.Refused(t, request)
						require.Equal(t, tt.status, a.StatusCode, what)
						head, _, _ := strings.Cut(a.Raw, "\r\n\r\n")
						want := []string{"close"}
						if tt.status == 426 {
							want = []string{"close", "Upgrade"} // RFC 9110 §7.8
						}
						require.Equal(t, want, testkit.ConnectionFields(head), what)
					}
					require.Empty(t, second, what)
					require.Empty(t, accepted, what)
				}
			}
		})
	}
}
