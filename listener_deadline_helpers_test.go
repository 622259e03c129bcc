package preflight_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// shdDrip is the end of a client that sends what it has to say byte by byte,
// but for the first writes.
type shdDrip struct {
	net.Conn
	whole int // writes that are not dripped
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

// A shdSlow client does everything right, and too slowly.
type shdSlow struct {
	name    string
	mounted bool
	begin   func(testing.TB, *shdScene, *lisClient) *lisClient // in no time; may be nil
	act     func(*shdScene, *lisClient)                        // slowly, in a goroutine
	// answer is the status of the refusal, which the client has a second to
	// read; 0: there is none.
	answer int
}

// shdDripped sends text slowly.
func shdDripped(text string, pause time.Duration) func(*shdScene, *lisClient) {
	return func(_ *shdScene, c *lisClient) { io.WriteString(&shdDrip{Conn: c.Conn, pause: pause}, text) }
}

// shdDrippedTLS shakes hands slowly, but for the first writes.
func shdDrippedTLS(whole int, pause time.Duration) func(*shdScene, *lisClient) {
	return func(s *shdScene, c *lisClient) {
		tls.Client(&shdDrip{shdBuffered{c.Conn, c.r}, whole, pause}, s.clientTLS).Handshake()
	}
}

// shdBuffered is a connection of which some has been read into r.
type shdBuffered struct {
	net.Conn
	r *bufio.Reader
}

func (c shdBuffered) Read(b []byte) (int, error) { return c.r.Read(b) }

// shdLate sends text in two parts, of which the second comes after four seconds.
func shdLate(text string) func(*shdScene, *lisClient) {
	return func(_ *shdScene, c *lisClient) {
		io.WriteString(c, text[:len(text)/2])
		time.Sleep(4 * time.Second)
		io.WriteString(c, text[len(text)/2:])
	}
}

// shdTunnel is shdLate, and then a slow handshake inside the tunnel.
func shdTunnel(whole int, pause time.Duration) func(*shdScene, *lisClient) {
	return func(s *shdScene, c *lisClient) {
		shdLate(shdTunnels)(s, c)
		if c.answer("GET").StatusCode == http.StatusSwitchingProtocols {
			shdDrippedTLS(whole, pause)(s, c)
		}
	}
}

func shdSame(_ testing.TB, _ *shdScene, c *lisClient) *lisClient { return c }

func shdSecure(t testing.TB, s *shdScene, c *lisClient) *lisClient {
	t.Helper()
	return lisSecure(t, c, s.clientTLS)
}

func shdAsked(t testing.TB, _ *shdScene, c *lisClient) *lisClient {
	t.Helper()
	return c.asked(t, shdOrdinary)
}

func shdProxied(t testing.TB, _ *shdScene, c *lisClient) *lisClient {
	t.Helper()
	c.send(t, shdProxy)
	return c
}

const (
	shdProxyV2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\x12\x67\x01\xbb"
	// shdTwice is a pause with which a hundred bytes take twice the time.
	shdTwice = 200 * time.Millisecond
)

var shdSlows = []shdSlow{
	{name: "its PROXY header", act: shdDripped(shdProxy, time.Second)},
	{name: "its binary PROXY header", act: shdDripped(shdProxyV2, time.Second/2)},
	{name: "its TLS hello", act: shdDrippedTLS(0, shdTwice)},
	{name: "its TLS hello behind a PROXY header", begin: shdProxied, act: shdDrippedTLS(0, shdTwice)},
	{name: "its TLS handshake", act: shdDrippedTLS(1, shdTwice)},
	{name: "its head", act: shdDripped(lisRequest("X-Long: yes"), shdTwice), answer: 408},
	{name: "its head behind a PROXY header", begin: shdProxied, act: shdDripped(lisRequest("X-Long: yes"), shdTwice), answer: 408},
	{name: "its head over TLS", begin: shdSecure, act: shdDripped(lisRequest("X-Long: yes"), shdTwice), answer: 408},
	{name: "Authorize", act: shdLate(lisRequest("Wait: yes")), answer: 403},
	{name: "Authorize over TLS", begin: shdSecure, act: shdLate(lisRequest("Wait: yes")), answer: 403},
	{name: "reading its 101", act: shdLate(lisRequest())},
	{name: "reading its 101 over TLS", begin: shdSecure, act: shdLate(lisRequest())},
	{name: "the hello inside the tunnel", act: shdTunnel(0, shdTwice)},
	{name: "the handshake inside the tunnel", act: shdTunnel(1, shdTwice)},
	{name: "the handshake inside the tunnel over TLS", begin: shdSecure, act: shdTunnel(1, shdTwice)},
}

// What net/http reads before belongs to its own timeouts: here the handshake
// begins with the end of the head.
var shdSlowsInHTTP = []shdSlow{
	{name: "ServeHTTP, Authorize", mounted: true, act: shdDripped(lisRequest("Wait: yes"), 0), answer: 403},
	{name: "ServeHTTP, reading its 101", mounted: true, act: shdDripped(lisRequest(), 0)},
	{name: "ServeHTTP, the hello inside the tunnel", mounted: true, begin: shdUpgraded, act: shdDrippedTLS(0, shdTwice)},
	{name: "ServeHTTP, the handshake inside the tunnel", mounted: true, begin: shdUpgraded, act: shdDrippedTLS(1, shdTwice)},
	{name: "behind a request, Authorize", begin: shdAsked, act: shdDripped(lisRequest("Wait: yes"), 0), answer: 403},
	{name: "behind a request, reading its 101", begin: shdAsked, act: shdDripped(lisRequest(), 0)},
	{name: "behind a request, the handshake inside the tunnel", begin: func(t testing.TB, s *shdScene, c *lisClient) *lisClient {
		return shdUpgraded(t, s, c.asked(t, shdOrdinary))
	}, act: shdDrippedTLS(1, shdTwice)},
	{name: "behind a request over TLS, reading its 101", begin: func(t testing.TB, s *shdScene, c *lisClient) *lisClient {
		return shdSecure(t, s, c).asked(t, shdOrdinary)
	}, act: shdDripped(lisRequest(), 0)},
}

func shdUpgraded(t testing.TB, _ *shdScene, c *lisClient) *lisClient {
	t.Helper()
	return c.upgraded(t, shdTunnels)
}
