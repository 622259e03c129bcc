package applications

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// userTimeout returns the TCP_USER_TIMEOUT, in milliseconds, of the TCP connection under c.
func userTimeout(t *testing.T, c net.Conn) int {
	t.Helper()
	for {
		wrapper, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = wrapper.NetConn()
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

// A recordingDialer records the connections that it has dialed.
type recordingDialer struct {
	preflight.ContextDialer
	conns chan net.Conn
}

func (k recordingDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := k.ContextDialer.DialContext(ctx, network, address)
	if err == nil {
		k.conns <- c
	}
	return c, err
}

// TestGRPCUserTimeout shows who sets TCP_USER_TIMEOUT, with which a client notices a dead
// peer. gRPC sets it from its keepalive parameters, but only on a *net.TCPConn. On a tunnel,
// the Control function of a net.Dialer must set it.
func TestGRPCUserTimeout(t *testing.T) {
	const fromGRPC, fromControl = 4 * time.Second, 7 * time.Second
	l := &preflight.PreflightListener{Listener: lab.Listen(t)}
	lab.ServeGRPC(t, "the server", l)
	nginx := lab.StartNginx(t, l.Addr().String())
	plain, edge := nginx.Plain, nginx.TLS
	control := &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		if err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(fromControl.Milliseconds()))
		}); err != nil {
			return err
		}
		return failed
	}}
	tunnel := func(f lab.Frontend, below preflight.ContextDialer) *preflight.PreflightDialer {
		d := f.Dialer()
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
		{"Lost", tunnel(plain, nil), plain.Address, 0},
		{"Control", tunnel(plain, control), plain.Address, fromControl},
		{"ControlBelowTLS", tunnel(edge, control), edge.Address, fromControl},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := recordingDialer{test.dialer, make(chan net.Conn, 10)}
			c := lab.DialGRPC(t, k, test.address, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: fromGRPC}))
			lab.CallWho(t, c)
			require.Len(t, k.conns, 1)
			require.EqualValues(t, test.want.Milliseconds(), userTimeout(t, <-k.conns))
		})
	}
}
