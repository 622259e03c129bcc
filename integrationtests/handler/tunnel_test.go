package handler_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// twoOrdinary holds two ordinary requests.
const twoOrdinary = testkit.Get + "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"

// requireTunnelAfterOrdinary requires that two ordinary requests are answered, and that the
// upgrade request after them opens a tunnel that begins with data.
func requireTunnelAfterOrdinary(t testing.TB, c *testkit.Client, accepted <-chan *preflight.Conn, data string) {
	t.Helper()
	c.Got(t)
	require.Equal(t, "POST /b HTTP/1.1 5 <nil>", c.Answer("POST").Text)
	a := c.Answer("GET")
	require.NoError(t, a.Err)
	require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
	require.Equal(t, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}, a.Header)
	conn := testkit.NextConn(t, accepted)
	require.Equal(t, "/t", conn.Request().URL.Path)
	require.Equal(t, "tcp", conn.Response().Header.Get("Upgrade"))
	testkit.Skip(t, conn, data)
	testkit.Talk(t, c, conn)
	require.NoError(t, conn.Close())
	c.Ended(t)
}

// A connection that has carried ordinary requests becomes a tunnel. Bytes glued
// to the head belong to the tunnel, for every split into segments.
func TestHandlerThenTunnel(t *testing.T) {
	const data = "GET /no HTTP/1.1\r\n\r\n"
	stream := twoOrdinary + testkit.Request() + data
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, Handler: testkit.ReportHandler})
		accepted := testkit.AcceptAll(t, l)
		for split := range len(stream) {
			c := n.Dial(t)
			go func() {
				io.WriteString(c, stream[:split])
				io.WriteString(c, stream[split:])
			}()
			requireTunnelAfterOrdinary(t, c, accepted, data)
		}
		for _, piece := range []int{1, 2, 3, 10} {
			c := n.Dial(t)
			go testkit.WriteInPieces(c, stream, piece)
			requireTunnelAfterOrdinary(t, c, accepted, data)
		}
	})
}

// It makes no difference which buffer holds them: that of the first sorting,
// that of net/http, or the socket's.
func TestHandlerThenTunnelWithMuchData(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Handler: testkit.ReportHandler})
	accepted := testkit.AcceptAll(t, l)
	for _, size := range []int{0, 600, 5000, 16 << 10} {
		for _, much := range []int{1, 512, 4096, 9000, 50_000} {
			t.Run(fmt.Sprintf("%d bytes behind a head of %d", much, size), func(t *testing.T) {
				first := "GET /health HTTP/1.1\r\nHost: h\r\nX: "
				first += strings.Repeat("x", max(0, size-len(first)-4)) + "\r\n\r\n"
				data := strings.Repeat("0123456789", much/10+1)[:much]
				c := testkit.DialClient(t, l)
				go func() {
					io.WriteString(c, first+testkit.Request()+data)
					c.Conn.(*net.TCPConn).CloseWrite()
				}()
				c.Got(t)
				require.Equal(t, http.StatusSwitchingProtocols, c.Answer("GET").StatusCode)
				conn := testkit.NextConn(t, accepted)
				got, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.True(t, data == string(got), "%d bytes sent, %d received", len(data), len(got))
				testkit.Carry(t, "an answer", conn, c.R)
			})
		}
	}
}

// The refusal of a later request ends its connection too.
func TestHandlerThenRefusal(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Handler: testkit.ReportHandler, Authorize: func(r *http.Request) (http.Header, error) {
		return nil, &preflight.StatusError{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {"Bearer"}}}
	}})
	testkit.AcceptAll(t, l)
	for _, way := range testkit.Ways(t, l) {
		t.Run(way.Name, func(t *testing.T) {
			c := way.Dial(t)
			c.Send(t, testkit.Request()+testkit.Get)
			a := c.Refused(t, "GET")
			require.Equal(t, http.StatusUnauthorized, a.StatusCode)
			require.Equal(t, "Bearer", a.Header.Get("Www-Authenticate"))
		})
	}
}

// clientFacts is what the server knows about a client.
type clientFacts struct{ remote, user, secret string }

// A proxy sends the requests of different clients over one connection. The
// address and the fields of each request come from its own head. Handler sees
// the address of the peer. A PROXY header applies to the whole connection.
func TestHandlerFactsOfEachRequest(t *testing.T) {
	for _, tt := range []struct{ name, proxy, peer string }{
		{"plain", "", ""},
		{"behind a PROXY header", "PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n", "192.0.2.7:1234"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			facts := func(r *http.Request) clientFacts {
				return clientFacts{r.RemoteAddr, r.Header.Get("X-User"), r.Header.Get("X-Secret")}
			}
			handled, authorized := make(chan clientFacts, 9), make(chan clientFacts, 9)
			l := testkit.Listen(t, &preflight.PreflightListener{
				TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")},
				Handler:        http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handled <- facts(r); testkit.ReportHandler(w, r) }),
				Authorize:      func(r *http.Request) (http.Header, error) { authorized <- facts(r); return nil, nil },
			})
			accepted := testkit.AcceptAll(t, l)
			for _, glued := range []bool{false, true} {
				c := testkit.DialClient(t, l)
				peer := tt.peer
				if peer == "" {
					peer = c.LocalAddr().String()
				}
				ordinary := "GET /health HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 198.51.100.%d\r\nX-User: %s\r\nX-Secret: yes\r\n\r\n"
				requests := []string{
					tt.proxy + fmt.Sprintf(ordinary, 1, "ann"),
					fmt.Sprintf(ordinary, 2, "ben"),
					testkit.Request("X-Forwarded-For: 198.51.100.3", "X-User: cia"),
				}
				if glued {
					c.Send(t, strings.Join(requests, ""))
				}
				for i, user := range []string{"ann", "ben"} {
					if !glued {
						c.Send(t, requests[i])
					}
					c.Got(t)
					require.Equal(t, clientFacts{peer, user, "yes"}, <-handled)
				}
				if !glued {
					c.Send(t, requests[2])
				}
				require.Equal(t, http.StatusSwitchingProtocols, c.Answer("GET").StatusCode)
				conn := testkit.NextTunnel(t, accepted)
				want := clientFacts{"198.51.100.3:0", "cia", ""}
				require.Equal(t, want, <-authorized)
				require.Equal(t, want, facts(conn.Request()))
				require.Equal(t, want.remote, conn.RemoteAddr().String())
				require.IsType(t, &net.TCPAddr{}, conn.RemoteAddr())
				require.IsType(t, &net.TCPConn{}, conn.NetConn())
				require.Equal(t, c.LocalAddr().String(), conn.NetConn().RemoteAddr().String())
				require.Equal(t, http.Header{
					"Connection": {"Upgrade"}, "Upgrade": {"tcp"}, "X-User": {"cia"}, "X-Forwarded-For": {"198.51.100.3"},
				}, conn.Request().Header)
				testkit.Talk(t, c, conn)
				require.Empty(t, handled)
				require.Empty(t, authorized)
			}
		})
	}
}

// countingListener counts the connections that it has accepted.
type countingListener struct {
	net.Listener
	count atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.count.Add(1)
	}
	return c, err
}

// The same with the reverse proxy of the standard library, and clients with
// their own addresses.
func TestHandlerBehindGoProxy(t *testing.T) {
	remotes := make(chan string, 9)
	inner := &countingListener{Listener: testkit.ListenTCP(t)}
	l := testkit.Listen(t, &preflight.PreflightListener{
		Listener:       inner,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		Handler:        http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { remotes <- r.RemoteAddr; testkit.ReportHandler(w, r) }),
	})
	accepted := testkit.AcceptAll(t, l)
	transport := &http.Transport{MaxConnsPerHost: 1} // so that one connection carries all requests
	defer transport.CloseIdleConnections()
	proxy := testkit.ListenTCP(t)
	testkit.ServeHTTP(t, proxy, &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: l.Addr().String()})
		r.SetXForwarded()
	}})
	from := func(ip string) *testkit.Client {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		c, err := d.Dial("tcp", proxy.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(testkit.Patience))
		return &testkit.Client{Conn: c, R: bufio.NewReader(c)}
	}
	for _, ip := range []string{"127.0.0.2", "127.0.0.3"} {
		c := from(ip)
		c.Send(t, testkit.Get)
		c.Got(t)
		host, _, _ := net.SplitHostPort(<-remotes)
		require.Equal(t, "127.0.0.1", host, "never X-Forwarded-For")
	}
	c := from("127.0.0.4")
	c.Send(t, testkit.Request())
	require.Equal(t, http.StatusSwitchingProtocols, c.Answer("GET").StatusCode)
	conn := testkit.NextTunnel(t, accepted)
	require.Equal(t, "127.0.0.4:0", conn.RemoteAddr().String())
	require.Equal(t, "127.0.0.4:0", conn.Request().RemoteAddr)
	require.EqualValues(t, 1, inner.count.Load(), "one connection for three clients")
	testkit.Talk(t, c, conn)
}

// Over TLS, Handler and a tunnel see the TLS state, for each server that may
// have accepted the connection.
func TestHandlerSeesTLS(t *testing.T) {
	serverTLS, clientTLS := testkit.TLSConfigs(t)
	for _, tt := range []struct {
		name  string
		make  func(h http.Handler) *preflight.PreflightListener
		plain bool
	}{
		{"TLSConfig", func(h http.Handler) *preflight.PreflightListener {
			return &preflight.PreflightListener{TLSConfig: serverTLS, Handler: h}
		}, true},
		{"underneath", func(h http.Handler) *preflight.PreflightListener {
			return &preflight.PreflightListener{Listener: tls.NewListener(testkit.ListenTCP(t), serverTLS), Handler: h}
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			secure := make(chan bool, 9)
			l := testkit.Listen(t, tt.make(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				secure <- r.TLS != nil && r.TLS.HandshakeComplete && r.TLS.ServerName == clientTLS.ServerName
				testkit.ReportHandler(w, r)
			})))
			accepted := testkit.AcceptAll(t, l)
			c := testkit.Secure(t, testkit.DialClient(t, l), clientTLS)
			for range 2 {
				c.Send(t, testkit.Get)
				c.Got(t)
				require.True(t, <-secure)
			}
			c.Send(t, testkit.Request())
			require.Equal(t, http.StatusSwitchingProtocols, c.Answer("GET").StatusCode)
			conn := testkit.NextTunnel(t, accepted)
			require.Equal(t, clientTLS.ServerName, conn.Request().TLS.ServerName)
			testkit.Talk(t, c, conn)
			if tt.plain {
				c := testkit.DialClient(t, l)
				c.Send(t, testkit.Get)
				c.Got(t)
				require.False(t, <-secure, "the same listener also has clients without TLS")
			}
		})
	}
}
