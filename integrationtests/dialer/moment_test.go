package dialer_test

import (
	"context"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// The context may end in the very moment in which the last message of the TLS
// inside the tunnel is written. The connection is then being closed, whatever the
// handshake itself has come to, and must not be returned.
func TestDialerContextEndsWithTheLastHandshake(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server})
	testkit.ServeEcho(t, l)
	dial := func(ctx context.Context, onWrite func(writes int32)) (net.Conn, *testkit.SpyConn, error) {
		var spy *testkit.SpyConn
		d := preflight.PreflightDialer{TunnelTLSConfig: client, NetDialer: testkit.DialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			spy = &testkit.SpyConn{Conn: c}
			spy.OnWrite = func() { onWrite(spy.Writes.Load()) }
			return spy, err
		})}
		c, err := d.DialContext(ctx, "tcp", l.Addr().String())
		return c, spy, err
	}
	c, spy, err := dial(t.Context(), func(int32) {})
	require.NoError(t, err)
	last := spy.Writes.Load()
	c.Close()
	for range 200 { // the scheduler chooses who comes first
		ctx, cancel := context.WithCancel(t.Context())
		c, _, err := dial(ctx, func(writes int32) {
			if writes == last {
				cancel()
			}
		})
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, c)
	}
}

// wrtConn is a transport on which a write fails when a part of it has arrived, and
// from which an answer may be read.
type wrtConn struct {
	net.Conn
	arrives int
}

func (c wrtConn) Write(b []byte) (int, error) {
	n, _ := c.Conn.Write(b[:min(c.arrives, len(b))])
	return n, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
}

// A proxy may answer, and close, before it has read the whole request. That answer
// says more than the failed write, if it is a refusal; nothing else can be one to a
// request that was not sent.
func TestDialerAnswerWhileTheRequestIsWritten(t *testing.T) {
	for _, tt := range []struct {
		answer string
		status int // 0: the write is what failed
	}{
		{"HTTP/1.1 431 Too Large\r\nContent-Length: 5\r\n\r\nlarge", 431},
		{"HTTP/1.1 302 Found\r\nLocation: https://there.example/\r\n\r\n", 302},
		{"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 400 Bad\r\n\r\n", 400},
		{testkit.UpgradeAnswer, 0},
		{"HTTP/1.1 200 OK\r\n\r\n", 0},
		{"HTTP/1.1 4", 0},
		{"", 0},
	} {
		for _, proxy := range []string{"", "http://proxy.example"} {
			t.Run(tt.answer+proxy, func(t *testing.T) {
				peer := &testkit.DialPeer{T: t, Tcp: true, Peer: func(c net.Conn) {
					io.ReadFull(c, make([]byte, 10))
					io.WriteString(c, tt.answer)
					c.Close()
				}}
				d := preflight.PreflightDialer{
					NetDialer: testkit.DialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
						c, err := peer.DialContext(ctx, network, address)
						return wrtConn{c, 10}, err
					}),
					Header: map[string][]string{"X-Long": {strings.Repeat("x", 1000)}},
				}
				if proxy != "" {
					d.Proxy = testkit.Via(proxy)
				}
				_, err := d.Dial("tcp", "edge.example:80")
				require.EqualValues(t, 1, peer.Spy.Closes.Load())
				if tt.status != 0 {
					refused := testkit.StatusError(t, err)
					require.Equal(t, tt.status, refused.StatusCode)
					require.Equal(t, proxy != "", refused.ForwardProxy)
					return
				}
				require.ErrorIs(t, err, syscall.EPIPE)
				require.ErrorContains(t, err, "write ")
			})
		}
	}
}
