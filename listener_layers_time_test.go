package preflight_test

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
	"github.com/stretchr/testify/require"
)

// kndPipeTLS is kndTLS for connections without a buffer: a server that still
// writes tickets when its client begins to write would wait for ever.
func kndPipeTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	server, client = kndTLS(t)
	server.SessionTicketsDisabled = true
	return server, client
}

// kndOpen opens the layers above c, each after a pause.
func kndOpen(t testing.TB, c *lisClient, header []byte, client *tls.Config, pause time.Duration) *lisClient {
	t.Helper()
	if header != nil {
		time.Sleep(pause)
		c.send(t, string(header))
	}
	if client == nil {
		return c
	}
	time.Sleep(pause)
	tc := tls.Client(c.Conn, client)
	require.NoError(t, tc.Handshake())
	return &lisClient{Conn: tc, r: bufio.NewReader(tc), server: c.server}
}

// kndGreeted requires that the server can speak first, and the client then.
func kndGreeted(t testing.TB, conn net.Conn, c *lisClient) {
	t.Helper()
	lisCarry(t, "220 the server speaks first\r\n", conn, c.r)
	lisCarry(t, "EHLO x\r\n", c, conn)
	time.Sleep(time.Hour) // no deadline is left over
	lisTalk(t, c, conn)
	go io.Copy(io.Discard, c.r) // the end of TLS is a message too
	require.NoError(t, conn.Close())
}

// kndNest are the layers that can lie below a silent client, and the client's
// address then.
type kndNest struct {
	name   string
	header []byte
	tls    *tls.Config
	remote string
}

func kndNests(t testing.TB, client *tls.Config) []kndNest {
	t.Helper()
	v1, v2 := kndProxy(t, 1, kndSource), kndProxy(t, 2, kndSource6)
	return []kndNest{
		{"none", nil, nil, lisAddr.String()},
		{"PROXY v1", v1, nil, kndSource.String()},
		{"PROXY v2", v2, nil, kndSource6.String()},
		{"TLS", nil, client, lisAddr.String()},
		{"PROXY v1 and TLS", v1, client, kndSource.String()},
		{"PROXY v2 and TLS", v2, client, kndSource6.String()},
	}
}

// PlainAfter counts from the start of the innermost layer: what it takes to open
// one is not taken from the client's time to begin the next.
func TestPlainAfterCountsFromTheInnermostLayer(t *testing.T) {
	const after = 300 * time.Millisecond
	server, client := kndPipeTLS(t)
	for _, nest := range kndNests(t, client) {
		t.Run(nest.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := lisNewNet()
				l := listen(t, &preflight.PreflightListener{
					Listener: n, TrustedProxies: kndTrust("192.0.2.1/32"), TLSConfig: server, PlainAfter: after,
				})
				accepted := lisServe(t, l)
				c := kndOpen(t, n.dial(t), nest.header, nest.tls, after-1)
				opened := time.Since(start)
				conn := <-accepted
				require.Equal(t, opened+after, time.Since(start))
				require.Equal(t, nest.remote, conn.RemoteAddr().String())
				require.Nil(t, conn.Request())
				require.Equal(t, opened+after, time.Since(start), "RemoteAddr waits for nothing")
				kndGreeted(t, conn, c)
			})
		})
	}
}

// A layer that has begun is not hurried, nor is a head in it: each has the whole
// deadline, and all of them have one.
func TestPlainAfterHurriesNoLayer(t *testing.T) {
	server, client := kndPipeTLS(t)
	hello := kndHello(t, client)
	v1, v2 := kndProxy(t, 1, kndSource), kndProxy(t, 2, kndSource)
	for name, tt := range map[string]struct {
		sent, later string // later is sent after 8 seconds
		plain       bool   // what is stuck at the end of the handshake
	}{
		"in PROXY v1":               {sent: string(v1[:10]), later: string(v1[10:]) + lisRequest()},
		"in PROXY v2":               {sent: string(v2[:20]), later: string(v2[20:]) + lisRequest()},
		"in the signature":          {sent: "PRO", later: string(v1[3:]) + lisRequest(), plain: true},
		"in a head behind PROXY":    {sent: string(v1) + "G", later: lisRequest()[1:], plain: true},
		"in a hello":                {sent: string(hello[:50])},
		"in a hello behind PROXY":   {sent: string(v2) + string(hello[:50])},
		"in the header of a record": {sent: string(hello[:3]), plain: true},
		"behind a hello":            {sent: string(hello)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := lisNewNet()
				l := listen(t, &preflight.PreflightListener{
					Listener: n, TrustedProxies: kndTrust("192.0.2.1/32"), TLSConfig: server, PlainAfter: time.Second,
				})
				accepted := lisServe(t, l)
				stuck := n.dial(t)
				stuck.send(t, tt.sent)
				if tt.later != "" {
					c := n.dial(t)
					c.send(t, tt.sent)
					time.Sleep(8 * time.Second)
					require.Equal(t, 101, (<-c.ask(tt.later)).StatusCode)
					conn := <-accepted
					require.Equal(t, kndSource.String(), conn.RemoteAddr().String())
					lisTalk(t, c, conn)
				}
				if tt.plain {
					require.Nil(t, (<-accepted).Request())
				} else {
					io.Copy(io.Discard, stuck.r) // what TLS has to say
					synctest.Wait()
					require.True(t, stuck.server.closed.Load())
					require.Empty(t, accepted)
				}
				require.Equal(t, 10*time.Second, time.Since(start))
			})
		})
	}
}

// A silent client that has to make room is handed on as plain, with its own
// address and through all that lies below it. One that is stuck in a layer is not.
func TestMakingRoomAmongLayers(t *testing.T) {
	server, client := kndPipeTLS(t)
	crowded := func(t *testing.T) (*lisNet, <-chan *preflight.Conn) {
		n := lisNewNet()
		return n, lisServe(t, listen(t, &preflight.PreflightListener{
			Listener: n, TrustedProxies: kndTrust("192.0.2.1/32"), TLSConfig: server, MaxPending: 1,
		}))
	}
	for _, nest := range kndNests(t, client) {
		t.Run("silent behind "+nest.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n, accepted := crowded(t)
				c := kndOpen(t, n.dial(t), nest.header, nest.tls, 100*time.Millisecond)
				next := n.dial(t)
				require.Equal(t, 101, (<-next.ask(lisRequest())).StatusCode)
				require.Equal(t, time.Second, time.Since(start))
				conn := <-accepted
				require.Nil(t, conn.Request())
				require.Equal(t, nest.remote, conn.RemoteAddr().String())
				lisTalk(t, next, <-accepted)
				kndGreeted(t, conn, c)
			})
		})
	}
	hello := kndHello(t, client)
	v1, v2 := kndProxy(t, 1, kndSource), kndProxy(t, 2, kndSource)
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
				old := n.dial(t)
				old.send(t, sent)
				ended := make(chan struct{})
				go func() { // a TCP connection has room for what TLS answers
					io.Copy(io.Discard, old.r)
					close(ended)
				}()
				next := n.dial(t)
				require.Equal(t, 101, (<-next.ask(lisRequest())).StatusCode)
				require.Equal(t, time.Second, time.Since(start))
				lisTalk(t, next, <-accepted)
				<-ended
				synctest.Wait()
				require.True(t, old.server.closed.Load())
				require.Empty(t, accepted)
			})
		})
	}
}

// Close waits for no layer.
func TestCloseAmongLayers(t *testing.T) {
	server, client := kndPipeTLS(t)
	hello := kndHello(t, client)
	v1 := kndProxy(t, 1, kndSource)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := lisNewNet()
		l := listen(t, &preflight.PreflightListener{
			Listener: n, TrustedProxies: kndTrust("192.0.2.1/32"), TLSConfig: server,
		})
		accepted := lisServe(t, l)
		var clients []*lisClient
		for _, sent := range []string{string(v1[:10]), string(v1), string(hello[:50]), string(hello), string(v1) + string(hello)} {
			c := n.dial(t)
			c.send(t, sent)
			clients = append(clients, c)
		}
		clients = append(clients, kndOpen(t, n.dial(t), nil, client, 0))
		tunnel := n.dial(t)
		require.Equal(t, 101, (<-tunnel.ask(kndRequestTLS)).StatusCode)
		clients = append(clients, tunnel)
		synctest.Wait()
		require.NoError(t, l.Close())
		for i, c := range clients {
			io.Copy(io.Discard, c.r)
			synctest.Wait()
			require.True(t, c.server.closed.Load(), "client %d", i)
		}
		require.Zero(t, time.Since(start))
		require.Empty(t, accepted)
	})
}

// Over a transport without deadlines the layers are bounded as well.
func TestLayersOverTransportWithoutDeadlines(t *testing.T) {
	server, client := kndPipeTLS(t)
	hello := kndHello(t, client)
	for name, tt := range map[string]struct {
		sent string
		tls  bool // the client speaks TLS, and asks for a tunnel of TLS in it
	}{
		"in PROXY":        {sent: "PROXY TCP4"},
		"in a hello":      {sent: string(hello[:50])},
		"behind a hello":  {sent: string(hello)},
		"in the tunnel":   {sent: kndRequestTLS},
		"in TLS, a hello": {sent: kndRequestTLS + string(hello[:50]), tls: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := lisNewNet()
				l := listen(t, &preflight.PreflightListener{
					Listener: n, TrustedProxies: kndTrust("192.0.2.1/32"), TLSConfig: server,
				})
				accepted := lisServe(t, l)
				ours, theirs := net.Pipe()
				defer ours.Close()
				transport := lisNoDeadlines{&lisConn{Conn: theirs}}
				n.backlog <- transport
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
				require.True(t, transport.closed.Load())
				require.Empty(t, accepted)
			})
		})
	}
}
