package interop

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// outUserTimeout is TCP_USER_TIMEOUT, in milliseconds, of the TCP connection at
// the bottom of c.
func outUserTimeout(t *testing.T, c net.Conn) int {
	t.Helper()
	for {
		above, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = above.NetConn()
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	var value int
	var failed error
	require.NoError(t, raw.Control(func(fd uintptr) {
		value, failed = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	}))
	require.NoError(t, failed)
	return value
}

// An outKeeper keeps the connections that it has dialed.
type outKeeper struct {
	preflight.ContextDialer
	conns chan net.Conn
}

func (k outKeeper) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := k.ContextDialer.DialContext(ctx, network, address)
	if err == nil {
		k.conns <- c
	}
	return c, err
}

// gRPC finds a dead peer by TCP_USER_TIMEOUT, too, which it sets by its keepalive
// parameters; but only on a bare TCP connection. On a tunnel Control does it.
func TestGRPCUserTimeout(t *testing.T) {
	const fromGRPC, fromControl = 4 * time.Second, 7 * time.Second
	l := &preflight.PreflightListener{Listener: listenTCP(t)}
	grpcServe(t, "the server", l)
	nginx := startNginx(t, l.Addr().String())
	plain, edge := nginx.plain, nginx.tls
	control := &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		if err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(fromControl.Milliseconds()))
		}); err != nil {
			return err
		}
		return failed
	}}
	tunnel := func(f front, below preflight.ContextDialer) *preflight.PreflightDialer {
		d := f.dialer()
		d.NetDialer = below
		return d
	}
	for _, test := range []struct {
		name    string
		dialer  preflight.ContextDialer
		address string
		want    time.Duration
	}{
		{"Bare", new(net.Dialer), l.Addr().String(), fromGRPC},
		{"Lost", tunnel(plain, nil), plain.address, 0},
		{"Control", tunnel(plain, control), plain.address, fromControl},
		{"ControlBelowTLS", tunnel(edge, control), edge.address, fromControl},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := outKeeper{test.dialer, make(chan net.Conn, 10)}
			c := grpcDial(t, k, test.address, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: fromGRPC}))
			grpcAsk(t, c)
			require.Len(t, k.conns, 1)
			require.EqualValues(t, test.want.Milliseconds(), outUserTimeout(t, <-k.conns))
		})
	}
}
