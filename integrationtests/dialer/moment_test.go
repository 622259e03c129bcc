package dialer_test

import (
	"context"
	"io"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// An endingContext ends at the moment when crypto/tls has stopped its watch on
// the context and every other watch still runs.
type endingContext struct {
	context.Context
	mu    sync.Mutex
	done  chan struct{}
	ended bool
	funcs map[int]func()
}

func (c *endingContext) Done() <-chan struct{} { return c.done }

func (c *endingContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return context.Canceled
	}
	return nil
}

// AfterFunc is called by package context for each function that must run when c
// ends.
func (c *endingContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := len(c.funcs)
	c.funcs[own] = f
	last := strings.Contains(string(debug.Stack()), "crypto/tls.(*Conn).HandshakeContext")
	return func() bool {
		c.mu.Lock()
		_, active := c.funcs[own]
		c.funcs[own] = nil
		if last && !c.ended {
			c.ended = true
			close(c.done)
			for _, f := range c.funcs {
				if f != nil {
					defer f()
				}
			}
		}
		c.mu.Unlock()
		return active
	}
}

// The context may end at the moment when the TLS handshake inside the tunnel
// has finished. The connection is then being closed, and must not be returned.
func TestDialerContextEndsAfterTheLastHandshake(t *testing.T) {
	server, client := testkit.NamedTLSConfigs(t)
	l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server})
	testkit.ServeEcho(t, l)
	ctx := &endingContext{Context: t.Context(), done: make(chan struct{}), funcs: make(map[int]func())}
	d := preflight.PreflightDialer{
		TunnelTLSConfig: client, HandshakeTimeout: -1,
		NetDialer: testkit.DialFunc(func(_ context.Context, network, address string) (net.Conn, error) { return net.Dial(network, address) }),
	}
	c, err := d.DialContext(ctx, "tcp", l.Addr().String())
	require.True(t, ctx.ended)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "TLS handshake in the tunnel")
	require.Nil(t, c)
}

// failingWriteConn is a transport whose Write fails after a part of the bytes has
// arrived. Its Read may still return an answer.
type failingWriteConn struct {
	net.Conn
	arrives int
}

func (c failingWriteConn) Write(b []byte) (int, error) {
	n, _ := c.Conn.Write(b[:min(c.arrives, len(b))])
	return n, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
}

// A proxy may answer and close before it has read the whole request. If that
// answer is a refusal, it says more than the failed write. Any other answer
// cannot belong to a request that was not sent.
func TestDialerAnswerWhileTheRequestIsWritten(t *testing.T) {
	for _, tt := range []struct {
		answer string
		status int // 0: the error is that of the write
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
						return failingWriteConn{c, 10}, err
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

// The dial waits one second for such an answer, not the whole timeout.
func TestDialerWaitsBrieflyForAnAnswerToAFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan struct{})
		peer := &testkit.DialPeer{T: t, Peer: func(c net.Conn) {
			io.ReadFull(c, make([]byte, 10))
			<-done
		}}
		d := preflight.PreflightDialer{NetDialer: testkit.DialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := peer.DialContext(ctx, network, address)
			return failingWriteConn{c, 10}, err
		})}
		start := time.Now()
		_, err := d.Dial("tcp", "edge.example:80")
		require.ErrorIs(t, err, syscall.EPIPE)
		require.Equal(t, time.Second, time.Since(start))
		close(done)
	})
}
