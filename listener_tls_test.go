package preflight_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// lisSecure is a client of TLS over c.
func lisSecure(t testing.TB, c *lisClient, config *tls.Config) *lisClient {
	t.Helper()
	tc := tls.Client(c.Conn, config)
	require.NoError(t, tc.Handshake())
	return &lisClient{Conn: tc, r: bufio.NewReader(tc), server: c.server}
}

// TLS underneath shakes hands before Accept returns, for every kind.
func TestListenerOverTLS(t *testing.T) {
	serverTLS, clientTLS := lisTLS(t)
	l := listen(t, &preflight.PreflightListener{Listener: tls.NewListener(listenTCP(t), serverTLS)})
	accepted := lisServe(t, l)
	dial := func() *lisClient { return lisSecure(t, lisDial(t, l), clientTLS) }

	tunnel := dial()
	tunnel.send(t, lisRequest())
	require.Equal(t, 101, tunnel.answer("GET").StatusCode)
	conn := lisNext(t, accepted)
	require.True(t, conn.NetConn().(*tls.Conn).ConnectionState().HandshakeComplete)
	lisTalk(t, tunnel, conn)
	require.NoError(t, conn.CloseWrite())
	tunnel.ended(t)
	lisCarry(t, "the other direction goes on", tunnel, conn)

	plain := dial()
	plain.send(t, "EHLO x\r\n")
	conn = lisNext(t, accepted)
	require.True(t, conn.NetConn().(*tls.Conn).ConnectionState().HandshakeComplete)
	require.Nil(t, conn.Request())
	lisSkip(t, conn, "EHLO x\r\n")
	lisTalk(t, plain, conn)

	ordinary := dial()
	ordinary.send(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	require.Equal(t, http.StatusUpgradeRequired, ordinary.refused(t, "GET").StatusCode)

	d := &preflight.PreflightDialer{TLSConfig: clientTLS}
	dialed, err := d.DialContext(context.Background(), "tcp", l.Addr().String())
	require.NoError(t, err)
	defer dialed.Close()
	conn = lisNext(t, accepted)
	lisTalk(t, &lisClient{Conn: dialed, r: bufio.NewReader(dialed)}, conn)

	// Who does not speak TLS is not there.
	c := lisDial(t, l)
	c.send(t, lisRequest())
	answer, _ := io.ReadAll(c.r) // an alert, and perhaps a reset
	require.NotContains(t, string(answer), "HTTP")
	require.Empty(t, accepted)
}

// A client that stalls in its TLS handshake delays nobody, is not handed on, and
// does not stay.
func TestListenerOverTLSStalledClients(t *testing.T) {
	serverTLS, clientTLS := lisTLS(t)
	for _, tt := range []struct {
		name       string
		plainAfter time.Duration
		crowd      bool // of new clients after two seconds
		close      bool // after two seconds
		ends       time.Duration
	}{
		{name: "until the handshake times out", ends: 10 * time.Second},
		{name: "PlainAfter is not for TLS", plainAfter: time.Second, ends: 10 * time.Second},
		{name: "until it has to make room", crowd: true, ends: 2 * time.Second},
		{name: "until Close", close: true, ends: 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := lisNewNet()
				l := listen(t, &preflight.PreflightListener{
					Listener: tls.NewListener(n, serverTLS), PlainAfter: tt.plainAfter, MaxPending: 3,
				})
				accepted := lisServe(t, l)
				silent, hello := n.dial(t), n.dial(t)
				hello.send(t, "\x16\x03\x01\x02\x00\x01")
				good := lisSecure(t, n.dial(t), clientTLS)
				require.Equal(t, 101, (<-good.ask(lisRequest())).StatusCode)
				conn := <-accepted
				lisTalk(t, good, conn)
				require.Zero(t, time.Since(start), "nobody is delayed")

				time.Sleep(2 * time.Second)
				if tt.close {
					require.NoError(t, l.Close())
				}
				if tt.crowd {
					for range 3 {
						n.dial(t)
					}
				}
				silent.ended(t)
				hello.ended(t)
				require.Equal(t, tt.ends, time.Since(start))
				require.Empty(t, accepted)
				lisTalk(t, good, conn)
				conn.Close()
			})
		})
	}
}

// PlainAfter counts from the end of the TLS handshake, which has the whole
// deadline; a deadline of PlainAfter in the middle of it would break it for good.
func TestListenerOverTLSPlainAfter(t *testing.T) {
	serverTLS, clientTLS := lisTLS(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := lisNewNet()
		l := listen(t, &preflight.PreflightListener{Listener: tls.NewListener(n, serverTLS), PlainAfter: 300 * time.Millisecond})
		accepted := lisServe(t, l)
		raw := n.dial(t)
		time.Sleep(5 * time.Second)
		require.Empty(t, accepted)
		c := lisSecure(t, raw, clientTLS)
		greeted := make(chan string, 1)
		go func() {
			line, _ := c.r.ReadString('\n')
			greeted <- line
		}()
		conn := <-accepted
		require.Equal(t, 5*time.Second+300*time.Millisecond, time.Since(start))
		require.Nil(t, conn.Request())
		_, err := conn.Write([]byte("220 the server speaks first\r\n"))
		require.NoError(t, err)
		require.Equal(t, "220 the server speaks first\r\n", <-greeted)
		time.Sleep(time.Hour)
		lisTalk(t, c, conn)
		go c.r.Peek(1) // the end of TLS is a message too
		require.NoError(t, conn.Close())
	})
}

// lisShaking is a connection whose handshake is the test's.
type lisShaking struct {
	net.Conn
	shake func(context.Context) error
}

func (c lisShaking) HandshakeContext(ctx context.Context) error { return c.shake(ctx) }

// Any layer with HandshakeContext is treated like TLS: its Context ends with
// Close, its error ends the connection.
func TestListenerHandshakesTheLayerBelow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lisNewNet()
		l := listen(t, &preflight.PreflightListener{Listener: n})
		accepted := lisServe(t, l)
		shake := func(f func(context.Context) error) *lisClient {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { ours.Close() })
			n.backlog <- lisShaking{theirs, f}
			return &lisClient{Conn: ours, r: bufio.NewReader(ours)}
		}
		failing := shake(func(context.Context) error { return errLisOther })
		failing.ended(t)
		order := make(chan string, 2)
		good := shake(func(ctx context.Context) error {
			order <- "handshake"
			return ctx.Err()
		})
		require.Equal(t, 101, (<-good.ask(lisRequest())).StatusCode)
		conn := <-accepted
		order <- "delivered"
		require.Equal(t, "handshake", <-order)
		require.IsType(t, lisShaking{}, conn.NetConn())
		lisTalk(t, good, conn)

		blocked := shake(func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		synctest.Wait()
		require.NoError(t, l.Close())
		blocked.ended(t)
		require.Empty(t, accepted)
	})
}

// Authorize may decide by the certificate of a client, although the TLS layer is
// not this listener's.
func TestListenerAuthorizeSeesTLS(t *testing.T) {
	server, client := lisTLS(t)
	l := listen(t, &preflight.PreflightListener{
		Listener: tls.NewListener(listenTCP(t), server),
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.TLS == nil || !r.TLS.HandshakeComplete {
				return nil, errors.New("no TLS")
			}
			return nil, nil
		},
	})
	accepted := lisServe(t, l)
	c, err := (&preflight.PreflightDialer{TLSConfig: client}).Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NotNil(t, lisNext(t, accepted).Request().TLS)
}

// A protocol that was agreed on in the layer below is what the client speaks,
// whoever is trusted: what looks like HTTP, or like a PROXY header, is its own.
func TestListenerOverTLSALPN(t *testing.T) {
	server, client := lisTLS(t)
	server.NextProtos = []string{"amps", "http/1.1"}
	const header = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
	for _, tt := range []struct {
		name    string
		trusted []netip.Prefix
	}{
		{"nobody is trusted", nil},
		{"the peer is trusted", kndTrust("127.0.0.1/32")},
		{"another is trusted", kndTrust("192.0.2.7/32")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := listen(t, &preflight.PreflightListener{Listener: tls.NewListener(listenTCP(t), server), TrustedProxies: tt.trusted})
			accepted := lisServe(t, l)
			for _, sent := range []string{"GET / HTTP/1.1\r\nHost: h\r\n\r\n", lisRequest(), header + lisRequest(), header} {
				config := client.Clone()
				config.NextProtos = []string{"amps"}
				c := lisSecure(t, lisDial(t, l), config)
				c.send(t, sent)
				conn := lisNext(t, accepted)
				require.Nil(t, conn.Request())
				require.Equal(t, c.LocalAddr().String(), conn.RemoteAddr().String())
				lisSkip(t, conn, sent)
				lisTalk(t, c, conn)
			}
			config := client.Clone()
			config.NextProtos = []string{"http/1.1"}
			c := lisSecure(t, lisDial(t, l), config)
			c.send(t, lisRequest())
			require.Equal(t, 101, c.answer("GET").StatusCode)
			lisTalk(t, c, lisNext(t, accepted))
		})
	}
}
