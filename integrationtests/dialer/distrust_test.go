package dialer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A panic of NetDialer reaches the caller, for either address family. On a
// goroutine of the library it would end the process.
func TestPreferPanicReachesTheCaller(t *testing.T) {
	for _, when := range []string{"tcp4", "tcp6"} {
		d := &preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialFunc(func(ctx context.Context, network, _ string) (net.Conn, error) {
			if network == when {
				panic("a fault of NetDialer")
			}
			<-ctx.Done()
			return nil, ctx.Err()
		})}
		ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience/30)
		require.PanicsWithValue(t, "a fault of NetDialer", func() { d.DialURL(ctx, "tcp://h:1?ip_protocol_prefer=ipv4") }, when)
		cancel()
	}
}

// If NetDialer panics for one family, the connection of the other is closed.
func TestPreferPanicClosesTheOther(t *testing.T) {
	for _, when := range []string{"tcp4", "tcp6"} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := testkit.SpyPipe(t)
			other := &testkit.SpyConn{Conn: c}
			begun := make(chan struct{})
			d := &preflight.PreflightDialer{NetDialer: testkit.DialFunc(func(ctx context.Context, network, _ string) (net.Conn, error) {
				if network == when {
					if when == "tcp4" {
						<-begun // after the head start of the first family
					}
					panic("a fault of NetDialer")
				}
				if when == "tcp4" {
					close(begun)
				}
				<-ctx.Done()
				return other, nil // it had connected already
			})}
			require.Panics(t, func() { d.DialURL(t.Context(), "tcp://h:1?ip_protocol_prefer=ipv4") })
			synctest.Wait()
			require.EqualValues(t, 1, other.Closes.Load(), when)
		})
	}
}

// timedOut is a transport whose peer is dead. Keep-alive or TCP_USER_TIMEOUT
// reports that.
type timedOut struct{ net.Conn }

func (timedOut) Read([]byte) (int, error) {
	return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
}

func (timedOut) Write(b []byte) (int, error) { return len(b), nil }

// A timeout of the transport is not reported as a timeout of the handshake. The
// error keeps its cause.
func TestDialerTransportTimesOut(t *testing.T) {
	c, peer := net.Pipe()
	defer peer.Close()
	d := &preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) {
		return timedOut{c}, nil
	})}
	_, err := d.DialContext(t.Context(), "tcp", "edge.example:80")
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

// nothingBelow is a transport whose NetConn returns nil. Here it is the lowest one.
type nothingBelow struct{ net.Conn }

func (nothingBelow) NetConn() net.Conn { return nil }

// A transport without deadlines is closed at the end of the time, also if its NetConn returns
// nil.
func TestDialerNothingBelow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := testkit.SpyPipe(t)
		go io.Copy(io.Discard, peer)
		d := &preflight.PreflightDialer{NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) {
			return nothingBelow{&testkit.SpyConn{Conn: c, NoDeadlines: true}}, nil
		})}
		_, err := d.DialContext(t.Context(), "tcp", "edge.example:80")
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
}

// oneConn is a listener with one connection.
type oneConn struct {
	net.Listener
	conns chan net.Conn
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, errors.New("no more")
}

// A silent connection whose peer is dead is not delivered as plain.
func TestListenerTransportTimesOut(t *testing.T) {
	c, peer := net.Pipe()
	defer peer.Close()
	inner := &oneConn{testkit.ListenTCP(t), make(chan net.Conn, 1)}
	inner.conns <- timedOut{c}
	l := testkit.Listen(t, &preflight.PreflightListener{Listener: inner})
	got := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			got <- conn
		}
		close(got)
	}()
	_, err := peer.Read(make([]byte, 1)) // blocks until the listener closes it
	require.Error(t, err)
	close(inner.conns)
	conn, ok := <-got
	require.False(t, ok, "%v was delivered", conn)
}

// A StatusError in the cause of a context belongs to another request. errors.As
// does not find it, not even by one of its methods.
func TestContextCauseHidesARefusal(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("given up: %w", &preflight.StatusError{StatusCode: 403}))
	c, peer := net.Pipe()
	defer peer.Close()
	_, err := preflight.Client(ctx, c, &http.Request{Host: "h", URL: &url.URL{Path: "/"}})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "given up")
	var status interface{ ErrorType() string }
	require.False(t, errors.As(err, &status))
}

// A part of a password is not taken for the path, and is not shown.
func TestURLWithASlashInThePassword(t *testing.T) {
	_, err := preflight.ParseURL("tcp://u:1/s3cr3t@h:1/")
	require.ErrorContains(t, err, "%2F")
	require.NotContains(t, err.Error(), "s3cr3t")
	target, err := preflight.ParseURL("tcp://u:p@h:1/a@b")
	require.NoError(t, err)
	require.Equal(t, "/a@b", target.Path)
}
