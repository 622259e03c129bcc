package dialer_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// TestDialerNetworks: a network that is not a stream is an error before
// anything is dialed. A network that package net does not know is passed to a
// custom NetDialer.
func TestDialerNetworks(t *testing.T) {
	never := func(*http.Request) (*url.URL, error) { return nil, errors.New("Proxy was asked") }
	for _, network := range []string{"udp", "udp4", "udp6", "ip", "ip:icmp", "ip4:1", "ip6:ipv6-icmp", "unixgram", "unixpacket"} {
		for _, next := range []preflight.ContextDialer{nil, new(net.Dialer), testkit.DialNever(t)} {
			d := preflight.PreflightDialer{NetDialer: next, Proxy: never}
			conn, err := d.Dial(network, "edge.example:80")
			require.Nil(t, conn)
			require.EqualError(t, err, fmt.Sprintf("preflight: a tunnel needs a network that is a stream (tcp, tcp4, tcp6 or unix), not %q", network))
		}
	}
	for _, network := range []string{"", "tcp5", "TCP", "vsock"} {
		for _, next := range []preflight.ContextDialer{nil, new(net.Dialer)} {
			d := preflight.PreflightDialer{NetDialer: next, Proxy: never}
			_, err := d.Dial(network, "edge.example:80")
			require.ErrorContains(t, err, fmt.Sprintf("not %q", network))
		}
		peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) { dialServe(c, make(chan *http.Request, 1)) }}
		_, err := (&preflight.PreflightDialer{NetDialer: peer}).Dial(network, "edge.example:80")
		require.NoError(t, err)
		require.Equal(t, network, peer.Network)
	}
}

// TestDialerDistrustsNetDialer: no value that NetDialer has or returns causes a
// panic.
func TestDialerDistrustsNetDialer(t *testing.T) {
	dials := map[string]func(*preflight.PreflightDialer) (net.Conn, error){
		"Dial": func(d *preflight.PreflightDialer) (net.Conn, error) { return d.Dial("tcp", "edge.example:80") },
		"through a proxy": func(d *preflight.PreflightDialer) (net.Conn, error) {
			at := *d
			at.Proxy = fwdBy(t, "http://proxy.example")
			return at.Dial("tcp", "edge.example:80")
		},
		"with Telemetry": func(d *preflight.PreflightDialer) (net.Conn, error) {
			at := *d
			at.Telemetry = new(preflight.Telemetry)
			return at.Dial("tcp", "edge.example:80")
		},
	}
	for _, query := range []string{"", "?http_preflight=1", "?tcp_nodelay=1", "?ip_protocol_prefer=ipv4", "?http_preflight=1&ip_protocol_prefer=ipv6", "?bind=127.0.0.1", "?tcp_connecttimeout=1000"} {
		dials[query] = func(d *preflight.PreflightDialer) (net.Conn, error) {
			return d.DialURL(context.Background(), "tcp://me:s3cr3t@edge.example:80/"+query)
		}
	}
	for name, dial := range dials {
		for _, nothing := range []net.Conn{nil, (*net.TCPConn)(nil), (*preflight.Conn)(nil), dialNothing(nil)} {
			if name == "?bind=127.0.0.1" {
				continue // it needs a *net.Dialer
			}
			t.Run(fmt.Sprintf("%s/returns %T", name, nothing), func(t *testing.T) {
				d := &preflight.PreflightDialer{NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) { return nothing, nil })}
				conn, err := dial(d)
				require.Nil(t, conn)
				require.ErrorContains(t, err, "preflight: NetDialer (testkit.DialFunc) returned neither a connection nor an error")
				testkit.RequireNoSecret(t, err)
			})
		}
		for _, next := range []preflight.ContextDialer{(*net.Dialer)(nil), (*preflight.PreflightDialer)(nil), testkit.DialFunc(nil)} {
			t.Run(fmt.Sprintf("%s/is a nil %T", name, next), func(t *testing.T) {
				conn, err := dial(&preflight.PreflightDialer{NetDialer: next})
				require.Nil(t, conn)
				require.ErrorContains(t, err, "preflight: ")
				require.ErrorContains(t, err, fmt.Sprintf("NetDialer is a nil %T", next))
				testkit.RequireNoSecret(t, err)
			})
		}
	}
}

// dialNothing is a kind of connection that is nil without being a pointer.
type dialNothing map[string]net.Conn

func (c dialNothing) Read(b []byte) (int, error) { return c["x"].Read(b) }

func (c dialNothing) Write(b []byte) (int, error) { return c["x"].Write(b) }

func (c dialNothing) Close() error { return c["x"].Close() }

func (c dialNothing) LocalAddr() net.Addr { return c["x"].LocalAddr() }

func (c dialNothing) RemoteAddr() net.Addr { return c["x"].RemoteAddr() }

func (c dialNothing) SetDeadline(t time.Time) error { return c["x"].SetDeadline(t) }

func (c dialNothing) SetReadDeadline(t time.Time) error { return c["x"].SetReadDeadline(t) }

func (c dialNothing) SetWriteDeadline(t time.Time) error { return c["x"].SetWriteDeadline(t) }

// TestForwardProxyDistrusted: if Proxy returns an invalid URL, the dial fails
// before anything is dialed.
func TestForwardProxyDistrusted(t *testing.T) {
	long := string(make([]byte, 256))
	for name, u := range map[string]*url.URL{
		"zero":              {},
		"path alone":        {Path: "/proxy"},
		"opaque":            {Scheme: "http", Opaque: "proxy:80"},
		"no host name":      {Scheme: "http", Host: ":80"},
		"invalid port":      {Scheme: "http", Host: "proxy:http"},
		"port too large":    {Scheme: "http", Host: "proxy:65536"},
		"space":             {Scheme: "http", Host: "pro xy"},
		"line break":        {Scheme: "http", Host: "proxy\r\nX: y"},
		"no UTF-8":          {Scheme: "http", Host: "\xff"},
		"bracket":           {Scheme: "http", Host: "[::1"},
		"scheme":            {Scheme: "HTTP ", Host: "proxy"},
		"user of SOCKS":     {Scheme: "socks5", Host: "proxy", User: url.UserPassword(long, "s3cr3t")},
		"password of SOCKS": {Scheme: "socks5h", Host: "proxy", User: url.UserPassword("me", "s3cr3t"+long)},
	} {
		t.Run(name, func(t *testing.T) {
			d := preflight.PreflightDialer{NetDialer: testkit.DialNever(t), Proxy: http.ProxyURL(u)}
			conn, err := d.Dial("tcp", "edge.example:80")
			require.Nil(t, conn)
			require.ErrorContains(t, err, "preflight: forward proxy: ")
			testkit.RequireNoSecret(t, err)
		})
	}
}

// TestDialerBoundsTheConnect: without a deadline in the context,
// HandshakeTimeout bounds NetDialer. The handshake after it has the same time
// again.
func TestDialerBoundsTheConnect(t *testing.T) {
	const url = "tcp://edge.example:80/?http_preflight=1"
	none := func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} }
	deadline := func(d time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
		return func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, d) }
	}
	for name, test := range map[string]struct {
		ctx     func(context.Context) (context.Context, context.CancelFunc)
		timeout time.Duration
		url     string // the URL for DialURL; "" means DialContext
		after   time.Duration
	}{
		"default":                            {none, 0, "", 10 * time.Second},
		"positive":                           {none, 3 * time.Second, "", 3 * time.Second},
		"cancellable":                        {context.WithCancel, 3 * time.Second, "", 3 * time.Second},
		"deadline":                           {deadline(time.Hour), 3 * time.Second, "", time.Hour},
		"negative":                           {deadline(time.Minute), -1, "", time.Minute},
		"URL":                                {none, 3 * time.Second, url, 3 * time.Second},
		"plain URL":                          {none, 3 * time.Second, "tcp://edge.example:80", 3 * time.Second},
		"tcp_connecttimeout":                 {none, 3 * time.Second, url + "&tcp_connecttimeout=20500", 20500 * time.Millisecond},
		"tcp_connecttimeout, negative":       {none, -1, url + "&tcp_connecttimeout=500", 500 * time.Millisecond},
		"tcp_connecttimeout before deadline": {deadline(time.Hour), 3 * time.Second, url + "&tcp_connecttimeout=500", 500 * time.Millisecond},
		"tcp_connecttimeout after deadline":  {deadline(time.Second), 3 * time.Second, url + "&tcp_connecttimeout=5000", time.Second},
		"tcp_connecttimeout of 0":            {none, 3 * time.Second, url + "&tcp_connecttimeout=0", 3 * time.Second},
	} {
		for _, proxy := range []string{"", "http://proxy.example"} {
			t.Run(name+"/"+proxy, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := test.ctx(context.Background())
					defer cancel()
					given := make(chan context.Context, 1)
					d := preflight.PreflightDialer{HandshakeTimeout: test.timeout, NetDialer: testkit.DialFunc(func(ctx context.Context, network, _ string) (net.Conn, error) {
						given <- ctx
						<-ctx.Done()
						return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
					})}
					if proxy != "" {
						d.Proxy = fwdBy(t, proxy)
					}
					begun := time.Now()
					var conn net.Conn
					var err error
					if test.url == "" {
						conn, err = d.DialContext(ctx, "tcp", "edge.example:80")
					} else {
						conn, err = d.DialURL(ctx, test.url)
					}
					require.Nil(t, conn)
					require.Equal(t, test.after, time.Since(begun))
					op, ok := err.(*net.OpError)
					require.True(t, ok)
					require.True(t, op.Timeout())
					require.ErrorContains(t, err, "dial tcp")
					require.Error(t, (<-given).Err())
				})
			})
		}
	}
	t.Run("the handshake has its own time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) { testkit.ReadRequest(c) }}
			d := preflight.PreflightDialer{HandshakeTimeout: 3 * time.Second, NetDialer: testkit.DialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
				<-time.After(2 * time.Second)
				require.NoError(t, ctx.Err())
				return peer.DialContext(ctx, network, address)
			})}
			begun := time.Now()
			_, err := d.Dial("tcp", "edge.example:80")
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.ErrorContains(t, err, "wait for the 101")
			require.Equal(t, 5*time.Second, time.Since(begun))
		})
	})
	t.Run("each attempt has its own time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			dials := 0
			d := preflight.PreflightDialer{
				GetHeader: func(context.Context, *preflight.StatusError) (http.Header, error) { return nil, nil },
				NetDialer: testkit.DialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
					if dials++; dials == 2 {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					<-time.After(9 * time.Second)
					return (&testkit.DialPeer{T: t, Peer: testkit.Say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", func(net.Conn) {})}).DialContext(ctx, network, address)
				}),
			}
			begun := time.Now()
			_, err := d.Dial("tcp", "edge.example:80")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, 19*time.Second, time.Since(begun))
		})
	})
	t.Run("values of the context", func(t *testing.T) {
		for _, address := range []string{"edge.example:80", "192.0.2.1:80", "[::1]:80"} {
			d := preflight.PreflightDialer{NetDialer: testkit.DialFunc(func(ctx context.Context, _, _ string) (net.Conn, error) {
				require.Equal(t, "mine", ctx.Value(fwdKey{}))
				require.NotNil(t, ctx.Done(), "a custom NetDialer may rely on Done")
				return nil, errors.New("stop here")
			})}
			_, err := d.DialContext(context.WithValue(context.Background(), fwdKey{}, "mine"), "tcp", address)
			require.ErrorContains(t, err, "stop here")
		}
	})
	t.Run("values of the context in package net", func(t *testing.T) {
		cancellable, cancel := context.WithCancel(context.Background())
		defer cancel()
		for _, ctx := range []context.Context{context.Background(), cancellable} {
			d := preflight.PreflightDialer{NetDialer: &net.Dialer{ControlContext: func(ctx context.Context, _, _ string, _ syscall.RawConn) error {
				require.Equal(t, "mine", ctx.Value(fwdKey{}))
				require.NotNil(t, ctx.Done())
				_, bounded := ctx.Deadline()
				require.True(t, bounded)
				return errors.New("stop here")
			}}}
			_, err := d.DialContext(context.WithValue(ctx, fwdKey{}, "mine"), "tcp", "127.0.0.1:1")
			require.ErrorContains(t, err, "stop here")
		}
	})
	t.Run("package net is cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		d := preflight.PreflightDialer{NetDialer: &net.Dialer{Control: func(string, string, syscall.RawConn) error {
			cancel(errors.New("a cause"))
			return nil
		}}}
		_, err := d.DialContext(ctx, "tcp", testkit.ListenTCP(t).Addr().String())
		require.ErrorIs(t, err, context.Canceled)
	})
}
