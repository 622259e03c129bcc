package conn_test

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A closeHookConn is a transport whose Close and CloseRead first call a function. Its
// Read still returns bytes after them, as TLS and Linux do.
type closeHookConn struct {
	net.Conn
	before func()
	fails  error // CloseRead
	later  string
}

func (c *closeHookConn) Close() error {
	c.before()
	return c.Conn.Close()
}

func (c *closeHookConn) CloseRead() error {
	c.before()
	return c.fails
}

func (c *closeHookConn) Read(b []byte) (int, error) {
	if c.later != "" {
		n := copy(b, c.later)
		c.later = c.later[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// The bytes that Read returns during and after Close and CloseRead are the
// first bytes that arrived, without a gap.
func TestConnCloseLeavesNoGap(t *testing.T) {
	for name, end := range map[string]func(*preflight.Conn) error{
		"Close": (*preflight.Conn).Close, "CloseRead": (*preflight.Conn).CloseRead,
	} {
		for _, beside := range []bool{false, true} {
			for how, read := range map[string]func(*preflight.Conn) (string, error){
				"Read": func(c *preflight.Conn) (string, error) {
					b := make([]byte, 64)
					n, err := c.Read(b)
					return string(b[:n]), err
				},
				"WriteTo": func(c *preflight.Conn) (string, error) {
					var b strings.Builder
					_, err := c.WriteTo(&b)
					if err == nil {
						err = io.EOF
					}
					return b.String(), err
				},
			} {
				t.Run(name+"/"+how, func(t *testing.T) {
					client, server := testkit.TCPPair(t)
					transport := &closeHookConn{Conn: server, before: func() {}}
					conn := connWith(t, client, transport, connRest)
					transport.later = " and late"
					var got string
					if beside {
						transport.before = func() {
							b := make([]byte, len(connRest)-1)
							n, err := conn.Read(b)
							require.NoError(t, err)
							got = string(b[:n])
						}
					}
					require.NoError(t, end(conn))
					if beside {
						require.Equal(t, connRest[:len(connRest)-1], got)
					}
					for range 3 {
						more, err := read(conn)
						require.Empty(t, more, "it follows bytes that were dropped")
						want := net.ErrClosed
						if name == "CloseRead" {
							want = io.EOF
						}
						require.ErrorIs(t, err, want)
					}
				})
			}
		}
	}
}

// A CloseRead that fails has closed nothing and drops nothing.
func TestConnCloseReadFails(t *testing.T) {
	client, server := testkit.TCPPair(t)
	broken := errors.New("broken")
	conn := connWith(t, client, &closeHookConn{Conn: server, before: func() {}, fails: broken}, connRest)
	require.ErrorIs(t, conn.CloseRead(), broken)
	got := make([]byte, len(connRest))
	_, err := io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, connRest, string(got))
}

// A deadlineHookConn is a transport that records the last deadline it was given, and
// then calls a function.
type deadlineHookConn struct {
	net.Conn
	last atomic.Pointer[time.Time]
	then func(time.Time)
	err  error
}

func (c *deadlineHookConn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }

func (c *deadlineHookConn) SetDeadline(t time.Time) error {
	c.last.Store(&t)
	if c.then != nil {
		c.then(t)
	}
	return c.err
}

// Two deadlines are set at once. The one that the transport got last also
// applies to the bytes that came with the handshake.
func TestConnDeadlinesAtOnce(t *testing.T) {
	past, future := time.Unix(1, 0), time.Now().Add(time.Hour)
	type setter func(*preflight.Conn, time.Time) error
	read, both := setter((*preflight.Conn).SetReadDeadline), setter((*preflight.Conn).SetDeadline)
	for _, tt := range []struct{ first, second setter }{{read, read}, {read, both}, {both, read}, {both, both}} {
		client, server := testkit.TCPPair(t)
		transport := &deadlineHookConn{Conn: server}
		conn := connWith(t, client, transport, connRest)
		second := make(chan error)
		transport.then = func(t time.Time) {
			if t.Equal(past) {
				go func() { second <- tt.second(conn, future) }()
				for range 10_000 { // time for the second call to complete, if it can
					runtime.Gosched()
				}
			}
		}
		require.NoError(t, tt.first(conn, past))
		require.NoError(t, <-second)
		n, err := conn.Read(make([]byte, 64))
		if last := transport.last.Load(); last.Equal(past) {
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		} else {
			require.NoError(t, err, "the deadline is %v", last)
			require.Equal(t, len(connRest), n)
		}
	}
}

// A deadline that the transport rejects does not apply to the bytes that came
// with the handshake either.
func TestConnDeadlineFails(t *testing.T) {
	for name, set := range map[string]func(*preflight.Conn, time.Time) error{
		"SetDeadline": (*preflight.Conn).SetDeadline, "SetReadDeadline": (*preflight.Conn).SetReadDeadline,
	} {
		t.Run(name, func(t *testing.T) {
			client, server := testkit.TCPPair(t)
			transport := &deadlineHookConn{Conn: server}
			conn := connWith(t, client, transport, connRest)
			transport.err = testkit.ErrNoDeadlines
			require.ErrorIs(t, set(conn, time.Unix(1, 0)), testkit.ErrNoDeadlines)
			n, err := conn.Read(make([]byte, 64))
			require.NoError(t, err)
			require.Equal(t, len(connRest), n)
		})
	}
}
