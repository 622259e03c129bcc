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

// shdDrip is the client's end of a connection. After the first writes it sends
// its bytes one by one.
type shdDrip struct {
	net.Conn
	whole int // the number of writes that are sent whole
	pause time.Duration
}

func (c *shdDrip) Write(b []byte) (int, error) {
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

// A shdSlow client does everything right, but too slowly.
type shdSlow struct {
	name    string
	mounted bool
	begin   func(testing.TB, *testkit.Scene, *testkit.Client) *testkit.Client // at once; may be nil
	act     func(*testkit.Scene, *testkit.Client)                             // slowly, in a goroutine
	// answer is the status of the refusal, which the client has a second to
	// read. 0 means that there is none.
	answer int
}

// shdDripped sends text slowly.
func shdDripped(text string, pause time.Duration) func(*testkit.Scene, *testkit.Client) {
	return func(_ *testkit.Scene, c *testkit.Client) {
		io.WriteString(&shdDrip{Conn: c.Conn, pause: pause}, text)
	}
}

// shdDrippedTLS performs a TLS handshake slowly, except for the first writes.
func shdDrippedTLS(whole int, pause time.Duration) func(*testkit.Scene, *testkit.Client) {
	return func(s *testkit.Scene, c *testkit.Client) {
		tls.Client(&shdDrip{testkit.BufferedConn{Conn: c.Conn, R: c.R}, whole, pause}, s.ClientTLS).Handshake()
	}
}

// shdLate sends text in two parts. The second part comes after four seconds.
func shdLate(text string) func(*testkit.Scene, *testkit.Client) {
	return func(_ *testkit.Scene, c *testkit.Client) {
		io.WriteString(c, text[:len(text)/2])
		time.Sleep(4 * time.Second)
		io.WriteString(c, text[len(text)/2:])
	}
}

// shdTunnel is shdLate, followed by a slow TLS handshake inside the tunnel.
func shdTunnel(whole int, pause time.Duration) func(*testkit.Scene, *testkit.Client) {
	return func(s *testkit.Scene, c *testkit.Client) {
		shdLate(testkit.TunnelTLSRequest)(s, c)
		if c.Answer("GET").StatusCode == http.StatusSwitchingProtocols {
			shdDrippedTLS(whole, pause)(s, c)
		}
	}
}

func shdSame(_ testing.TB, _ *testkit.Scene, c *testkit.Client) *testkit.Client { return c }

func shdSecure(t testing.TB, s *testkit.Scene, c *testkit.Client) *testkit.Client {
	t.Helper()
	return testkit.Secure(t, c, s.ClientTLS)
}

func shdAsked(t testing.TB, _ *testkit.Scene, c *testkit.Client) *testkit.Client {
	t.Helper()
	return c.Asked(t, testkit.Ordinary)
}

func shdProxied(t testing.TB, _ *testkit.Scene, c *testkit.Client) *testkit.Client {
	t.Helper()
	c.Send(t, testkit.ThroughProxy)
	return c
}

var shdSlows = []shdSlow{
	{name: "its PROXY header", act: shdDripped(testkit.ThroughProxy, time.Second)},
	{name: "its binary PROXY header", act: shdDripped(testkit.ProxyV2, time.Second/2)},
	{name: "its TLS hello", act: shdDrippedTLS(0, testkit.Twice)},
	{name: "its TLS hello behind a PROXY header", begin: shdProxied, act: shdDrippedTLS(0, testkit.Twice)},
	{name: "its TLS handshake", act: shdDrippedTLS(1, testkit.Twice)},
	{name: "its head", act: shdDripped(testkit.Request("X-Long: yes"), testkit.Twice), answer: 408},
	{name: "its head behind a PROXY header", begin: shdProxied, act: shdDripped(testkit.Request("X-Long: yes"), testkit.Twice), answer: 408},
	{name: "its head over TLS", begin: shdSecure, act: shdDripped(testkit.Request("X-Long: yes"), testkit.Twice), answer: 408},
	{name: "Authorize", act: shdLate(testkit.Request("Wait: yes")), answer: 403},
	{name: "Authorize over TLS", begin: shdSecure, act: shdLate(testkit.Request("Wait: yes")), answer: 403},
	{name: "reading its 101", act: shdLate(testkit.Request())},
	{name: "reading its 101 over TLS", begin: shdSecure, act: shdLate(testkit.Request())},
	{name: "the hello inside the tunnel", act: shdTunnel(0, testkit.Twice)},
	{name: "the handshake inside the tunnel", act: shdTunnel(1, testkit.Twice)},
	{name: "the handshake inside the tunnel over TLS", begin: shdSecure, act: shdTunnel(1, testkit.Twice)},
}

// Before that, net/http applies its own timeouts. Here the handshake begins at
// the end of the head.
var shdSlowsInHTTP = []shdSlow{
	{name: "ServeHTTP, Authorize", mounted: true, act: shdDripped(testkit.Request("Wait: yes"), 0), answer: 403},
	{name: "ServeHTTP, reading its 101", mounted: true, act: shdDripped(testkit.Request(), 0)},
	{name: "ServeHTTP, the hello inside the tunnel", mounted: true, begin: shdUpgraded, act: shdDrippedTLS(0, testkit.Twice)},
	{name: "ServeHTTP, the handshake inside the tunnel", mounted: true, begin: shdUpgraded, act: shdDrippedTLS(1, testkit.Twice)},
	{name: "behind a request, Authorize", begin: shdAsked, act: shdDripped(testkit.Request("Wait: yes"), 0), answer: 403},
	{name: "behind a request, reading its 101", begin: shdAsked, act: shdDripped(testkit.Request(), 0)},
	{name: "behind a request, the handshake inside the tunnel", begin: func(t testing.TB, s *testkit.Scene, c *testkit.Client) *testkit.Client {
		return shdUpgraded(t, s, c.Asked(t, testkit.Ordinary))
	}, act: shdDrippedTLS(1, testkit.Twice)},
	{name: "behind a request over TLS, reading its 101", begin: func(t testing.TB, s *testkit.Scene, c *testkit.Client) *testkit.Client {
		return shdSecure(t, s, c).Asked(t, testkit.Ordinary)
	}, act: shdDripped(testkit.Request(), 0)},
}

func shdUpgraded(t testing.TB, _ *testkit.Scene, c *testkit.Client) *testkit.Client {
	t.Helper()
	return c.Upgraded(t, testkit.TunnelTLSRequest)
}
