package preflight_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/frame"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/preflight-go/preflight/internal/websocket"
	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http/httpguts"
)

// urlFormat is the URL of a target.
func urlFormat(t *preflight.Target) string {
	u := url.URL{Scheme: "tcp", User: t.User, Host: t.Address, RawPath: t.Path}
	u.Path, _ = url.PathUnescape(t.Path)
	if t.TLS {
		u.Scheme = "tcps"
	}
	q := make(url.Values)
	if t.Preflight {
		q.Set("http_preflight", "1")
	}
	if t.NoDelay != nil {
		q.Set("tcp_nodelay", strconv.FormatBool(*t.NoDelay))
	}
	if t.KeepAlive != nil {
		q.Set("tcp_keepalive", strconv.FormatBool(*t.KeepAlive))
	}
	if t.SendBuffer != 0 {
		q.Set("tcp_sndbuf", strconv.Itoa(t.SendBuffer))
	}
	if t.ReceiveBuffer != 0 {
		q.Set("tcp_rcvbuf", strconv.Itoa(t.ReceiveBuffer))
	}
	if t.Linger != nil {
		q.Set("tcp_linger", strconv.Itoa(*t.Linger))
	}
	if t.Bind.IsValid() {
		q.Set("bind", t.Bind.String())
	}
	if t.Prefer != "" {
		q.Set("ip_protocol_prefer", t.Prefer)
	}
	if t.ConnectTimeout != 0 {
		q.Set("tcp_connecttimeout", strconv.FormatInt(t.ConnectTimeout.Milliseconds(), 10))
	}
	if t.ServerName != "" {
		q.Set("sni", t.ServerName)
	}
	for name, value := range t.Options {
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func FuzzParseURL(f *testing.F) {
	for _, raw := range []string{
		"tcp://host:9007/user/can/put/path/here/amps/json?http_preflight=true",
		"tcps://localhost:443/amps/json?&http_preflight=true",
		"tcp://user:p%40ss@[fe80::1%25eth0]:1//a%2Fb é?bind=[::1]:4000&ip_protocol_prefer=ipv6",
		"TCP://h:0?tcp_nodelay=0&tcp_keepalive=1&tcp_sndbuf=1&tcp_rcvbuf=2&tcp_linger=0&bind=127.0.0.1",
		"host:1/?unknown=1#fragment",
		"tcps://bücher.example:1/?sni=B%C3%9CCHER.example&tcp_linger=-1&tcp_connecttimeout=250&pretty=t&compression=zlib&tcp_idlereadtimeout=1",
		"[::g]:x/%zz",
		// Inputs that once broke a property.
		"tcps://::0",
		"tcp://0%3A0:0",
		"tcp://0:0/%2F ",
		"tcp://0:0:0",
		"tcp://@@0:0",
		"tcp://user:p240ss@[fe80::1%25ew\xb1th\xaa]:1//",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		// A password is in nothing that is printed.
		secret := "tcp://user:hunter2@" + raw
		if target, err := preflight.ParseURL(secret); strings.Contains(raw, "hunter2") {
			// who writes it twice gets it back
		} else if err != nil {
			require.NotContains(t, err.Error(), "hunter2")
		} else {
			require.NotContains(t, target.String(), "hunter2")
			require.NotContains(t, fmt.Sprintf("%+v", target), "hunter2")
		}

		target, err := preflight.ParseURL(raw)
		if err != nil {
			require.Nil(t, target)
			return
		}
		host, port, err := net.SplitHostPort(target.Address)
		require.NoError(t, err)
		require.NotEmpty(t, host)
		_, err = strconv.ParseUint(port, 10, 16)
		require.NoError(t, err)

		// The path goes on the wire as it is; the options never do.
		require.True(t, wire.ValidTarget(target.Path), "%q", target.Path)
		require.NotContains(t, target.Path, "?")

		// parse(format(x)) == x
		again, err := preflight.ParseURL(urlFormat(target))
		require.NoError(t, err)
		require.Equal(t, target, again)

		shown, err := preflight.ParseURL(target.String())
		require.NoError(t, err)
		require.Equal(t, target.Address, shown.Address)
		require.Equal(t, target.Path, shown.Path)
		require.Equal(t, target.TLS, shown.TLS)
		require.Equal(t, target.Preflight, shown.Preflight)
		require.Equal(t, target.User.Username(), shown.User.Username())
		require.Equal(t, target.String(), shown.String())
	})
}

// badConn is a peer that has sent in already, which is read in pieces, and
// ended its direction.
type badConn struct {
	net.Conn
	in    io.Reader
	piece int
	out   bytes.Buffer
}

func (c *badConn) Read(b []byte) (int, error) { return c.in.Read(b[:min(len(b), c.piece)]) }

func (c *badConn) Write(b []byte) (int, error) { return c.out.Write(b) }

func (*badConn) Close() error { return nil }

func (*badConn) CloseWrite() error { return nil }

func (*badConn) LocalAddr() net.Addr { return &net.TCPAddr{} }

func (*badConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

func (*badConn) SetDeadline(time.Time) error { return nil }

func (*badConn) SetReadDeadline(time.Time) error { return nil }

func (*badConn) SetWriteDeadline(time.Time) error { return nil }

// badOutcome is all that an exchange has come to.
type badOutcome struct {
	err    string
	sent   string // to the peer, without the Date
	tunnel string // what is read from the Conn
	late   bool   // until it turned out to be HTTP
	broken bool   // a framed tunnel did not end in order; what was read of it is left out
}

// badRun makes an exchange with a peer that has sent in.
func badRun(t *testing.T, in []byte, piece int, do func(net.Conn) (*preflight.Conn, error)) (badOutcome, *preflight.Conn) {
	peer := &badConn{in: bytes.NewReader(in), piece: piece}
	c, err := do(peer)
	outcome := badOutcome{sent: testkit.GoldenDate.ReplaceAllString(peer.out.String(), "\r\nDate: now\r\n")}
	if err != nil {
		require.Nil(t, c)
		outcome.err = err.Error()
		return outcome, nil
	}
	b, err := io.ReadAll(c)
	if carrier := c.Carrier(); carrier == preflight.CarrierFramed || carrier == preflight.CarrierWebSocket {
		require.NoError(t, c.Close())
		// Bytes in front of an error may or may not be passed on.
		if outcome.broken = err != nil; err == nil {
			outcome.tunnel = string(b)
		}
		return outcome, c
	}
	outcome.tunnel = string(b)
	if err != nil {
		require.ErrorContains(t, err, "an HTTP request on a connection that began as a plain one")
		outcome.late = true
	}
	return outcome, c
}

// badSeeds adds the transcripts of a directory as seeds, each with a payload.
func badSeeds(f *testing.F, dir string) {
	for i, name := range testkit.Transcripts(f, dir) {
		f.Add([]byte(testkit.Golden(f, dir+"/"+name)+testkit.GoldenPayload), uint16(i))
	}
}

// FuzzServer: whatever a client sends, and in whatever pieces, it is a tunnel,
// a plain connection or refused, and every byte is where it belongs.
func FuzzServer(f *testing.F) {
	badSeeds(f, "to_listener")
	for i, test := range testkit.MalformedHeads {
		if len(test.Head) < 1<<10 {
			f.Add([]byte(test.Head+testkit.Smuggled), uint16(i))
		}
	}
	for i, payload := range []string{"\xad\x70\xf1\x00\x02hi\xad\x70\xf1\x01\x01!", "\xad\x70\xf1\x04\x080123456", "hi"} {
		f.Add([]byte("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: tcp\r\nPreflight-Framing: capsule\r\n\r\n"+payload), uint16(i))
	}
	const webSocket = "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: preflight.v1\r\nPreflight-Protocol: tcps\r\n\r\n"
	f.Add([]byte(webSocket+"\x82\x86\x00\x00\x00\x00\xad\x70\xf1\x01\x01!"), uint16(3))
	f.Add([]byte(webSocket+"\x88\x80\x00\x00\x00\x00"), uint16(5))
	// Inputs that once broke a property.
	f.Add([]byte("0 0 HT"), uint16(1))
	f.Add([]byte("0 / HTTP/1.0\r\n0\r\n\r\n0"), uint16(13))
	f.Add([]byte("00 /0 0 HTTP/1.0\r\n"), uint16(16))
	f.Add([]byte("HEAD / HTTP/1.1\r\nHost:0\r\nConneCtion:UpgrAde\r\nUpgrAde:tCp\r\n\r\nHTTP/1.1 101\r\n\r\n"), uint16(0))
	f.Fuzz(func(t *testing.T, in []byte, piece uint16) {
		serve := func(c net.Conn) (*preflight.Conn, error) { return preflight.Server(context.Background(), c) }
		outcome, c := badRun(t, in, len(in)+1, serve)
		pieces, _ := badRun(t, in, int(piece)+1, serve)
		line, _, whole := bytes.Cut(bytes.TrimLeft(in, "\r\n"), []byte("\n"))
		request := in
		for range 2 { // empty lines before a request (RFC 9112 §2.2)
			request = bytes.TrimPrefix(request, []byte("\r\n"))
		}
		for _, o := range []badOutcome{outcome, pieces} {
			if o.late {
				// Handed on in doubt: the application has a piece of a line, and what
				// may stand before that.
				require.True(t, whole)
				require.True(t, bytes.HasPrefix(in, []byte(o.tunnel)))
				require.Less(t, len(o.tunnel), len(in))
				require.Empty(t, o.sent)
				if !bytes.HasPrefix(line, []byte("P")) && !bytes.HasPrefix(line, []byte("\x00")) { // PROXY, PRI
					require.True(t, bytes.HasPrefix(line, bytes.TrimLeft([]byte(o.tunnel), "\r\n")))
				}
			}
		}
		if !pieces.late {
			require.Equal(t, outcome, pieces, "in pieces of %d bytes", int(piece)+1)
		} else if !outcome.late {
			// The line was known before it had to be handed on.
			require.Nil(t, c)
		}
		switch {
		case outcome.late:
		case c == nil:
			// One answer, and nothing behind it.
			method, _, _ := strings.Cut(string(request), " ")
			r := bufio.NewReader(strings.NewReader(outcome.sent))
			answer, err := http.ReadResponse(r, &http.Request{Method: method})
			require.NoError(t, err)
			require.GreaterOrEqual(t, answer.StatusCode, 400)
			require.True(t, answer.Close)
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			if method != http.MethodHead {
				require.EqualValues(t, len(body), answer.ContentLength)
			}
			require.Zero(t, r.Buffered())
			require.Len(t, answer.Header["Preflight-Refusal"], 1)
			require.NotEmpty(t, answer.Header["Preflight-Refusal"][0])
			require.Equal(t, []string{"upgrade, framed, websocket"}, answer.Header["Preflight-Carriers"])
		case c.Request() == nil:
			require.Empty(t, outcome.sent)
			require.Equal(t, string(in), outcome.tunnel)
		default:
			token := c.Response().Header.Get("Upgrade")
			answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: " + token + "\r\nConnection: Upgrade\r\n"
			_, payload, found := strings.Cut(string(request), "\r\n\r\n")
			require.True(t, found)
			carrier := c.Carrier()
			switch carrier {
			case preflight.CarrierWebSocket:
				require.Equal(t, "websocket", token)
				h := c.Request().Header
				answer += "Sec-WebSocket-Accept: " + websocket.Accept(h.Get("Sec-WebSocket-Key")) + "\r\nSec-WebSocket-Protocol: preflight.v1\r\n"
				if strings.EqualFold(h.Get("Preflight-Protocol"), "tcps") {
					answer += "Preflight-Protocol: tcps\r\n"
				}
			case preflight.CarrierFramed:
				answer += "Preflight-Framing: capsule\r\n"
				fallthrough
			default:
				require.Contains(t, []string{"tcp", "tcps"}, token)
				require.Equal(t, carrier == preflight.CarrierFramed, len(c.Request().Header["Preflight-Framing"]) > 0)
			}
			require.Equal(t, answer+"\r\n", outcome.sent)
			if carrier != preflight.CarrierUpgrade {
				// The layer of the capsules has had what follows the head, and no other byte.
				peer := &badConn{in: strings.NewReader(payload), piece: len(payload) + 1}
				tunnel := frame.New(peer, frame.Config{WebSocket: carrier == preflight.CarrierWebSocket})
				b, err := io.ReadAll(tunnel)
				require.NoError(t, tunnel.Close())
				require.Equal(t, err != nil, outcome.broken)
				if err == nil {
					payload = string(b)
				} else {
					payload = ""
				}
			}
			require.Equal(t, payload, outcome.tunnel)
			r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
			require.NoError(t, err)
			require.Equal(t, http.MethodGet, r.Method)
			require.Equal(t, r.RequestURI, c.Request().RequestURI)
			require.Equal(t, r.Host, c.Request().Host)
			require.NotEmpty(t, r.Host)
			require.Equal(t, r.Header, c.Request().Header)
			require.True(t, httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], token))
			require.Empty(t, r.Header["Preflight-Tunnel"], "TLS inside is not offered")
		}
	})
}

// FuzzClient: whatever answers, and in whatever pieces, it is a tunnel whose
// first bytes are what follows the 101, or an error.
func FuzzClient(f *testing.F) {
	badSeeds(f, "to_dialer")
	for i, test := range testkit.MalformedAnswers {
		if len(test.Answer) < 1<<10 {
			f.Add([]byte(test.Answer), uint16(i))
		}
	}
	// Inputs that once broke a property.
	f.Add([]byte("HTTP/1.0 101 \n\n"), uint16(0))
	f.Add([]byte("HTTP/1.1 100\n\nHTTP/1.1 101\nUpgrade:tcp\nConnection:upgrade\n\n\n"), uint16(13))
	f.Add([]byte("HTTP/1.0 101\nUpgrade:tcp\r\nConnection:upgrade\n\r\n\n\r\n"), uint16(0))
	f.Fuzz(func(t *testing.T, in []byte, piece uint16) {
		dial := func(c net.Conn) (*preflight.Conn, error) {
			return preflight.Client(context.Background(), c, &http.Request{Host: "h", URL: &url.URL{Path: "/"}})
		}
		outcome, c := badRun(t, in, len(in)+1, dial)
		pieces, _ := badRun(t, in, int(piece)+1, dial)
		require.False(t, outcome.late || pieces.late)
		if !strings.Contains(outcome.err, "not HTTP/1.x") { // whose text quotes what has arrived
			require.Equal(t, outcome, pieces, "in pieces of %d bytes", int(piece)+1)
		}
		require.Equal(t, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Carriers: upgrade\r\n\r\n", outcome.sent)
		if c == nil {
			require.Empty(t, pieces.tunnel)
			return
		}
		require.Equal(t, http.StatusSwitchingProtocols, c.Response().StatusCode)
		require.True(t, strings.HasSuffix(string(in), "\n"+outcome.tunnel))

		// What precedes the tunnel is what net/http reads as heads, of which
		// the last is the 101.
		heads := bufio.NewReader(strings.NewReader(strings.TrimSuffix(string(in), outcome.tunnel)))
		for {
			r, err := http.ReadResponse(heads, nil)
			if err != nil {
				return // it refuses some of what our parser has to bear with
			}
			if r.StatusCode == http.StatusSwitchingProtocols {
				break
			}
		}
		require.Zero(t, heads.Buffered())
	})
}

// FuzzStatusError: whatever a refusal holds, its text is safe to show. A secret
// of the request that the reason phrase, the Location or the body repeats is not in
// the text, and neither is a character that a terminal obeys or hides.
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
		answer := fmt.Sprintf("HTTP/1.1 %03d "+secret+" \u202e\u009b\r\nRetry-After: %s\r\nWWW-Authenticate: %s\r\nLocation: %s/x/%s?%[5]s#%[5]s\r\n\r\n%s%[5]s",
			200+code%800, retry, challenge, location, secret, body)
		_, c := badRun(t, []byte(answer), len(answer), func(c net.Conn) (*preflight.Conn, error) {
			conn, err := preflight.Client(context.Background(), c, &http.Request{Host: "h", URL: &url.URL{Path: "/", RawQuery: secret}})
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
