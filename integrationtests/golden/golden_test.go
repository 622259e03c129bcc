package golden_test

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// goldenAll requires that table has an entry for every transcript of a
// directory.
func goldenAll[T any](t *testing.T, dir string, table map[string]T) {
	t.Helper()
	names := testkit.Transcripts(t, dir)
	require.Len(t, names, len(table))
	for _, name := range names {
		require.Contains(t, table, name)
	}
}

// TestGoldenToListener plays requests as the proxies rewrite them. The proxies
// were sent Host, Connection: Upgrade, Upgrade: tcp, User-Agent, X-Custom-One,
// x-lower, X-Dup: 1, X-Dup: 2, Authorization, Cookie and X-Forwarded-For:
// 9.9.9.9.
func TestGoldenToListener(t *testing.T) {
	type facts struct {
		uri    string // "" means /amps/json
		path   string // likewise
		host   string
		token  string              // "" means tcp
		header map[string][]string // nil: the field is not there
	}
	sent := func(dup []string, forwarded ...string) map[string][]string {
		return map[string][]string{
			"User-Agent":      {"probe/1"},
			"X-Custom-One":    {"one"},
			"X-Lower":         {"x"},
			"X-Dup":           dup,
			"Authorization":   {"Bearer t0ken"},
			"Cookie":          {"a=1; b=2"},
			"X-Forwarded-For": forwarded,
			"Host":            nil,
		}
	}
	two, merged := []string{"1", "2"}, []string{"1, 2"}
	const chain = "9.9.9.9, 192.0.2.7"
	table := map[string]facts{
		"original":  {host: "localhost:443"},
		"amps":      {uri: "/client/amps/json", path: "/client/amps/json", host: "localhost"}, // AMPS's clients for Python, C++ and Java
		"amps-tcps": {uri: "/client/amps/json", path: "/client/amps/json", host: "localhost", token: "tcps"},
		"preflight": {uri: "/client/amps/json", path: "/client/amps/json", host: "edge.example", header: map[string][]string{"X-Lower": {"x"}, "X-Dup": two}},

		"nginx":           {host: "127.0.0.1:19000", header: sent(two, "9.9.9.9")},                    // Upgrade and Connection first
		"haproxy":         {host: "amps.example", header: sent(two, "9.9.9.9", "192.0.2.7")},          // names in lower case, nominations kept
		"apache":          {host: "127.0.0.1:19000", header: sent(merged, chain)},                     // repeated fields merged
		"apache-wstunnel": {host: "127.0.0.1:19000", header: sent(merged, chain)},                     // Connection last
		"caddy":           {host: "amps.example", header: sent(two, "192.0.2.7")},                     // sorted, with additions
		"varnish":         {host: "amps.example", header: sent(two, chain)},                           // piped
		"lighttpd":        {host: "amps.example", header: sent(merged, chain)},                        // Connection: close, upgrade
		"squid":           {host: "amps.example", header: sent(two, chain)},                           // Host late
		"go-reverseproxy": {host: "amps.example", header: sent(two, "192.0.2.7")},                     // sorted
		"nghttpx":         {host: "amps.example", header: sent(two, "9.9.9.9")},                       // canonical names
		"absolute-form":   {uri: "http://amps.example:8080/amps/json?a=b", host: "amps.example:8080"}, // RFC 9112 §3.2.2
		"lists": {uri: "//amps%2Fjson?x=%41", path: "//amps/json", host: "[2001:db8::1]:8080", header: map[string][]string{
			"X-Empty":    {""},
			"X-Latin":    {"caf\xe9"},
			"Upgrade":    {"h2c , ,\twebsocket", "TCP"},
			"Connection": {"keep-alive,, HTTP2-Settings", "uPGRADE,"},
		}},
	}
	goldenAll(t, "to_listener", table)
	for name, want := range table {
		for how, send := range testkit.GoldenPieces {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				l := testkit.Listen(t, &preflight.PreflightListener{})
				accepted := testkit.GoldenAccept(t, l)
				client := testkit.DialTCP(t, l.Addr())
				require.NoError(t, send(client, testkit.Golden(t, "to_listener/"+name)+testkit.GoldenPayload))

				token := cmp.Or(want.token, "tcp")
				answer := testkit.Golden(t, map[string]string{"tcp": "from_listener/101", "tcps": "from_listener/101-tcps"}[token])
				require.Equal(t, answer, testkit.GoldenRead(t, client, len(answer)))
				server := testkit.GoldenNext(t, accepted)
				require.Equal(t, testkit.GoldenPayload, testkit.GoldenRead(t, server, len(testkit.GoldenPayload)))

				// No byte stands between the 101 and the tunnel, in either
				// direction.
				_, err := io.WriteString(server, testkit.GoldenPayload)
				require.NoError(t, err)
				require.NoError(t, server.CloseWrite())
				rest, err := io.ReadAll(client)
				require.NoError(t, err)
				require.Equal(t, testkit.GoldenPayload, string(rest))
				require.NoError(t, client.CloseWrite())
				rest, err = io.ReadAll(server)
				require.NoError(t, err)
				require.Empty(t, rest)

				r := server.Request()
				uri, path := want.uri, want.path
				if uri == "" {
					uri = "/amps/json"
				}
				if path == "" {
					path = "/amps/json"
				}
				require.Equal(t, http.MethodGet, r.Method)
				require.Equal(t, uri, r.RequestURI)
				require.Equal(t, path, r.URL.Path)
				require.Equal(t, want.host, r.Host)
				require.Equal(t, "HTTP/1.1", r.Proto)
				require.Equal(t, client.LocalAddr().String(), r.RemoteAddr)
				for name, values := range want.header {
					require.Equal(t, values, r.Header[name], name)
				}
				require.Equal(t, http.StatusSwitchingProtocols, server.Response().StatusCode)
				require.Equal(t, http.Header{"Upgrade": {token}, "Connection": {"Upgrade"}}, server.Response().Header)
				require.Same(t, r, server.Response().Request)
			})
		}
	}
}

// TestGoldenFromListener sends requests and requires the complete answer, byte
// for byte.
func TestGoldenFromListener(t *testing.T) {
	const upgrade = "Host: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
	const webSocket = "Host: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: preflight.v1\r\n" // of RFC 6455 §1.3
	authorize := func(header http.Header, err error) *preflight.PreflightListener {
		return &preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) { return header, err }}
	}
	serverTLS, _ := testkit.TLSConfigs(t)
	var typedNil *preflight.StatusError
	table := map[string]struct {
		listener *preflight.PreflightListener
		request  string
	}{
		"101": {nil, "GET / HTTP/1.1\r\n" + upgrade + "\r\n"},
		"101-authorize": {
			authorize(http.Header{"X-Session": {"1", "2"}, "Server": {"backend/1"}, "x-lower": {"x"}}, nil),
			"GET / HTTP/1.1\r\n" + upgrade + "\r\n",
		},
		"101-tcps":       {nil, "GET /client/amps/json HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: tcps\r\n\r\n"},
		"101-tunnel-tls": {&preflight.PreflightListener{TLSConfig: serverTLS}, "GET / HTTP/1.1\r\n" + upgrade + "Preflight-Tunnel: tls\r\n\r\n"},
		"101-tunnel-tls-authorize": {
			&preflight.PreflightListener{TLSConfig: serverTLS, Authorize: func(*http.Request) (http.Header, error) {
				return http.Header{"A": {"1"}, "X-Session": {"2"}}, nil
			}},
			"GET / HTTP/1.1\r\n" + upgrade + "Preflight-Tunnel: tls\r\n\r\n",
		},
		"101-protocols": {
			&preflight.PreflightListener{Protocols: []string{"example/1", "tcp"}},
			"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp, EXAMPLE/1\r\n\r\n",
		},

		"101-framed":            {nil, "GET / HTTP/1.1\r\n" + upgrade + "Preflight-Framing: capsule\r\nPreflight-Carriers: framed, websocket\r\n\r\n"},
		"101-framed-tunnel-tls": {&preflight.PreflightListener{TLSConfig: serverTLS}, "GET / HTTP/1.1\r\n" + upgrade + "Preflight-Framing: capsule\r\nPreflight-Tunnel: tls\r\n\r\n"},
		"101-websocket":         {nil, "GET / HTTP/1.1\r\n" + webSocket + "\r\n"},
		"101-websocket-authorize": {
			authorize(http.Header{"X-Session": {"1"}}, nil),
			"GET / HTTP/1.1\r\n" + webSocket + "Preflight-Protocol: tcps\r\nSec-WebSocket-Protocol: bearer.x\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
		},

		"400-framing":     {nil, "GET / HTTP/1.1\r\n" + upgrade + "Preflight-Framing:\r\n\r\n"},
		"400-key":         {nil, "GET / HTTP/1.1\r\n" + strings.Replace(webSocket, "==", "", 1) + "\r\n"},
		"400-subprotocol": {nil, "GET / HTTP/1.1\r\n" + strings.Replace(webSocket, "preflight.v1", "mqtt", 1) + "Preflight-Framing: capsule\r\n\r\n"},
		"403-origin":      {nil, "GET / HTTP/1.1\r\n" + webSocket + "Origin: https://evil.example\r\n\r\n"},
		"426-carrier": {
			&preflight.PreflightListener{Carriers: []preflight.Carrier{preflight.CarrierWebSocket}},
			"GET / HTTP/1.1\r\n" + upgrade + "\r\n",
		},
		"426-protocol": {nil, "GET / HTTP/1.1\r\n" + webSocket + "Preflight-Protocol: amps\r\n\r\n"},
		"426-removed":  {nil, "GET / HTTP/1.1\r\nHost: h\r\nPreflight-Carriers: upgrade, websocket\r\n\r\n"},
		"426-version":  {nil, "GET / HTTP/1.1\r\n" + strings.Replace(webSocket, "13", "8", 1) + "\r\n"},

		"400-rule":   {nil, "GET / HTTP/1.1\r\n" + upgrade + "X : y\r\n\r\n"},
		"400-tunnel": {nil, "GET / HTTP/1.1\r\n" + upgrade + "Preflight-Tunnel: TLS\r\n\r\n"},
		"400-body":   {nil, "GET / HTTP/1.1\r\n" + upgrade + "Content-Length: 5\r\n\r\nhello"},
		"400-forwarded": {
			&preflight.PreflightListener{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
			"GET / HTTP/1.1\r\n" + upgrade + "X-Forwarded-For: 192.0.2.1, somebody\r\n\r\n",
		},
		"405":            {nil, "POST / HTTP/1.1\r\n" + upgrade + "Content-Length: 0\r\n\r\n"},
		"405-head":       {nil, "HEAD / HTTP/1.1\r\n" + upgrade + "\r\n"},
		"414":            {nil, "GET /" + strings.Repeat("a", 16<<10)},
		"417":            {nil, "GET / HTTP/1.1\r\n" + upgrade + "Expect: 200-ok\r\n\r\n"},
		"426-stripped":   {nil, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
		"426-http10":     {nil, "GET / HTTP/1.0\r\nConnection: close\r\n\r\n"},
		"426-token":      {nil, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		"426-connection": {nil, "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: tcp\r\n\r\n"},
		"426-protocols":  {&preflight.PreflightListener{Protocols: []string{"example/1", "tcp"}}, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
		"426-tunnel-tls": {nil, "GET / HTTP/1.1\r\n" + upgrade + "Preflight-Tunnel: tls\r\n\r\n"},
		"426-post":       {nil, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 14\r\n\r\nPUB t 2\r\nhi\r\n\r\n"},
		"431":            {nil, "GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 16<<10)},
		"505":            {nil, "GET / HTTP/1.2\r\n" + upgrade + "\r\n"},

		"authorize-401": {
			authorize(nil, &preflight.StatusError{
				StatusCode: http.StatusUnauthorized,
				Header: http.Header{
					"Www-Authenticate":  {`Bearer realm="amps"`},
					"Content-Type":      {"application/json"},
					"Content-Length":    {"1"},
					"Transfer-Encoding": {"chunked"},
					"Connection":        {"keep-alive"},
				},
				Body: []byte(`{"error": "no token"}`),
			}),
			"GET / HTTP/1.1\r\n" + upgrade + "\r\n",
		},
		"authorize-302":   {authorize(nil, &preflight.StatusError{StatusCode: http.StatusFound, Header: http.Header{"Location": {"https://login.example/"}}}), "GET / HTTP/1.1\r\n" + upgrade + "\r\n"},
		"authorize-304":   {authorize(nil, &preflight.StatusError{StatusCode: http.StatusNotModified, Body: []byte("not sent")}), "GET / HTTP/1.1\r\n" + upgrade + "\r\n"},
		"authorize-error": {authorize(nil, io.ErrUnexpectedEOF), "GET / HTTP/1.1\r\n" + upgrade + "\r\n"},
		"authorize-nil":   {authorize(nil, typedNil), "GET / HTTP/1.1\r\n" + upgrade + "\r\n"},
	}
	goldenAll(t, "from_listener", table)
	for name, test := range table {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := test.listener
			if l == nil {
				l = new(preflight.PreflightListener)
			}
			accepted := testkit.GoldenAccept(t, testkit.Listen(t, l))
			client := testkit.DialTCP(t, l.Addr())
			_, err := io.WriteString(client, test.request)
			require.NoError(t, err)
			want := testkit.Golden(t, "from_listener/"+name)
			if strings.HasPrefix(name, "101") {
				require.Equal(t, want, testkit.GoldenRead(t, client, len(want)))
				if !strings.Contains(name, "tunnel-tls") { // TLS has not begun yet
					testkit.GoldenNext(t, accepted)
				}
				return
			}
			got, err := io.ReadAll(client)
			require.NoError(t, err)
			require.Equal(t, want, testkit.GoldenAnswer(t, string(got)))
		})
	}
}

// goldenPeer accepts one connection from ln, reads a request, answers it in
// pieces, and then acts as the end of the tunnel.
func goldenPeer(t testing.TB, ln net.Listener, send func(io.Writer, string) error, answer string) (request <-chan string) {
	got := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(got)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(testkit.Patience))
		var b []byte
		for buf := make([]byte, 4096); !bytes.HasSuffix(b, []byte("\r\n\r\n")); {
			n, err := c.Read(buf)
			if err != nil {
				break
			}
			b = append(b, buf[:n]...)
		}
		got <- string(b)
		if send(c, answer) != nil {
			return
		}
		io.Copy(c, c)
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return got
}

// TestGoldenToDialer plays answers as the proxies rewrite them.
func TestGoldenToDialer(t *testing.T) {
	type facts struct {
		status string // "" means 101 Switching Protocols
		proto  string // "" means HTTP/1.1
		header http.Header
	}
	const date = "Sun, 22 Nov 2026 10:00:00 GMT"
	header := func(connection, upgrade string, more ...string) http.Header {
		h := http.Header{"Connection": {connection}, "Upgrade": {upgrade}, "X-Backend": {"b1"}}
		for i := 0; i < len(more); i += 2 {
			h.Add(more[i], more[i+1])
		}
		return h
	}
	table := map[string]facts{
		"original":               {header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}},
		"nginx":                  {header: header("upgrade", "tcp", "Server", "nginx/1.22.1", "Date", date)},
		"nginx-no-reason":        {header: header("upgrade", "tcp", "Server", "nginx/1.22.1", "Date", date, "Content-Length", "0")},
		"haproxy":                {header: header("Upgrade", "tcp")},
		"haproxy-no-reason":      {header: header("Upgrade", "tcp")},
		"haproxy-http10":         {proto: "HTTP/1.0", header: header("Upgrade", "tcp")},
		"apache":                 {header: header("Upgrade", "tcp")},
		"apache-chunked":         {header: header("Upgrade", "tcp", "Transfer-Encoding", "chunked")},
		"caddy":                  {header: header("Upgrade", "tcp", "Server", "Caddy", "Server", "backend/1", "Date", date, "Alt-Svc", `h3=":443"; ma=2592000`)},
		"go-reverseproxy":        {status: "101 101", header: header("Upgrade", "tcp")},
		"go-reverseproxy-http10": {proto: "HTTP/1.0", header: header("close", "tcp", "Connection", "Upgrade")},
		"lighttpd":               {header: header("upgrade", "TCP", "Server", "lighttpd/1.4.69", "Date", date)},
		"lighttpd-interim":       {header: header("upgrade", "tcp", "Server", "lighttpd/1.4.69", "Date", date)},
		"squid":                  {header: header("upgrade", "tcp")},
		"varnish-verbatim":       {status: "101 Whatever the backend says", header: header("keep-alive, Upgrade", "tcp", "Content-Length", "12", "Transfer-Encoding", "chunked", "Transfer-Encoding", "identity")},
		"connect-bare-lf":        {header: header("Upgrade", "tcp")},
		"nghttpx":                {header: header("Upgrade", "tcp", "Server", "nghttpx", "Via", "1.1 nghttpx")},
		"interim":                {header: header("Upgrade", "tcp")},
		"docker":                 {status: "101 UPGRADED", header: header("Upgrade", "tcp", "Content-Type", "application/vnd.docker.raw-stream")},
		"folded":                 {header: header("keep-alive,   Upgrade", "tcp", "X-Folded", "a   b \tc")},
	}
	goldenAll(t, "to_dialer", table)
	for name, want := range table {
		for how, send := range testkit.GoldenPieces {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				ln := testkit.ListenTCP(t)
				request := goldenPeer(t, ln, send, testkit.Golden(t, "to_dialer/"+name)+testkit.GoldenPayload)
				c, err := (&preflight.PreflightDialer{Host: "localhost:443", Path: "/amps/json"}).Dial("tcp", ln.Addr().String())
				require.NoError(t, err)
				defer c.Close()
				c.SetDeadline(time.Now().Add(testkit.Patience))
				require.Equal(t, testkit.Golden(t, "from_dialer/original"), <-request)

				require.Equal(t, testkit.GoldenPayload, testkit.GoldenRead(t, c, len(testkit.GoldenPayload)))
				_, err = io.WriteString(c, testkit.GoldenPayload)
				require.NoError(t, err)
				require.Equal(t, testkit.GoldenPayload, testkit.GoldenRead(t, c, len(testkit.GoldenPayload)))

				r := c.(*preflight.Conn).Response()
				status, proto := want.status, want.proto
				if status == "" {
					status = "101 Switching Protocols"
				}
				if proto == "" {
					proto = "HTTP/1.1"
				}
				require.Equal(t, http.StatusSwitchingProtocols, r.StatusCode)
				require.Equal(t, status, r.Status)
				require.Equal(t, proto, r.Proto)
				require.Equal(t, want.header, r.Header)
				require.Equal(t, "/amps/json", r.Request.RequestURI)
				require.Equal(t, "localhost:443", c.(*preflight.Conn).Request().Host)
			})
		}
	}
}

// TestGoldenFromDialer requires every byte that a dialer sends before the first
// byte of the application.
func TestGoldenFromDialer(t *testing.T) {
	dial := func(d preflight.PreflightDialer) func(address string) (net.Conn, error) {
		return func(address string) (net.Conn, error) { return d.Dial("tcp", address) }
	}
	table := map[string]func(address string) (net.Conn, error){
		"zero":     dial(preflight.PreflightDialer{}),
		"original": dial(preflight.PreflightDialer{Host: "localhost:443", Path: "/amps/json"}),
		"header": dial(preflight.PreflightDialer{
			Host: "edge.example",
			Path: "/client/amps/json?a=b%20c",
			Header: http.Header{
				"x-lower":       {"x"},
				"X-Dup":         {"2", "1"},
				"X-None":        {},
				"X-Empty":       {""},
				"X-Latin":       {"caf\xe9"},
				"User-Agent":    {"probe/1"},
				"Authorization": {"Bearer t0ken"},
				"Cookie":        {"a=1; b=2"},
			},
		}),
		"tunnel-tls": dial(preflight.PreflightDialer{
			Host: "edge.example", TunnelTLSConfig: new(tls.Config), Header: http.Header{"Accept": {"*/*"}},
		}),
		"framed": dial(preflight.PreflightDialer{
			Host: "edge.example", Carriers: []preflight.Carrier{preflight.CarrierFramed}, Header: http.Header{"Accept": {"*/*"}},
		}),
		"protocol": dial(preflight.PreflightDialer{Host: "[2001:db8::1]:8080", Path: "//", Protocol: "example/1.0"}),
		// The options of a URL configure the connection, and its userinfo is
		// for the logon of the application. Neither is sent.
		"url": func(address string) (net.Conn, error) {
			return new(preflight.PreflightDialer).DialURL(t.Context(), "tcp://"+address+
				"/user/can/put/path/here/amps/json?http_preflight=true&tcp_nodelay=true&tcp_keepalive=false&tcp_sndbuf=65536&tcp_rcvbuf=65536&tcp_linger=1&bind=127.0.0.1&ip_protocol_prefer=ipv4")
		},
		"url-userinfo": func(address string) (net.Conn, error) {
			d := &preflight.PreflightDialer{Host: "edge.example", Header: http.Header{"Token": {"token_value"}}}
			return d.DialURL(t.Context(), "tcp://user:pa%3Ass%20w%C3%B6rd@"+address+"/a%2Fb/%C3%A9?&http_preflight=true")
		},
	}
	goldenAll(t, "from_dialer", table)
	for name, dial := range table {
		t.Run(name, func(t *testing.T) {
			ln := testkit.ListenTCP(t)
			want := strings.ReplaceAll(testkit.Golden(t, "from_dialer/"+name), "ADDRESS", ln.Addr().String())
			answer := testkit.Golden(t, "to_dialer/original")
			if name == "protocol" {
				answer = strings.Replace(answer, "Upgrade: tcp", "Upgrade: example/1.0", 1)
			}
			peer := make(chan net.Conn, 1)
			go func() {
				defer close(peer)
				if c, err := ln.Accept(); err == nil {
					io.WriteString(c, answer)
					peer <- c
				}
			}()
			if name == "tunnel-tls" || name == "framed" { // not confirmed, so nothing follows
				_, err := dial(ln.Addr().String())
				require.Error(t, err)
				server := <-peer
				defer server.Close()
				server.SetDeadline(time.Now().Add(testkit.Patience))
				got, err := io.ReadAll(server)
				require.NoError(t, err)
				require.Equal(t, want, string(got))
				return
			}
			c, err := dial(ln.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			_, err = io.WriteString(c, testkit.GoldenPayload)
			require.NoError(t, err)
			require.NoError(t, c.Close())

			server := <-peer
			require.NotNil(t, server)
			defer server.Close()
			server.SetDeadline(time.Now().Add(testkit.Patience))
			got, err := io.ReadAll(server)
			require.NoError(t, err)
			require.Equal(t, want+testkit.GoldenPayload, string(got))
		})
	}
}
