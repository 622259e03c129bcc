package interop

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

func testAuthorize(t *testing.T, w way) {
	refusals := map[string]*preflight.StatusError{
		"/401": {StatusCode: 401, Header: http.Header{"Www-Authenticate": {`Bearer realm="amps"`}}, Body: []byte("the token has expired\n")},
		"/403": {StatusCode: 403, Header: http.Header{"X-Policy": {"7", "8"}}, Body: []byte("not for you\n")},
		"/404": {StatusCode: 404, Body: []byte("no such feed\n")},
		"/503": {StatusCode: 503, Header: http.Header{"Retry-After": {"120"}}, Body: []byte("starting up\n")},
	}
	f := w.to(t, serve(t, &preflight.PreflightListener{
		Authorize: func(r *http.Request) (http.Header, error) {
			if refusal := refusals[r.URL.Path]; refusal != nil {
				return nil, refusal
			}
			if r.Header.Get("Authorization") != "Bearer good" {
				return nil, errors.New("a reason of our own")
			}
			return http.Header{"X-Session": {"17"}}, nil
		},
	}, func(c *preflight.Conn) { io.Copy(c, c) }))

	for path, want := range refusals {
		got := f.refused(t, "/tunnel"+path)
		require.Equal(t, want.StatusCode, got.StatusCode)
		require.Equal(t, string(want.Body), string(got.Body))
		for name, values := range want.Header {
			require.Equal(t, values, got.Header[name], name)
		}
	}

	other := f.refused(t, "/tunnel/amps/json")
	require.Equal(t, 403, other.StatusCode)
	require.NotContains(t, string(other.Body), "a reason of our own")

	d := f.dialer()
	d.Header = http.Header{"Authorization": {"Bearer good"}}
	c, err := d.DialContext(t.Context(), "tcp", f.address)
	require.NoError(t, err)
	require.NoError(t, echo(bounded(t, c), []byte("hello")))
	require.Equal(t, "17", c.(*preflight.Conn).Response().Header.Get("X-Session"))
}

func testRequireUpgrade(t *testing.T, w way) {
	address := serve(t, &preflight.PreflightListener{RequireUpgrade: true}, func(c *preflight.Conn) { io.Copy(c, c) })
	f := w.to(t, address)
	require.NoError(t, echo(f.dial(t), []byte("hello")))

	c := dialPlain(t, address)
	_, err := c.Write([]byte("SHUTDOWN\r\n"))
	require.NoError(t, err)
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Empty(t, got)
}

// testOrdinaryHTTP sends requests whose body is a command of a line protocol.
// A server that took them for plain connections would execute it, after some
// lines that it does not understand.
func testOrdinaryHTTP(t *testing.T, w way) {
	var server lineServer
	f := w.to(t, serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) { server.serve(c) }))
	scheme := "http://"
	if w.tls {
		scheme = "https://"
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: f.tlsConfig(), DisableKeepAlives: true}}

	for _, request := range []struct {
		method  string
		upgrade bool
		status  int
	}{
		{"POST", false, http.StatusUpgradeRequired},
		{"POST", true, http.StatusMethodNotAllowed},
		{"PUT", false, http.StatusUpgradeRequired},
		{"GET", false, http.StatusUpgradeRequired},
		{"GET", true, http.StatusBadRequest}, // an upgrade request has no body
	} {
		for _, target := range []string{"/tunnel/", "/tunnel/%0D%0ASHUTDOWN%0D%0A"} {
			r, err := http.NewRequestWithContext(t.Context(), request.method, scheme+f.address+target, strings.NewReader("\r\nSHUTDOWN\r\n"))
			require.NoError(t, err)
			if request.upgrade {
				r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}
			}
			answer, err := client.Do(r)
			require.NoError(t, err)
			answer.Body.Close()
			require.Equal(t, request.status, answer.StatusCode, "%+v", request)
			switch answer.StatusCode {
			case http.StatusUpgradeRequired:
				require.Equal(t, "tcp", answer.Header.Get("Upgrade"))
			case http.StatusMethodNotAllowed:
				require.Equal(t, "GET", answer.Header.Get("Allow"))
			}
		}
	}

	if w.captured != "" {
		for _, method := range []string{"GET", "POST"} {
			r, err := http.NewRequestWithContext(t.Context(), method, scheme+f.address+w.captured+"a%20b", strings.NewReader("\r\nSHUTDOWN\r\n"))
			require.NoError(t, err)
			answer, err := client.Do(r)
			require.NoError(t, err)
			answer.Body.Close()
			require.Equal(t, http.StatusBadRequest, answer.StatusCode)
		}
	}

	// The server is there, and this line is the first that it sees.
	c := f.dial(t)
	require.NoError(t, talk(c, bufio.NewReader(c), "hello", "OK hello"))
	require.Equal(t, []string{"hello"}, server.seen())
}

func testServerDown(t *testing.T, w way) {
	// The port is privileged: nobody listens there by chance.
	e := w.to(t, "127.0.0.1:1").refused(t, "/tunnel/amps/json")
	require.Equal(t, w.down, e.StatusCode)
	require.ErrorContains(t, e, "the server behind the proxy is unavailable")
	require.NotEmpty(t, e.Body)
}

func testNoRoute(t *testing.T, w way) {
	e := w.to(t, serveEcho(t)).refused(t, "/elsewhere")
	require.Equal(t, http.StatusNotFound, e.StatusCode)
	require.ErrorContains(t, e, "no route for this path")
	require.NotEmpty(t, e.Body)
}

func testMisconfigured(t *testing.T, w way) {
	f := w.to(t, serveEcho(t))
	for path, why := range w.faulty {
		e := f.refused(t, path)
		require.Equal(t, http.StatusUpgradeRequired, e.StatusCode, path)
		require.ErrorContains(t, e, w.advice, path)
		require.Contains(t, string(e.Body), why, path)
	}
}
