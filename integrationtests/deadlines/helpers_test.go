package deadlines_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/preflight-go/preflight/internal/testkit"
)

// dripConn is the client's end of a connection. After the first writes it sends
// its bytes one by one.
type dripConn struct {
	net.Conn
	whole int // the number of writes that are sent whole
	pause time.Duration
}

func (c *dripConn) Write(b []byte) (int, error) {
	if c.whole--; c.whole >= 0 {
		return c.Conn.Write(b)
	}
	for i := range b {
		time.Sleep(c.pause)
		if _, err := c.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// A slowClient client does everything right, but too slowly.
type slowClient struct {
	name    string
	mounted bool
	begin   func(testing.TB, *testkit.Scene, *testkit.Client) *testkit.Client // at once; may be nil
	act     func(*testkit.Scene, *testkit.Client)                             // slowly, in a goroutine
	// answer is the status of the refusal, which the client has a second to
	// read. 0 means that there is none.
	answer int
}

// dripText sends text slowly.
func dripText(text string, pause time.Duration) func(*testkit.Scene, *testkit.Client) {
	return func(_ *testkit.Scene, c *testkit.Client) {
		io.WriteString(&dripConn{Conn: c.Conn, pause: pause}, text)
	}
}

// dripHandshake performs a TLS handshake slowly, except for the first writes.
func dripHandshake(whole int, pause time.Duration) func(*testkit.Scene, *testkit.Client) {
	return func(s *testkit.Scene, c *testkit.Client) {
		tls.Client(&dripConn{testkit.BufferedConn{Conn: c.Conn, R: c.R}, whole, pause}, s.ClientTLS).Handshake()
	}
}

// sendInHalves sends text in two parts. The second part comes after four seconds.
func sendInHalves(text string) func(*testkit.Scene, *testkit.Client) {
	return func(_ *testkit.Scene, c *testkit.Client) {
		io.WriteString(c, text[:len(text)/2])
		time.Sleep(4 * time.Second)
		io.WriteString(c, text[len(text)/2:])
	}
}

// dripTunnel is sendInHalves, followed by a slow TLS handshake inside the tunnel.
func dripTunnel(whole int, pause time.Duration) func(*testkit.Scene, *testkit.Client) {
	return func(s *testkit.Scene, c *testkit.Client) {
		sendInHalves(testkit.TunnelTLSRequest)(s, c)
		if c.Answer("GET").StatusCode == http.StatusSwitchingProtocols {
			dripHandshake(whole, pause)(s, c)
		}
	}
}

func unchanged(_ testing.TB, _ *testkit.Scene, c *testkit.Client) *testkit.Client { return c }

func secureClient(t testing.TB, s *testkit.Scene, c *testkit.Client) *testkit.Client {
	t.Helper()
	return testkit.Secure(t, c, s.ClientTLS)
}

func afterOrdinaryRequest(t testing.TB, _ *testkit.Scene, c *testkit.Client) *testkit.Client {
	t.Helper()
	return c.Asked(t, testkit.Ordinary)
}

func afterProxyHeader(t testing.TB, _ *testkit.Scene, c *testkit.Client) *testkit.Client {
	t.Helper()
	c.Send(t, testkit.ThroughProxy)
	return c
}

var slowClients = []slowClient{
	{name: "its PROXY header", act: dripText(testkit.ThroughProxy, time.Second)},
	{name: "its binary PROXY header", act: dripText(testkit.ProxyV2, time.Second/2)},
	{name: "its TLS hello", act: dripHandshake(0, testkit.Twice)},
	{name: "its TLS hello behind a PROXY header", begin: afterProxyHeader, act: dripHandshake(0, testkit.Twice)},
	{name: "its TLS handshake", act: dripHandshake(1, testkit.Twice)},
	{name: "its head", act: dripText(testkit.Request("X-Long: yes"), testkit.Twice), answer: 408},
	{name: "its head behind a PROXY header", begin: afterProxyHeader, act: dripText(testkit.Request("X-Long: yes"), testkit.Twice), answer: 408},
	{name: "its head over TLS", begin: secureClient, act: dripText(testkit.Request("X-Long: yes"), testkit.Twice), answer: 408},
	{name: "Authorize", act: sendInHalves(testkit.Request("Wait: yes")), answer: 403},
	{name: "Authorize over TLS", begin: secureClient, act: sendInHalves(testkit.Request("Wait: yes")), answer: 403},
	{name: "reading its 101", act: sendInHalves(testkit.Request())},
	{name: "reading its 101 over TLS", begin: secureClient, act: sendInHalves(testkit.Request())},
	{name: "the hello inside the tunnel", act: dripTunnel(0, testkit.Twice)},
	{name: "the handshake inside the tunnel", act: dripTunnel(1, testkit.Twice)},
	{name: "the handshake inside the tunnel over TLS", begin: secureClient, act: dripTunnel(1, testkit.Twice)},
}

// Before that, net/http applies its own timeouts. Here the handshake begins at
// the end of the head.
var slowHTTPClients = []slowClient{
	{name: "ServeHTTP, Authorize", mounted: true, act: dripText(testkit.Request("Wait: yes"), 0), answer: 403},
	{name: "ServeHTTP, reading its 101", mounted: true, act: dripText(testkit.Request(), 0)},
	{name: "ServeHTTP, the hello inside the tunnel", mounted: true, begin: upgradedForTLS, act: dripHandshake(0, testkit.Twice)},
	{name: "ServeHTTP, the handshake inside the tunnel", mounted: true, begin: upgradedForTLS, act: dripHandshake(1, testkit.Twice)},
	{name: "behind a request, Authorize", begin: afterOrdinaryRequest, act: dripText(testkit.Request("Wait: yes"), 0), answer: 403},
	{name: "behind a request, reading its 101", begin: afterOrdinaryRequest, act: dripText(testkit.Request(), 0)},
	{name: "behind a request, the handshake inside the tunnel", begin: func(t testing.TB, s *testkit.Scene, c *testkit.Client) *testkit.Client {
		return upgradedForTLS(t, s, c.Asked(t, testkit.Ordinary))
	}, act: dripHandshake(1, testkit.Twice)},
	{name: "behind a request over TLS, reading its 101", begin: func(t testing.TB, s *testkit.Scene, c *testkit.Client) *testkit.Client {
		return secureClient(t, s, c).Asked(t, testkit.Ordinary)
	}, act: dripText(testkit.Request(), 0)},
}

func upgradedForTLS(t testing.TB, _ *testkit.Scene, c *testkit.Client) *testkit.Client {
	t.Helper()
	return c.Upgraded(t, testkit.TunnelTLSRequest)
}
