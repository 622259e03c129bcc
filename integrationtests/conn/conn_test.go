package conn_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
)

// connWith returns a plain Conn on the server's side of two connected ends.
// rest has arrived and waits to be read.
func connWith(t testing.TB, client, server net.Conn, rest string) *preflight.Conn {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(client, rest)
		sent <- err
	}()
	conn, err := preflight.Server(context.Background(), server)
	require.NoError(t, err)
	require.NoError(t, <-sent)
	return conn
}

// connUpgraded performs the upgrade between the two ends of a connection.
func connUpgraded(t testing.TB, client, server net.Conn) (c, s *preflight.Conn) {
	t.Helper()
	type result struct {
		conn *preflight.Conn
		err  error
	}
	served := make(chan result, 1)
	go func() {
		conn, err := preflight.Server(context.Background(), server)
		served <- result{conn, err}
	}()
	c, err := preflight.Client(context.Background(), client, testkit.UpgradeRequestOf())
	require.NoError(t, err)
	r := <-served
	require.NoError(t, r.err)
	return c, r.conn
}

// connUpgradedOver is connUpgraded over a new pair of connections.
func connUpgradedOver(t testing.TB, pair func(testing.TB) (net.Conn, net.Conn)) (c, s *preflight.Conn) {
	t.Helper()
	client, server := pair(t)
	return connUpgraded(t, client, server)
}

// connReplayed runs nettest over a Conn with bytes that wait to be replayed,
// which nettest does not expect. The first Read consumes and compares them.
// Until then every method is called while such bytes wait.
type connReplayed struct {
	*preflight.Conn
	mu   sync.Mutex
	want string
}

func (c *connReplayed) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.want != "" {
		got := make([]byte, len(c.want))
		n, err := io.ReadFull(c.Conn, got)
		if !strings.HasPrefix(c.want, string(got[:n])) {
			return 0, fmt.Errorf("replayed %q, want %q", got[:n], c.want)
		}
		if c.want = c.want[n:]; err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

// TestConnConforms runs every kind of Conn through the conformance tests of
// net.Conn, at both ends of TCP connections and of pipes.
func TestConnConforms(t *testing.T) {
	kinds := map[string]func(t *testing.T, client, server net.Conn) (c1, c2 net.Conn){
		"client": func(t *testing.T, client, server net.Conn) (net.Conn, net.Conn) {
			c, s := connUpgraded(t, client, server)
			return c, s.NetConn()
		},
		"server": func(t *testing.T, client, server net.Conn) (net.Conn, net.Conn) {
			c, s := connUpgraded(t, client, server)
			return s, c.NetConn()
		},
		"plain": func(t *testing.T, client, server net.Conn) (net.Conn, net.Conn) {
			const early = "\x00early"
			return &connReplayed{Conn: connWith(t, client, server, early), want: early}, client
		},
	}
	transports := map[string]func(testing.TB) (net.Conn, net.Conn){"tcp": testkit.TCPPair, "pipe": testkit.SpyPipe}
	for kind, conns := range kinds {
		for transport, pair := range transports {
			for _, swapped := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/swapped=%v", kind, transport, swapped), func(t *testing.T) {
					nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
						client, server := pair(t)
						c1, c2 = conns(t, client, server)
						client.SetDeadline(time.Time{})
						server.SetDeadline(time.Time{})
						if swapped {
							c1, c2 = c2, c1
						}
						return c1, c2, func() { client.Close(); server.Close() }, nil
					})
				})
			}
		}
	}
}

// connEarly returns a plain Conn with "early" to be read, and its peer.
func connEarly(t testing.TB) (conn *preflight.Conn, peer net.Conn) {
	t.Helper()
	client, server := testkit.TCPPair(t)
	return connWith(t, client, server, connRest), client
}

// the first byte of connRest shows that the connection is plain
const connRest = "\x00early"

// TestConnReadsBytesFromTheHandshake: other dialers have panicked at such a
// byte, in a Read with an empty buffer, or have dropped it.
func TestConnReadsBytesFromTheHandshake(t *testing.T) {
	conn, peer := connEarly(t)
	n, err := conn.Read(nil)
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = io.WriteString(peer, " and late")
	require.NoError(t, err)
	require.NoError(t, peer.(*net.TCPConn).CloseWrite())
	got, err := io.ReadAll(iotest.OneByteReader(conn))
	require.NoError(t, err)
	require.Equal(t, connRest+" and late", string(got))
}

// TestConnReadDeadline: a deadline in the past fails the Read although bytes
// have arrived, as a socket does. No byte is lost.
func TestConnReadDeadline(t *testing.T) {
	set := map[string]func(net.Conn, time.Time) error{
		"SetDeadline":     net.Conn.SetDeadline,
		"SetReadDeadline": net.Conn.SetReadDeadline,
	}
	read := map[string]func(*preflight.Conn) (int64, error){
		"Read": func(c *preflight.Conn) (int64, error) {
			n, err := c.Read(make([]byte, 64))
			return int64(n), err
		},
		"WriteTo": func(c *preflight.Conn) (int64, error) { return c.WriteTo(io.Discard) },
	}
	for setter, set := range set {
		for reader, read := range read {
			t.Run(setter+"/"+reader, func(t *testing.T) {
				conn, _ := connEarly(t)
				require.NoError(t, set(conn, time.Unix(1, 0)))
				n, err := read(conn)
				require.Zero(t, n)
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				var netErr net.Error
				require.ErrorAs(t, err, &netErr)
				require.True(t, netErr.Timeout())

				for _, later := range []time.Time{time.Now().Add(time.Hour), {}} {
					require.NoError(t, set(conn, later))
					b := make([]byte, 3)
					_, err = io.ReadFull(conn, b)
					require.NoError(t, err)
				}
			})
		}
	}
	t.Run("SetWriteDeadline", func(t *testing.T) {
		conn, _ := connEarly(t)
		require.NoError(t, conn.SetWriteDeadline(time.Unix(1, 0)))
		_, err := io.ReadFull(conn, make([]byte, len(connRest)))
		require.NoError(t, err)
		_, err = conn.Write([]byte("x"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
}

func TestConnCloseDropsUnreadBytes(t *testing.T) {
	conn, _ := connEarly(t)
	require.NoError(t, conn.Close())
	_, err := conn.Read(make([]byte, 64))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = conn.WriteTo(io.Discard)
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestConnCloseRead(t *testing.T) {
	conn, peer := connEarly(t)
	require.NoError(t, conn.CloseRead())
	n, err := conn.Read(make([]byte, 64))
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)
	_, err = io.WriteString(conn, "still open")
	require.NoError(t, err)
	got := make([]byte, len("still open"))
	_, err = io.ReadFull(peer, got)
	require.NoError(t, err)
	require.Equal(t, "still open", string(got))
}

func TestConnCloseWrite(t *testing.T) {
	conn, peer := connEarly(t)
	require.NoError(t, conn.CloseWrite())
	n, err := peer.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)
	_, err = io.WriteString(peer, "!")
	require.NoError(t, err)
	require.NoError(t, peer.Close())
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, connRest+"!", string(got))
}

// TestConnHalfCloseUnsupported: if a transport cannot half-close, Conn returns
// an error. It does not pretend to half-close, does not close both directions,
// and does not lose bytes that have arrived.
func TestConnHalfCloseUnsupported(t *testing.T) {
	client, server := testkit.SpyPipe(t)
	conn := connWith(t, client, server, connRest)
	for name, halfClose := range map[string]func() error{"CloseWrite": conn.CloseWrite, "CloseRead": conn.CloseRead} {
		err := halfClose()
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.ErrorContains(t, err, name)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
	}
	go func() {
		io.WriteString(client, "!")
		client.Close()
	}()
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, connRest+"!", string(got))
}

// TestConnAccessors: the accessors do no I/O, so asking for an address never
// waits for a silent peer.
func TestConnAccessors(t *testing.T) {
	client, server := testkit.TCPPair(t)
	c, s := connUpgraded(t, client, server)
	require.Same(t, client, c.NetConn())
	require.Same(t, server, s.NetConn())
	require.Equal(t, client.RemoteAddr(), c.RemoteAddr())
	require.Equal(t, client.LocalAddr(), s.RemoteAddr())
	require.Equal(t, server.LocalAddr(), s.LocalAddr())

	require.Equal(t, "/amps/json?a=b%20c", s.Request().RequestURI)
	require.Equal(t, "edge.example", s.Request().Host)
	require.Equal(t, client.LocalAddr().String(), s.Request().RemoteAddr)
	for _, conn := range []*preflight.Conn{c, s} {
		require.Equal(t, http.StatusSwitchingProtocols, conn.Response().StatusCode)
		require.Equal(t, "101 Switching Protocols", conn.Response().Status)
		require.Equal(t, "tcp", conn.Response().Header.Get("Upgrade"))
		require.Same(t, conn.Request(), conn.Response().Request)
	}
}

// A dialer keeps the 101 as it was received, even with an empty field that means nothing in it.
func TestConnResponseIsUnchanged(t *testing.T) {
	ln := testkit.ListenTCP(t)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		http.ReadRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nSec-WebSocket-Accept:\r\n\r\n")
		io.Copy(io.Discard, c)
	}()
	c, err := (&preflight.PreflightDialer{}).Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, []string{""}, c.(*preflight.Conn).Response().Header["Sec-Websocket-Accept"])
}

func TestConnOfPlainConnectionHasNoRequest(t *testing.T) {
	conn, _ := connEarly(t)
	require.Nil(t, conn.Request())
	require.Nil(t, conn.Response())
}

// TestConnHasNoMoreMethods: drivers and net/http would use these two methods in
// ways that the documentation of Conn describes.
func TestConnHasNoMoreMethods(t *testing.T) {
	var conn any = new(preflight.Conn)
	_, ok := conn.(interface {
		SyscallConn() (syscall.RawConn, error)
	})
	require.False(t, ok, "SyscallConn")
	_, ok = conn.(interface{ ConnectionState() tls.ConnectionState })
	require.False(t, ok, "ConnectionState")
}

// TestConnRequestIsOne: every caller gets the same request, also if two
// goroutines ask for the first time at once.
func TestConnRequestIsOne(t *testing.T) {
	for range 50 {
		_, s := connUpgradedOver(t, testkit.SpyPipe)
		const askers = 4
		requests, responses := make([]*http.Request, askers), make([]*http.Response, askers)
		var begin, done sync.WaitGroup
		begin.Add(1)
		for i := range askers {
			done.Go(func() {
				begin.Wait()
				responses[i], requests[i] = s.Response(), s.Request()
			})
		}
		begin.Done()
		done.Wait()
		require.NotNil(t, requests[0])
		for i := range askers {
			require.Same(t, requests[0], requests[i])
			require.Same(t, responses[0], responses[i])
		}
	}
}
