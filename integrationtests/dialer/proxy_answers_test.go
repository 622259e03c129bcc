package dialer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// TestForwardProxyOpens: any 2xx opens the tunnel, with any fields. Bytes that
// came with the answer belong to the tunnel. DialURL without an upgrade shows
// the latter: the server behind the proxy may speak first.
func TestForwardProxyOpens(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 Connection established\r\n\r\n",
		"HTTP/1.0 200 OK\r\nProxy-Agent: x\r\n\r\n",
		"HTTP/1.1 200\r\n\r\n",
		"HTTP/1.1 200 \r\n\r\n",
		"HTTP/1.1 299 Why not\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 8) + "HTTP/1.1 200 OK\r\n\r\n",
	} {
		t.Run(fmt.Sprintf("%.60q", answer), func(t *testing.T) {
			for _, glued := range []string{"", "220 banner\r\n"} {
				network := &fwdNet{hosts: map[string]string{"proxy:80": fwdServe(t, func(c net.Conn) {
					testkit.ReadRequest(c)
					io.WriteString(c, answer+glued)
					fwdEcho(c)
				})}}
				d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, Proxy: fwdBy(t, "http://proxy")}
				conn, err := d.DialURL(t.Context(), "tcp://edge.example:25")
				require.NoError(t, err)
				conn.SetDeadline(time.Now().Add(testkit.Patience))
				got := make([]byte, len(glued))
				_, err = io.ReadFull(conn, got)
				require.NoError(t, err)
				require.Equal(t, glued, string(got))
				fwdEnds(t, conn)
				network.closed(t, 1)
			}
		})
	}
}

// TestForwardProxyRefuses: any other answer is a StatusError. It tells who
// answered, and the likely remedy.
func TestForwardProxyRefuses(t *testing.T) {
	for answer, want := range map[string]struct {
		code               int
		status, body, hint string
	}{
		"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 2\r\n\r\nno": {407, "407 Proxy Authentication Required", "no", "does not accept the credentials"},
		"HTTP/1.1 407\r\n\r\n":                                                            {407, "407 Proxy Authentication Required", "", "does not accept the credentials"},
		"HTTP/1.1 401 \r\n\r\n":                                                           {401, "401 Unauthorized", "", "does not accept the credentials"},
		"HTTP/1.1 403 Forbidden\r\n\r\n<html>":                                            {403, "403 Forbidden", "<html>", "does not allow CONNECT"},
		"HTTP/1.1 400 Bad Request\r\n\r\n":                                                {400, "400 Bad Request", "", "no forward proxy"},
		"HTTP/1.1 404 Not Found\r\n\r\n":                                                  {404, "404 Not Found", "", "no forward proxy"},
		"HTTP/1.1 405 Method Not Allowed\r\n\r\n":                                         {405, "405 Method Not Allowed", "", "no forward proxy"},
		"HTTP/1.1 429 Slow Down\r\nRetry-After: 7\r\n\r\n":                                {429, "429 Slow Down", "", "try again in 7s"},
		"HTTP/1.1 502 Bad Gateway\r\n\r\n":                                                {502, "502 Bad Gateway", "", "cannot resolve or reach"},
		"HTTP/1.1 503\r\n\r\n":                                                            {503, "503 Service Unavailable", "", "cannot resolve or reach"},
		"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n":                   {302, "302 Found", "", "refused the CONNECT"},
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n": {101, "101 Switching Protocols", "", "refused the CONNECT"},
		"HTTP/1.1 999 \r\n\r\n":                                                           {999, "999", "", "refused the CONNECT"},
	} {
		t.Run(want.status, func(t *testing.T) {
			network := &fwdNet{hosts: map[string]string{"proxy:80": fwdServe(t, func(c net.Conn) {
				testkit.ReadRequest(c)
				io.WriteString(c, answer)
			})}}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, Proxy: fwdBy(t, "http://me:s3cr3t@proxy"), Header: testkit.SecretFields}
			conn, err := d.Dial("tcp", "edge.example:80")
			require.Nil(t, conn)
			e := testkit.StatusError(t, err)
			require.True(t, e.ForwardProxy)
			require.Equal(t, want.code, e.StatusCode)
			require.Equal(t, want.status, e.Status)
			require.Equal(t, want.body, string(e.Body))
			require.ErrorContains(t, err, "the forward proxy "+network.hosts["proxy:80"]+" answered "+want.status)
			require.ErrorContains(t, err, want.hint)
			if want.code == 407 && want.body != "" {
				require.Equal(t, `Basic realm="x"`, e.Header.Get("Proxy-Authenticate"))
			}
			testkit.RequireNoSecret(t, err)
			network.closed(t, 1)
		})
	}
	t.Run("the edge is not the forward proxy", func(t *testing.T) {
		edge := fwdServe(t, func(c net.Conn) { testkit.ReadRequest(c); io.WriteString(c, "HTTP/1.1 403 No\r\n\r\n") })
		proxy := fwdServe(t, fwdConnect(make(chan string, 1), map[string]string{"edge.example:80": edge}))
		d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: fwdBy(t, "http://"+proxy)}
		_, err := d.Dial("tcp", "edge.example:80")
		require.False(t, testkit.StatusError(t, err).ForwardProxy)
		require.ErrorContains(t, err, "preflight: edge.example:80 (through the forward proxy "+proxy+") answered 403 No: ")
	})
}

// TestForwardProxyFails: bytes that are not an answer give an error that names
// CONNECT.
func TestForwardProxyFails(t *testing.T) {
	for name, test := range map[string]struct {
		answer, stage, cause string
		reset                bool
	}{
		"EOF":           {"", "wait for the forward proxy's answer to CONNECT", io.ErrUnexpectedEOF.Error(), false},
		"half an EOF":   {"HTTP/1.1 200 OK\r\n", "read the forward proxy's answer to CONNECT", io.ErrUnexpectedEOF.Error(), false},
		"reset":         {"", "the forward proxy's answer to CONNECT", "reset", true},
		"garbage":       {"220 mail.example ESMTP\r\n", "read the forward proxy's answer to CONNECT", "not HTTP/1.x", false},
		"malformed":     {"HTTP/1.1 200 OK\r\nX Y: z\r\n\r\n", "read the forward proxy's answer to CONNECT", "malformed", false},
		"nine interims": {strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 9) + "HTTP/1.1 200 OK\r\n\r\n", "read the forward proxy's answer to CONNECT", "interim", false},
		"endless head":  {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 70<<10), "read the forward proxy's answer to CONNECT", "larger", false},
		"speaks TLS":    {"\x15\x03\x01\x00\x02\x02\x46", "read the forward proxy's answer to CONNECT", "TLS", false},
	} {
		t.Run(name, func(t *testing.T) {
			network := &fwdNet{hosts: map[string]string{"proxy:80": fwdServe(t, func(c net.Conn) {
				testkit.ReadRequest(c)
				io.WriteString(c, test.answer)
				if test.reset {
					c.(*net.TCPConn).SetLinger(0)
					c.Close()
				}
			})}}
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, Proxy: fwdBy(t, "http://me:s3cr3t@proxy"), Header: testkit.SecretFields}
			conn, err := d.Dial("tcp", "edge.example:80")
			require.Nil(t, conn)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "preflight", op.Op)
			require.ErrorContains(t, err, test.stage)
			require.ErrorContains(t, err, test.cause)
			testkit.RequireNoSecret(t, err)
			network.closed(t, 1)
		})
	}
}

// TestForwardProxyStalls: the context and HandshakeTimeout also bound the
// exchange with the forward proxy, also on a transport without deadlines.
func TestForwardProxyStalls(t *testing.T) {
	ca := fwdNewCA(t)
	for name, test := range map[string]struct {
		url, stage string
		peer       func(net.Conn)
	}{
		"reads nothing":       {"http://me:s3cr3t@proxy", "write CONNECT to the forward proxy", func(net.Conn) {}},
		"says nothing":        {"http://me:s3cr3t@proxy", "wait for the forward proxy's answer", func(c net.Conn) { testkit.ReadRequest(c) }},
		"in the head":         {"http://me:s3cr3t@proxy", "read the forward proxy's answer", func(c net.Conn) { testkit.ReadRequest(c); io.WriteString(c, "HTTP/1.1 200") }},
		"before TLS":          {"https://me:s3cr3t@proxy", "TLS handshake with the forward proxy", func(net.Conn) {}},
		"SOCKS reads nothing": {"socks5://me:s3cr3t@proxy", "SOCKS5 with the forward proxy", func(net.Conn) {}},
		"SOCKS says nothing":  {"socks5://me:s3cr3t@proxy", "SOCKS5 with the forward proxy", func(c net.Conn) { io.ReadFull(c, make([]byte, 4)) }},
		"SOCKS half a method": {"socks5h://proxy", "SOCKS5 with the forward proxy", func(c net.Conn) { io.ReadFull(c, make([]byte, 3)); c.Write([]byte{5}) }},
		"after CONNECT, the 101": {"http://proxy", "wait for the 101", func(c net.Conn) {
			testkit.ReadRequest(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			testkit.ReadRequest(c)
		}},
	} {
		for endName, end := range testkit.ContextEnds {
			for _, noDeadlines := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/noDeadlines=%v", name, endName, noDeadlines), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := end.Ctx(t.Context())
						defer cancel()
						peer := &testkit.DialPeer{T: t, Peer: test.peer, NoDeadlines: noDeadlines}
						d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer, Proxy: fwdBy(t, test.url)}
						if strings.HasPrefix(test.url, "https") {
							d.TLSConfig = ca.client()
						}
						begun := time.Now()
						conn, err := d.DialContext(ctx, "tcp", "edge.example:443")
						require.Nil(t, conn)
						require.ErrorIs(t, err, end.Want)
						require.ErrorContains(t, err, test.stage)
						require.Equal(t, end.After, time.Since(begun))
						require.NotZero(t, peer.Spy.Closes.Load())
						var op *net.OpError
						require.ErrorAs(t, err, &op)
						require.Equal(t, "preflight", op.Op)
						require.Equal(t, endName == "timeout" || strings.HasPrefix(endName, "deadline of"), op.Timeout())
						testkit.RequireNoSecret(t, err)
					})
				})
			}
		}
	}
}

// TestForwardProxyDialed: the address that is dialed for each URL. As in
// net/http, the error shows whether the dial of the proxy or that of the edge
// failed.
func TestForwardProxyDialed(t *testing.T) {
	for url, want := range map[string]string{
		"http://proxy.example": "proxy.example:80", "http://proxy.example/": "proxy.example:80", "http://proxy.example:3128": "proxy.example:3128",
		"https://proxy.example": "proxy.example:443", "https://[2001:db8::1]": "[2001:db8::1]:443",
		"socks5://proxy.example": "proxy.example:1080", "socks5h://me:s3cr3t@192.0.2.1": "192.0.2.1:1080",
	} {
		t.Run(url, func(t *testing.T) {
			var dialed string
			errDown := errors.New("down")
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: fwdBy(t, url), NetDialer: testkit.DialFunc(func(_ context.Context, network, address string) (net.Conn, error) {
				dialed = network + " " + address
				return nil, errDown
			})}
			// The address family of the network applies to the edge, not to the
			// proxy.
			conn, err := d.Dial("tcp4", "edge.example:80")
			require.Nil(t, conn)
			require.Equal(t, "tcp "+want, dialed)
			require.ErrorIs(t, err, errDown)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "proxyconnect", op.Op)
			testkit.RequireNoSecret(t, err)
		})
	}
}

// TestForwardProxyAuthority: CONNECT needs a host and a numeric port.
func TestForwardProxyAuthority(t *testing.T) {
	for address, want := range map[string]string{
		"edge.example:https": "edge.example:443", "edge.example:80": "edge.example:80", "[2001:db8::1]:443": "[2001:db8::1]:443",
		"[fe80::1%eth0]:80": "[fe80::1]:80", "192.0.2.1:http": "192.0.2.1:80",
	} {
		t.Run(address, func(t *testing.T) {
			heads := make(chan string, 1)
			proxy := fwdServe(t, func(c net.Conn) { heads <- testkit.ReadRequest(c) })
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Proxy: fwdBy(t, "http://"+proxy), Host: "other.example"}
			_, err := d.Dial("tcp", address)
			require.Error(t, err)
			require.Equal(t, "CONNECT "+want+" HTTP/1.1\r\nHost: "+want+"\r\n\r\n", fwdNext(t, heads))
		})
	}
	// With Host set, the address is in no Host field, but it must not break the
	// head of the CONNECT.
	for _, address := range []string{"edge.example\r\nX-Injected: 1\r\n:80", "edge.example:80\r\nX-Injected: 1", "edge.example:80 HTTP/1.1\r\n\r\nGET", "a b:80", "edge.example", "edge.example:nosuchservice"} {
		t.Run(fmt.Sprintf("%q", address), func(t *testing.T) {
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialNever(t), Proxy: fwdBy(t, "http://proxy"), Host: "other.example"}
			conn, err := d.Dial("tcp", address)
			require.Nil(t, conn)
			require.ErrorContains(t, err, "preflight: ")
		})
	}
}
