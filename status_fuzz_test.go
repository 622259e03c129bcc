package preflight_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// FuzzStatusError: whatever a refusal holds, what is told of it is sound. The
// text has nothing of Location's path, query and userinfo, nor of the body, and
// nothing that a terminal obeys or hides.
func FuzzStatusError(f *testing.F) {
	for i, code := range []uint16{302, 400, 401, 403, 407, 429, 503, 599, 200} {
		f.Add(code-200, []string{"7", "Fri, 31 Dec 1999 23:59:59 GMT", "-1"}[i%3], `Basic realm="x", Bearer error="invalid_token"`, "https://me:pw@login.example:8443", "why\x1b[2J")
		f.Add(code-200, strings.Repeat("9", 30), "Negotiate", []string{"", "//h", "http://[::1%25lo]", "http://\u009b", "http://%9b"}[i%5], "The plain HTTP request")
	}
	f.Fuzz(func(t *testing.T, code uint16, retry, challenge, location, body string) {
		const secret = "s3cr3t"
		if strings.Contains(retry+challenge+location, secret) {
			return
		}
		answer := fmt.Sprintf("HTTP/1.1 %03d \u202e\u009b\r\nRetry-After: %s\r\nWWW-Authenticate: %s\r\nLocation: %s/x/%s?%[5]s#%[5]s\r\n\r\n%s%[5]s",
			200+code%800, retry, challenge, location, secret, body)
		_, c := badRun(t, []byte(answer), len(answer), func(c net.Conn) (*preflight.Conn, error) {
			conn, err := preflight.Client(context.Background(), c, &http.Request{Host: "h", URL: &url.URL{Path: "/"}})
			require.Error(t, err)
			text := err.Error()
			require.NotContains(t, text, secret)
			require.True(t, utf8.ValidString(text), "%q", text)
			require.Equal(t, -1, strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }), "%q", text)
			e, ok := err.(*preflight.StatusError)
			if !ok {
				return conn, err
			}
			require.Equal(t, fmt.Sprint(e.StatusCode), e.ErrorType())
			require.LessOrEqual(t, len(e.Body), 4<<10)
			wait, ok := e.RetryAfter()
			require.GreaterOrEqual(t, wait, time.Duration(0))
			require.True(t, ok || wait == 0)
			if e.Temporary() {
				require.Contains(t, []int{408, 425, 429, 502, 503, 504}, e.StatusCode)
			}
			return conn, err
		})
		require.Nil(t, c)
	})
}
