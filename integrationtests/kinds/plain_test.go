package kinds_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// plainKinds are the first bytes of existing clients. The last byte of
// decided, and no byte before it, shows that they are no request line of
// HTTP/1.x.
var plainKinds = []struct{ name, decided, then string }{
	{"binary", "\x00", "\x01\x02GET / HTTP/1.1\r\n\r\n"},
	{"bytes above ASCII", "\xff", "\xfe\xfd"},
	{"TLS hello", "\x16", "\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
	{"MQTT", "\x10", "\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04name"},
	{"Redis inline", "GET key\r", "\n"},
	{"Redis inline, bare LF", "GET key\n", "GET other\n"},
	{"Redis", "*1\r", "\n$4\r\nPING\r\n"},
	{"SMTP", "EHLO x\r", "\nMAIL FROM:<a@b>\r\n"},
	{"NATS", "PUB t {", "\"a\":1}\r\n"},
	{"NATS with a subject and a length", "PUB t 5", "\r\nhello\r\n"},
	{"STOMP", "CONNECT\n", "accept-version:1.2\n\n\x00"},
	{"SSH", "SSH-2.0-x\r", "\n"},
	{"HTTP/2 with prior knowledge", "PRI * HTTP/2", ".0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"},
	{"RTSP", "DESCRIBE rtsp://h/ R", "TSP/1.0\r\nCSeq: 1\r\n\r\n"},
	{"almost HTTP, another name", "GET / i", "http/1.1\r\n"},
	{"almost HTTP, no token", "G(", "T x POST / HTTP/1.1\r\n"},
	{"three empty lines", "\r\n\r\n\r", "\nGET / HTTP/1.1\r\n"},
	{"an empty line and a word", "\r\nPING\r", "\n"},
	{"PROXY header of an untrusted peer", "PROXY TCP4 1", "92.0.2.1 192.0.2.2 1 2\r\nhello\r\n"},
	{"PROXY header of an untrusted peer, v2", "\r\n\r\n\x00", "\r\nQUIT\n\x20\x00\x00\x00\x16\x03\x01"},
	{"almost HTTP, no version", "GET /\r", "\n"},
	{"almost HTTP, two spaces", "GET  ", "/ HTTP/1.1\r\n\r\n"},
	{"almost HTTP, no method", " ", "/ HTTP/1.1\r\n\r\n"},
	{"almost HTTP, a tab", "GET\t", "/ HTTP/1.1\r\n\r\n"},
	{"JSON", "{", "\"method\":\"GET / HTTP/1.1\"}\n"},
	{"a long line", strings.Repeat("word", 1000) + "\n", strings.Repeat("more", 100)},
}

// A plain connection is delivered at the first byte that cannot belong to an
// HTTP/1.x request line. The client need not send another byte, and need not
// wait.
func TestListenerPlainIsDecidedAtTheFirstContradiction(t *testing.T) {
	for _, tt := range plainKinds {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				last := len(tt.decided) - 1
				if last > 0 {
					c.Send(t, tt.decided[:last])
				}
				synctest.Wait()
				require.Empty(t, accepted, "this may still become HTTP: %q", tt.decided[:last])
				c.Send(t, tt.decided[last:])
				synctest.Wait()
				require.Len(t, accepted, 1)
				require.Zero(t, time.Since(start), "the listener does not wait")

				conn := <-accepted
				require.Nil(t, conn.Request())
				require.Nil(t, conn.Response())
				require.Same(t, c.Server, conn.NetConn())
				got := make([]byte, len(tt.decided))
				_, err := io.ReadFull(conn, got)
				require.NoError(t, err)
				require.Equal(t, tt.decided, string(got))
				testkit.Carry(t, tt.then, c, conn)
				testkit.Talk(t, c, conn)
			})
		})
	}
}

// The same over TCP, in one segment with a half-close after it: the application
// gets every byte, then EOF, and can still answer.
func TestListenerPlainByteForByte(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{HandshakeTimeout: time.Hour})
	accepted := testkit.AcceptAll(t, l)
	for _, tt := range plainKinds {
		for _, sent := range []string{tt.decided + tt.then, tt.decided + strings.Repeat(tt.then, 5000)} {
			t.Run(fmt.Sprintf("%s of %d bytes", tt.name, len(sent)), func(t *testing.T) {
				c := testkit.DialClient(t, l)
				wrote := make(chan error, 1)
				go func() {
					_, err := io.WriteString(c, sent)
					wrote <- errors.Join(err, c.Conn.(*net.TCPConn).CloseWrite())
				}()
				conn := testkit.NextConn(t, accepted)
				got, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.True(t, sent == string(got), "%d bytes sent, %d received", len(sent), len(got))
				require.NoError(t, <-wrote)
				testkit.Carry(t, "an answer", conn, c.R)
				require.NoError(t, conn.Close())
				c.Ended(t)
			})
		}
	}
}

// A client that half-closes before its protocol is known is plain, unless it
// has begun to speak HTTP.
func TestListenerHalfClosedBeforeADecision(t *testing.T) {
	for _, tt := range []struct {
		sent string
		http bool
	}{
		{"", false},
		{"G", false},
		{"GET", false},
		{"GET /", false},
		{"GET / HTTP/1", false},
		{"\r\n", false},
		{"\r\n\r\nGET /", false},
		{"GET / HTTP/1.", true},
		{"\r\nGET / HTTP/0.", true},
		{"GET / HTTP/1.1\r\nHost: h\r\n", true},
	} {
		for _, refused := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q, refused %t", tt.sent, refused), func(t *testing.T) {
				l := testkit.Listen(t, &preflight.PreflightListener{RequireUpgrade: refused, HandshakeTimeout: time.Hour})
				accepted := testkit.AcceptAll(t, l)
				c := testkit.DialClient(t, l)
				c.Send(t, tt.sent)
				require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
				switch {
				case tt.http:
					require.Equal(t, http.StatusBadRequest, c.Refused(t, tt.sent).StatusCode)
					require.Empty(t, accepted)
				case refused:
					c.Ended(t)
					require.Empty(t, accepted)
				default:
					conn := testkit.NextConn(t, accepted)
					got, err := io.ReadAll(conn)
					require.NoError(t, err)
					require.Equal(t, tt.sent, string(got))
					testkit.Carry(t, "an answer", conn, c.R)
				}
			})
		}
	}
}

// A line that is still undecided at MaxHeaderBytes is a long line of another
// protocol.
func TestListenerPlainLineBeyondMaxHeaderBytes(t *testing.T) {
	for _, limit := range []int{1, 64, 512, 0} {
		for _, line := range []string{strings.Repeat("word", 20_000), "word " + strings.Repeat("word", 20_000)} {
			t.Run(fmt.Sprintf("%.5s at %d", line, limit), func(t *testing.T) {
				l := testkit.Listen(t, &preflight.PreflightListener{MaxHeaderBytes: limit, HandshakeTimeout: time.Hour})
				accepted := testkit.AcceptAll(t, l)
				c := testkit.DialClient(t, l)
				wrote := make(chan error, 1)
				go func() {
					_, err := io.WriteString(c, line)
					wrote <- err
				}()
				conn := testkit.NextConn(t, accepted)
				testkit.Skip(t, conn, line)
				require.NoError(t, <-wrote)
				testkit.Talk(t, c, conn)
			})
		}
	}
}

// The configuration of a listener decides which of three kinds it accepts.
func TestListenerSorting(t *testing.T) {
	const authorize, allowPlain, requireUpgrade = 1, 2, 4
	for _, tt := range []struct {
		name  string
		set   int
		plain bool
	}{
		{"zero value", 0, true},
		{"AllowPlain", allowPlain, true},
		{"Authorize", authorize, false},
		{"Authorize, AllowPlain", authorize | allowPlain, true},
		{"RequireUpgrade", requireUpgrade, false},
		{"RequireUpgrade, Authorize", requireUpgrade | authorize, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, authorized := testkit.NewNetwork(), 0
				l := testkit.Listen(t, &preflight.PreflightListener{
					Listener:       n,
					AllowPlain:     tt.set&allowPlain != 0,
					RequireUpgrade: tt.set&requireUpgrade != 0,
				})
				if tt.set&authorize != 0 {
					l.Authorize = func(*http.Request) (http.Header, error) { authorized++; return nil, nil }
				}
				accepted := testkit.AcceptAll(t, l)

				// A connection that is not HTTP, sorted at once or after the
				// timeout.
				for _, plain := range []struct {
					sent string
					wait time.Duration
				}{
					{"hello\n", 0},
					{"\x16\x03\x01", 0},
					{"", 10 * time.Second},
					{"hello", 10 * time.Second},
					{"\r\n", 10 * time.Second},
					{"\r\n\r\nhello", 10 * time.Second},
					{"GET / HTTP/1", 10 * time.Second},
				} {
					start := time.Now()
					c := n.Dial(t)
					c.Send(t, plain.sent)
					if tt.plain {
						conn := <-accepted
						require.Nil(t, conn.Request())
						testkit.Skip(t, conn, plain.sent)
						testkit.Talk(t, c, conn)
						conn.Close()
					} else {
						c.Ended(t) // without an answer
						require.True(t, c.Server.Closed.Load())
						require.Empty(t, accepted)
					}
					require.Equal(t, plain.wait, time.Since(start), "%q", plain.sent)
				}
				require.Zero(t, authorized, "a plain connection cannot be authorized")

				// Ordinary HTTP.
				c := n.Dial(t)
				a := <-c.Ask("GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
				require.NoError(t, a.Err)
				require.Equal(t, http.StatusUpgradeRequired, a.StatusCode)
				require.Zero(t, authorized, "Authorize applies to tunnels only")
				c.Close()
				synctest.Wait()
				require.Empty(t, accepted)

				// An upgrade request.
				c = n.Dial(t)
				a = <-c.Ask(testkit.Request())
				require.NoError(t, a.Err)
				require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
				require.Equal(t, tt.set&authorize, authorized)
				testkit.Talk(t, c, <-accepted)
			})
		})
	}
}

// An application that reads lines must never execute the body of a request.
// Otherwise anyone who makes a browser send a POST could speak its protocol.
func TestListenerKeepsHTTPFromALineServer(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{})
	accepted := testkit.AcceptAll(t, l)
	const (
		host    = "Host: h\r\n"
		upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
		length  = "Content-Length: 9\r\n"
		command = "DEL all\r\n"
	)
	for _, tt := range []struct {
		name, request string
		want          int
	}{
		{"POST", "POST / HTTP/1.1\r\n" + host + length + "\r\n" + command, 426},
		{"POST of unknown length", "POST / HTTP/1.1\r\n" + host + "\r\n" + command, 426},
		{"POST in chunks", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n9\r\n" + command + "\r\n0\r\n\r\n", 426},
		{"GET", "GET / HTTP/1.1\r\n" + host + length + "\r\n" + command, 426},
		{"HTTP/1.0", "POST / HTTP/1.0\r\n" + length + "\r\n" + command, 426},
		{"another method", "DELETE / HTTP/1.1\r\n" + host + length + "\r\n" + command, 426},
		{"an unknown method", "EHLO x HTTP/1.1\r\n" + host + length + "\r\n" + command, 400},
		{"POST with Upgrade", "POST / HTTP/1.1\r\n" + host + upgrade + length + "\r\n" + command, 405},
		{"POST with Upgrade, no length", "POST / HTTP/1.1\r\n" + host + upgrade + "\r\n" + command, 405},
		{"PUT with Upgrade", "PUT / HTTP/1.1\r\n" + host + upgrade + length + "\r\n" + command, 405},
		{"GET with Upgrade and a body", "GET / HTTP/1.1\r\n" + host + upgrade + length + "\r\n" + command, 400},
		{"GET with Upgrade in chunks", "GET / HTTP/1.1\r\n" + host + upgrade + "Transfer-Encoding: chunked\r\n\r\n9\r\n" + command + "\r\n0\r\n\r\n", 400},
		{"HTTP/1.0 with Upgrade", "POST / HTTP/1.0\r\n" + host + upgrade + length + "\r\n" + command, 426},
		{"Upgrade that Connection does not list", "GET / HTTP/1.1\r\n" + host + "Upgrade: tcp\r\n\r\n" + command, 426},
		{"WebSocket", "GET / HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + command, 426},
		{"h2c", "GET / HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n" + command, 426},
		{"raw bytes in the target", "POST /\xc3\xa9 HTTP/1.1\r\n" + host + length + "\r\n" + command, 400},
		{"no Host", "POST / HTTP/1.1\r\n" + length + "\r\n" + command, 400},
		{"Upgrade without Host", "GET / HTTP/1.1\r\n" + upgrade + "\r\n" + command, 400},
		{"bare LF", "POST / HTTP/1.1\n" + "Host: h\n\n" + command, 400},
		{"a version that does not exist", "POST / HTTP/1.9\r\n" + host + length + "\r\n" + command, 505},
		// HAProxy forwards these unchanged.
		{"HTTP/0.9", "POST / HTTP/0.9\r\n" + host + length + "\r\n" + command, 505},
		{"HTTP/0.0", "POST / HTTP/0.0\r\n" + host + length + "\r\n" + command, 505},
		{"HTTP/0.1", "GET / HTTP/0.1\r\n" + host + upgrade + length + "\r\n" + command, 505},
		{"HTTP/2.0", "POST / HTTP/2.0\r\n" + host + length + "\r\n" + command, 505},
		{"HTTP/2", "POST / HTTP/2\r\n" + host + length + "\r\n" + command, 400},
		{"HTTP of no version", "POST / HTTP/\r\n" + host + length + "\r\n" + command, 400},
		{"HTTP/11", "POST / HTTP/11\r\n" + host + length + "\r\n" + command, 400},
		{"HTTP in lower case", "POST / http/1.1\r\n" + host + length + "\r\n" + command, 400},
		{"HTTP in both cases", "GET / Http/1.1\r\n" + host + upgrade + "\r\n" + command, 400},
		{"PRI that is a request", "PRI / HTTP/2.0\r\n" + host + length + "\r\n" + command, 505},
		{"a method of PROXY", "PROXY UNKNOWN HTTP/1.1\r\n" + host + length + "\r\n" + command, 400},
		{"empty line", "\r\nPOST / HTTP/1.1\r\n" + host + length + "\r\n" + command, 426},
		{"two empty lines", "\r\n\r\nPOST / HTTP/0.9\r\n" + host + length + "\r\n" + command, 505},
		{"empty line, bare LF", "\nPOST / HTTP/1.1\r\n" + host + length + "\r\n" + command, 400},
		{"lengths that differ", "POST / HTTP/1.1\r\n" + host + length + "Content-Length: 0\r\n\r\n" + command, 400},
		{"an expectation", "GET / HTTP/1.1\r\n" + host + upgrade + "Expect: a-miracle\r\n\r\n" + command, 417},
	} {
		for glued, second := range map[string]string{
			"alone":              "",
			"and a second POST":  tt.request,
			"and a preflight":    testkit.Request() + command,
			"and more than read": strings.Repeat(command, 5000),
		} {
			t.Run(tt.name+" "+glued, func(t *testing.T) {
				require.Equal(t, tt.want, testkit.Refused(t, l, tt.request+second).StatusCode)
				require.Empty(t, accepted)
			})
		}
		t.Run(tt.name+" byte by byte", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				go func() {
					for i := range tt.request {
						if _, err := io.WriteString(c, tt.request[i:i+1]); err != nil {
							return
						}
					}
				}()
				require.Equal(t, tt.want, c.Refused(t, tt.request).StatusCode)
				require.Empty(t, accepted)
			})
		})
	}
	// The application was running: it could have executed the bytes.
	c := testkit.DialClient(t, l)
	c.Send(t, command)
	line, err := bufio.NewReader(testkit.NextConn(t, accepted)).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, command, line)
}

// A reverse proxy may connect long before it has a request to send, and is then
// taken for a silent client. Its request must not be executed either.
func TestListenerKeepsLateHTTPFromALineServer(t *testing.T) {
	const request = "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nDEL all\r\n"
	for _, tt := range []struct {
		name       string
		plainAfter time.Duration
		crowd      bool
		early      int // the part of the request that comes at once
	}{
		{name: "after HandshakeTimeout"},
		{name: "after PlainAfter", plainAfter: time.Second},
		{name: "after making room", crowd: true},
		{name: "after a stalled line", early: len("POST /x HTTP/1")},
	} {
		for _, piece := range []int{1, 3, len(request)} {
			t.Run(fmt.Sprintf("%s in pieces of %d", tt.name, piece), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := testkit.NewNetwork()
					l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1, PlainAfter: tt.plainAfter})
					accepted := testkit.AcceptAll(t, l)
					c := n.Dial(t)
					c.Send(t, request[:tt.early])
					if tt.crowd {
						n.Dial(t)
					}
					conn := <-accepted
					go func() {
						for rest := request[tt.early:]; rest != ""; rest = rest[min(piece, len(rest)):] {
							if _, err := io.WriteString(c, rest[:min(piece, len(rest))]); err != nil {
								return
							}
						}
					}()
					line, err := bufio.NewReader(conn).ReadString('\n')
					require.Error(t, err, "%q reached the application", line)
					require.NotErrorIs(t, err, io.EOF)
					require.True(t, c.Server.Closed.Load())
					_, err = conn.Read(make([]byte, 1))
					require.Error(t, err)
				})
			})
		}
	}
}

// The answer to HEAD has no body, for any status (RFC 9110 §9.3.2).
func TestListenerRefusesHEADWithoutABody(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{})
	testkit.AcceptAll(t, l)
	for _, tt := range []struct {
		fields string
		want   int
	}{
		{"", 426},
		{"Connection: Upgrade\r\nUpgrade: tcp\r\n", 405},
		{"Connection: Upgrade\r\nUpgrade: websocket\r\n", 426},
	} {
		a := testkit.Refused(t, l, "HEAD / HTTP/1.1\r\nHost: h\r\n"+tt.fields+"\r\n")
		require.Equal(t, tt.want, a.StatusCode)
		require.True(t, strings.HasSuffix(a.Raw, "\r\n\r\n"), "no body follows: %q", a.Raw)
		if tt.want == 405 {
			require.Equal(t, "GET", a.Header.Get("Allow"), "RFC 9110 §15.5.6")
		}
	}
}

// For servers that speak first, a silent client is delivered after PlainAfter.
// A client that has begun to speak keeps its whole time.
func TestListenerPlainAfter(t *testing.T) {
	const after = 300 * time.Millisecond
	for _, tt := range []struct {
		name   string
		refuse bool
		sent   string
		at     time.Duration // when it is delivered or closed
		plain  bool
	}{
		{"silent", false, "", after, true},
		{"silent where plain is refused", true, "", 10 * time.Second, false},
		{"a first byte", false, "G", 10 * time.Second, true},
		{"a first byte where plain is refused", true, "G", 10 * time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, PlainAfter: after})
				if tt.refuse {
					l.Authorize = testkit.AuthorizeAll
				}
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				if tt.sent != "" {
					time.Sleep(after - 1)
					c.Send(t, tt.sent)
				}
				if !tt.plain {
					c.Ended(t)
					require.Equal(t, tt.at, time.Since(start))
					require.Empty(t, accepted)
					return
				}
				conn := <-accepted
				require.Equal(t, tt.at, time.Since(start))
				testkit.Carry(t, "220 the server speaks first\r\n", conn, c.R)
				testkit.Skip(t, conn, tt.sent)
				time.Sleep(time.Hour)
				testkit.Talk(t, c, conn)
			})
		})
	}
}

// A head that begins in time has the whole deadline.
func TestListenerPlainAfterDoesNotApplyToAHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, PlainAfter: time.Second})
		accepted := testkit.AcceptAll(t, l)
		c := n.Dial(t)
		time.Sleep(time.Second - 1)
		c.Send(t, "G")
		time.Sleep(8 * time.Second)
		require.Equal(t, 101, (<-c.Ask(testkit.Request()[1:])).StatusCode)
		testkit.Talk(t, c, <-accepted)
	})
}

// A PlainAfter above HandshakeTimeout has no effect.
func TestListenerPlainAfterIsBoundedByTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, PlainAfter: time.Hour, HandshakeTimeout: time.Second})
		accepted := testkit.AcceptAll(t, l)
		c := n.Dial(t)
		testkit.Talk(t, c, <-accepted)
		require.Equal(t, time.Second, time.Since(start))
	})
}

// The application may use TLS itself. To the listener its clients are plain,
// with any ALPN, and so are clients whose TLS runs through a tunnel.
func TestListenerUnderTLS(t *testing.T) {
	serverTLS, clientTLS := testkit.TLSConfigs(t)
	serverTLS.NextProtos, clientTLS.NextProtos = []string{"h2"}, []string{"h2"}
	l := testkit.Listen(t, &preflight.PreflightListener{})
	over := tls.NewListener(l, serverTLS)
	testkit.ServeEcho(t, over)
	for _, dial := range []func(t *testing.T) net.Conn{
		func(t *testing.T) net.Conn { return testkit.DialTCP(t, l.Addr()) },
		func(t *testing.T) net.Conn { c, _ := testkit.Upgraded(t, l, testkit.Request()); return c },
	} {
		c := tls.Client(dial(t), clientTLS)
		require.NoError(t, c.Handshake())
		require.Equal(t, "h2", c.ConnectionState().NegotiatedProtocol)
		testkit.Carry(t, "over TLS", c, c)
	}
}
