package clientaddr_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// dialFrom connects to l from an address of the loopback network.
func dialFrom(t testing.TB, l net.Listener, from string) *testkit.Client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: testkit.Patience}
	c, err := d.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	c.SetDeadline(time.Now().Add(testkit.Patience))
	t.Cleanup(func() { c.Close() })
	return &testkit.Client{Conn: c, R: bufio.NewReader(c)}
}

// The same bytes are a header from a trusted peer, and data from any other
// peer: a line for version 1, binary data for version 2. A request after them
// is refused. It comes from a proxy that is not in TrustedProxies, and it must
// not reach the application as data.
func TestProxyHeaderIsForTrustedPeers(t *testing.T) {
	serverTLS, clientTLS := testkit.NamedTLSConfigs(t)
	for _, tt := range []struct {
		name    string
		trusted []netip.Prefix
		refuse  bool
	}{
		{name: "another address", trusted: testkit.Prefixes("127.0.0.1/32", "10.0.0.0/8", "::/0")},
		{name: "another address, refused", trusted: testkit.Prefixes("127.0.0.1/32", "10.0.0.0/8", "::/0"), refuse: true},
		{name: "none"},
		{name: "empty, not nil", trusted: testkit.Prefixes()},
		{name: "none, refused", refuse: true},
	} {
		l := testkit.Listen(t, &preflight.PreflightListener{TrustedProxies: tt.trusted, RequireUpgrade: tt.refuse, TLSConfig: serverTLS})
		accepted := testkit.AcceptAll(t, l)
		for _, header := range testkit.HeaderCases(t)[1:] {
			for _, payload := range []string{"", testkit.Payload, testkit.Request()} {
				t.Run(fmt.Sprintf("%s/%s and %d bytes", tt.name, header.Name, len(payload)), func(t *testing.T) {
					c := dialFrom(t, l, "127.0.0.2")
					sent := string(header.Bytes) + payload
					c.Send(t, sent)
					if payload == testkit.Request() {
						a := c.Refused(t, payload)
						require.Equal(t, http.StatusBadRequest, a.StatusCode)
						require.Contains(t, a.Text, "a PROXY header stands before the request")
						require.Empty(t, accepted)
						return
					}
					if tt.refuse {
						c.Conn.(*net.TCPConn).CloseWrite() // otherwise an unfinished line has until HandshakeTimeout
						c.Ended(t)
						require.Empty(t, accepted)
						return
					}
					require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
					conn := testkit.NextConn(t, accepted)
					require.Nil(t, conn.Request())
					require.Equal(t, c.LocalAddr().String(), conn.RemoteAddr().String())
					got, err := io.ReadAll(conn)
					require.NoError(t, err)
					require.Equal(t, sent, string(got))
				})
			}
			// The bytes after it are not taken for TLS.
			if !tt.refuse {
				t.Run(fmt.Sprintf("%s/%s and a hello", tt.name, header.Name), func(t *testing.T) {
					hello := testkit.ClientHello(t, clientTLS)
					c := dialFrom(t, l, "127.0.0.2")
					c.Send(t, string(header.Bytes)+string(hello))
					testkit.Skip(t, testkit.NextConn(t, accepted), string(header.Bytes)+string(hello))
				})
			}
		}
		if len(tt.trusted) > 0 {
			c := dialFrom(t, l, "127.0.0.1")
			c.Send(t, string(testkit.ProxyHeader(t, 2, testkit.Source))+testkit.Request())
			require.Equal(t, 101, c.Answer("GET").StatusCode)
			require.Equal(t, testkit.Source.String(), testkit.NextConn(t, accepted).RemoteAddr().String())
		}
	}
}

// These bytes are invalid from a trusted peer. The connection is closed.
// Neither the address of the peer nor the bytes that follow are used.
func TestProxyHeaderMalformed(t *testing.T) {
	const source = "\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb"
	v1 := func(line string) string { return "PROXY " + line + "\r\n" }
	for name, header := range map[string]string{
		"v1, empty":                 v1(""),
		"v1, another family":        v1("TCP5 192.0.2.1 192.0.2.2 56324 443"),
		"v1, lower case":            v1("tcp4 192.0.2.1 192.0.2.2 56324 443"),
		"v1, only a family":         v1("TCP4"),
		"v1, a port is missing":     v1("TCP4 192.0.2.1 192.0.2.2 56324"),
		"v1, one port too many":     v1("TCP4 192.0.2.1 192.0.2.2 56324 443 1"),
		"v1, two spaces":            v1("TCP4  192.0.2.1 192.0.2.2 56324 443"),
		"v1, a space at the end":    v1("TCP4 192.0.2.1 192.0.2.2 56324 443 "),
		"v1, a tab":                 v1("TCP4\t192.0.2.1 192.0.2.2 56324 443"),
		"v1, no address":            v1("TCP4 example.com 192.0.2.2 56324 443"),
		"v1, no destination":        v1("TCP4 192.0.2.1 - 56324 443"),
		"v1, address out of range":  v1("TCP4 192.0.2.256 192.0.2.2 56324 443"),
		"v1, IPv6 as IPv4":          v1("TCP4 2001:db8::1 2001:db8::2 56324 443"),
		"v1, IPv4 as IPv6":          v1("TCP6 192.0.2.1 192.0.2.2 56324 443"),
		"v1, zone":                  v1("TCP6 fe80::1%eth0 fe80::2 56324 443"),
		"v1, port out of range":     v1("TCP4 192.0.2.1 192.0.2.2 65536 443"),
		"v1, port is negative":      v1("TCP4 192.0.2.1 192.0.2.2 -1 443"),
		"v1, port with a zero":      v1("TCP4 192.0.2.1 192.0.2.2 080 443"),
		"v1, bare LF":               "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\n",
		"v1, bare LF, no address":   "PROXY UNKNOWN\n",
		"v1, LF in it":              "PROXY TCP4 192.0.2.1\n192.0.2.2 56324 443\r\n",
		"v1, NUL in it":             v1("TCP4 192.0.2.1\x00 192.0.2.2 56324 443"),
		"v1, no end in 107 bytes":   "PROXY UNKNOWN " + strings.Repeat("x", 107-14),
		"v1, an end at byte 108":    "PROXY UNKNOWN " + strings.Repeat("x", 107-14-1) + "\r\n",
		"v2, version 0":             testkit.ProxyV2Bytes(0x01, 0x11, 12, source),
		"v2, version 1":             testkit.ProxyV2Bytes(0x11, 0x11, 12, source),
		"v2, version 3":             testkit.ProxyV2Bytes(0x31, 0x11, 12, source),
		"v2, another command":       testkit.ProxyV2Bytes(0x22, 0x11, 12, source),
		"v2, another family":        testkit.ProxyV2Bytes(0x21, 0x41, 12, source),
		"v2, another transport":     testkit.ProxyV2Bytes(0x21, 0x13, 12, source),
		"v2, too short for IPv4":    testkit.ProxyV2Bytes(0x21, 0x11, 11, source[:11]),
		"v2, no addresses":          testkit.ProxyV2Bytes(0x21, 0x11, 0, ""),
		"v2, too short for IPv6":    testkit.ProxyV2Bytes(0x21, 0x21, 12, source),
		"v2, too short for Unix":    testkit.ProxyV2Bytes(0x21, 0x31, 12, source),
		"v2, over MaxHeaderBytes":   testkit.ProxyV2Bytes(0x21, 0x11, 300-16+1, source),
		"v2, far over it":           testkit.ProxyV2Bytes(0x21, 0x11, 0xffff, source),
		"v2 LOCAL, far over it":     testkit.ProxyV2Bytes(0x20, 0x00, 0xffff, ""),
		"v2 LOCAL, another version": testkit.ProxyV2Bytes(0x30, 0x00, 0, ""),
	} {
		for how, tt := range map[string]struct {
			pieces int
			behind string
		}{
			"at once":      {1 << 20, testkit.Request("X: " + strings.Repeat("x", 200))},
			"byte by byte": {1, testkit.Request()},
			"alone":        {1 << 20, ""},
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					n := testkit.NewNetwork()
					l := testkit.Listen(t, &preflight.PreflightListener{
						Listener: n, TrustedProxies: testkit.Prefixes("192.0.2.0/24"), MaxHeaderBytes: 300,
					})
					accepted := testkit.AcceptAll(t, l)
					c := n.Dial(t)
					go func() {
						for s := header + tt.behind; s != ""; {
							k := min(tt.pieces, len(s))
							if _, err := io.WriteString(c, s[:k]); err != nil {
								return
							}
							s = s[k:]
						}
					}()
					c.Ended(t)
					require.Zero(t, time.Since(start), "the header cannot become valid")
					require.Empty(t, accepted)
				})
			})
		}
	}
}

// A client can send a request whose method is PROXY through a trusted HTTP
// proxy. Such a request is not a header, although it may have the form of one.
// As a header, it would let the client choose how the bytes after it are
// sorted.
func TestProxyHeaderIsNoRequest(t *testing.T) {
	const fields = "Host: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 9\r\n\r\nDEL all\r\n"
	long := "/" + strings.Repeat("x", 107)
	for line, want := range map[string]int{
		"PROXY UNKNOWN HTTP/1.1":            400,
		"PROXY UNKNOWN HTTP/0.9":            400,
		"PROXY UNKNOWN http/1.1":            400,
		"PROXY TCP4 HTTP/1.1":               400,
		"PROXY TCP6 HTTP/1.0":               400,
		"PROXY  HTTP/1.1":                   400,
		"PROXY / HTTP/1.1":                  405,
		"PROXY /a b HTTP/1.1":               400,
		"PROXY http://h/ HTTP/1.1":          405,
		"PROXY * HTTP/1.1":                  400,
		"PROXY x HTTP/1.1":                  400,
		"PROXY " + long + " HTTP/1.1":       405,
		"PROXY http://h" + long + " HTTP/2": 400,
	} {
		for _, piece := range []int{1, 7, 1 << 10} {
			t.Run(fmt.Sprintf("%.30s in pieces of %d", line, piece), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := testkit.NewNetwork()
					l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, TrustedProxies: testkit.Prefixes("192.0.2.0/24")})
					accepted := testkit.AcceptAll(t, l)
					c := n.Dial(t)
					go func() {
						for s := line + "\r\n" + fields; s != ""; {
							k := min(piece, len(s))
							if _, err := io.WriteString(c, s[:k]); err != nil {
								return
							}
							s = s[k:]
						}
					}()
					require.Equal(t, want, c.Refused(t, "PROXY").StatusCode)
					require.Empty(t, accepted)
				})
			})
		}
	}
}

// An incomplete header ends the connection. It ends at once if no more bytes
// can come, else with the handshake.
func TestProxyHeaderTruncated(t *testing.T) {
	for name, header := range map[string][]byte{
		"v1": testkit.ProxyHeader(t, 1, testkit.Source),
		"v2": testkit.ProxyHeader(t, 2, testkit.Source, proxyproto.TLV{Type: proxyproto.PP2_TYPE_NOOP, Value: []byte("tlv")}),
	} {
		l := testkit.Listen(t, &preflight.PreflightListener{TrustedProxies: testkit.Prefixes("127.0.0.1/32"), HandshakeTimeout: time.Hour})
		accepted := testkit.AcceptAll(t, l)
		begun := 6 // the length of the signature
		if name == "v2" {
			begun = 12
		}
		for k := begun; k < len(header); k++ {
			c := testkit.DialClient(t, l)
			c.Send(t, string(header[:k]))
			require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
			c.Ended(t)
			require.Empty(t, accepted, "%q", header[:k])

			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{
					Listener: n, TrustedProxies: testkit.Prefixes("192.0.2.0/24"), PlainAfter: time.Second,
				})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				c.Send(t, string(header[:k]))
				c.Ended(t)
				require.Equal(t, 10*time.Second, time.Since(start))
				require.Empty(t, accepted)
			})
		}
	}
}

// Bytes that can begin both a header and another protocol are no header yet. A
// client that ends or stalls there speaks another protocol.
func TestProxyHeaderNotBegun(t *testing.T) {
	for _, signature := range []string{"PROXY ", "\r\n\r\n\x00\r\nQUIT\n"} {
		for k := range signature {
			t.Run(fmt.Sprintf("%q", signature[:k]), func(t *testing.T) {
				l := testkit.Listen(t, &preflight.PreflightListener{TrustedProxies: testkit.Prefixes("127.0.0.1/32"), HandshakeTimeout: time.Hour})
				accepted := testkit.AcceptAll(t, l)
				c := testkit.DialClient(t, l)
				c.Send(t, signature[:k])
				require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
				conn := testkit.NextConn(t, accepted)
				got, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.Equal(t, signature[:k], string(got))
				require.Equal(t, c.LocalAddr().String(), conn.RemoteAddr().String())

				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					n := testkit.NewNetwork()
					l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, TrustedProxies: testkit.Prefixes("192.0.2.0/24")})
					accepted := testkit.AcceptAll(t, l)
					c := n.Dial(t)
					c.Send(t, signature[:k])
					conn := <-accepted
					require.Equal(t, 10*time.Second, time.Since(start))
					testkit.Skip(t, conn, signature[:k])
					testkit.Talk(t, c, conn)
				})
			})
		}
	}
}

// Only the first header is the proxy's. A second header was sent by the client
// through that proxy, so it is data. This holds if the first header names a
// trusted proxy, and inside TLS. A request after it is refused.
func TestProxyHeaderComesOnce(t *testing.T) {
	serverTLS, clientTLS := testkit.NamedTLSConfigs(t)
	l := testkit.Listen(t, &preflight.PreflightListener{TrustedProxies: testkit.Prefixes("127.0.0.1/32", "192.0.2.1/32"), TLSConfig: serverTLS})
	accepted := testkit.AcceptAll(t, l)
	for _, first := range testkit.HeaderCases(t)[1:] {
		for _, second := range testkit.HeaderCases(t)[1:] {
			t.Run(first.Name+" and "+second.Name, func(t *testing.T) {
				want := first.Source
				for _, overTLS := range []bool{false, true} {
					raw := testkit.DialTCP(t, l.Addr())
					if first.Source == "" {
						want = raw.LocalAddr().String()
					}
					send := func(raw net.Conn, sent string) *testkit.Client {
						if overTLS {
							c := testkit.ClientOver(t, raw, first.Bytes, clientTLS)
							c.Send(t, sent)
							return c
						}
						c := &testkit.Client{Conn: raw, R: bufio.NewReader(raw)}
						c.Send(t, string(first.Bytes)+sent)
						return c
					}
					sent := string(second.Bytes) + testkit.Payload
					send(raw, sent)
					conn := testkit.NextConn(t, accepted)
					require.Nil(t, conn.Request())
					require.Equal(t, want, conn.RemoteAddr().String())
					testkit.Skip(t, conn, sent)

					c := send(testkit.DialTCP(t, l.Addr()), string(second.Bytes)+testkit.Request())
					require.Equal(t, http.StatusBadRequest, c.Refused(t, "GET").StatusCode)
					require.Empty(t, accepted)
				}
			})
		}
	}
}

// Headers of every length up to the limit are accepted, together with heads of
// every length up to the limit.
func TestProxyHeaderLengths(t *testing.T) {
	for _, limit := range []int{0, 300} {
		l := testkit.Listen(t, &preflight.PreflightListener{TrustedProxies: testkit.Prefixes("127.0.0.1/32"), MaxHeaderBytes: limit})
		accepted := testkit.AcceptAll(t, l)
		most := limit
		if most == 0 {
			most = 16 << 10
		}
		for _, size := range []int{50, 299, 300, 511, 512, 513, 4095, 4096, 4097, 8192, most - 1, most} {
			if size > most {
				continue
			}
			t.Run(fmt.Sprintf("%d of %d", size, most), func(t *testing.T) {
				header := testkit.ProxyHeader(t, 2, testkit.Source, proxyproto.TLV{Type: proxyproto.PP2_TYPE_NOOP, Value: bytes.Repeat([]byte("x"), size-28-3)})
				require.Len(t, header, size)
				head := testkit.Request("X: ")
				head = testkit.Request("X: " + strings.Repeat("x", most-len(head)))
				c := testkit.DialClient(t, l)
				c.Send(t, string(header)+head+testkit.Payload)
				a := c.Answer("GET")
				require.NoError(t, a.Err)
				require.Equal(t, 101, a.StatusCode)
				conn := testkit.NextConn(t, accepted)
				require.Equal(t, testkit.Source, shortIP(conn.RemoteAddr()))
				testkit.Skip(t, conn, testkit.Payload)
			})
		}
	}
}

// shortIP returns a with the IP in the form that net.ParseIP gives it.
func shortIP(a net.Addr) net.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return &net.TCPAddr{IP: tcp.IP.To16(), Port: tcp.Port, Zone: tcp.Zone}
	}
	return a
}

// The address that each header reports, and the address that is used if it
// reports none.
func TestProxyHeaderNames(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{TrustedProxies: testkit.Prefixes("127.0.0.1/32")})
	accepted := testkit.AcceptAll(t, l)
	unix := &net.UnixAddr{Net: "unix", Name: "/run/client.sock"}
	udp := &net.UDPAddr{IP: testkit.Source.IP, Port: 53}
	for name, tt := range map[string]struct{ header, want string }{
		"IPv4 in IPv6":         {"PROXY TCP6 ::ffff:192.0.2.7 ::1 8 9\r\n", "192.0.2.7:8"},
		"IPv4 in IPv6, v2":     {string(testkit.FormatProxyHeader(t, proxyproto.HeaderProxyFromAddrs(2, testkit.Source, testkit.Source6))), testkit.Source.String()},
		"port 0":               {"PROXY TCP4 192.0.2.7 192.0.2.8 0 0\r\n", "192.0.2.7:0"},
		"port 65535":           {"PROXY TCP4 192.0.2.7 192.0.2.8 65535 65535\r\n", "192.0.2.7:65535"},
		"addresses of UNKNOWN": {"PROXY UNKNOWN 192.0.2.7 192.0.2.8 1 2\r\n", ""},
		"the longest possible": {"PROXY UNKNOWN " + strings.Repeat("f", 107-16) + "\r\n", ""},
		"a Unix socket":        {string(testkit.FormatProxyHeader(t, proxyproto.HeaderProxyFromAddrs(2, unix, unix))), ""},
		"a datagram":           {string(testkit.FormatProxyHeader(t, proxyproto.HeaderProxyFromAddrs(2, udp, udp))), udp.String()},
		"LOCAL with addresses": {testkit.ProxyV2Bytes(0x20, 0x11, 3, "GET"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := testkit.DialClient(t, l)
			c.Send(t, tt.header+testkit.Request())
			require.Equal(t, 101, c.Answer("GET").StatusCode)
			conn := testkit.NextConn(t, accepted)
			if tt.want == "" {
				tt.want = c.LocalAddr().String()
			}
			require.IsType(t, &net.TCPAddr{}, conn.RemoteAddr())
			require.Equal(t, tt.want, conn.RemoteAddr().(*net.TCPAddr).AddrPort().String(), "not ::ffff:192.0.2.7, which no prefix contains")
			require.Equal(t, tt.want, conn.Request().RemoteAddr)
		})
	}
}
