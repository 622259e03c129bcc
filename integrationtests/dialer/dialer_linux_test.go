package dialer_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// dialOptions are the socket options that URLs can set.
type dialOptions struct {
	noDelay, keepAlive, sendBuffer, receiveBuffer, linger int
	lingerSeconds                                         int
}

// dialAsk reads the options of the socket below c from the kernel.
func dialAsk(t testing.TB, c net.Conn) (o dialOptions) {
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
	require.NoError(t, raw.Control(func(fd uintptr) {
		for _, ask := range []struct {
			value         *int
			level, option int
		}{
			{&o.noDelay, syscall.IPPROTO_TCP, syscall.TCP_NODELAY},
			{&o.keepAlive, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE},
			{&o.sendBuffer, syscall.SOL_SOCKET, syscall.SO_SNDBUF},
			{&o.receiveBuffer, syscall.SOL_SOCKET, syscall.SO_RCVBUF},
		} {
			*ask.value, err = syscall.GetsockoptInt(int(fd), ask.level, ask.option)
			require.NoError(t, err)
		}
		// SO_LINGER is a structure of two ints; package syscall reads one of
		// that size under this name alone.
		linger, err := syscall.GetsockoptIPMreq(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER)
		require.NoError(t, err)
		o.linger = int(binary.NativeEndian.Uint32(linger.Multiaddr[:]))
		o.lingerSeconds = int(binary.NativeEndian.Uint32(linger.Interface[:]))
	}))
	return o
}

// TestDialURLSocketOptions: each option sets its own socket option and no
// other, also on the socket below TLS and the upgrade.
func TestDialURLSocketOptions(t *testing.T) {
	server := testkit.NewIdentity(t)
	for _, scheme := range []string{"tcp", "tcps"} {
		var d preflight.PreflightDialer
		inner := testkit.ListenTCP(t)
		address := inner.Addr().String()
		if scheme == "tcps" {
			d.TLSConfig = server.Client()
			inner = tls.NewListener(inner, server.Config)
		}
		testkit.ServeEcho(t, testkit.Listen(t, &preflight.PreflightListener{Listener: inner}))
		for _, upgraded := range []string{"false", "true"} {
			dial := func(t *testing.T, options string) dialOptions {
				conn, err := d.DialURL(t.Context(), fmt.Sprintf("%s://%s/?http_preflight=%s%s", scheme, address, upgraded, options))
				require.NoError(t, err)
				defer conn.Close()
				return dialAsk(t, conn)
			}
			unset := dial(t, "")
			require.Equal(t, dialOptions{noDelay: 1, keepAlive: 1, sendBuffer: unset.sendBuffer, receiveBuffer: unset.receiveBuffer}, unset)
			for options, set := range map[string]func(*dialOptions){
				"&tcp_nodelay=true":    func(*dialOptions) {},
				"&tcp_nodelay=false":   func(o *dialOptions) { o.noDelay = 0 },
				"&tcp_keepalive=true":  func(*dialOptions) {},
				"&tcp_keepalive=false": func(o *dialOptions) { o.keepAlive = 0 },
				// The kernel doubles a buffer for its own needs: socket(7).
				"&tcp_sndbuf=16384": func(o *dialOptions) { o.sendBuffer = 2 * 16384 },
				"&tcp_rcvbuf=20480": func(o *dialOptions) { o.receiveBuffer = 2 * 20480 },
				"&tcp_linger=7":     func(o *dialOptions) { o.linger, o.lingerSeconds = 1, 7 },
				"&tcp_linger=0":     func(o *dialOptions) { o.linger = 1 },
				"&tcp_nodelay=0&tcp_keepalive=0&tcp_linger=3": func(o *dialOptions) { o.noDelay, o.keepAlive, o.linger, o.lingerSeconds = 0, 0, 1, 3 },
			} {
				t.Run(scheme+"/upgraded="+upgraded+"/"+options, func(t *testing.T) {
					want := unset
					set(&want)
					got := dial(t, options)
					// The kernel chooses the size of buffers that are not set.
					if want.sendBuffer == unset.sendBuffer {
						got.sendBuffer = want.sendBuffer
					}
					if want.receiveBuffer == unset.receiveBuffer {
						got.receiveBuffer = want.receiveBuffer
					}
					require.Equal(t, want, got)
				})
			}
		}
	}
}

// TestDialURLLingerOff: -1 turns off the option that NetDialer has turned on.
func TestDialURLLingerOff(t *testing.T) {
	address := dialEcho(t, nil)
	d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = c.(*net.TCPConn).SetLinger(5)
		}
		return c, err
	})}
	for option, linger := range map[string]int{"": 1, "?tcp_linger=-1": 0} {
		conn, err := d.DialURL(t.Context(), "tcp://"+address+"/"+option)
		require.NoError(t, err)
		require.Equal(t, linger, dialAsk(t, conn).linger)
		dialPing(t, conn)
	}
}

// TestDialBoundsTheKernel: a connect without an answer ends after
// HandshakeTimeout, or tcp_connecttimeout, for an address and for a name.
func TestDialBoundsTheKernel(t *testing.T) {
	address := dialBlackHole(t)
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	for name, dial := range map[string]func(d preflight.PreflightDialer, address string) (net.Conn, error){
		"HandshakeTimeout": func(d preflight.PreflightDialer, address string) (net.Conn, error) {
			d.HandshakeTimeout = 20 * time.Millisecond
			return d.Dial("tcp", address)
		},
		"tcp_connecttimeout": func(d preflight.PreflightDialer, address string) (net.Conn, error) {
			return d.DialURL(context.Background(), "tcp://"+address+"/?tcp_connecttimeout=20&http_preflight=1")
		},
		"tcp_connecttimeout before a deadline": func(d preflight.PreflightDialer, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			return d.DialURL(ctx, "tcp://"+address+"/?tcp_connecttimeout=20")
		},
	} {
		for _, address := range []string{address, "localhost:" + port} {
			for _, proxy := range []string{"", "http://" + address} {
				t.Run(name+"/"+address+"/"+proxy, func(t *testing.T) {
					d, address := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: &net.Dialer{Resolver: dialLocalhost}}, address
					if proxy != "" {
						d.Proxy = fwdBy(t, proxy)
						address = "edge.example:80"
					}
					conn, err := dial(d, address)
					require.Nil(t, conn)
					op, ok := err.(*net.OpError)
					require.True(t, ok, "%T", err)
					require.True(t, op.Timeout())
					require.NotErrorIs(t, err, syscall.ETIMEDOUT, "the timeout of the kernel, after minutes")
					require.ErrorContains(t, err, "dial tcp 127.0.0.1:"+port)
				})
			}
		}
	}
}

// dialLocalhost resolves names with the hosts file only.
var dialLocalhost = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("asked a server for localhost")
}}

// dialBlackHole returns an address where the kernel drops the packets that open
// a connection, because the backlog of the listener is full.
func dialBlackHole(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	c, err := net.Dial("tcp", address) // the one connection that has room
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return address
}

// TestDialURLBinds binds to an address, and to a port of it. The caller's
// Dialer is not changed.
func TestDialURLBinds(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.2:0")
	require.NoError(t, err)
	port := free.Addr().(*net.TCPAddr).Port
	require.NoError(t, free.Close())
	for _, netDialer := range []*net.Dialer{nil, {}} {
		for _, upgraded := range []string{"false", "true"} {
			for bind, wantPort := range map[string]int{"127.0.0.2": 0, fmt.Sprintf("127.0.0.2:%d", port): port} {
				t.Run(fmt.Sprintf("%v/%s/%s", netDialer != nil, upgraded, bind), func(t *testing.T) {
					ln := testkit.Listen(t, &preflight.PreflightListener{})
					var d preflight.PreflightDialer
					if netDialer != nil {
						d.NetDialer = netDialer
					}
					served := make(chan net.Addr, 1)
					go func() {
						c, err := ln.Accept()
						if err != nil {
							served <- nil
							return
						}
						served <- c.RemoteAddr()
						c.Close()
					}()
					// It ends with a reset, so that the port is free again at
					// once.
					conn, err := d.DialURL(t.Context(), fmt.Sprintf("tcp://%s/?http_preflight=%s&tcp_linger=0&bind=%s", ln.Addr(), upgraded, bind))
					require.NoError(t, err)
					if upgraded == "false" {
						_, err = conn.Write([]byte("\x00"))
						require.NoError(t, err)
					}
					from := (<-served).(*net.TCPAddr)
					require.NoError(t, conn.Close())
					require.Equal(t, "127.0.0.2", from.IP.String())
					if wantPort > 0 {
						require.Equal(t, wantPort, from.Port)
					}
					if netDialer != nil {
						require.Nil(t, netDialer.LocalAddr)
					}
				})
			}
		}
	}
}
