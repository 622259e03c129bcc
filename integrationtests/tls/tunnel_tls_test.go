package tls_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// openTunnelTLS asks for TLS inside the tunnel on c, and performs the
// handshake on both ends.
func openTunnelTLS(t testing.TB, c net.Conn, client *tls.Config, accepted <-chan *preflight.Conn) (*testkit.Client, *preflight.Conn) {
	t.Helper()
	outer := &testkit.Client{Conn: c, R: bufio.NewReader(c)}
	tunnel := &testkit.Tunnelled{Glue: &testkit.Glue{Conn: c, Held: []byte(testkit.RequestTLS)}, Client: outer}
	tc := tls.Client(tunnel, client)
	require.NoError(t, tc.Handshake())
	require.Equal(t, 101, tunnel.Answer.StatusCode)
	return &testkit.Client{Conn: tc, R: bufio.NewReader(tc)}, testkit.NextConn(t, accepted)
}

// Both ends speak TLS through the proxies. The application's layer is that TLS.
// The request tells about the connection outside it.
func TestListenerTunnelTLS(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	for _, below := range []string{"nothing", "TLSConfig", "tls.NewListener", "tls.NewListener and TLSConfig"} {
		for _, authorize := range []bool{false, true} {
			t.Run(fmt.Sprintf("over %s, Authorize %t", below, authorize), func(t *testing.T) {
				l := &preflight.PreflightListener{Listener: testkit.ListenTCP(t), TLSConfig: server}
				if strings.HasPrefix(below, "tls") {
					l.Listener = tls.NewListener(l.Listener, server)
				}
				seen := make(chan *http.Request, 1)
				if authorize {
					l.Authorize = func(r *http.Request) (http.Header, error) { seen <- r; return nil, nil }
				}
				accepted := testkit.AcceptAll(t, testkit.Listen(t, l))
				var c net.Conn = testkit.DialTCP(t, l.Addr())
				if strings.HasPrefix(below, "tls") {
					c = tls.Client(c, client)
				}
				if strings.HasSuffix(below, "TLSConfig") {
					c = tls.Client(c, client)
				}
				inner, conn := openTunnelTLS(t, c, client, accepted)
				require.True(t, conn.NetConn().(*tls.Conn).ConnectionState().HandshakeComplete)
				require.Equal(t, "/t", conn.Request().URL.Path)
				require.Equal(t, "tcp", conn.Response().Header.Get("Upgrade"))
				require.Equal(t, "tls", conn.Response().Header.Get("Preflight-Tunnel"))
				require.Same(t, conn.Request(), conn.Response().Request)
				if authorize {
					require.Same(t, <-seen, conn.Request())
				}
				require.Equal(t, below != "nothing", conn.Request().TLS != nil, "the request did not come over the TLS inside the tunnel")
				testkit.Talk(t, inner, conn)

				require.NoError(t, conn.CloseWrite())
				inner.Ended(t)
				testkit.Carry(t, strings.Repeat("continues", 1000), inner, conn)
				require.NoError(t, inner.Conn.(*tls.Conn).CloseWrite())
				_, err := conn.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
			})
		}
	}
}

// TLS inside the tunnel may begin after an ordinary request, and on a server of
// net/http, which has then read the first bytes of the handshake.
func TestListenerTunnelTLSFromNetHTTP(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server, Handler: testkit.ServedHandler})
	accepted := testkit.AcceptAll(t, l)
	for _, overTLS := range []bool{false, true} {
		t.Run(fmt.Sprintf("Handler, TLS %t", overTLS), func(t *testing.T) {
			c := testkit.DialClient(t, l)
			if overTLS {
				c = testkit.Secure(t, c, client)
			}
			c.Send(t, "GET /one HTTP/1.1\r\nHost: h\r\n\r\n")
			require.Equal(t, 200, c.Answer("GET").StatusCode)
			inner, conn := openTunnelTLS(t, c.Conn, client, accepted)
			require.Equal(t, overTLS, conn.Request().TLS != nil)
			require.Equal(t, c.LocalAddr().String(), conn.RemoteAddr().String())
			testkit.Talk(t, inner, conn)
		})
	}
	t.Run("ServeHTTP", func(t *testing.T) {
		l := &preflight.PreflightListener{TLSConfig: server}
		accepted := testkit.AcceptAll(t, l)
		s := httptest.NewServer(l)
		defer s.Close()
		inner, conn := openTunnelTLS(t, testkit.DialTCP(t, s.Listener.Addr()), client, accepted)
		require.Nil(t, conn.Request().TLS)
		testkit.Talk(t, inner, conn)
	})
}

// A client that asks for TLS inside the tunnel and then speaks another protocol
// is not delivered.
func TestListenerTunnelWithoutTheAskedTLS(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	hello := string(testkit.ClientHello(t, client))
	l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server, HandshakeTimeout: time.Hour})
	accepted := testkit.AcceptAll(t, l)
	for name, said := range map[string]string{
		"nothing":         "",
		"lines":           "EHLO x\r\n",
		"HTTP":            testkit.Request(),
		"binary":          "\x00\x01\x02\x03\x04\x05",
		"almost TLS":      "\x16\x03\x01\x00\x05\x02hello",
		"half a hello":    hello[:len(hello)/2],
		"only a hello":    hello,
		"a PROXY header":  string(testkit.ProxyHeader(t, 1, testkit.Source)) + hello,
		"another upgrade": testkit.RequestTLS + hello,
	} {
		for _, glued := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, glued %t", name, glued), func(t *testing.T) {
				c := testkit.DialClient(t, l)
				if glued {
					c.Send(t, testkit.RequestTLS+said)
				} else {
					c.Send(t, testkit.RequestTLS)
				}
				require.Equal(t, 101, c.Answer("GET").StatusCode)
				if !glued {
					c.Send(t, said)
				}
				require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
				require.NotContains(t, testkit.ReadToEnd(t, c.R), "HTTP")
				require.Empty(t, accepted)
			})
		}
	}
}

// The handshake inside the tunnel is part of the whole handshake. If all places
// are taken, it has a separate second. The time of the request does not count.
func TestListenerTunnelTLSStalled(t *testing.T) {
	server, client := testkit.PipeTLS(t)
	hello := string(testkit.ClientHello(t, client))
	for _, said := range []string{"", hello[:20]} {
		for _, tt := range []struct {
			name  string
			crowd time.Duration // when another client comes; 0: never
			ends  time.Duration
		}{
			{"until the handshake times out", 0, 10 * time.Second},
			{"for one second of its own", 5100 * time.Millisecond, 6 * time.Second},
			{"for longer, without a new client", 7 * time.Second, 7 * time.Second},
		} {
			t.Run(fmt.Sprintf("%s after %d bytes", tt.name, len(said)), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					n := testkit.NewNetwork()
					l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, TLSConfig: server, MaxPending: 1})
					accepted := testkit.AcceptAll(t, l)
					old := n.Dial(t)
					old.Send(t, testkit.RequestTLS[:10])
					time.Sleep(5 * time.Second)
					require.Equal(t, 101, (<-old.Ask(testkit.RequestTLS[10:])).StatusCode)
					if said != "" {
						old.Send(t, said)
					}
					var next *testkit.Client
					var answer <-chan testkit.Answer
					if tt.crowd > 0 {
						time.Sleep(tt.crowd - 5*time.Second)
						next = n.Dial(t)
						answer = next.Ask(testkit.Request())
					}
					old.Ended(t)
					require.Equal(t, tt.ends, time.Since(start))
					if next != nil {
						require.Equal(t, 101, (<-answer).StatusCode)
						testkit.Talk(t, next, <-accepted)
					}
					require.Empty(t, accepted)
				})
			})
		}
	}
}

// deadlineHookConn is a transport that calls freed when the deadlines of its handshake
// are cleared.
type deadlineHookConn struct {
	*testkit.NetworkConn
	freed func()
}

func (c deadlineHookConn) SetDeadline(t time.Time) error {
	err := c.NetworkConn.SetDeadline(t)
	if t.IsZero() {
		c.freed()
	}
	return err
}

// An eviction that comes when the handshake inside the tunnel has just ended
// does not affect the delivered connection.
func TestListenerTunnelTLSEvictionKeepsDeliveredConnections(t *testing.T) {
	server, client := testkit.PipeTLS(t)
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, TLSConfig: server, MaxPending: 1, HandshakeTimeout: time.Hour})
		accepted := testkit.AcceptAll(t, l)
		for range 20 {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { ours.Close() })
			var once sync.Once
			n.Backlog <- deadlineHookConn{&testkit.NetworkConn{Conn: theirs}, func() {
				once.Do(func() {
					n.Dial(t)
					for range 10_000 { // time for the new client to reach this connection
						runtime.Gosched()
					}
				})
			}}
			c := &testkit.Client{Conn: ours, R: bufio.NewReader(ours)}
			require.Equal(t, 101, (<-c.Ask(testkit.RequestTLS)).StatusCode)
			time.Sleep(time.Minute)
			tc := tls.Client(ours, client)
			require.NoError(t, tc.Handshake())
			conn := <-accepted
			testkit.Talk(t, &testkit.Client{Conn: tc, R: bufio.NewReader(tc)}, conn)
			go io.Copy(io.Discard, tc)
			require.NoError(t, conn.Close())
			ours.Close()

			time.Sleep(2 * time.Hour) // the other client is silent, and plain in the end
			require.NoError(t, (<-accepted).Close())
		}
	})
}

// The dialer and the listener of this package connect, with TLS inside the
// tunnel.
func TestListenerTunnelTLSWithDialer(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	client.ServerName = "example.com"
	for _, protocol := range []string{"", "tcps", "amps/1"} {
		l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server, RequireUpgrade: true})
		if protocol != "" {
			l.Protocols = []string{protocol}
		}
		accepted := testkit.AcceptAll(t, l)
		for _, d := range []*preflight.PreflightDialer{{TunnelTLSConfig: client}, {TunnelTLSConfig: client, TLSConfig: client}} {
			d.Protocol = protocol
			c, err := d.DialContext(context.Background(), "tcp", l.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			testkit.Talk(t, &testkit.Client{Conn: c, R: bufio.NewReader(c)}, testkit.NextConn(t, accepted))
		}
		// Without the option, the tunnel carries the bytes of the application,
		// whether they are TLS or not.
		c, err := (&preflight.PreflightDialer{Protocol: protocol}).DialContext(context.Background(), "tcp", l.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		conn := testkit.NextConn(t, accepted)
		require.IsType(t, &net.TCPConn{}, conn.NetConn())
		served := make(chan error, 1)
		go func() { served <- tls.Server(conn, server).Handshake() }()
		require.NoError(t, tls.Client(c, client).Handshake())
		require.NoError(t, <-served)
	}
}

// If a connection ends without the close_notify of TLS, it was truncated. A
// proxy that ends a tunnel looks the same. Both sides report it.
func TestTunnelTLSTruncation(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server})
	accepted := testkit.AcceptAll(t, l)
	d := preflight.PreflightDialer{TunnelTLSConfig: client}
	bottom := func(c net.Conn) *net.TCPConn { return testkit.Below[*net.TCPConn](t, c) }
	for ending, end := range map[string]struct {
		by   func(t *testing.T, c *tls.Conn)
		want error
	}{
		"close_notify": {func(t *testing.T, c *tls.Conn) { require.NoError(t, c.CloseWrite()) }, nil},
		"close_notify, then the end": {func(t *testing.T, c *tls.Conn) {
			require.NoError(t, c.CloseWrite())
			require.NoError(t, bottom(c).CloseWrite())
		}, nil},
		"the end": {func(t *testing.T, c *tls.Conn) { require.NoError(t, bottom(c).CloseWrite()) }, io.ErrUnexpectedEOF},
		"the end inside of a record": {func(t *testing.T, c *tls.Conn) {
			_, err := io.WriteString(bottom(c), "\x17\x03\x03\x00\x20cut")
			require.NoError(t, err)
			require.NoError(t, bottom(c).CloseWrite())
		}, io.ErrUnexpectedEOF},
		"the end inside of a header": {func(t *testing.T, c *tls.Conn) {
			_, err := io.WriteString(bottom(c), "\x17\x03")
			require.NoError(t, err)
			require.NoError(t, bottom(c).CloseWrite())
		}, io.ErrUnexpectedEOF},
	} {
		for _, side := range []string{"the dialer's", "the listener's"} {
			for _, how := range []string{"Read", "WriteTo"} {
				t.Run(fmt.Sprintf("%s, at %s end, %s", ending, side, how), func(t *testing.T) {
					dialed, err := d.Dial("tcp", l.Addr().String())
					require.NoError(t, err)
					defer dialed.Close()
					reader, writer := dialed.(*preflight.Conn), testkit.NextConn(t, accepted)
					if side == "the listener's" {
						reader, writer = writer, reader
					}
					require.NoError(t, reader.SetDeadline(time.Now().Add(testkit.Patience)))
					_, err = io.WriteString(writer, testkit.Payload)
					require.NoError(t, err)
					end.by(t, writer.NetConn().(*tls.Conn))
					var got strings.Builder
					if how == "Read" {
						_, err = io.Copy(&got, struct{ io.Reader }{reader})
					} else {
						_, err = reader.WriteTo(&got)
					}
					require.Equal(t, testkit.Payload, got.String(), "the bytes before the end")
					if end.want == nil {
						require.NoError(t, err)
						return
					}
					require.ErrorIs(t, err, end.want)
					require.NotErrorIs(t, err, io.EOF)
					var passing interface{ Temporary() bool }
					require.False(t, errors.As(err, &passing) && passing.Temporary(), "another Read fails too")
					_, err = reader.Read(make([]byte, 1))
					require.ErrorIs(t, err, end.want, "once more")
				})
			}
		}
	}
}
