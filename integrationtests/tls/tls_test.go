package tls_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// If TLS is below the listener, its handshake is complete before Accept
// returns, for every kind of connection.
func TestListenerOverTLS(t *testing.T) {
	serverTLS, clientTLS := testkit.TLSConfigs(t)
	l := testkit.Listen(t, &preflight.PreflightListener{Listener: tls.NewListener(testkit.ListenTCP(t), serverTLS)})
	accepted := testkit.AcceptAll(t, l)
	dial := func() *testkit.Client { return testkit.Secure(t, testkit.DialClient(t, l), clientTLS) }

	tunnel := dial()
	tunnel.Send(t, testkit.Request())
	require.Equal(t, 101, tunnel.Answer("GET").StatusCode)
	conn := testkit.NextConn(t, accepted)
	require.True(t, conn.NetConn().(*tls.Conn).ConnectionState().HandshakeComplete)
	testkit.Talk(t, tunnel, conn)
	require.NoError(t, conn.CloseWrite())
	tunnel.Ended(t)
	testkit.Carry(t, "the other direction stays open", tunnel, conn)

	plain := dial()
	plain.Send(t, "EHLO x\r\n")
	conn = testkit.NextConn(t, accepted)
	require.True(t, conn.NetConn().(*tls.Conn).ConnectionState().HandshakeComplete)
	require.Nil(t, conn.Request())
	testkit.Skip(t, conn, "EHLO x\r\n")
	testkit.Talk(t, plain, conn)

	ordinary := dial()
	ordinary.Send(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	require.Equal(t, http.StatusUpgradeRequired, ordinary.Refused(t, "GET").StatusCode)

	d := &preflight.PreflightDialer{TLSConfig: clientTLS}
	dialed, err := d.DialContext(context.Background(), "tcp", l.Addr().String())
	require.NoError(t, err)
	defer dialed.Close()
	conn = testkit.NextConn(t, accepted)
	testkit.Talk(t, &testkit.Client{Conn: dialed, R: bufio.NewReader(dialed)}, conn)

	// A client that does not speak TLS is not delivered.
	c := testkit.DialClient(t, l)
	c.Send(t, testkit.Request())
	answer, err := io.ReadAll(c.R)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(answer), "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"), string(answer))
	require.True(t, strings.HasSuffix(string(answer), "\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"), string(answer))
	require.Empty(t, accepted)

	// A client whose protocol is no HTTP gets an alert of TLS.
	c = testkit.DialClient(t, l)
	c.Send(t, "EHLO x\r\n")
	alert, _ := io.ReadAll(c.R) // and perhaps a reset
	require.NotContains(t, string(alert), "HTTP")
	require.Empty(t, accepted)
}

// A client that stalls in its TLS handshake does not delay others, is not
// delivered, and is closed in the end.
func TestListenerOverTLSStalledClients(t *testing.T) {
	serverTLS, clientTLS := testkit.TLSConfigs(t)
	for _, tt := range []struct {
		name       string
		plainAfter time.Duration
		crowd      bool // new clients come after two seconds
		close      bool // the listener is closed after two seconds
		ends       time.Duration
	}{
		{name: "until the handshake times out", ends: 10 * time.Second},
		{name: "PlainAfter does not apply to TLS", plainAfter: time.Second, ends: 10 * time.Second},
		{name: "until it has to make room", crowd: true, ends: 2 * time.Second},
		{name: "until Close", close: true, ends: 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{
					Listener: tls.NewListener(n, serverTLS), PlainAfter: tt.plainAfter, MaxPending: 3,
				})
				accepted := testkit.AcceptAll(t, l)
				silent, hello := n.Dial(t), n.Dial(t)
				hello.Send(t, "\x16\x03\x01\x02\x00\x01")
				good := testkit.Secure(t, n.Dial(t), clientTLS)
				require.Equal(t, 101, (<-good.Ask(testkit.Request())).StatusCode)
				conn := <-accepted
				testkit.Talk(t, good, conn)
				require.Zero(t, time.Since(start), "no other client is delayed")

				time.Sleep(2 * time.Second)
				if tt.close {
					require.NoError(t, l.Close())
				}
				if tt.crowd {
					for range 3 {
						n.Dial(t)
					}
				}
				silent.Ended(t)
				hello.Ended(t)
				require.Equal(t, tt.ends, time.Since(start))
				require.Empty(t, accepted)
				testkit.Talk(t, good, conn)
				conn.Close()
			})
		})
	}
}

// PlainAfter counts from the end of the TLS handshake, which has the whole
// deadline. An earlier deadline during the TLS handshake would break the TLS
// connection permanently.
func TestListenerOverTLSPlainAfter(t *testing.T) {
	serverTLS, clientTLS := testkit.TLSConfigs(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: tls.NewListener(n, serverTLS), PlainAfter: 300 * time.Millisecond})
		accepted := testkit.AcceptAll(t, l)
		raw := n.Dial(t)
		time.Sleep(5 * time.Second)
		require.Empty(t, accepted)
		c := testkit.Secure(t, raw, clientTLS)
		greeted := make(chan string, 1)
		go func() {
			line, _ := c.R.ReadString('\n')
			greeted <- line
		}()
		conn := <-accepted
		require.Equal(t, 5*time.Second+300*time.Millisecond, time.Since(start))
		require.Nil(t, conn.Request())
		_, err := conn.Write([]byte("220 the server speaks first\r\n"))
		require.NoError(t, err)
		require.Equal(t, "220 the server speaks first\r\n", <-greeted)
		time.Sleep(time.Hour)
		testkit.Talk(t, c, conn)
		go c.R.Peek(1) // the end of TLS is a message too
		require.NoError(t, conn.Close())
	})
}

// handshakeConn is a connection whose handshake is a function of the test.
type handshakeConn struct {
	net.Conn
	shake func(context.Context) error
}

func (c handshakeConn) HandshakeContext(ctx context.Context) error { return c.shake(ctx) }

// Any layer with HandshakeContext is treated like TLS: its Context ends with
// Close, and its error ends the connection.
func TestListenerHandshakesTheLayerBelow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
		accepted := testkit.AcceptAll(t, l)
		shake := func(f func(context.Context) error) *testkit.Client {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { ours.Close() })
			n.Backlog <- handshakeConn{theirs, f}
			return &testkit.Client{Conn: ours, R: bufio.NewReader(ours)}
		}
		failing := shake(func(context.Context) error { return testkit.ErrOther })
		failing.Ended(t)
		order := make(chan string, 2)
		good := shake(func(ctx context.Context) error {
			order <- "handshake"
			return ctx.Err()
		})
		require.Equal(t, 101, (<-good.Ask(testkit.Request())).StatusCode)
		conn := <-accepted
		order <- "delivered"
		require.Equal(t, "handshake", <-order)
		require.IsType(t, handshakeConn{}, conn.NetConn())
		testkit.Talk(t, good, conn)

		blocked := shake(func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		synctest.Wait()
		require.NoError(t, l.Close())
		blocked.Ended(t)
		require.Empty(t, accepted)
	})
}

// Authorize may decide by the client's certificate, also if the TLS layer is
// below this listener.
func TestListenerAuthorizeSeesTLS(t *testing.T) {
	server, client := testkit.TLSConfigs(t)
	l := testkit.Listen(t, &preflight.PreflightListener{
		Listener: tls.NewListener(testkit.ListenTCP(t), server),
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.TLS == nil || !r.TLS.HandshakeComplete {
				return nil, errors.New("no TLS")
			}
			return nil, nil
		},
	})
	accepted := testkit.AcceptAll(t, l)
	c, err := (&preflight.PreflightDialer{TLSConfig: client}).Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NotNil(t, testkit.NextConn(t, accepted).Request().TLS)
}

// If the layer below has agreed on a protocol by ALPN, the client speaks that
// protocol, for any TrustedProxies. Bytes that look like HTTP or like a PROXY
// header are data.
func TestListenerOverTLSALPN(t *testing.T) {
	server, client := testkit.TLSConfigs(t)
	server.NextProtos = []string{"amps", "http/1.1"}
	const header = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
	for _, tt := range []struct {
		name    string
		trusted []netip.Prefix
	}{
		{"no trusted proxies", nil},
		{"the peer is trusted", testkit.Prefixes("127.0.0.1/32")},
		{"another address is trusted", testkit.Prefixes("192.0.2.7/32")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: tls.NewListener(testkit.ListenTCP(t), server), TrustedProxies: tt.trusted})
			accepted := testkit.AcceptAll(t, l)
			for _, sent := range []string{"GET / HTTP/1.1\r\nHost: h\r\n\r\n", testkit.Request(), header + testkit.Request(), header} {
				config := client.Clone()
				config.NextProtos = []string{"amps"}
				c := testkit.Secure(t, testkit.DialClient(t, l), config)
				c.Send(t, sent)
				conn := testkit.NextConn(t, accepted)
				require.Nil(t, conn.Request())
				require.Equal(t, c.LocalAddr().String(), conn.RemoteAddr().String())
				testkit.Skip(t, conn, sent)
				testkit.Talk(t, c, conn)
			}
			config := client.Clone()
			config.NextProtos = []string{"http/1.1"}
			c := testkit.Secure(t, testkit.DialClient(t, l), config)
			c.Send(t, testkit.Request())
			require.Equal(t, 101, c.Answer("GET").StatusCode)
			testkit.Talk(t, c, testkit.NextConn(t, accepted))
		})
	}
}
