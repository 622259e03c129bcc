package upgrade_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// sendAndRead sends bytes and returns everything that comes back.
func sendAndRead(t *testing.T, client *net.TCPConn, sent string) []byte {
	t.Helper()
	_, err := io.WriteString(client, sent)
	require.NoError(t, err)
	answer, err := io.ReadAll(client)
	require.NoError(t, err, "the answer has to arrive before the connection ends")
	return answer
}

// requireRefusal requires one answer with no byte after it, and returns its body.
func requireRefusal(t *testing.T, answer []byte, method string, status int) string {
	t.Helper()
	reader := bufio.NewReader(bytes.NewReader(answer))
	r, err := http.ReadResponse(reader, &http.Request{Method: method})
	require.NoError(t, err, "%q", answer)
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Equal(t, status, r.StatusCode, "%s", answer)
	require.Equal(t, "HTTP/1.1", r.Proto)
	require.True(t, r.Close, "Connection: close")
	require.Empty(t, r.TransferEncoding)
	require.NotEmpty(t, r.Header.Get("Date"))
	require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
	if method == http.MethodHead {
		require.Positive(t, r.ContentLength)
	} else {
		// The answer must have a Content-Length, and it must be right.
		require.EqualValues(t, len(body), r.ContentLength)
	}
	require.Equal(t, status == http.StatusUpgradeRequired, r.Header.Get("Upgrade") == "tcp, tcps, websocket", "426 names the protocols: RFC 9110 §15.5.22")
	require.Equal(t, status == http.StatusMethodNotAllowed, r.Header.Get("Allow") == "GET", "405 names the method: RFC 9110 §15.5.6")
	rest, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.Empty(t, string(rest), "behind the answer")
	return string(body)
}

// requireOnlyGood requires that the next connection that Accept returns is that of
// a good client that connects now, and that there is no other.
func requireOnlyGood(t *testing.T, l *preflight.PreflightListener, accepted <-chan *preflight.Conn) {
	t.Helper()
	good := testkit.DialTCP(t, l.Addr())
	_, err := io.WriteString(good, "GET /good HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	require.NoError(t, err)
	c := testkit.GoldenNext(t, accepted)
	require.NotNil(t, c.Request())
	require.Equal(t, "/good", c.Request().URL.Path)
	require.NoError(t, l.Close())
	for c := range accepted {
		require.Fail(t, "Accept returned one more", "%v", c.Request())
	}
}

func TestMalformedHeads(t *testing.T) {
	require.GreaterOrEqual(t, len(testkit.MalformedHeads), 80)
	for _, test := range testkit.MalformedHeads {
		t.Run(test.Name, func(t *testing.T) {
			t.Parallel()
			l := testkit.Listen(t, &preflight.PreflightListener{})
			accepted := testkit.GoldenAccept(t, l)
			client := testkit.DialTCP(t, l.Addr())
			if test.Status == testkit.BadLate {
				// These bytes did not look like HTTP when the buffer was full,
				// but they do later. The application gets a part of a line, and
				// an error.
				io.WriteString(client, test.Head+testkit.Smuggled)
				c := testkit.GoldenNext(t, accepted)
				require.Nil(t, c.Request())
				got, err := io.ReadAll(c)
				require.ErrorContains(t, err, "an HTTP request on a connection that began as a plain one")
				require.NotContains(t, string(got), "HTTP/1.")
				require.NotContains(t, string(got), "\n")
				require.True(t, strings.HasPrefix(test.Head, string(got)))
				requireOnlyGood(t, l, accepted)
				return
			}
			if test.Status == testkit.BadPlain {
				// This is not HTTP, so the application gets every byte.
				_, err := io.WriteString(client, test.Head+testkit.Smuggled)
				require.NoError(t, err)
				require.NoError(t, client.CloseWrite())
				c := testkit.GoldenNext(t, accepted)
				require.Nil(t, c.Request())
				require.Nil(t, c.Response())
				got, err := io.ReadAll(c)
				require.NoError(t, err)
				require.Equal(t, test.Head+testkit.Smuggled, string(got))
				require.NoError(t, c.Close())
				answer, err := io.ReadAll(client)
				require.NoError(t, err)
				require.Empty(t, answer, "a plain connection is answered by the application alone")
				requireOnlyGood(t, l, accepted)
				return
			}
			method, _, _ := strings.Cut(test.Head, " ")
			body := requireRefusal(t, sendAndRead(t, client, test.Head+testkit.Smuggled), method, test.Status)
			require.Contains(t, body, test.Text)
			require.NoError(t, client.Close())
			requireOnlyGood(t, l, accepted)
		})
	}
}

// TestMalformedHeadsRefusePlain: if plain connections are refused, bytes that
// are not HTTP close the connection without an answer, and none of them reaches
// the application.
func TestMalformedHeadsRefusePlain(t *testing.T) {
	for _, test := range testkit.MalformedHeads {
		if test.Status > 0 {
			continue
		}
		t.Run(test.Name, func(t *testing.T) {
			t.Parallel()
			l := testkit.Listen(t, &preflight.PreflightListener{RequireUpgrade: true})
			accepted := testkit.GoldenAccept(t, l)
			client := testkit.DialTCP(t, l.Addr())
			// Unread bytes may turn the end into a reset.
			io.WriteString(client, test.Head+testkit.Smuggled)
			answer, _ := io.ReadAll(client)
			require.Empty(t, answer)
			requireOnlyGood(t, l, accepted)
		})
	}
}

// TestMalformedHeadsByteByByte: a rule applies however the head is cut into
// pieces.
func TestMalformedHeadsByteByByte(t *testing.T) {
	for _, test := range testkit.MalformedHeads {
		if test.Status <= 0 || len(test.Head) > 1<<10 || testkit.Doubtful(test.Head) {
			continue
		}
		t.Run(test.Name, func(t *testing.T) {
			t.Parallel()
			l := testkit.Listen(t, &preflight.PreflightListener{})
			accepted := testkit.GoldenAccept(t, l)
			client := testkit.DialTCP(t, l.Addr())
			require.NoError(t, testkit.GoldenPieces["byte by byte"](client, test.Head))
			method, _, _ := strings.Cut(test.Head, " ")
			answer, err := io.ReadAll(client)
			require.NoError(t, err)
			require.Contains(t, requireRefusal(t, answer, method, test.Status), test.Text)
			require.NoError(t, client.Close())
			requireOnlyGood(t, l, accepted)
		})
	}
}

// TestEndInsideTheHead: a client that half-closes inside its head cannot
// complete it, but can still read a refusal.
func TestEndInsideTheHead(t *testing.T) {
	const head = "GET /t HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	first := strings.Index(head, "HTTP/1.") + len("HTTP/1.") // from this byte on it is HTTP
	for i := range len(head) {
		l := testkit.Listen(t, &preflight.PreflightListener{})
		accepted := testkit.GoldenAccept(t, l)
		client := testkit.DialTCP(t, l.Addr())
		_, err := io.WriteString(client, head[:i])
		require.NoError(t, err)
		require.NoError(t, client.CloseWrite())
		if i < first {
			c := testkit.GoldenNext(t, accepted)
			require.Nil(t, c.Request())
			got, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, head[:i], string(got))
			require.NoError(t, c.Close())
		} else {
			answer, err := io.ReadAll(client)
			require.NoError(t, err)
			require.Contains(t, requireRefusal(t, answer, http.MethodGet, 400), "the request ends inside its head: RFC 9112 §8")
		}
		require.NoError(t, client.Close())
		requireOnlyGood(t, l, accepted)
	}
}

// TestHeadOfExactlyTheLimit: a head of exactly MaxHeaderBytes is allowed. The
// bytes that follow do not matter.
func TestHeadOfExactlyTheLimit(t *testing.T) {
	for _, limit := range []int{len(testkit.UpgradeWith("X: \r\n")), 511, 512, 513, 4095, 4096, 4097, 16 << 10, 20000} {
		head := testkit.UpgradeWith("X: " + strings.Repeat("y", limit-len(testkit.UpgradeWith("X: \r\n"))) + "\r\n")
		l := testkit.Listen(t, &preflight.PreflightListener{MaxHeaderBytes: limit})
		accepted := testkit.GoldenAccept(t, l)
		client := testkit.DialTCP(t, l.Addr())
		_, err := io.WriteString(client, head+testkit.GoldenPayload)
		require.NoError(t, err)
		c := testkit.GoldenNext(t, accepted)
		require.NotNil(t, c.Request(), "limit %d", limit)
		require.Equal(t, testkit.GoldenPayload, testkit.GoldenRead(t, c, len(testkit.GoldenPayload)))

		client = testkit.DialTCP(t, l.Addr())
		answer := sendAndRead(t, client, strings.Replace(head, "X: ", "X:  ", 1)+testkit.GoldenPayload)
		require.Contains(t, requireRefusal(t, answer, http.MethodGet, 431), "too large")
		require.NoError(t, client.Close())
		requireOnlyGood(t, l, accepted)
	}
}

func TestMalformedAnswers(t *testing.T) {
	for _, test := range testkit.MalformedAnswers {
		t.Run(test.Name, func(t *testing.T) {
			t.Parallel()
			ln := testkit.ListenTCP(t)
			// After the request the server reads nothing.
			behind := make(chan string, 1)
			go func() {
				defer close(behind)
				c, err := ln.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(testkit.Patience))
				r := bufio.NewReader(c)
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				// The client may close before it has read all bytes.
				io.WriteString(c, test.Answer)
				c.(*net.TCPConn).CloseWrite()
				rest, _ := io.ReadAll(r)
				behind <- string(rest)
			}()
			c, err := (&preflight.PreflightDialer{Carriers: testkit.UpgradeAlone}).Dial("tcp", ln.Addr().String())
			require.Nil(t, c)
			require.ErrorContains(t, err, test.Text)
			require.True(t, strings.HasPrefix(err.Error(), "preflight"), err.Error())
			rest, ok := <-behind
			require.True(t, ok)
			require.Empty(t, rest)
			if test.Status != 0 {
				require.Equal(t, test.Status, testkit.StatusError(t, err).StatusCode)
				return
			}
			var refusal *preflight.StatusError
			require.False(t, errors.As(err, &refusal), "%v", err)
			var e *net.OpError
			require.ErrorAs(t, err, &e)
			require.False(t, e.Timeout())
		})
	}
}
