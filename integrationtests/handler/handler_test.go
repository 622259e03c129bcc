package handler_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Many kinds of requests come on one connection. Any of them may be the first,
// and they may be cut anywhere. net/http sees all of each HTTP/1.1 request and
// handles it.
func TestHandlerKeepsConnectionsAlive(t *testing.T) {
	const host = " HTTP/1.1\r\nHost: h\r\n"
	requests := []struct{ request, want string }{
		{testkit.Get, testkit.Got},
		{"POST /length" + host + "Content-Length: 5\r\n\r\nhello", "POST /length HTTP/1.1 5 <nil>"},
		{"POST /long" + host + "Content-Length: 6000\r\n\r\n" + strings.Repeat("GET / HTTP/1.1\r\n\r\n!!", 300), "POST /long HTTP/1.1 6000 <nil>"},
		{"POST /chunks" + host + "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX: y\r\n\r\n", "POST /chunks HTTP/1.1 11 <nil>"},
		{"HEAD /nothing" + host + "\r\n", ""},
		{"DELETE /x" + host + "X: " + strings.Repeat("x", 600) + "\r\n\r\n", "DELETE /x HTTP/1.1 0 <nil>"},
		{"GET /large?300000" + host + "\r\n", "GET /large HTTP/1.1 0 <nil>" + strings.Repeat("x", 300_000)},
		{"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET /old HTTP/1.0 0 <nil>"},
		{"OPTIONS *" + host + "\r\n", "OPTIONS * HTTP/1.1 0 <nil>"},
		{"GET http://h/absolute" + host + "\r\n", "GET /absolute HTTP/1.1 0 <nil>"},
	}
	remotes := make(chan string, len(requests))
	l := testkit.Listen(t, &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		remotes <- r.RemoteAddr
		testkit.ReportHandler(w, r)
	})})
	accepted := testkit.AcceptAll(t, l)
	for first := range requests {
		order := slices.Concat(requests[first:], requests[:first])
		var all strings.Builder
		for _, r := range order {
			all.WriteString(r.request)
		}
		for _, piece := range []int{0, 1, 1000, all.Len()} {
			t.Run(fmt.Sprintf("%.12s first, in pieces of %d", order[0].request, piece), func(t *testing.T) {
				c := testkit.DialClient(t, l)
				sent := make(chan error, 1)
				if piece > 0 { // one after the other, without waiting for an answer
					go func() { sent <- testkit.WriteInPieces(c, all.String(), piece) }()
				}
				for _, r := range order {
					if piece == 0 {
						c.Send(t, r.request)
					}
					method, _, _ := strings.Cut(r.request, " ")
					a := c.Answer(method)
					require.NoError(t, a.Err)
					require.Equal(t, http.StatusOK, a.StatusCode)
					require.True(t, r.want == a.Text, "%.100q, not %.100q", a.Text, r.want)
					require.Equal(t, c.LocalAddr().String(), <-remotes)
				}
				if piece > 0 {
					require.NoError(t, <-sent)
				}
				require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
				c.Ended(t)
				require.Empty(t, accepted)
			})
		}
	}
}

// HTTP/1.0 closes its connections, unless the client asks to keep them.
func TestHandlerHTTP10(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Handler: testkit.ReportHandler})
	testkit.AcceptAll(t, l)
	for _, way := range testkit.Ways(t, l) {
		t.Run(way.Name, func(t *testing.T) {
			c := way.Dial(t)
			c.Send(t, "GET /old HTTP/1.0\r\n\r\n")
			require.Equal(t, "GET /old HTTP/1.0 0 <nil>", c.Refused(t, "GET").Text)
		})
	}
}

// A client sends Expect: 100-continue. It gets the 100 if Handler reads the
// body, and only the final answer if it does not.
func TestHandlerExpectContinue(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		testkit.ReportHandler(w, r)
	})})
	testkit.AcceptAll(t, l)
	const head = " HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	for _, way := range testkit.Ways(t, l) {
		t.Run(way.Name, func(t *testing.T) {
			c := way.Dial(t)
			for range 2 {
				c.Send(t, "POST /upload"+head)
				interim := c.Answer("POST")
				require.NoError(t, interim.Err)
				require.Equal(t, http.StatusContinue, interim.StatusCode)
				c.Send(t, "hello")
				a := c.Answer("POST")
				require.NoError(t, a.Err)
				require.Equal(t, "POST /upload HTTP/1.1 5 <nil>", a.Text)
			}
			c.Send(t, "POST /refuse"+head)
			a := c.Answer("POST")
			require.NoError(t, a.Err)
			require.Equal(t, http.StatusForbidden, a.StatusCode)
			require.True(t, a.Close, "the server cannot know whether the body follows")
			require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
			c.Ended(t)
		})
	}
}

// HandshakeTimeout bounds each whole head, also a later one on the connection.
// It bounds neither a body nor Handler.
func TestHandlerTimes(t *testing.T) {
	for _, timeout := range []time.Duration{0, 3 * time.Second} {
		want := timeout
		if want == 0 {
			want = 10 * time.Second
		}
		t.Run(want.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, HandshakeTimeout: timeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/slow" {
						time.Sleep(time.Hour)
					}
					testkit.ReportHandler(w, r)
				})})
				accepted := testkit.AcceptAll(t, l)
				alive := func() *testkit.Client {
					c := n.Dial(t)
					a := <-c.Ask(testkit.Get)
					require.Equal(t, testkit.Got, a.Text)
					return c
				}

				c := alive()
				for range 3 {
					time.Sleep(11*time.Minute - 1)
					require.Equal(t, testkit.Got, (<-c.Ask(testkit.Get)).Text, "a connection may be idle for 11 minutes")
				}
				require.Equal(t, "GET /slow HTTP/1.1 0 <nil>", (<-c.Ask("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")).Text)
				for _, first := range []bool{false, true} {
					if first {
						c = n.Dial(t)
					}
					answer := c.Ask("POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
					for range 3 {
						time.Sleep(time.Hour)
						c.Send(t, "x")
					}
					require.Equal(t, "POST /body HTTP/1.1 3 <nil>", (<-answer).Text, "the first on its connection: %t", first)
				}
				start := time.Now()
				c.Ended(t)
				require.Equal(t, 11*time.Minute, time.Since(start), "and no longer")

				for _, head := range []string{"GET /", "GET / HTTP/1.1\r\n", testkit.Get[:len(testkit.Get)-2]} {
					c, start := alive(), time.Now()
					c.Send(t, head)
					requireCutOff(t, c)
					require.Equal(t, want, time.Since(start), "%q", head)
				}
				c, start = alive(), time.Now()
				dripped := make(chan error, 1)
				go func() {
					for i := range testkit.Get {
						if _, err := io.WriteString(c, testkit.Get[i:i+1]); err != nil {
							dripped <- err
							return
						}
						time.Sleep(want / 8)
					}
				}()
				requireCutOff(t, c)
				// The timeout starts when the fourth byte has shown that this
				// is a request.
				require.Equal(t, want+3*(want/8), time.Since(start), "the deadline applies to the whole head")
				require.Error(t, <-dripped)
				require.Empty(t, accepted)
			})
		})
	}
}

// IdleTimeout bounds the time between two requests, and nothing else.
func TestHandlerIdleTimeout(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{
		time.Second:    time.Second,
		24 * time.Hour: 24 * time.Hour,
		-1:             0, // never
	} {
		t.Run(timeout.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, IdleTimeout: timeout, Handler: testkit.ReportHandler})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				require.Equal(t, testkit.Got, (<-c.Ask(testkit.Get)).Text)
				if want == 0 {
					time.Sleep(100 * 24 * time.Hour)
					require.Equal(t, testkit.Got, (<-c.Ask(testkit.Get)).Text)
				}
				c.Send(t, testkit.Get[:10]) // the rest has the time of a head
				time.Sleep(9 * time.Second)
				require.Equal(t, testkit.Got, (<-c.Ask(testkit.Get[10:])).Text)
				tunnel := n.Dial(t)
				require.Equal(t, testkit.Got, (<-tunnel.Ask(testkit.Get)).Text)
				require.Equal(t, 101, (<-tunnel.Ask(testkit.Request())).StatusCode)
				conn := <-accepted
				if want > 0 {
					start := time.Now()
					c.Ended(t)
					require.Equal(t, want, time.Since(start))
				}
				time.Sleep(100 * 24 * time.Hour)
				testkit.Talk(t, tunnel, conn)
			})
		})
	}
}

// requireCutOff waits for the end of a connection whose request is not served. An
// error answer may come before the end.
func requireCutOff(t testing.TB, c *testkit.Client) {
	t.Helper()
	rest, err := io.ReadAll(c.R)
	require.NoError(t, err)
	if len(rest) > 0 {
		require.True(t, strings.HasPrefix(string(rest), "HTTP/1.1 400 "), "%q", rest)
	}
}

// The limit of a head applies to each head, not only to the first.
func TestHandlerMaxHeaderBytes(t *testing.T) {
	head := func(size int, upgrade string) string {
		h := "GET /health HTTP/1.1\r\nHost: h\r\n" + upgrade + "X: "
		return h + strings.Repeat("x", size-len(h)-4) + "\r\n\r\n"
	}
	for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "Connection: Upgrade\r\nUpgrade: tcp\r\n"} {
		for _, later := range []int{0, 1, 3} {
			t.Run(fmt.Sprintf("%q behind %d others", upgrade, later), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := testkit.NewNetwork()
					l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxHeaderBytes: 1000, Handler: testkit.ReportHandler})
					accepted := testkit.AcceptAll(t, l)
					c := n.Dial(t)
					for range later {
						require.Equal(t, testkit.Got, (<-c.Ask(head(1000, ""))).Text)
					}
					size := 1001
					if later > 0 || upgrade == "" {
						size += 9 << 10 // net/http reads 4 KiB more than its limit, and has a buffer of 4 KiB
					}
					go io.WriteString(c, head(size, upgrade))
					require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, c.Refused(t, "GET").StatusCode)
					require.Empty(t, accepted)
				})
			})
		}
	}
}

// A panic in Handler ends its connection, and nothing else.
func TestHandlerPanics(t *testing.T) {
	printed := testkit.CaptureLog(t)
	l := testkit.Listen(t, &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic(errors.New("on request"))
		}
		testkit.ReportHandler(w, r)
	})})
	accepted := testkit.AcceptAll(t, l)
	bystander := testkit.DialClient(t, l)
	bystander.Send(t, testkit.Get)
	bystander.Got(t)
	tunnel, _ := testkit.Upgraded(t, l, testkit.Request())
	conn := testkit.NextTunnel(t, accepted)
	for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: websocket\r\n"} {
		for _, way := range testkit.Ways(t, l)[:2] {
			t.Run(way.Name+upgrade, func(t *testing.T) {
				c := way.Dial(t)
				c.Send(t, "GET /panic HTTP/1.1\r\nHost: h\r\n"+upgrade+"\r\n"+testkit.Get)
				c.Ended(t)
				bystander.Send(t, testkit.Get)
				bystander.Got(t)
				testkit.Talk(t, tunnel, conn)
				require.Contains(t, printed.String(), "on request", "net/http prints it")
			})
		}
	}
}
