package testkit

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// ServeHTTP serves h on n with net/http, like an existing server. Without h, no
// request is answered. The timeouts of the server do not apply to tunnels.
func ServeHTTP(t testing.TB, n net.Listener, h http.Handler) *http.Server {
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

// ReportHandler answers with the facts of a request, and with as many more
// bytes as the query asks for.
var ReportHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var more int
	fmt.Sscanf(r.URL.RawQuery, "%d", &more)
	fmt.Fprintf(w, "%s %s %s %d %v%s", r.Method, r.URL.Path, r.Proto, len(body), err, strings.Repeat("x", more))
})

// Get is a request that ReportHandler answers with Got.
const (
	Get = "GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
	Got = "GET /health HTTP/1.1 0 <nil>"
)

// Got requires that the answer to Get arrives.
func (c *Client) Got(t testing.TB) {
	t.Helper()
	a := c.Answer("GET")
	require.NoError(t, a.Err)
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Equal(t, Got, a.Text)
}

// A handlerWay is a way by which a request can come to a listener.
type handlerWay struct {
	Name string
	Dial func(t testing.TB) *Client // ready to send the request
}

// Ways returns all of them. The first ones dial l directly. The Handler of l
// must answer Get like ReportHandler.
func Ways(t testing.TB, l *preflight.PreflightListener) []handlerWay {
	foreign := ListenTCP(t)
	ServeHTTP(t, foreign, l)
	var ways []handlerWay
	for i, n := range []net.Listener{l, foreign} {
		name := []string{"", "by ServeHTTP "}[i]
		ways = append(ways, handlerWay{name + "as the first", func(t testing.TB) *Client { return DialClient(t, n) }},
			handlerWay{name + "as a later one", func(t testing.TB) *Client {
				c := DialClient(t, n)
				c.Send(t, Get)
				c.Got(t)
				return c
			}})
	}
	return ways
}

// NextTunnel returns the next accepted connection. A Read from it ends after
// some time.
func NextTunnel(t testing.TB, accepted <-chan *preflight.Conn) *preflight.Conn {
	t.Helper()
	c := NextConn(t, accepted)
	require.NoError(t, c.SetDeadline(time.Now().Add(Patience)))
	return c
}

// WriteInPieces sends s in pieces.
func WriteInPieces(w io.Writer, s string, piece int) error {
	for s != "" {
		n := min(piece, len(s))
		if _, err := io.WriteString(w, s[:n]); err != nil {
			return err
		}
		s = s[n:]
	}
	return nil
}
