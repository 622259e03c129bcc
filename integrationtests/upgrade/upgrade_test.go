package upgrade_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// upgradePieces is a connection whose bytes are read in pieces of given sizes,
// like the segments of a network.
type upgradePieces struct {
	net.Conn
	sizes []int
}

func (c *upgradePieces) Read(b []byte) (int, error) {
	if len(c.sizes) == 0 {
		return c.Conn.Read(b)
	}
	n, err := io.ReadFull(c.Conn, b[:min(len(b), c.sizes[0])])
	if c.sizes[0] -= n; c.sizes[0] == 0 {
		c.sizes = c.sizes[1:]
	}
	return n, err
}

// upgradeCuts returns the ways to cut a stream of n bytes that begins with a
// head of the given length: whole, in two parts at every byte of the head and
// just after it, and into single bytes until well after it.
func upgradeCuts(head, n int) [][]int {
	cuts := [][]int{{n}}
	for i := 1; i < min(head+3, n); i++ {
		cuts = append(cuts, []int{i, n - i})
	}
	var single []int
	for range min(head+100, n) {
		single = append(single, 1)
	}
	return append(cuts, single)
}

// TestUpgradeKeepsEveryByte: payload is glued to the head. The stream that each
// side receives is cut at every byte. No byte may be lost, repeated or
// reordered, in either direction. Many implementations fail this test on both
// sides, because they drop bytes that came in the same Read as the head.
func TestUpgradeKeepsEveryByte(t *testing.T) {
	binary := make([]byte, 64<<10)
	for i := range binary {
		binary[i] = byte(i>>8) ^ byte(i)
	}
	payloads := map[string]string{
		"none":   "",
		"1 byte": "\x00",
		"text":   "\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\n\r\nGET / HTTP/1.1\r\n\r\n",
		"64 KiB": string(binary),
	}
	const reply = "the reply\x00"
	for roleName, role := range testkit.UpgradeRoles {
		for payloadName, payload := range payloads {
			if roleName == "plain" && payloadName == "none" {
				continue // an EOF; see TestUpgradePlainEOF
			}
			stream := role.Receives + payload
			check := func(t *testing.T, c, peer net.Conn) {
				defer c.Close()
				defer peer.Close()
				back := make(chan string, 1)
				go func() {
					b := make([]byte, len(role.Sends+reply))
					n, _ := io.ReadFull(peer, b)
					peer.Close()
					back <- string(b[:n])
				}()
				conn, err := role.Play(t.Context(), c)
				require.NoError(t, err)
				got := make([]byte, len(payload))
				n, err := io.ReadFull(conn, got)
				require.NoError(t, err)
				if string(got[:n]) != payload { // not Equal, which would print 64 KiB
					require.Fail(t, "payload received differs", "%d bytes", n)
				}
				_, err = io.WriteString(conn, reply)
				require.NoError(t, err)
				require.Equal(t, role.Sends+reply, <-back)
				rest, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.Empty(t, rest)
			}
			t.Run(fmt.Sprintf("%s/%s/pipe", roleName, payloadName), func(t *testing.T) {
				for _, sizes := range upgradeCuts(len(role.Receives), len(stream)) {
					c, peer := net.Pipe()
					go func() { // each piece is one Write, so a Read of a pipe gets exactly one piece
						rest := stream
						for _, n := range sizes {
							io.WriteString(peer, rest[:n])
							rest = rest[n:]
						}
						io.WriteString(peer, rest)
					}()
					check(t, c, peer)
				}
			})
			t.Run(fmt.Sprintf("%s/%s/tcp", roleName, payloadName), func(t *testing.T) {
				ln := testkit.ListenTCP(t)
				for _, sizes := range upgradeCuts(len(role.Receives), len(stream)) {
					peer := testkit.DialTCP(t, ln.Addr())
					c, err := ln.Accept()
					require.NoError(t, err)
					go io.WriteString(peer, stream)
					check(t, &upgradePieces{c, sizes}, peer)
				}
			})
		}
	}
}

// TestUpgradePlainEOF: a client that half-closes before its first byte, or
// inside bytes that may be a request line, is plain.
func TestUpgradePlainEOF(t *testing.T) {
	for _, sent := range []string{"", "G", "GET ", "GET /index", "GET / HTT", "hello"} {
		t.Run(sent, func(t *testing.T) {
			client, server := testkit.TCPPair(t)
			_, err := io.WriteString(client, sent)
			require.NoError(t, err)
			require.NoError(t, client.(*net.TCPConn).CloseWrite())
			conn, err := preflight.Server(t.Context(), server)
			require.NoError(t, err)
			require.Nil(t, conn.Request())
			got, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.Equal(t, sent, string(got))
			_, err = io.WriteString(conn, "bye")
			require.NoError(t, err)
			require.NoError(t, conn.Close())
			back, err := io.ReadAll(client)
			require.NoError(t, err)
			require.Equal(t, "bye", string(back))
		})
	}
}

// TestUpgradePeerClosed: bytes that a peer sent before it closed are
// delivered, also on a transport such as net.Pipe, where every method fails
// after the close.
func TestUpgradePeerClosed(t *testing.T) {
	for _, name := range []string{"client", "plain"} {
		role := testkit.UpgradeRoles[name]
		t.Run(name, func(t *testing.T) {
			c, peer := testkit.SpyPipe(t)
			spy := &testkit.SpyConn{Conn: c}
			spy.OnRead = func() { peer.Close() }
			go func() {
				io.ReadFull(peer, make([]byte, len(role.Sends)))
				io.WriteString(peer, role.Receives+"\x00banner")
			}()
			conn, err := role.Play(t.Context(), spy)
			require.NoError(t, err)
			got, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.Equal(t, "\x00banner", string(got))
		})
	}
}

// TestUpgradeReadsAndWrites: a head of up to 512 bytes that arrives at once
// needs one Read, one of up to 4 KiB two. Each side needs one Write.
func TestUpgradeReadsAndWrites(t *testing.T) {
	const filler = "X-Filler: \r\n"
	for _, test := range []struct{ head, reads int }{
		{0, 1}, {512, 1}, {513, 2}, {4 << 10, 2},
	} {
		for _, name := range []string{"client", "server"} {
			role := testkit.UpgradeRoles[name]
			t.Run(fmt.Sprintf("%s/%d", name, test.head), func(t *testing.T) {
				head := role.Receives
				if missing := test.head - len(head) - len(filler); missing >= 0 {
					field := strings.TrimSuffix(filler, "\r\n") + strings.Repeat("x", missing) + "\r\n"
					head = strings.TrimSuffix(head, "\r\n") + field + "\r\n"
					require.Len(t, head, test.head)
				}
				// A network instead of a pipe, so that the whole head can
				// arrive before it is read.
				c, peer := testkit.TCPPair(t)
				_, err := io.WriteString(peer, head)
				require.NoError(t, err)
				spy := &testkit.SpyConn{Conn: c}
				conn, err := role.Play(t.Context(), spy)
				require.NoError(t, err)
				require.EqualValues(t, test.reads, spy.Reads.Load(), "reads")
				require.EqualValues(t, 1, spy.Writes.Load(), "writes")
				require.Zero(t, spy.Closes.Load())
				require.NoError(t, conn.Close())
				got, err := io.ReadAll(peer)
				require.NoError(t, err)
				require.Equal(t, role.Sends, string(got))
			})
		}
	}
}

// TestClientRequest: the bytes that Client sends for a request.
func TestClientRequest(t *testing.T) {
	for _, test := range []struct {
		name string
		req  *http.Request
		want string
	}{
		{"zero", &http.Request{URL: &url.URL{Host: "a.example:81"}},
			"GET / HTTP/1.1\r\nHost: a.example:81\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Carriers: upgrade\r\n\r\n"},
		{"Host wins over URL", &http.Request{Method: "GET", Host: "b.example", URL: &url.URL{Scheme: "http", Host: "a.example", Path: "/x"}, Body: http.NoBody},
			"GET /x HTTP/1.1\r\nHost: b.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Carriers: upgrade\r\n\r\n"},
		{"escaped", &http.Request{Host: "h", URL: &url.URL{Path: "/a b/ü", RawQuery: "q=%2F"}},
			"GET /a%20b/%C3%BC?q=%2F HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Carriers: upgrade\r\n\r\n"},
		{"token", &http.Request{Host: "h", URL: &url.URL{Path: "/"}, Header: http.Header{"Upgrade": {"Tcp/1"}}},
			"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: Tcp/1\r\nPreflight-Carriers: upgrade\r\n\r\n"},
		{"own fields", &http.Request{Host: "h", URL: &url.URL{Path: "/"}, Header: http.Header{
			"X-B": {"2", "3"}, "X-A": {"1"}, "Connection": {"upgrade"}, "Upgrade": {"tcp"}}},
			"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Carriers: upgrade\r\nX-A: 1\r\nX-B: 2\r\nX-B: 3\r\n\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := testkit.SpyPipe(t)
			sent := make(chan string, 1)
			go func() {
				b := make([]byte, len(test.want))
				n, _ := io.ReadFull(server, b)
				token := b[bytes.LastIndex(b[:n], []byte("Upgrade: ")):]
				token, _, _ = bytes.Cut(token, []byte("\r\n"))
				// The case of the answer does not matter: RFC 9110 §7.8.
				fmt.Fprintf(server, "HTTP/1.1 101 \r\n%s\r\nConnection: keep-alive, UPGRADE\r\n\r\n", bytes.ToUpper(token))
				sent <- string(b[:n])
			}()
			header := test.req.Header.Clone()
			conn, err := preflight.Client(t.Context(), client, test.req)
			require.NoError(t, err)
			require.Equal(t, test.want, <-sent)
			require.Same(t, test.req, conn.Request())
			require.Same(t, test.req, conn.Response().Request)
			require.Equal(t, header, test.req.Header, "the caller's Header was changed")
		})
	}
}

// TestClientRefusesRequest: a request that cannot be an upgrade request is an
// error before anything is written. The error names the cause, and never the
// value of a field.
func TestClientRefusesRequest(t *testing.T) {
	with := func(change func(*http.Request)) *http.Request {
		r := testkit.UpgradeRequestOf()
		r.Header = make(http.Header)
		change(r)
		return r
	}
	field := func(name string, values ...string) *http.Request {
		return with(func(r *http.Request) { r.Header[name] = values })
	}
	tests := map[string]struct {
		req   *http.Request
		cause string
	}{
		"nil":               {nil, "URL"},
		"no URL":            {new(http.Request), "URL"},
		"POST":              {with(func(r *http.Request) { r.Method = "POST" }), `"POST"`},
		"lower case":        {with(func(r *http.Request) { r.Method = "get" }), `"get"`},
		"body":              {with(func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("x")) }), "body"},
		"length":            {with(func(r *http.Request) { r.ContentLength = 1 }), "body"},
		"coding":            {with(func(r *http.Request) { r.TransferEncoding = []string{"chunked"} }), "body"},
		"trailer":           {with(func(r *http.Request) { r.Trailer = http.Header{"X-Sum": nil} }), "body"},
		"no host":           {with(func(r *http.Request) { r.Host = "" }), "host"},
		"invalid host":      {with(func(r *http.Request) { r.Host = "a/b" }), `"a/b"`},
		"host injection":    {with(func(r *http.Request) { r.Host = "a\r\nX: y" }), "host"},
		"relative path":     {with(func(r *http.Request) { r.URL = &url.URL{Opaque: "amps"} }), `"amps"`},
		"query injection":   {with(func(r *http.Request) { r.URL.RawQuery = "a\r\nX: y" }), "path"},
		"two tokens":        {field("Upgrade", "tcp", "websocket"), "one token"},
		"list of tokens":    {field("Upgrade", "tcp, websocket"), "token"},
		"empty token":       {field("Upgrade", ""), "token"},
		"other Connection":  {field("Connection", "close"), "Connection"},
		"two Connections":   {field("Connection", "Upgrade", "Upgrade"), "Connection"},
		"name with colon":   {field("X: y\r\nZ", "1"), "name"},
		"value with CR":     {field("X-Token", "s3cr3t\rx"), "X-Token"},
		"value with LF":     {field("X-Token", "s3cr3t\nx"), "X-Token"},
		"value with NUL":    {field("X-Token", "s3cr3t\x00"), "X-Token"},
		"upgrade, raw key":  {field("upgrade", "tcp"), "Upgrade"},
		"connection, raw":   {field("connection", "close"), "Connection"},
		"Host":              {field("Host", "s3cr3t"), "Host"},
		"Content-Length":    {field("Content-Length", "0"), "Content-Length"},
		"Transfer-Encoding": {field("Transfer-Encoding", "chunked"), "Transfer-Encoding"},
		"Trailer":           {field("Trailer", "X"), "Trailer"},
		"Expect":            {field("Expect", "100-continue"), "Expect"},
		"Proxy-Auth":        {field("Proxy-Authorization", "s3cr3t"), "Proxy-Authorization"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			client, _ := testkit.SpyPipe(t)
			spy := &testkit.SpyConn{Conn: client}
			conn, err := preflight.Client(t.Context(), spy, test.req)
			require.Nil(t, conn)
			require.ErrorContains(t, err, "preflight: ")
			require.ErrorContains(t, err, test.cause)
			require.NotContains(t, err.Error(), "s3cr3t")
			require.Zero(t, spy.Writes.Load())
			require.Zero(t, spy.Closes.Load(), "Client leaves closing to its caller")
		})
	}
}

// TestAcceptWaitsForNoSilentClient: a silent client delays neither Accept nor
// RemoteAddr.
func TestAcceptWaitsForNoSilentClient(t *testing.T) {
	ln := testkit.Listen(t, &preflight.PreflightListener{})
	for range 3 {
		testkit.DialTCP(t, ln.Addr())
	}
	good := testkit.DialTCP(t, ln.Addr())
	_, err := io.WriteString(good, testkit.UpgradeRequest)
	require.NoError(t, err)
	conn, err := ln.Accept()
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, good.LocalAddr(), conn.RemoteAddr())
}
