package upgrade_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// TestRefusal: a final answer other than 101 is a StatusError. Its text says
// what happened, and the likely cause.
func TestRefusal(t *testing.T) {
	type want struct {
		code   int
		status string
		body   string
		header http.Header
		cause  string
	}
	for answer, want := range map[string]want{
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nX-A: 1\r\nx-a: 2\r\n\r\nnot youHTTP/1.1 200 OK\r\n\r\n": {
			403, "403 Forbidden", "not you", http.Header{"X-A": {"1", "2"}, "Content-Length": {"7"}}, "credentials"},
		// These have no reason phrase, with and without the space before it.
		"HTTP/1.1 407\r\nProxy-Authenticate: Basic\r\n\r\n":                                             {407, "407 Proxy Authentication Required", "", http.Header{"Proxy-Authenticate": {"Basic"}}, "wants credentials"},
		"HTTP/1.1 502 \r\nContent-Length: 0\r\n\r\n":                                                    {502, "502 Bad Gateway", "", nil, "cannot reach the server behind"},
		"HTTP/1.1 599\r\n\r\n":                                                                          {599, "599", "", nil, "Its log has the fault"},
		"HTTP/1.0 503 Busy\r\nRetry-After: 7\r\n\r\n<busy>":                                             {503, "503 Busy", "<busy>", http.Header{"Retry-After": {"7"}}, "try again in 7s"},
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n<>":                                                {200, "200 OK", "<>", nil, "no PreflightListener answered"},
		"HTTP/1.1 426 Upgrade Required\r\nUpgrade: x\r\n\r\n":                                           {426, "426 Upgrade Required", "", http.Header{"Upgrade": {"x"}}, "upgrades to other protocols than tcp"},
		"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n":                                                {302, "302 Found", "", http.Header{"Location": {"/login"}}, "Location"},
		"HTTP/1.1 401 Unauthorized\r\n\r\n":                                                             {401, "401 Unauthorized", "", nil, "credentials"},
		"HTTP/1.1 404 Not Found\n\nnope":                                                                {404, "404 Not Found", "nope", nil, "Path"},
		"HTTP/1.1 400 Bad Request\r\n\r\n":                                                              {400, "400 Bad Request", "", nil, "malformed"},
		"HTTP/1.1 414 URI Too Long\r\n\r\n":                                                             {414, "414 URI Too Long", "", nil, "7 KiB"},
		"HTTP/1.1 431 Too Large\r\n\r\n":                                                                {431, "431 Too Large", "", nil, "7 KiB"},
		"HTTP/1.1 429 Slow Down\r\n\r\n":                                                                {429, "429 Slow Down", "", nil, "later"},
		"HTTP/1.1 418 I'm a teapot\r\n\r\n":                                                             {418, "418 I'm a teapot", "", nil, "refused"},
		"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n": {500, "500 Oops", "abcdefg", nil, "Its log has the fault"},
		"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc":                                       {204, "204 No Content", "", nil, "no PreflightListener answered"},
		// A body that ends too early, or invalid framing, still gives the
		// StatusError.
		"HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\npart":     {503, "503 Busy", "part", nil, "is down"},
		"HTTP/1.1 503 Busy\r\nContent-Length: minus\r\n\r\nwhat?": {503, "503 Busy", "", nil, "is down"},
		// Interim answers come first.
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 403 No\r\n\r\n": {403, "403 No", "", nil, "credentials"},
	} {
		t.Run(want.status, func(t *testing.T) {
			_, err := testkit.UpgradeAnswered(t, answer, false)
			e := testkit.StatusError(t, err)
			require.Equal(t, want.code, e.StatusCode)
			require.Equal(t, want.status, e.Status)
			require.Equal(t, want.body, string(e.Body))
			for name, values := range want.header {
				require.Equal(t, values, e.Header.Values(name), name)
			}
			require.ErrorContains(t, err, want.status)
			require.ErrorContains(t, err, want.cause)
			require.ErrorContains(t, err, "pipe answered") // which address
			if want.body != "" {
				require.NotContains(t, err.Error(), want.body)
			}
		})
	}
}

// TestRefusalBodyIsBounded: reading the body of a refusal is limited to 4 KiB
// and one second. The peer cannot use more memory or time.
func TestRefusalBodyIsBounded(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 1<<10)
	for name, answer := range map[string]string{
		"length":    fmt.Sprintf("HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n%s", len(long), long),
		"no length": "HTTP/1.1 403 No\r\n\r\n" + long,
		"chunked":   fmt.Sprintf("HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(long), long),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := testkit.UpgradeAnswered(t, answer, true)
			require.Equal(t, long[:4<<10], string(testkit.StatusError(t, err).Body))
		})
	}
	for name, test := range map[string]struct{ answer, body string }{
		"no length":  {"HTTP/1.1 403 No\r\n\r\nno you", "no you"},
		"length":     {"HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\nno you", "no you"},
		"chunked":    {"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nno you\r\n", "no you"},
		"chunk size": {"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n", ""},
	} {
		t.Run("kept open, "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				_, err := testkit.UpgradeAnswered(t, test.answer, true)
				require.Equal(t, test.body, string(testkit.StatusError(t, err).Body))
				require.Equal(t, time.Second, time.Since(begun))
			})
		})
	}
	t.Run("one byte each 300 ms", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := testkit.SpyPipe(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				testkit.ReadRequest(server)
				io.WriteString(server, "HTTP/1.1 403 No\r\n\r\n")
				for range time.Tick(300 * time.Millisecond) {
					if _, err := io.WriteString(server, "x"); err != nil {
						return
					}
				}
			}()
			begun := time.Now()
			_, err := testkit.UpgradeClient(t.Context(), client)
			require.Equal(t, "xxx", string(testkit.StatusError(t, err).Body))
			require.Equal(t, time.Second, time.Since(begun))
			client.Close()
			<-done
		})
	})
	t.Run("without deadlines", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := testkit.SpyPipe(t)
			go func() {
				testkit.ReadRequest(server)
				io.WriteString(server, "HTTP/1.1 403 No\r\n\r\nno you")
			}()
			begun := time.Now()
			_, err := testkit.UpgradeClient(t.Context(), &testkit.SpyConn{Conn: client, NoDeadlines: true})
			require.Equal(t, "no you", string(testkit.StatusError(t, err).Body))
			require.Equal(t, time.Second, time.Since(begun))
		})
	})
}

// TestAnswerThatIsNoSwitch: a 101 counts only if it names the requested
// protocol. Some proxies forward others, and then the bytes that follow are not
// a tunnel.
func TestAnswerThatIsNoSwitch(t *testing.T) {
	for answer, cause := range map[string]string{
		"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n":           "another protocol",
		"HTTP/1.1 101 S\r\nUpgrade: tcps\r\nConnection: Upgrade\r\n\r\n":                "another protocol",
		"HTTP/1.1 101 S\r\nUpgrade: tcp, websocket\r\nConnection: Upgrade\r\n\r\n":      "another protocol",
		"HTTP/1.1 101 S\r\nUpgrade: tcp\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n": "another protocol",
		"HTTP/1.1 101 S\r\nConnection: Upgrade\r\n\r\n":                                 "no Upgrade field",
		"HTTP/1.1 101 S\r\nUpgrade:\r\nConnection: Upgrade\r\n\r\n":                     "no Upgrade field",
		"HTTP/1.1 101 S\r\nUpgrade: tcp\r\n\r\n":                                        "Connection",
		"HTTP/1.1 101 S\r\nUpgrade: tcp\r\nConnection: close, upgraded\r\n\r\n":         "Connection",
	} {
		t.Run(answer, func(t *testing.T) {
			_, err := testkit.UpgradeAnswered(t, answer+"banner", true)
			require.Equal(t, 101, testkit.StatusError(t, err).StatusCode)
			require.Empty(t, testkit.StatusError(t, err).Body)
			require.ErrorContains(t, err, cause)
		})
	}
}

// TestAnswersThatSwitch: changes that proxies make to a 101 without changing
// its meaning.
func TestAnswersThatSwitch(t *testing.T) {
	early := "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
	for name, answer := range map[string]string{
		"no reason":             "HTTP/1.1 101\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
		"empty reason":          "HTTP/1.1 101 \r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
		"HTTP/1.0":              "HTTP/1.0 101 S\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
		"case":                  "HTTP/1.1 101 S\r\nUPGRADE: TCP\r\nconnection: upgrade\r\n\r\n",
		"lists":                 "HTTP/1.1 101 S\r\nUpgrade: ,tcp ,\r\nConnection: keep-alive, ,Upgrade\r\n\r\n",
		"repeated Connection":   "HTTP/1.1 101 S\r\nConnection: close\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
		"Content-Length":        "HTTP/1.1 101 S\r\nContent-Length: 5\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
		"Transfer-Encoding":     "HTTP/1.1 101 S\r\nTransfer-Encoding: chunked\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
		"bare LF":               "HTTP/1.1 101 S\nUpgrade: tcp\nConnection: Upgrade\n\n",
		"a 103 before":          early + testkit.UpgradeAnswer,
		"8 interim before":      strings.Repeat(early, 8) + testkit.UpgradeAnswer,
		"folded field":          "HTTP/1.1 101 S\r\nX-Trace: a\r\n b\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
		"large, as proxies may": "HTTP/1.1 101 S\r\nX-Filler: " + strings.Repeat("x", 60<<10) + "\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := testkit.UpgradeAnswered(t, answer+"banner", true)
			require.NoError(t, err)
			got := make([]byte, len("banner"))
			_, err = io.ReadFull(conn, got)
			require.NoError(t, err)
			require.Equal(t, "banner", string(got))
			require.Equal(t, 101, conn.Response().StatusCode)
			require.True(t, strings.EqualFold("tcp", strings.Trim(conn.Response().Header.Get("Upgrade"), ", ")))
		})
	}
}

// TestTooManyInterimAnswers: interim answers may come at any time, but their
// number is limited.
func TestTooManyInterimAnswers(t *testing.T) {
	_, err := testkit.UpgradeAnswered(t, strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 9)+testkit.UpgradeAnswer, false)
	require.ErrorContains(t, err, "more than 8 interim")
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "preflight", op.Op)
}

// TestEndlessAnswer: for a head without an end, Client reads 64 KiB and no
// more.
func TestEndlessAnswer(t *testing.T) {
	const limit = 64 << 10
	for name, endless := range map[string]struct{ first, again string }{
		"status line":  {"HTTP/1.1 101 ", "x"},
		"one field":    {"HTTP/1.1 101 S\r\nX: ", "xxxxxxx"},
		"fields":       {"HTTP/1.1 101 S\r\n", "X-Filler: filler\r\n"},
		"big interims": {"", "HTTP/1.1 103 S\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := testkit.SpyPipe(t)
			go func() {
				testkit.ReadRequest(server)
				_, err := io.WriteString(server, endless.first)
				block := strings.Repeat(endless.again, 1+4096/len(endless.again))
				for err == nil {
					_, err = io.WriteString(server, block)
				}
			}()
			spy := &testkit.SpyConn{Conn: client}
			conn, err := testkit.UpgradeClient(t.Context(), spy)
			require.Nil(t, conn)
			require.ErrorContains(t, err, "larger than 65536 bytes")
			require.LessOrEqual(t, spy.Received.Load(), int64(limit))
		})
	}
}

// TestAnswerEndsEarly: an EOF inside the answer is never a success. Many
// proxies close in this way when they have no server behind them.
func TestAnswerEndsEarly(t *testing.T) {
	for _, before := range []string{"", "HTTP/1.1 103 Early Hints\r\n\r\n"} {
		for i := range len(testkit.UpgradeAnswer) {
			_, err := testkit.UpgradeAnswered(t, before+testkit.UpgradeAnswer[:i], false)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, "after %d bytes", i)
			require.ErrorContains(t, err, "the connection ended before the answer")
			require.ErrorContains(t, err, "[ended]")
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "preflight", op.Op)
			require.False(t, op.Timeout())
		}
	}
}

func TestAnswerIsReset(t *testing.T) {
	for _, sent := range []string{"", "HTTP/1.1 101 Switching"} {
		client, server := testkit.TCPPair(t)
		go func() {
			testkit.ReadRequest(server)
			io.WriteString(server, sent)
			server.(*net.TCPConn).SetLinger(0)
			server.Close()
		}()
		conn, err := testkit.UpgradeClient(t.Context(), client)
		require.Nil(t, conn)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "preflight", op.Op)
	}
}

// TestAnswerIsNotHTTP: the handshake fails at the first byte that cannot be
// HTTP, and the error shows the first bytes. The peer keeps the connection
// open, like a server that waits for its own protocol.
func TestAnswerIsNotHTTP(t *testing.T) {
	for answer, snippet := range map[string]string{
		"SSH-2.0-OpenSSH_9.9\r\n":        `it begins with "SSH-2.0-OpenSSH_9.9\r\n": an SSH server answered`,
		"\x15\x03\x01\x00\x02":           `it begins with "\x15\x03\x01\x00\x02": the port speaks TLS`,
		"HTTP/2.0 200\r\n\r\n":           `it begins with "HTTP/2.0 200\r\n\r\n": it is another version of HTTP`,
		"HTTQ":                           `it begins with "HTTQ"`,
		" HTTP/1.1 101 S":                `it begins with " HTTP/1.1 101 S"`,
		strings.Repeat("long ", 1000):    `begins with "long long long long long long lo"`,
		"HTTP/1.1 103 E\r\n\r\nwhatever": "whatever",
	} {
		_, err := testkit.UpgradeAnswered(t, answer, true)
		require.ErrorContains(t, err, "not HTTP")
		require.ErrorContains(t, err, snippet)
	}
	t.Run("echo", func(t *testing.T) { // the snippet must not repeat our own secrets
		client, server := testkit.TCPPair(t)
		go io.Copy(server, server)
		req := testkit.UpgradeRequestOf()
		req.Header = testkit.SecretFields.Clone()
		_, err := preflight.Client(t.Context(), client, req)
		require.ErrorContains(t, err, "not HTTP")
		testkit.RequireNoSecret(t, err)
	})
}

// TestAnswerIsMalformed: an invalid status line or field.
func TestAnswerIsMalformed(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 1O1 S\r\n\r\n", "HTTP/1.1 42\r\n\r\n", "HTTP/1.1 0101 S\r\n\r\n", "HTTP/1.1  101 S\r\n\r\n", "HTTP/1.1\r\n\r\n",
		"HTTP/1.1 101 S\r\nno colon\r\n\r\n", "HTTP/1.1 101 S\r\nX: a\x00b\r\n\r\n", "HTTP/1.1 101 S\r\nX : y\r\n\r\n",
	} {
		_, err := testkit.UpgradeAnswered(t, answer, true)
		require.ErrorContains(t, err, "malformed", answer)
		require.NotErrorAs(t, err, new(*preflight.StatusError))
	}
}

// TestEarlyRefusal: a proxy refuses a head before it has read all of it, and
// closes. Its answer explains more than the broken pipe, so the answer is
// returned.
func TestEarlyRefusal(t *testing.T) {
	const answer = "HTTP/1.1 431 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlong"
	req := testkit.UpgradeRequestOf()
	// This is more than the buffers of both sockets, so that Write fails with
	// the reset.
	req.Header = http.Header{"X-Long": {strings.Repeat("s3cr3t", 4<<20)}}
	t.Run("answered and reset", func(t *testing.T) {
		client, server := testkit.TCPPair(t)
		go func() {
			io.ReadFull(server, make([]byte, 16<<10))
			io.WriteString(server, answer)
			server.Close() // this causes a reset, because there are unread bytes
		}()
		_, err := preflight.Client(t.Context(), client, req)
		require.Equal(t, 431, testkit.StatusError(t, err).StatusCode)
		require.Equal(t, "long", string(testkit.StatusError(t, err).Body))
		testkit.RequireNoSecret(t, err)
	})
	t.Run("reset without an answer", func(t *testing.T) {
		client, server := testkit.TCPPair(t)
		go func() {
			io.ReadFull(server, make([]byte, 16<<10))
			server.Close()
		}()
		_, err := preflight.Client(t.Context(), client, req)
		require.NotErrorAs(t, err, new(*preflight.StatusError))
		require.ErrorContains(t, err, "write the upgrade request")
		testkit.RequireNoSecret(t, err)
	})
}

// TestEarlyRefusalIsWaitedForBriefly: after a failed write the answer may still
// arrive.
func TestEarlyRefusalIsWaitedForBriefly(t *testing.T) {
	for _, noDeadlines := range []bool{false, true} {
		for _, test := range []struct {
			answer string
			after  time.Duration
		}{
			{"", time.Second},
			{"HTTP/1.1 431 Too", time.Second},
			{"HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n", 500 * time.Millisecond},
		} {
			t.Run(fmt.Sprintf("%q/noDeadlines=%v", test.answer, noDeadlines), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					client, server := testkit.SpyPipe(t)
					go func() {
						<-time.After(500 * time.Millisecond)
						io.WriteString(server, test.answer)
					}()
					begun := time.Now()
					_, err := testkit.UpgradeClient(t.Context(), testkit.BrokenWrite{SpyConn: &testkit.SpyConn{Conn: client, NoDeadlines: noDeadlines}})
					require.Equal(t, test.after, time.Since(begun))
					if test.after < time.Second {
						require.Equal(t, 431, testkit.StatusError(t, err).StatusCode)
					} else {
						require.ErrorIs(t, err, syscall.EPIPE)
					}
				})
			})
		}
	}
}

// TestServerRefusal: the error is the refusal that was sent. The client can
// read it completely, although it sends more than the server has read.
func TestServerRefusal(t *testing.T) {
	for request, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n":                                                                     426,
		"POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n":                             405,
		"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nX: " + strings.Repeat("x", 17<<10): 431,
	} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			client, server := testkit.TCPPair(t)
			spy := &testkit.SpyConn{Conn: server}
			type result struct {
				answer string
				err    error
			}
			read := make(chan result, 1)
			go func() {
				io.WriteString(client, request)
				client.(*net.TCPConn).CloseWrite()
				b, err := io.ReadAll(client)
				read <- result{string(b), err}
			}()
			conn, err := preflight.Server(t.Context(), spy)
			require.Nil(t, conn)
			e := testkit.StatusError(t, err)
			require.Equal(t, want, e.StatusCode)
			require.ErrorContains(t, err, "refused "+client.LocalAddr().String())
			require.Zero(t, spy.Closes.Load(), "Server leaves closing to its caller")
			require.NoError(t, server.Close())
			r := <-read
			require.NoError(t, r.err)
			require.True(t, strings.HasPrefix(r.answer, fmt.Sprintf("HTTP/1.1 %s\r\n", e.Status)), r.answer)
			require.Contains(t, r.answer, "\r\nConnection: close")
			require.True(t, strings.HasSuffix(r.answer, string(e.Body)), r.answer)
		})
	}
}

// Client reads only as much of a refusal as it keeps.
func TestRefusalBodyIsNotReadToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go func() {
			theirs.Read(make([]byte, 1<<10))
			io.WriteString(theirs, "HTTP/1.1 503 \r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("b", 4<<10))
		}()
		req, err := http.NewRequest("GET", "http://h/", nil)
		require.NoError(t, err)
		start := time.Now()
		_, err = preflight.Client(t.Context(), ours, req)
		require.Len(t, testkit.StatusError(t, err).Body, 4<<10)
		require.Zero(t, time.Since(start))
		ours.Close()
	})
}
