package status_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// refusals are the answers that users meet, and the words that the error
// must contain: the cause, and the setting.
var refusals = []struct {
	answer    string
	code      int
	temporary bool
	says      []string
}{
	{"200 OK", 200, false, []string{"200 OK", "no PreflightListener answered", "Host and Path", "[no-listener]"}},
	{"204 No Content", 204, false, []string{"no PreflightListener answered", "[no-listener]"}},
	{"206 Partial Content", 206, false, []string{"no PreflightListener answered", "[no-listener]"}},
	{"426 Upgrade Required", 426, false, []string{"no PreflightListener answered", "Preflight-Refusal", "[no-listener]"}},
	{"301 Moved Permanently", 301, false, []string{"not followed", "[redirect]"}},
	{"302 Found", 302, false, []string{"not followed", "Location"}},
	{"308 Permanent Redirect", 308, false, []string{"not followed"}},
	{"400 Bad Request", 400, false, []string{"malformed", "Possible", "CarrierWebSocket", "[bad-request]"}},
	{"401 Unauthorized", 401, false, []string{"Authorization that was sent", "GetHeader", "[credentials-refused]"}},
	{"403 Forbidden", 403, false, []string{"Possible", "credentials", "[forbidden]"}},
	{"404 Not Found", 404, false, []string{"Path", "Host", "[no-route]"}},
	{"405 Method Not Allowed", 405, false, []string{"knows no upgrade", "[no-upgrades]"}},
	{"407 Proxy Authentication Required", 407, false, []string{"Set Proxy", "401", "[proxy-auth-at-edge]"}},
	{"408 Request Timeout", 408, true, []string{"holds the request back", "[too-slow]"}},
	{"414 URI Too Long", 414, false, []string{"7 KiB", "Path", "[head-size]"}},
	{"418 I'm a teapot", 418, false, []string{"refused", "[refused]"}},
	{"421 Misdirected Request", 421, false, []string{"Host", "ServerName", "[wrong-host]"}},
	{"425 Too Early", 425, true, []string{"early data", "[too-early]"}},
	{"429 Too Many Requests", 429, true, []string{"rate", "try again later", "[rate-limit]"}},
	{"431 Request Header Fields Too Large", 431, false, []string{"7 KiB", "Header", "[head-size]"}},
	{"500 Internal Server Error", 500, false, []string{"Its log", "[server-fault]"}},
	{"501 Not Implemented", 501, false, []string{"knows no upgrade", "[no-upgrades]"}},
	{"502 Bad Gateway", 502, true, []string{"Possible: it is down", "try again later", "[bad-gateway]"}},
	{"503 Service Unavailable", 503, true, []string{"possible", "down", "full", "try again later", "[server-down]"}},
	{"504 Gateway Timeout", 504, true, []string{"did not answer", "time", "[server-slow]"}},
	{"505 HTTP Version Not Supported", 505, false, []string{"HTTP/1.1", "[http-version]"}},
	{"511 Network Authentication Required", 511, false, []string{"Sign in", "[captive-portal]"}},
	{"999 Whatever", 999, false, []string{"999 Whatever", "[proxy-failed]"}},
}

// TestStatusError: each answer gives the same error over a pipe and over TCP,
// in one piece and byte by byte. Its methods return what programs need.
func TestStatusError(t *testing.T) {
	for _, test := range refusals {
		for _, tcp := range []bool{false, true} {
			for _, drip := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/tcp=%v/drip=%v", test.answer, tcp, drip), func(t *testing.T) {
					body := "you sent s3cr3t"
					if test.code == 204 {
						body = ""
					}
					answer := fmt.Sprintf("HTTP/1.1 %s\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: %d\r\n\r\n%s", test.answer, len(body), body)
					_, err := testkit.DialScripted(t, tcp, func(c net.Conn) { testkit.WriteScript(c, answer, drip) })
					e := testkit.StatusError(t, err)
					require.Same(t, e, err, "not wrapped")
					require.Equal(t, test.code, e.StatusCode)
					require.Equal(t, test.answer, e.Status)
					require.Equal(t, []string{"1", "2"}, e.Header["X-A"])
					require.Equal(t, body, string(e.Body))
					require.False(t, e.ForwardProxy)
					require.Equal(t, fmt.Sprint(test.code), e.ErrorType())
					require.Equal(t, test.temporary, e.Temporary())
					require.ErrorContains(t, err, "answered "+test.answer)
					for _, s := range test.says {
						require.ErrorContains(t, err, s)
					}
					require.Equal(t, test.temporary, strings.Contains(err.Error(), "try again"), "only a temporary error advises another try")
					require.LessOrEqual(t, len(err.Error()), 300)
				})
			}
		}
	}
}

// TestAuthorizeStatus: the error of a status that Authorize has chosen asks for other
// credentials only where they can help, and advises another try only where waiting can.
func TestAuthorizeStatus(t *testing.T) {
	for _, test := range []struct {
		code        int
		credentials bool
		temporary   bool
	}{
		{302, false, false}, {400, false, false}, {401, true, false}, {403, true, false}, {404, false, false},
		{407, true, false}, {408, false, true}, {425, false, true}, {429, false, true}, {451, false, false},
		{500, false, false}, {502, false, true}, {503, false, true}, {504, false, true},
	} {
		for _, header := range []http.Header{nil, {"Authorization": {"Bearer s3cr3t"}}} {
			t.Run(fmt.Sprintf("%d/%d", test.code, len(header)), func(t *testing.T) {
				l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) {
					return nil, &preflight.StatusError{StatusCode: test.code, Body: []byte("the server behind it is down")}
				}})
				testkit.ServeEcho(t, l)
				d := preflight.PreflightDialer{Header: header, Carriers: []preflight.Carrier{preflight.CarrierUpgrade}}
				_, err := d.Dial("tcp", l.Addr().String())
				e := testkit.StatusError(t, err)
				require.Equal(t, "authorize", e.Reason)
				require.Equal(t, test.temporary, e.Temporary())
				require.Equal(t, test.temporary, strings.Contains(err.Error(), "try again"))
				require.Equal(t, test.credentials, strings.Contains(err.Error(), "Authorization"), err)
				require.LessOrEqual(t, len(err.Error()), 300)
			})
		}
	}
}

// TestStatusErrorWrapped: errors.As finds a StatusError that is wrapped, as by
// gRPC. The methods also work on a literal.
func TestStatusErrorWrapped(t *testing.T) {
	e := testkit.StatusError(t, fmt.Errorf("transport: %w", &net.OpError{Op: "dial", Err: &preflight.StatusError{StatusCode: 503}}))
	require.True(t, e.Temporary())
	require.Equal(t, "503", e.ErrorType())
	require.Equal(t, "preflight: 503 Service Unavailable", e.Error())
	require.Equal(t, "preflight: 599", (&preflight.StatusError{StatusCode: 599}).Error())
	_, ok := e.RetryAfter() // with a nil Header
	require.False(t, ok)
	require.False(t, (&preflight.StatusError{}).Temporary())
	require.False(t, (&preflight.StatusError{StatusCode: 500}).Temporary())
	require.True(t, (&preflight.StatusError{StatusCode: 500, ForwardProxy: true}).Temporary(), "tinyproxy cannot reach the host")
}

// TestStatusErrorOfTLSPort: plain HTTP was sent to a TLS port because of a
// wrong setting. Servers report this in the body of a 400, or with a TLS alert.
func TestStatusErrorOfTLSPort(t *testing.T) {
	for name, body := range map[string]string{
		"nginx":  "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
		"Apache": "<p>Your browser sent a request that this server could not understand.<br />\nReason: You're speaking plain HTTP to an SSL-enabled server port.<br /></p>",
		"Go":     "Client sent an HTTP request to an HTTPS server.\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := testkit.DialScripted(t, true, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"+body); c.Close() })
			require.Equal(t, body, string(testkit.StatusError(t, err).Body))
			require.ErrorContains(t, err, "speaks TLS")
			require.ErrorContains(t, err, "TLSConfig")
			require.NotContains(t, err.Error(), "websocket")
		})
	}
	t.Run("the same words with another status", func(t *testing.T) {
		_, err := testkit.DialScripted(t, false, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 404 N\r\n\r\nplain HTTP"); c.Close() })
		require.NotContains(t, err.Error(), "TLS")
	})
	t.Run("net/http", func(t *testing.T) {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.Config.ErrorLog = noLog
		s.StartTLS()
		defer s.Close()
		_, err := new(preflight.PreflightDialer).Dial("tcp", s.Listener.Addr().String())
		require.Equal(t, 400, testkit.StatusError(t, err).StatusCode)
		require.ErrorContains(t, err, "speaks TLS")
	})
	t.Run("alert, as OpenSSL sends it", func(t *testing.T) {
		_, err := testkit.DialScripted(t, true, func(c net.Conn) { io.WriteString(c, "\x15\x03\x01\x00\x02\x02\x46"); c.Close() })
		require.NotErrorAs(t, err, new(*preflight.StatusError))
		require.ErrorContains(t, err, "speaks TLS")
		require.ErrorContains(t, err, "TLSConfig")
	})
	t.Run("crypto/tls, which closes without an answer", func(t *testing.T) {
		ln := tls.NewListener(testkit.ListenTCP(t), testkit.NewIdentity(t).Config)
		testkit.ServeEcho(t, ln)
		_, err := new(preflight.PreflightDialer).Dial("tcp", ln.Addr().String())
		testkit.RequireUnavailable(t, err)
	})
}

// TestStatusErrorOfAServerFault: a fault of the server is not temporary. The
// error says which it is.
func TestStatusErrorOfAServerFault(t *testing.T) {
	testkit.CaptureLog(t)
	hidden := &preflight.PreflightListener{}
	panics := &preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) { panic("s3cr3t") }}
	for name, test := range map[string]struct {
		handler http.Handler
		says    string
	}{
		"a middleware hides http.Hijacker": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			hidden.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
		}), "hides http.Hijacker"},
		"Authorize panics":     {panics, "Authorize failed"},
		"it is misconfigured":  {&preflight.PreflightListener{MaxPending: -1}, "[misconfigured]"},
		"Authorize negotiates": {&preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) { return http.Header{"Preflight-X": {"s3cr3t"}}, nil }}, "Authorize failed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(test.handler)
			defer s.Close()
			_, err := new(preflight.PreflightDialer).Dial("tcp", s.Listener.Addr().String())
			require.Equal(t, 500, testkit.StatusError(t, err).StatusCode)
			require.False(t, testkit.StatusError(t, err).Temporary())
			require.ErrorContains(t, err, "the request reached the listener")
			require.ErrorContains(t, err, test.says)
			require.NotContains(t, err.Error(), "later")
			testkit.RequireNoSecret(t, err)
		})
	}
}

// TestStatusErrorOfPlainPort is the opposite case, with servers that answer and
// one that speaks first.
func TestStatusErrorOfPlainPort(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	l := testkit.Listen(t, &preflight.PreflightListener{RequireUpgrade: true})
	testkit.ServeEcho(t, l)
	banner := testkit.ListenTCP(t)
	go func() {
		if c, err := banner.Accept(); err == nil {
			defer c.Close()
			io.WriteString(c, "220 mail.example ESMTP\r\n")
			io.Copy(io.Discard, c)
		}
	}()
	for name, address := range map[string]string{"net/http": s.Listener.Addr().String(), "banner": banner.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, TLSConfig: new(tls.Config), Header: testkit.SecretFields}
			_, err := d.Dial("tcp", address)
			require.ErrorContains(t, err, "does not speak TLS")
			var plain tls.RecordHeaderError
			require.ErrorAs(t, err, &plain)
			require.NotEmpty(t, plain.RecordHeader)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.False(t, op.Temporary(), "another attempt does not help")
			testkit.RequireNoSecret(t, err)
		})
	}
	t.Run("a listener that refuses plain connections", func(t *testing.T) {
		_, err := (&preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, TLSConfig: new(tls.Config)}).Dial("tcp", l.Addr().String())
		require.ErrorContains(t, err, "does not speak TLS")
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.False(t, op.Temporary())
	})
}

// TestStatusErrorRedirect: a redirect is not followed. Its target may contain a
// session or a signature, so the error says only where it leads.
func TestStatusErrorRedirect(t *testing.T) {
	for location, code := range map[string]string{
		"https://login.example/s3cr3t?s3cr3t#s3cr3t":  "redirect-login",
		"https://me:s3cr3t@login.example:8443/s3cr3t": "redirect-login",
		"http://[2001:db8::1]:80/s3cr3t":              "captive-portal",
		"https://edge.example/?s3cr3t":                "redirect-https",
		"//login.example/s3cr3t":                      "redirect",
		"/s3cr3t?s3cr3t":                              "redirect",
		"s3cr3t":                                      "redirect",
		"mailto:s3cr3t@login.example":                 "redirect",
		"https://login.example\t/s3cr3t":              "redirect",
		"https://login.example%zz/s3cr3t":             "redirect",
		"https://[s3cr3t/":                            "redirect",
		"":                                            "redirect",
		"https://login.example/s3cr3t\r\nLocation: //o.example": "redirect-login",
	} {
		t.Run(location, func(t *testing.T) {
			_, err := testkit.DialScripted(t, false, func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: "+location+"\r\nContent-Length: 0\r\n\r\n")
			})
			first, _, _ := strings.Cut(location, "\r\n")
			require.Equal(t, first, testkit.StatusError(t, err).Header.Get("Location"), "programs may need the full target")
			require.ErrorContains(t, err, "redirects are not followed")
			require.True(t, strings.HasSuffix(err.Error(), " ["+code+"]"), err.Error())
			require.NotContains(t, err.Error(), "login.example")
			testkit.RequireNoSecret(t, err)
		})
	}
}

func TestStatusErrorRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in the bubble it is 2000-01-01, midnight UTC
		const no = -1
		for value, want := range map[string]time.Duration{
			"0":                                0,
			"1":                                time.Second,
			"120":                              2 * time.Minute,
			" 007\t":                           7 * time.Second,
			"Sat, 01 Jan 2000 00:02:00 GMT":    2 * time.Minute,
			"Saturday, 01-Jan-00 00:02:00 GMT": 2 * time.Minute,
			"Sat Jan  1 00:02:00 2000":         2 * time.Minute,
			"Fri, 31 Dec 1999 23:59:59 GMT":    0,
			"Friday, 31-Dec-99 23:59:59 GMT":   0,
			"Fri Dec 31 23:59:59 1999":         0,
			"Sat, 01 Jan 2000 00:00:00 GMT":    0,
			// These are more than a Duration can hold, which is 292 years.
			"9223372036":                    9223372036 * time.Second,
			"9223372037":                    math.MaxInt64,
			"9223372036854775807":           math.MaxInt64,
			"9223372036854775808":           math.MaxInt64,
			strings.Repeat("9", 1000):       math.MaxInt64,
			"Fri, 31 Dec 9999 23:59:59 GMT": math.MaxInt64,
			"":                              no,
			" ":                             no,
			"-1":                            no,
			"+1":                            no,
			"1.5":                           no,
			"1s":                            no,
			"1 2":                           no,
			"1, 2":                          no,
			"0x10":                          no,
			"١":                             no,
			"soon":                          no,
			"2000-01-01T00:02:00Z":          no,
			"Sat, 32 Jan 2000 00:02:00 GMT": no,
		} {
			e := preflight.StatusError{StatusCode: 503, Header: http.Header{"Retry-After": {value}}}
			got, ok := e.RetryAfter()
			require.Equal(t, want != no, ok, "%q", value)
			require.Equal(t, max(want, 0), got, "%q", value)
		}
		e := preflight.StatusError{Header: http.Header{"Retry-After": {"1", "2"}}}
		_, ok := e.RetryAfter()
		require.False(t, ok, "two fields")
	})
}

// TestStatusErrorRetryAfterSent checks the field after it was sent over the
// wire.
func TestStatusErrorRetryAfterSent(t *testing.T) {
	for fields, want := range map[string]time.Duration{
		"retry-after:7\r\n":                    7 * time.Second,
		"Retry-After: 7 \r\n":                  7 * time.Second,
		"Retry-After: 7\r\nRetry-After: 8\r\n": -1,
		"Retry-After:\r\n":                     -1,
		"X: 7\r\n":                             -1,
		"Retry-After: 7\r\n 8\r\n":             -1,
		"Retry-After: " + strings.Repeat("9", 4000) + "\r\n": math.MaxInt64,
	} {
		_, err := testkit.DialScripted(t, false, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 503 B\r\n"+fields+"\r\n"); c.Close() })
		got, ok := testkit.StatusError(t, err).RetryAfter()
		require.Equal(t, want >= 0, ok, "%q", fields)
		require.Equal(t, max(want, 0), got, "%q", fields)
	}
}

// TestStatusErrorBodyOverTLS: a proxy sends half of a body and keeps the
// connection open. The dialer waits one second, or less if the time of the
// handshake ends before, and then returns the refusal.
func TestStatusErrorBodyOverTLS(t *testing.T) {
	server := testkit.NewIdentity(t)
	for name, sent := range map[string]string{
		"length":  "HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\nno you",
		"chunked": "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nno you\r\n",
		"none":    "HTTP/1.1 403 No\r\n\r\nno you",
	} {
		for _, noDeadlines := range []bool{false, true} {
			for _, timeout := range []time.Duration{300 * time.Millisecond, 0, -1} {
				t.Run(fmt.Sprintf("%s/noDeadlines=%v/%v", name, noDeadlines, timeout), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						peer := &testkit.DialPeer{T: t, NoDeadlines: noDeadlines, Peer: func(c net.Conn) {
							tc := tls.Server(c, server.Config)
							testkit.ReadRequest(tc)
							io.WriteString(tc, sent)
						}}
						d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer, TLSConfig: server.Client(), HandshakeTimeout: timeout}
						begun := time.Now()
						conn, err := d.DialContext(context.Background(), "tcp", "edge.example:443")
						require.Nil(t, conn)
						require.Equal(t, 403, testkit.StatusError(t, err).StatusCode)
						require.Equal(t, "no you", string(testkit.StatusError(t, err).Body))
						want := time.Second
						if timeout > 0 {
							want = timeout // the earlier of the two
						}
						require.Equal(t, want, time.Since(begun))
						require.NotZero(t, peer.Spy.Closes.Load())
					})
				})
			}
		}
	}
}
