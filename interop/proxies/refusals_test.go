package proxies

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// testRefusals has the server refuse requests.
func testRefusals(t *testing.T, s scenario) string {
	for path, want := range refusals {
		got := s.dialRefused(t, "/client/refuse/"+path)
		require.Equal(t, want.StatusCode, got.StatusCode)
		require.Equal(t, string(want.Body), string(got.Body))
		for name, values := range want.Header {
			require.Equal(t, strings.Join(values, ", "), strings.Join(got.Header[name], ", "), name)
		}
		wait, ok := got.RetryAfter()
		require.Equal(t, want.Header.Get("Retry-After") != "", ok)
		if ok {
			require.Equal(t, want.Header.Get("Retry-After"), strconv.Itoa(int(wait.Seconds())))
		}
	}
	other := s.dialRefused(t, "/client/forbidden")
	require.Equal(t, http.StatusForbidden, other.StatusCode)
	require.NotContains(t, string(other.Body), "an internal reason")
	return "arrive"
}

// testOrdinaryHTTP sends requests that are no upgrade requests. A path with encoded line
// breaks must make no difference.
func testOrdinaryHTTP(t *testing.T, s scenario) string {
	statuses := lab.StatusCodes(s.frontend.SendOrdinaryRequests(t, "/client/"))
	withLineBreaks := lab.StatusCodes(s.frontend.SendOrdinaryRequests(t, "/client/%0D%0ASHUTDOWN%0D%0A"))
	if withLineBreaks != "400 400 400 400 400" { // of a proxy that refuses such a path
		require.Equal(t, statuses, withLineBreaks)
	}
	return statuses
}

// testElsewhere requests a path that the proxy does not route to the server.
func testElsewhere(t *testing.T, s scenario) string {
	e := s.dialRefused(t, "/elsewhere")
	if e.StatusCode == http.StatusNotFound {
		require.ErrorContains(t, e, "-route]")
	}
	return strconv.Itoa(e.StatusCode)
}

// testLargeHead sends a request head of 7 KiB.
func testLargeHead(t *testing.T, s scenario) string {
	const size = 7 << 10
	d := s.dialer()
	d.Path = "/client/info"
	others := len("GET  HTTP/1.1\r\nHost: \r\nConnection: Upgrade\r\nUpgrade: tcp\r\nX-Token: \r\n\r\n") + len(d.Path) + len(s.frontend.Address)
	d.Header = http.Header{"X-Token": {strings.Repeat("x", size-others)}}
	c, err := s.tryDial(t, d)
	if err != nil {
		return outcomeOf(err)
	}
	_, info := readRequestInfo(t, c)
	require.Equal(t, d.Header["X-Token"], info.Header["X-Token"])
	return "arrives"
}
