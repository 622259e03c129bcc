package authorize_test

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// authorizeResult is the result of one call of Authorize.
type authorizeResult struct {
	header http.Header
	err    error
	do     func() // replaces both
}

// listenWith returns a listener whose Authorize returns v, and the channel
// of the connections it accepts.
func listenWith(t testing.TB, v authorizeResult) (*preflight.PreflightListener, <-chan *preflight.Conn) {
	t.Helper()
	l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) {
		if v.do != nil {
			v.do()
		}
		return v.header, v.err
	}})
	return l, testkit.AcceptAll(t, l)
}

func TestAuthorizeFieldsJoinThe101(t *testing.T) {
	l, accepted := listenWith(t, authorizeResult{header: http.Header{
		"X-Session":   {"17"},
		"Set-Cookie":  {"a=1", "b=2"},
		"x-lower":     {"kept as it is"},
		"X-Empty":     {""},
		"X-Latin":     {"caf\xe9"},
		"Www-Unusual": nil,
	}})
	c, a := testkit.Upgraded(t, l, testkit.Request())
	conn := testkit.NextConn(t, accepted)
	for _, h := range []http.Header{a.Header, conn.Response().Header} {
		require.Equal(t, http.Header{
			"Upgrade":    {"tcp"},
			"Connection": {"Upgrade"},
			"X-Session":  {"17"},
			"Set-Cookie": {"a=1", "b=2"},
			"X-Lower":    {"kept as it is"},
			"X-Empty":    {""},
			"X-Latin":    {"caf\xe9"},
		}, h)
	}
	require.Same(t, conn.Request(), conn.Response().Request)
	testkit.Talk(t, c, conn)
}

// TestAuthorizeTellsWhatArrived: without a body of its own, a refusal tells whether the request
// had credentials.
func TestAuthorizeTellsWhatArrived(t *testing.T) {
	with := strings.TrimSuffix(testkit.Request(), "\r\n") + "Authorization: Bearer s3cr3t\r\n\r\n"
	for _, tt := range []struct {
		request string
		err     error
		text    string
	}{
		{testkit.Request(), &preflight.StatusError{StatusCode: 403}, "Forbidden; no Authorization arrived\n"},
		{with, &preflight.StatusError{StatusCode: 403}, "Forbidden; Authorization arrived\n"},
		{with, &preflight.StatusError{StatusCode: 401}, "Unauthorized; Authorization arrived\n"},
		{with, &preflight.StatusError{StatusCode: 429}, "Too Many Requests\n"},
		{with, &preflight.StatusError{StatusCode: 401, Body: []byte("no")}, "no"},
		{with, testkit.ErrOther, "the request is not authorized; Authorization arrived\n"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			l, _ := listenWith(t, authorizeResult{err: tt.err})
			require.Equal(t, tt.text, testkit.Refused(t, l, tt.request).Text)
		})
	}
}

func TestAuthorizeChoosesTheRefusal(t *testing.T) {
	for _, tt := range []struct {
		status int
		header http.Header
		body   string
		want   http.Header // of those fields
		text   string      // the body, if not the standard one
	}{
		{status: 401, header: http.Header{"Www-Authenticate": {`Bearer realm="x"`, "Basic"}}, want: http.Header{"Www-Authenticate": {`Bearer realm="x"`, "Basic"}}},
		{status: 403, body: "not you", text: "not you"},
		{status: 404},
		{status: 429, header: http.Header{"retry-after": {"7"}}, want: http.Header{"Retry-After": {"7"}}},
		{status: 503, header: http.Header{"Retry-After": {"120"}}, body: "later", want: http.Header{"Retry-After": {"120"}}, text: "later"},
		{status: 302, header: http.Header{"Location": {"https://there.example/"}}, want: http.Header{"Location": {"https://there.example/"}}},
		{status: 300},
		{status: 599, body: "odd", text: "odd"},
		{status: 400, header: http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"max-age=1"}, "Date": {"now"}}, body: "{}", want: http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"max-age=1"}, "Date": {"now"}}, text: "{}"},
		{status: 403, body: strings.Repeat("a long explanation ", 1000), text: strings.Repeat("a long explanation ", 1000)},
		{status: 426, want: http.Header{"Upgrade": {"tcp, tcps, websocket"}}},
		{status: 426, header: http.Header{"Upgrade": {"h2c"}}, want: http.Header{"Upgrade": {"tcp, tcps, websocket"}}},
	} {
		for _, wrapped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d wrapped %t", tt.status, wrapped), func(t *testing.T) {
				var err error = &preflight.StatusError{StatusCode: tt.status, Header: tt.header, Body: []byte(tt.body)}
				if wrapped {
					err = fmt.Errorf("secret: %w", errors.Join(testkit.ErrOther, err))
				}
				l, accepted := listenWith(t, authorizeResult{header: http.Header{"X-Session": {"17"}}, err: err})
				a := testkit.Refused(t, l, testkit.Request())
				require.Equal(t, tt.status, a.StatusCode)
				text := tt.text
				if text == "" {
					text = http.StatusText(tt.status) + "\n"
					if tt.status == http.StatusUnauthorized {
						text = "Unauthorized; no Authorization arrived\n"
					}
				}
				require.Equal(t, text, a.Text)
				require.Equal(t, int64(len(text)), a.ContentLength)
				for name, values := range tt.want {
					require.Equal(t, values, a.Header[name])
				}
				require.Contains(t, a.Header, "Cache-Control", "a proxy must not keep a refusal")
				require.NotContains(t, a.Header, "X-Session", "that is for a 101")
				require.NotContains(t, a.Raw, "secret")
				require.Empty(t, accepted)
			})
		}
	}
}

func TestAuthorizeChoosesNotModified(t *testing.T) {
	l, _ := listenWith(t, authorizeResult{err: &preflight.StatusError{
		StatusCode: 304, Header: http.Header{"Etag": {`"x"`}, "Content-Length": {"5"}}, Body: []byte("there is none"),
	}})
	a := testkit.Refused(t, l, testkit.Request())
	require.Equal(t, 304, a.StatusCode)
	require.Equal(t, `"x"`, a.Header.Get("ETag"))
	require.True(t, strings.HasSuffix(a.Raw, "\r\n\r\n"), "a 304 has no body: RFC 9110 §15.4.5")
	require.NotContains(t, a.Raw, "Content-Length")
}

// Only the library sets the fields that frame the answer. An answer with two
// framings would be split differently by two parties.
func TestAuthorizeRefusalIsFramedRight(t *testing.T) {
	l, _ := listenWith(t, authorizeResult{err: &preflight.StatusError{
		StatusCode: 403,
		Header: http.Header{
			"Content-Length": {"999"}, "content-length": {"0"}, "TRANSFER-ENCODING": {"chunked"}, "Trailer": {"X"},
			"Connection": {"keep-alive"}, "Keep-Alive": {"timeout=5"}, "Proxy-Connection": {"keep-alive"},
			"TE": {"trailers"}, "te": {"trailers"}, "upgrade": {"websocket"}, "X-Kept": {"yes"},
		},
		Body: []byte("no"),
	}})
	a := testkit.Refused(t, l, testkit.Request())
	require.Equal(t, "no", a.Text)
	require.Equal(t, "yes", a.Header.Get("X-Kept"))
	head := strings.ToLower(a.Raw[:strings.Index(a.Raw, "\r\n\r\n")])
	require.Equal(t, 1, strings.Count(head, "\r\ncontent-length: 2"))
	require.Equal(t, 1, strings.Count(head, "content-length"))
	require.Equal(t, 1, strings.Count(head, "\r\nconnection: close"))
	for _, dropped := range []string{"transfer-encoding", "trailer", "keep-alive", "proxy-connection", "\r\nte:", "\r\nupgrade"} {
		require.NotContains(t, head, dropped)
	}
}

// Any other error becomes a 403, and its text is never sent to the client.
func TestAuthorizeOtherErrors(t *testing.T) {
	var none *preflight.StatusError
	for name, err := range map[string]error{
		"an error":                  errors.New("secret"),
		"one wrapped":               fmt.Errorf("secret: %w", testkit.ErrOther),
		"a typed nil":               none,
		"a typed nil, wrapped":      fmt.Errorf("secret: %w", error(none)),
		"a timeout":                 testkit.TemporaryError{Err: errors.New("secret")},
		"a typed nil beside others": errors.Join(errors.New("secret"), none),
	} {
		t.Run(name, func(t *testing.T) {
			l, accepted := listenWith(t, authorizeResult{err: err})
			a := testkit.Refused(t, l, testkit.Request())
			require.Equal(t, http.StatusForbidden, a.StatusCode)
			require.NotContains(t, a.Raw, "secret")
			require.Empty(t, accepted)
		})
	}
}

// Authorize may dial another listener. The refusal of that one is not for the client: its
// fields and its body may hold secrets.
func TestAuthorizeRefusalOfItsOwnDial(t *testing.T) {
	behind, _ := listenWith(t, authorizeResult{err: &preflight.StatusError{
		StatusCode: http.StatusUnauthorized, Header: http.Header{"Secret": {"secret"}}, Body: []byte("secret"),
	}})
	_, err := new(preflight.PreflightDialer).Dial("tcp", behind.Addr().String())
	require.Equal(t, http.StatusUnauthorized, testkit.StatusError(t, err).StatusCode)
	for name, err := range map[string]error{"as it is": err, "wrapped": fmt.Errorf("policy: %w", err)} {
		t.Run(name, func(t *testing.T) {
			l, _ := listenWith(t, authorizeResult{err: err})
			a := testkit.Refused(t, l, testkit.Request())
			require.Equal(t, http.StatusForbidden, a.StatusCode)
			require.NotContains(t, strings.ToLower(a.Raw), "secret")
		})
	}
}

// An answer that cannot be sent becomes a 500. The reason is printed for the
// operator.
func TestAuthorizeResultThatCannotBeSent(t *testing.T) {
	verdicts := map[string]authorizeResult{}
	for _, status := range []int{-1, 0, 1, 99, 100, 101, 200, 204, 299, 600, 1000} {
		verdicts["status "+strconv.Itoa(status)] = authorizeResult{err: &preflight.StatusError{StatusCode: status}}
	}
	for _, name := range []string{
		"Connection", "upgrade", "UPGRADE", "Content-Length", "content-length", "Transfer-Encoding", "Trailer",
		"TE", "te", "Keep-Alive", "Proxy-Connection",
	} {
		verdicts[name+" on the 101"] = authorizeResult{header: http.Header{name: {"close"}}}
		verdicts[name+" on the 101, without a value"] = authorizeResult{header: http.Header{name: nil}}
	}
	for _, name := range []string{"", "a b", "a:", "a\r\nX: y", "a\x00", "é"} {
		verdicts[fmt.Sprintf("name %q on the 101", name)] = authorizeResult{header: http.Header{name: {"x"}}}
		verdicts[fmt.Sprintf("name %q on a refusal", name)] = authorizeResult{err: &preflight.StatusError{StatusCode: 403, Header: http.Header{name: {"x"}}}}
	}
	for _, value := range []string{"a\r\nX: y", "a\n", "a\r", "a\x00", "a\x7f"} {
		verdicts[fmt.Sprintf("value %q on the 101", value)] = authorizeResult{header: http.Header{"X-Session": {"fine", value}}}
		verdicts[fmt.Sprintf("value %q on a refusal", value)] = authorizeResult{err: &preflight.StatusError{StatusCode: 403, Header: http.Header{"Location": {value}}}}
	}
	printed := testkit.CaptureLog(t)
	for name, v := range verdicts {
		t.Run(name, func(t *testing.T) {
			before := len(printed.String())
			l, accepted := listenWith(t, v)
			a := testkit.Refused(t, l, testkit.Request())
			require.Equal(t, http.StatusInternalServerError, a.StatusCode)
			require.NotContains(t, a.Raw, "X: y")
			require.NotContains(t, a.Header, "X-Session")
			require.Empty(t, accepted)
			require.Contains(t, printed.String()[before:], "preflight: ")
		})
	}
}

func TestAuthorizePanics(t *testing.T) {
	for name, v := range map[string]any{
		"a text":          "secret",
		"an error":        errors.New("secret"),
		"a refusal":       &preflight.StatusError{StatusCode: 302, Body: []byte("secret")},
		"nothing":         nil,
		"ErrAbortHandler": http.ErrAbortHandler,
	} {
		t.Run(name, func(t *testing.T) {
			printed := testkit.CaptureLog(t)
			bad := true
			l, accepted := listenWith(t, authorizeResult{do: func() {
				if bad {
					panic(v)
				}
			}})
			a := testkit.Refused(t, l, testkit.Request())
			require.Equal(t, http.StatusInternalServerError, a.StatusCode)
			require.NotContains(t, a.Raw, "secret")
			require.Contains(t, printed.String(), "panic")
			require.Contains(t, printed.String(), "TestAuthorizePanics", "the stack names the function that panicked")
			if strings.HasPrefix(name, "a text") {
				require.Contains(t, printed.String(), "secret")
			}
			bad = false
			c, _ := testkit.Upgraded(t, l, testkit.Request())
			testkit.Talk(t, c, testkit.NextConn(t, accepted))
			require.Empty(t, accepted)
		})
	}
}

// FailNow of a test framework inside Authorize ends the goroutine with
// runtime.Goexit. Neither the connection nor its place may leak. TestMain
// counts the goroutines.
func TestAuthorizeEndsItsGoroutine(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{
		MaxPending: 1,
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.URL.Path == "/exit" {
				runtime.Goexit()
			}
			return nil, nil
		},
	})
	accepted := testkit.AcceptAll(t, l)
	for range 3 {
		c := testkit.DialClient(t, l)
		c.Send(t, strings.Replace(testkit.Request(), "/t", "/exit", 1))
		c.Ended(t)
		good, _ := testkit.Upgraded(t, l, testkit.Request())
		testkit.Talk(t, good, testkit.NextConn(t, accepted))
	}
}

// Authorize is called once for each valid upgrade request, and for nothing
// else.
func TestAuthorizeIsCalledOnce(t *testing.T) {
	asked := make(chan string, 10)
	l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(r *http.Request) (http.Header, error) {
		asked <- r.URL.Path
		return nil, nil
	}})
	accepted := testkit.AcceptAll(t, l)
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: tcp\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
		"GET / HTTP/1.0\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
		"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
		testkit.Request("Content-Length: 1"),
		testkit.Request("Broken : yes"),
		testkit.Request("Expect: a-miracle"),
	} {
		testkit.Refused(t, l, request)
		require.Empty(t, asked)
	}
	c, _ := testkit.Upgraded(t, l, testkit.Request("Expect: 100-continue", "Content-Length: 0"))
	require.Equal(t, "/t", <-asked)
	testkit.Talk(t, c, testkit.NextConn(t, accepted))
	require.Empty(t, asked)
}

// An application may keep its refusals in variables, so the library must not
// modify them.
func TestAuthorizeRefusalIsNotModified(t *testing.T) {
	refusal := func() *preflight.StatusError {
		return &preflight.StatusError{
			StatusCode: 426,
			Header:     http.Header{"Retry-After": make([]string, 1, 8), "retry-after": {"2"}, "Content-Length": {"7"}},
			Body:       append(make([]byte, 0, 64), "try later"...),
		}
	}
	shared := refusal()
	// The backing arrays have spare capacity that an append would write to.
	l, _ := listenWith(t, authorizeResult{err: shared})
	var clients sync.WaitGroup
	answers := make(chan testkit.Answer, 100)
	for range cap(answers) {
		c := testkit.DialClient(t, l)
		clients.Go(func() { answers <- <-c.Ask(testkit.Request()) })
	}
	clients.Wait()
	for range cap(answers) {
		a := <-answers
		require.NoError(t, a.Err)
		require.Equal(t, 426, a.StatusCode)
		require.Equal(t, "try later", a.Text)
		require.ElementsMatch(t, []string{"", "2"}, a.Header["Retry-After"])
	}
	require.Equal(t, refusal(), shared)
	require.Equal(t, make([]byte, 64-len("try later")), shared.Body[len("try later"):64])
	require.Equal(t, make([]string, 8), shared.Header["Retry-After"][:8])
}
