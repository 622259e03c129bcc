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

// HndServe serves h on n with net/http, as an existing server does. Nothing is
// answered without h, and its timeouts are not those of a tunnel.
func HndServe(t testing.TB, n net.Listener, h http.Handler) *http.Server {
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

// HndReport answers with what it has seen of a request, and with as many bytes
// more as the query says.
var HndReport = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var more int
	fmt.Sscanf(r.URL.RawQuery, "%d", &more)
	fmt.Fprintf(w, "%s %s %s %d %v%s", r.Method, r.URL.Path, r.Proto, len(body), err, strings.Repeat("x", more))
})

// HndGet is a request that hndReport answers with hndGot.
const (
	HndGet = "GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
	HndGot = "GET /health HTTP/1.1 0 <nil>"
)

// Got requires that hndGet is answered.
func (c *LisClient) Got(t testing.TB) {
	t.Helper()
	a := c.Answer("GET")
	require.NoError(t, a.Err)
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Equal(t, HndGot, a.Text)
}

// A hndWay is a way in which a request can come to a listener.
type hndWay struct {
	Name string
	Dial func(t testing.TB) *LisClient // ready to send it
}

// HndWays are all of them, the connections that l accepts first. The Handler of l
// must answer hndGet as hndReport does.
func HndWays(t testing.TB, l *preflight.PreflightListener) []hndWay {
	foreign := ListenTCP(t)
	HndServe(t, foreign, l)
	var ways []hndWay
	for i, n := range []net.Listener{l, foreign} {
		name := []string{"", "by ServeHTTP "}[i]
		ways = append(ways, hndWay{name + "as the first", func(t testing.TB) *LisClient { return LisDial(t, n) }},
			hndWay{name + "as a later one", func(t testing.TB) *LisClient {
				c := LisDial(t, n)
				c.Send(t, HndGet)
				c.Got(t)
				return c
			}})
	}
	return ways
}

// HndNext is the next accepted connection, whose reads end too.
func HndNext(t testing.TB, accepted <-chan *preflight.Conn) *preflight.Conn {
	t.Helper()
	c := LisNext(t, accepted)
	require.NoError(t, c.SetDeadline(time.Now().Add(Patience)))
	return c
}

// HndCut sends s in pieces.
func HndCut(w io.Writer, s string, piece int) error {
	for s != "" {
		n := min(piece, len(s))
		if _, err := io.WriteString(w, s[:n]); err != nil {
			return err
		}
		s = s[n:]
	}
	return nil
}
