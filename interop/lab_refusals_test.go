package interop

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// testRefusals has the server refuse.
func testRefusals(t *testing.T, x trial) string {
	for path, want := range refusals {
		got := x.front.refused(t, "/client/refuse/"+path)
		require.Equal(t, want.StatusCode, got.StatusCode)
		require.Equal(t, string(want.Body), string(got.Body))
		for name, values := range want.Header {
			require.Equal(t, strings.Join(values, ", "), strings.Join(got.Header[name], ", "), name)
		}
		asked, ok := got.RetryAfter()
		require.Equal(t, want.Header.Get("Retry-After") != "", ok)
		if ok {
			require.Equal(t, want.Header.Get("Retry-After"), strconv.Itoa(int(asked.Seconds())))
		}
	}
	other := x.front.refused(t, "/client/forbidden")
	require.Equal(t, http.StatusForbidden, other.StatusCode)
	require.NotContains(t, string(other.Body), "a reason of our own")
	return "arrive"
}

// testOrdinaryHTTP sends what is no upgrade request. Whatever a path holds, it
// stays one.
func testOrdinaryHTTP(t *testing.T, x trial) string {
	answered := statuses(ordinaryHTTP(t, x.front, "/client/"))
	if odd := statuses(ordinaryHTTP(t, x.front, "/client/%0D%0ASHUTDOWN%0D%0A")); odd != "400 400 400 400 400" { // by a proxy that refuses such a path
		require.Equal(t, answered, odd)
	}
	return answered
}

// testElsewhere asks for what the proxy does not route to the server.
func testElsewhere(t *testing.T, x trial) string {
	e := x.front.refused(t, "/elsewhere")
	if e.StatusCode == http.StatusNotFound {
		require.ErrorContains(t, e, "no route for this path")
	}
	return strconv.Itoa(e.StatusCode)
}

func testLargeHead(t *testing.T, x trial) string {
	const head = 7 << 10
	d := x.front.dialer()
	d.Path = "/client/told"
	rest := len("GET  HTTP/1.1\r\nHost: \r\nConnection: Upgrade\r\nUpgrade: tcp\r\nX-Token: \r\n\r\n") + len(d.Path) + len(x.front.address)
	d.Header = http.Header{"X-Token": {strings.Repeat("x", head-rest)}}
	c, err := d.DialContext(t.Context(), "tcp", x.front.address)
	if err != nil {
		return ending(err)
	}
	_, at := see(t, bounded(t, c))
	require.Equal(t, d.Header["X-Token"], at.Header["X-Token"])
	return "arrives"
}
