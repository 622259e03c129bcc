package deadlines_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// openLayers opens the layers above c, and pauses before each.
func openLayers(t testing.TB, c *testkit.Client, header []byte, client *tls.Config, pause time.Duration) *testkit.Client {
	t.Helper()
	if header != nil {
		time.Sleep(pause)
		c.Send(t, string(header))
	}
	if client == nil {
		return c
	}
	time.Sleep(pause)
	tc := tls.Client(c.Conn, client)
	require.NoError(t, tc.Handshake())
	return &testkit.Client{Conn: tc, R: bufio.NewReader(tc), Server: c.Server}
}

// requireGreeting requires that the server can speak first, and then the client.
func requireGreeting(t testing.TB, conn net.Conn, c *testkit.Client) {
	t.Helper()
	testkit.Carry(t, "220 the server speaks first\r\n", conn, c.R)
	testkit.Carry(t, "EHLO x\r\n", c, conn)
	time.Sleep(time.Hour) // no deadline remains
	testkit.Talk(t, c, conn)
	go io.Copy(io.Discard, c.R) // the end of TLS is a message too
	require.NoError(t, conn.Close())
}

// layerStack holds the layers that can lie below a silent client, and the address
// of the client with them.
type layerStack struct {
	name   string
	header []byte
	tls    *tls.Config
	remote string
}

func layerStacks(t testing.TB, client *tls.Config) []layerStack {
	t.Helper()
	v1, v2 := testkit.ProxyHeader(t, 1, testkit.Source), testkit.ProxyHeader(t, 2, testkit.Source6)
	return []layerStack{
		{"none", nil, nil, testkit.NetworkAddr.String()},
		{"PROXY v1", v1, nil, testkit.Source.String()},
		{"PROXY v2", v2, nil, testkit.Source6.String()},
		{"TLS", nil, client, testkit.NetworkAddr.String()},
		{"PROXY v1 and TLS", v1, client, testkit.Source.String()},
		{"PROXY v2 and TLS", v2, client, testkit.Source6.String()},
	}
}

// PlainAfter counts from the start of the innermost layer. The time to open one
// layer does not reduce the time that the client has to begin the next.
func TestPlainAfterCountsFromTheInnermostLayer(t *testing.T) {
	const after = 300 * time.Millisecond
	server, client := testkit.PipeTLS(t)
	for _, nest := range layerStacks(t, client) {
		t.Run(nest.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{
					Listener: n, TrustedProxies: testkit.Prefixes("192.0.2.1/32"), TLSConfig: server, PlainAfter: after,
				})
				accepted := testkit.AcceptAll(t, l)
				c := openLayers(t, n.Dial(t), nest.header, nest.tls, after-1)
				opened := time.Since(start)
				conn := <-accepted
				require.Equal(t, opened+after, time.Since(start))
				require.Equal(t, nest.remote, conn.RemoteAddr().String())
				require.Nil(t, conn.Request())
				require.Equal(t, opened+after, time.Since(start), "RemoteAddr does not wait")
				requireGreeting(t, conn, c)
			})
		})
	}
}

// PlainAfter does not shorten the time of a layer that has begun, nor of a head
// in it. One deadline, HandshakeTimeout, applies to all of them together.
func TestPlainAfterDoesNotApplyInsideALayer(t *testing.T) {
	server, client := testkit.PipeTLS(t)
	hello := testkit.ClientHello(t, client)
	v1, v2 := testkit.ProxyHeader(t, 1, testkit.Source), testkit.ProxyHeader(t, 2, testkit.Source)
	for name, tt := range map[string]struct {
		sent, later string // sent after 8 seconds
		plain       bool   // a client that stalls there is delivered as plain at the end of the handshake
	}{
		"in PROXY v1":               {sent: string(v1[:10]), later: string(v1[10:]) + testkit.Request()},
		"in PROXY v2":               {sent: string(v2[:20]), later: string(v2[20:]) + testkit.Request()},
		"in the signature":          {sent: "PRO", later: string(v1[3:]) + testkit.Request(), plain: true},
		"in a head behind PROXY":    {sent: string(v1) + "G", later: testkit.Request()[1:], plain: true},
		"in a hello":                {sent: string(hello[:50])},
		"in a hello behind PROXY":   {sent: string(v2) + string(hello[:50])},
		"in the header of a record": {sent: string(hello[:3]), plain: true},
		"behind a hello":            {sent: string(hello)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{
					Listener: n, TrustedProxies: testkit.Prefixes("192.0.2.1/32"), TLSConfig: server, PlainAfter: time.Second,
				})
				accepted := testkit.AcceptAll(t, l)
				stuck := n.Dial(t)
				stuck.Send(t, tt.sent)
				if tt.later != "" {
					c := n.Dial(t)
					c.Send(t, tt.sent)
					time.Sleep(8 * time.Second)
					require.Equal(t, 101, (<-c.Ask(tt.later)).StatusCode)
					conn := <-accepted
					require.Equal(t, testkit.Source.String(), conn.RemoteAddr().String())
					testkit.Talk(t, c, conn)
				}
				if tt.plain {
					require.Nil(t, (<-accepted).Request())
				} else {
					io.Copy(io.Discard, stuck.R) // the bytes that TLS sends
					synctest.Wait()
					require.True(t, stuck.Server.Closed.Load())
					require.Empty(t, accepted)
				}
				require.Equal(t, 10*time.Second, time.Since(start))
			})
		})
	}
}

// A silent client that must make room is delivered as plain, with its own
// address and through all layers below it. A client that stalls in a layer is
// closed.
func TestEvictionAmongLayers(t *testing.T) {
	server, client := testkit.PipeTLS(t)
	crowded := func(t *testing.T) (*testkit.Network, <-chan *preflight.Conn) {
		n := testkit.NewNetwork()
		return n, testkit.AcceptAll(t, testkit.Listen(t, &preflight.PreflightListener{
			Listener: n, TrustedProxies: testkit.Prefixes("192.0.2.1/32"), TLSConfig: server, MaxPending: 1,
		}))
	}
	for _, nest := range layerStacks(t, client) {
		t.Run("silent behind "+nest.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n, accepted := crowded(t)
				c := openLayers(t, n.Dial(t), nest.header, nest.tls, 100*time.Millisecond)
				next := n.Dial(t)
				require.Equal(t, 101, (<-next.Ask(testkit.Request())).StatusCode)
				require.Equal(t, time.Second, time.Since(start))
				conn := <-accepted
				require.Nil(t, conn.Request())
				require.Equal(t, nest.remote, conn.RemoteAddr().String())
				testkit.Talk(t, next, <-accepted)
				requireGreeting(t, conn, c)
			})
		})
	}
	hello := testkit.ClientHello(t, client)
	v1, v2 := testkit.ProxyHeader(t, 1, testkit.Source), testkit.ProxyHeader(t, 2, testkit.Source)
	for name, sent := range map[string]string{
		"in PROXY v1":             string(v1[:10]),
		"in PROXY v2":             string(v2[:20]),
		"in the signature":        "PRO",
		"in a line behind PROXY":  string(v1) + "EHLO",
		"in a hello":              string(hello[:50]),
		"in a hello behind PROXY": string(v2) + string(hello[:50]),
		"behind a hello":          string(hello),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n, accepted := crowded(t)
				old := n.Dial(t)
				old.Send(t, sent)
				ended := make(chan struct{})
				go func() { // a TCP connection has buffer space for the answer of TLS
					io.Copy(io.Discard, old.R)
					close(ended)
				}()
				next := n.Dial(t)
				require.Equal(t, 101, (<-next.Ask(testkit.Request())).StatusCode)
				require.Equal(t, time.Second, time.Since(start))
				testkit.Talk(t, next, <-accepted)
				<-ended
				synctest.Wait()
				require.True(t, old.Server.Closed.Load())
				require.Empty(t, accepted)
			})
		})
	}
}

// Close does not wait for a layer.
func TestCloseAmongLayers(t *testing.T) {
	server, client := testkit.PipeTLS(t)
	hello := testkit.ClientHello(t, client)
	v1 := testkit.ProxyHeader(t, 1, testkit.Source)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{
			Listener: n, TrustedProxies: testkit.Prefixes("192.0.2.1/32"), TLSConfig: server,
		})
		accepted := testkit.AcceptAll(t, l)
		var clients []*testkit.Client
		for _, sent := range []string{string(v1[:10]), string(v1), string(hello[:50]), string(hello), string(v1) + string(hello)} {
			c := n.Dial(t)
			c.Send(t, sent)
			clients = append(clients, c)
		}
		clients = append(clients, openLayers(t, n.Dial(t), nil, client, 0))
		tunnel := n.Dial(t)
		require.Equal(t, 101, (<-tunnel.Ask(testkit.RequestTLS)).StatusCode)
		clients = append(clients, tunnel)
		synctest.Wait()
		require.NoError(t, l.Close())
		for i, c := range clients {
			io.Copy(io.Discard, c.R)
			synctest.Wait()
			require.True(t, c.Server.Closed.Load(), "client %d", i)
		}
		require.Zero(t, time.Since(start))
		require.Empty(t, accepted)
	})
}

// The layers are bounded on a transport without deadlines too.
func TestLayersOverTransportWithoutDeadlines(t *testing.T) {
	server, client := testkit.PipeTLS(t)
	hello := testkit.ClientHello(t, client)
	for name, tt := range map[string]struct {
		sent string
		tls  bool // the client speaks TLS, and asks for a tunnel with TLS inside
	}{
		"in PROXY":        {sent: "PROXY TCP4"},
		"in a hello":      {sent: string(hello[:50])},
		"behind a hello":  {sent: string(hello)},
		"in the tunnel":   {sent: testkit.RequestTLS},
		"in TLS, a hello": {sent: testkit.RequestTLS + string(hello[:50]), tls: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{
					Listener: n, TrustedProxies: testkit.Prefixes("192.0.2.1/32"), TLSConfig: server,
				})
				accepted := testkit.AcceptAll(t, l)
				ours, theirs := net.Pipe()
				defer ours.Close()
				transport := testkit.NoDeadlines{NetworkConn: &testkit.NetworkConn{Conn: theirs}}
				n.Backlog <- transport
				var c net.Conn = ours
				if tt.tls {
					tc := tls.Client(ours, client)
					require.NoError(t, tc.Handshake())
					c = tc
				}
				go io.WriteString(c, tt.sent)
				_, err := io.Copy(io.Discard, c)
				require.True(t, err == nil || errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
				require.Equal(t, 10*time.Second, time.Since(start))
				synctest.Wait()
				require.True(t, transport.Closed.Load())
				require.Empty(t, accepted)
			})
		})
	}
}
