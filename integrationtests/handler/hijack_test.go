package handler_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// bothWays calls f twice: with an address where l serves its own connections,
// and with one where a server of net/http mounts l.
func bothWays(t *testing.T, l func() *preflight.PreflightListener, f func(t *testing.T, a net.Addr, accepted <-chan *preflight.Conn)) {
	t.Run("its own", func(t *testing.T) {
		own := testkit.Listen(t, l())
		f(t, own.Addr(), testkit.AcceptAll(t, own))
	})
	t.Run("mounted", func(t *testing.T) {
		mounted := l()
		s := httptest.NewServer(mounted)
		t.Cleanup(s.Close)
		f(t, s.Listener.Addr(), testkit.AcceptAll(t, mounted))
	})
}

// dialClient connects to a.
func dialClient(t testing.TB, a net.Addr) *testkit.Client {
	t.Helper()
	c := testkit.DialTCP(t, a)
	return &testkit.Client{Conn: c, R: bufio.NewReader(c)}
}

// MaxHeaderBytes also applies to heads that net/http accepts. net/http reads 4
// KiB more than its own limit, which is 1 MiB by default.
func TestServeHTTPMaxHeaderBytes(t *testing.T) {
	const most = 1000
	fill := most - len(testkit.Request("X-Fill: "))
	bothWays(t, func() *preflight.PreflightListener {
		return &preflight.PreflightListener{MaxHeaderBytes: most, Handler: testkit.ServedHandler}
	}, func(t *testing.T, a net.Addr, accepted <-chan *preflight.Conn) {
		for _, more := range []int{0, 1, 4 << 10, 500_000} {
			c := dialClient(t, a)
			// After an ordinary request, net/http reads the next one.
			c.Send(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			require.Equal(t, 200, c.Answer("GET").StatusCode)
			request := testkit.Request("X-Fill: " + strings.Repeat("x", fill+more))
			go io.WriteString(c, request) // the answer may be cut short
			answer := c.Answer("GET")
			if more > 0 {
				require.Equal(t, 431, answer.StatusCode, "%d bytes too many", more)
				require.Empty(t, accepted)
				continue
			}
			require.Equal(t, 101, answer.StatusCode)
			testkit.Talk(t, c, testkit.NextConn(t, accepted))
		}
	})
}

// A Handler may unwrap our ResponseWriter and use that of net/http. The
// connection still ends after an answer to a request with Upgrade: the next
// request would be one that the rules of a proxy have not seen.
func TestHandlerThatUnwrapsEndsItsConnection(t *testing.T) {
	bothWays(t, func() *preflight.PreflightListener {
		return &preflight.PreflightListener{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for {
				u, ok := w.(interface{ Unwrap() http.ResponseWriter })
				if !ok {
					break
				}
				w = u.Unwrap()
			}
			io.WriteString(w, r.URL.Path)
		})}
	}, func(t *testing.T, a net.Addr, accepted <-chan *preflight.Conn) {
		for _, request := range []string{
			"GET /first HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			"GET /first HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n\r\n",
			"GET /first HTTP/1.1\r\nHost: h\r\nUpgrade:\r\n\r\n",
			"POST /first HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
			"GET /first HTTP/1.0\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n\r\n",
		} {
			c := dialClient(t, a)
			c.Send(t, request+"GET /second HTTP/1.1\r\nHost: h\r\n\r\n")
			answer := c.Refused(t, request)
			require.Equal(t, 200, answer.StatusCode)
			require.Equal(t, "/first", answer.Text)
			require.Empty(t, accepted)
		}
		// A request without Upgrade does not end the connection.
		c := dialClient(t, a)
		for _, path := range []string{"/first", "/second"} {
			c.Send(t, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
			require.Equal(t, path, c.Answer("GET").Text)
		}
	})
}

// A Handler that hijacks writes its own answer. The ReverseProxy of net/http
// starts with the fields that are already set. If "close" were among them, the
// proxies on the way would close the connection.
func TestHandlerThatHijacksAnswersWithoutClose(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, rw)
	}))
	t.Cleanup(backend.Close)
	to, err := url.Parse(backend.URL)
	require.NoError(t, err)
	bothWays(t, func() *preflight.PreflightListener {
		return &preflight.PreflightListener{Handler: httputil.NewSingleHostReverseProxy(to)}
	}, func(t *testing.T, a net.Addr, _ <-chan *preflight.Conn) {
		c := dialClient(t, a)
		c.Send(t, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		answer := c.Answer("GET")
		require.NoError(t, answer.Err)
		require.Equal(t, 101, answer.StatusCode)
		require.Equal(t, []string{"Upgrade"}, answer.Header["Connection"])
		testkit.Carry(t, "through both", c, c.R)
		require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
		c.Ended(t)
	})
}

// hijackWriter is the ResponseWriter of an incomplete middleware.
type hijackWriter struct {
	http.ResponseWriter
	conn net.Conn
	rw   *bufio.ReadWriter
}

func (w hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.conn, w.rw, nil }

// If Hijack returns no buffer, no bytes were buffered.
func TestServeHTTPHijackWithoutABuffer(t *testing.T) {
	l := &preflight.PreflightListener{HandshakeTimeout: time.Hour}
	accepted := testkit.AcceptAll(t, l)
	client, server := testkit.TCPPair(t)
	r := httptest.NewRequest("GET", "/t", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "tcp")
	served := make(chan any, 1)
	go func() {
		defer func() { served <- recover() }()
		l.ServeHTTP(hijackWriter{httptest.NewRecorder(), server, nil}, r)
	}()
	c := &testkit.Client{Conn: client, R: bufio.NewReader(client)}
	answer := c.Answer("GET")
	require.NoError(t, answer.Err)
	require.Equal(t, 101, answer.StatusCode)
	conn := testkit.NextConn(t, accepted)
	require.Equal(t, "/t", conn.Request().URL.Path)
	testkit.Talk(t, c, conn)
	require.Nil(t, <-served)
}
