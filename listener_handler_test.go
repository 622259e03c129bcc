package preflight_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// hndServe serves h on n with net/http, as an existing server does. Nothing is
// answered without h, and its timeouts are not those of a tunnel.
func hndServe(t testing.TB, n net.Listener, h http.Handler) *http.Server {
	t.Helper()
	s := &http.Server{
		Handler: h, ErrorLog: log.New(io.Discard, "", 0), DisableGeneralOptionsHandler: true,
		ReadTimeout: time.Minute, WriteTimeout: time.Minute,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(n)
	}()
	t.Cleanup(func() { s.Close(); <-done })
	return s
}

// hndReport answers with what it has seen of a request, and with as many bytes
// more as the query says.
var hndReport = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var more int
	fmt.Sscanf(r.URL.RawQuery, "%d", &more)
	fmt.Fprintf(w, "%s %s %s %d %v%s", r.Method, r.URL.Path, r.Proto, len(body), err, strings.Repeat("x", more))
})

// hndGet is a request that hndReport answers with hndGot.
const (
	hndGet = "GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
	hndGot = "GET /health HTTP/1.1 0 <nil>"
)

// got requires that hndGet is answered.
func (c *lisClient) got(t testing.TB) {
	t.Helper()
	a := c.answer("GET")
	require.NoError(t, a.err)
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Equal(t, hndGot, a.body)
}

// A hndWay is a way in which a request can come to a listener.
type hndWay struct {
	name string
	dial func(t testing.TB) *lisClient // ready to send it
}

// hndWays are all of them, the connections that l accepts first. The Handler of l
// must answer hndGet as hndReport does.
func hndWays(t testing.TB, l *preflight.PreflightListener) []hndWay {
	foreign := listenTCP(t)
	hndServe(t, foreign, l)
	var ways []hndWay
	for i, n := range []net.Listener{l, foreign} {
		name := []string{"", "by ServeHTTP "}[i]
		ways = append(ways, hndWay{name + "as the first", func(t testing.TB) *lisClient { return lisDial(t, n) }},
			hndWay{name + "as a later one", func(t testing.TB) *lisClient {
				c := lisDial(t, n)
				c.send(t, hndGet)
				c.got(t)
				return c
			}})
	}
	return ways
}

// hndNext is the next accepted connection, whose reads end too.
func hndNext(t testing.TB, accepted <-chan *preflight.Conn) *preflight.Conn {
	t.Helper()
	c := lisNext(t, accepted)
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// Requests of every make on one connection, whichever is the first and however
// they are cut: what HTTP/1.1 is, is left to net/http, which sees all of it.
func TestHandlerKeepsConnectionsAlive(t *testing.T) {
	const host = " HTTP/1.1\r\nHost: h\r\n"
	requests := []struct{ request, want string }{
		{hndGet, hndGot},
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
	l := listen(t, &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		remotes <- r.RemoteAddr
		hndReport(w, r)
	})})
	accepted := lisServe(t, l)
	for first := range requests {
		order := slices.Concat(requests[first:], requests[:first])
		var all strings.Builder
		for _, r := range order {
			all.WriteString(r.request)
		}
		for _, piece := range []int{0, 1, 1000, all.Len()} {
			t.Run(fmt.Sprintf("%.12s first, in pieces of %d", order[0].request, piece), func(t *testing.T) {
				c := lisDial(t, l)
				sent := make(chan error, 1)
				if piece > 0 { // one behind the other, without waiting for an answer
					go func() { sent <- hndCut(c, all.String(), piece) }()
				}
				for _, r := range order {
					if piece == 0 {
						c.send(t, r.request)
					}
					method, _, _ := strings.Cut(r.request, " ")
					a := c.answer(method)
					require.NoError(t, a.err)
					require.Equal(t, http.StatusOK, a.StatusCode)
					require.True(t, r.want == a.body, "%.100q, not %.100q", a.body, r.want)
					require.Equal(t, c.LocalAddr().String(), <-remotes)
				}
				if piece > 0 {
					require.NoError(t, <-sent)
				}
				require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
				c.ended(t)
				require.Empty(t, accepted)
			})
		}
	}
}

// hndCut sends s in pieces.
func hndCut(w io.Writer, s string, piece int) error {
	for s != "" {
		n := min(piece, len(s))
		if _, err := io.WriteString(w, s[:n]); err != nil {
			return err
		}
		s = s[n:]
	}
	return nil
}

// HTTP/1.0 ends its connections, unless it says otherwise.
func TestHandlerHTTP10(t *testing.T) {
	l := listen(t, &preflight.PreflightListener{Handler: hndReport})
	lisServe(t, l)
	for _, way := range hndWays(t, l) {
		t.Run(way.name, func(t *testing.T) {
			c := way.dial(t)
			c.send(t, "GET /old HTTP/1.0\r\n\r\n")
			require.Equal(t, "GET /old HTTP/1.0 0 <nil>", c.refused(t, "GET").body)
		})
	}
}

// A client that expects to be asked for its body is asked, where Handler wants
// the body, and told without it where not.
func TestHandlerExpectContinue(t *testing.T) {
	l := listen(t, &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		hndReport(w, r)
	})})
	lisServe(t, l)
	const head = " HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	for _, way := range hndWays(t, l) {
		t.Run(way.name, func(t *testing.T) {
			c := way.dial(t)
			for range 2 {
				c.send(t, "POST /upload"+head)
				interim := c.answer("POST")
				require.NoError(t, interim.err)
				require.Equal(t, http.StatusContinue, interim.StatusCode)
				c.send(t, "hello")
				a := c.answer("POST")
				require.NoError(t, a.err)
				require.Equal(t, "POST /upload HTTP/1.1 5 <nil>", a.body)
			}
			c.send(t, "POST /refuse"+head)
			a := c.answer("POST")
			require.NoError(t, a.err)
			require.Equal(t, http.StatusForbidden, a.StatusCode)
			require.True(t, a.Close, "the client may yet send the body, or not")
			require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
			c.ended(t)
		})
	}
}

// HandshakeTimeout is for heads: also for those that come later on a
// connection, as a whole, and neither for bodies nor for Handler.
func TestHandlerTimes(t *testing.T) {
	for _, timeout := range []time.Duration{0, 3 * time.Second} {
		want := timeout
		if want == 0 {
			want = 10 * time.Second
		}
		t.Run(want.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := lisNewNet()
				l := listen(t, &preflight.PreflightListener{Listener: n, HandshakeTimeout: timeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/slow" {
						time.Sleep(time.Hour)
					}
					hndReport(w, r)
				})})
				accepted := lisServe(t, l)
				alive := func() *lisClient {
					c := n.dial(t)
					a := <-c.ask(hndGet)
					require.Equal(t, hndGot, a.body)
					return c
				}

				c := alive()
				for range 3 {
					time.Sleep(11*time.Minute - 1)
					require.Equal(t, hndGot, (<-c.ask(hndGet)).body, "a connection may be idle for 11 minutes")
				}
				require.Equal(t, "GET /slow HTTP/1.1 0 <nil>", (<-c.ask("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")).body)
				for _, first := range []bool{false, true} {
					if first {
						c = n.dial(t)
					}
					answer := c.ask("POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
					for range 3 {
						time.Sleep(time.Hour)
						c.send(t, "x")
					}
					require.Equal(t, "POST /body HTTP/1.1 3 <nil>", (<-answer).body, "the first on its connection: %t", first)
				}
				start := time.Now()
				c.ended(t)
				require.Equal(t, 11*time.Minute, time.Since(start), "and no longer")

				for _, head := range []string{"GET /", "GET / HTTP/1.1\r\n", hndGet[:len(hndGet)-2]} {
					c, start := alive(), time.Now()
					c.send(t, head)
					hndCutOff(t, c)
					require.Equal(t, want, time.Since(start), "%q", head)
				}
				c, start = alive(), time.Now()
				dripped := make(chan error, 1)
				go func() {
					for i := range hndGet {
						if _, err := io.WriteString(c, hndGet[i:i+1]); err != nil {
							dripped <- err
							return
						}
						time.Sleep(want / 8)
					}
				}()
				hndCutOff(t, c)
				// The clock starts when a fourth byte has shown that this is a request.
				require.Equal(t, want+3*(want/8), time.Since(start), "the deadline is of the whole head")
				require.Error(t, <-dripped)
				require.Empty(t, accepted)
			})
		})
	}
}

// IdleTimeout is for the time between two requests, and for nothing else.
func TestHandlerIdleTimeout(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{
		time.Second:    time.Second,
		24 * time.Hour: 24 * time.Hour,
		-1:             0, // never
	} {
		t.Run(timeout.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := lisNewNet()
				l := listen(t, &preflight.PreflightListener{Listener: n, IdleTimeout: timeout, Handler: hndReport})
				accepted := lisServe(t, l)
				c := n.dial(t)
				require.Equal(t, hndGot, (<-c.ask(hndGet)).body)
				if want == 0 {
					time.Sleep(100 * 24 * time.Hour)
					require.Equal(t, hndGot, (<-c.ask(hndGet)).body)
				}
				c.send(t, hndGet[:10]) // the rest has the time of a head
				time.Sleep(9 * time.Second)
				require.Equal(t, hndGot, (<-c.ask(hndGet[10:])).body)
				tunnel := n.dial(t)
				require.Equal(t, hndGot, (<-tunnel.ask(hndGet)).body)
				require.Equal(t, 101, (<-tunnel.ask(lisRequest())).StatusCode)
				conn := <-accepted
				if want > 0 {
					start := time.Now()
					c.ended(t)
					require.Equal(t, want, time.Since(start))
				}
				time.Sleep(100 * 24 * time.Hour)
				lisTalk(t, tunnel, conn)
			})
		})
	}
}

// hndCutOff waits for the end of a connection that has not been answered, but
// perhaps been told so.
func hndCutOff(t testing.TB, c *lisClient) {
	t.Helper()
	rest, err := io.ReadAll(c.r)
	require.NoError(t, err)
	if len(rest) > 0 {
		require.True(t, strings.HasPrefix(string(rest), "HTTP/1.1 400 "), "%q", rest)
	}
}

// The bound of a head holds for each head, not for the first alone.
func TestHandlerMaxHeaderBytes(t *testing.T) {
	head := func(size int, upgrade string) string {
		h := "GET /health HTTP/1.1\r\nHost: h\r\n" + upgrade + "X: "
		return h + strings.Repeat("x", size-len(h)-4) + "\r\n\r\n"
	}
	for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "Connection: Upgrade\r\nUpgrade: tcp\r\n"} {
		for _, later := range []int{0, 1, 3} {
			t.Run(fmt.Sprintf("%q behind %d others", upgrade, later), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := lisNewNet()
					l := listen(t, &preflight.PreflightListener{Listener: n, MaxHeaderBytes: 1000, Handler: hndReport})
					accepted := lisServe(t, l)
					c := n.dial(t)
					for range later {
						require.Equal(t, hndGot, (<-c.ask(head(1000, ""))).body)
					}
					size := 1001
					if later > 0 || upgrade == "" {
						size += 9 << 10 // net/http reads 4 KiB more than it is told, and has 4 KiB of buffer
					}
					go io.WriteString(c, head(size, upgrade))
					require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, c.refused(t, "GET").StatusCode)
					require.Empty(t, accepted)
				})
			})
		}
	}
}

// A panic in Handler is the end of its connection, and of nothing else.
func TestHandlerPanics(t *testing.T) {
	printed := lisLog(t)
	l := listen(t, &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic(errors.New("on request"))
		}
		hndReport(w, r)
	})})
	accepted := lisServe(t, l)
	bystander := lisDial(t, l)
	bystander.send(t, hndGet)
	bystander.got(t)
	tunnel, _ := lisUpgraded(t, l, lisRequest())
	conn := hndNext(t, accepted)
	for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: websocket\r\n"} {
		for _, way := range hndWays(t, l)[:2] {
			t.Run(way.name+upgrade, func(t *testing.T) {
				c := way.dial(t)
				c.send(t, "GET /panic HTTP/1.1\r\nHost: h\r\n"+upgrade+"\r\n"+hndGet)
				c.ended(t)
				bystander.send(t, hndGet)
				bystander.got(t)
				lisTalk(t, tunnel, conn)
				require.Contains(t, printed.String(), "on request", "net/http prints it")
			})
		}
	}
}
