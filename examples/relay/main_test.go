package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// everyWay runs the relay for each way, with flags, and test with a client. At the end, the
// relay must have no open connection.
func everyWay(t *testing.T, to string, test func(t *testing.T, c client), flags ...string) {
	for _, w := range ways(t) {
		t.Run(w.name, func(t *testing.T) {
			p := start(t, slices.Concat([]string{"-to", to, "-grace", limit.String()}, w.flags, flags)...)
			test(t, w.dial(t, p))
			p.ctrlC()
			require.NoError(t, receive(t, p.ended))
		})
	}
}

func TestTransfer(t *testing.T) {
	everyWay(t, serve(t, echo), func(t *testing.T, c client) {
		data := make([]byte, 4<<20)
		rand.NewChaCha8([32]byte{}).Read(data)
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(data)
			sent <- err
		}()
		got := make([]byte, len(data))
		_, err := io.ReadFull(c, got)
		require.NoError(t, err)
		require.NoError(t, receive(t, sent))
		require.True(t, bytes.Equal(data, got))
		require.NoError(t, c.Close())
	})
}

func TestServerSpeaksFirst(t *testing.T) {
	server := serve(t, func(c *net.TCPConn) {
		io.WriteString(c, "220 ready\r\n")
		io.Copy(c, c)
	})
	everyWay(t, server, func(t *testing.T, c client) {
		line, err := bufio.NewReader(c).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "220 ready\r\n", line)
		hello(t, c)
		require.NoError(t, c.Close())
	}, "-plain-after", "50ms")
}

// TestClientHalfClose has the client close its direction. It must still get the answer.
func TestClientHalfClose(t *testing.T) {
	server := serve(t, func(c *net.TCPConn) {
		question, _ := io.ReadAll(c)
		io.WriteString(c, "answer to "+string(question))
	})
	everyWay(t, server, func(t *testing.T, c client) {
		_, err := io.WriteString(c, "question\n")
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		answer, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "answer to question\n", string(answer))
	})
}

// TestServerHalfClose has the server close its direction. It must still receive data.
func TestServerHalfClose(t *testing.T) {
	received := make(chan string, 1)
	server := serve(t, func(c *net.TCPConn) {
		io.Copy(io.Discard, io.LimitReader(c, int64(len("hello\n"))))
		io.WriteString(c, "bye")
		c.CloseWrite()
		rest, _ := io.ReadAll(c)
		received <- string(rest)
	})
	everyWay(t, server, func(t *testing.T, c client) {
		_, err := io.WriteString(c, "hello\n")
		require.NoError(t, err)
		all, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "bye", string(all))
		_, err = io.WriteString(c, "one more thing")
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Equal(t, "one more thing", receive(t, received))
	})
}

// TestServerReset has the server send an error and reset the connection. The error must
// arrive, and the relay must not wait until the client disconnects.
func TestServerReset(t *testing.T) {
	server := serve(t, func(c *net.TCPConn) {
		io.Copy(io.Discard, io.LimitReader(c, int64(len("hello\n"))))
		io.WriteString(c, "too many connections")
		c.SetLinger(0)
	})
	everyWay(t, server, func(t *testing.T, c client) {
		_, err := io.WriteString(c, "hello\n")
		require.NoError(t, err)
		all, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "too many connections", string(all))
	}, "-linger", "50ms")
}

// TestServerInterrupts has the server close the connection while the client is sending. The
// relay cannot deliver that data, but it must deliver what the server has sent.
func TestServerInterrupts(t *testing.T) {
	server := serve(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 1))
		io.WriteString(c, "too much")
	})
	p, preflight := start(t, "-to", server), ways(t)[1]
	for range 200 {
		c := preflight.dial(t, p)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for data := make([]byte, 64<<10); ; {
				if _, err := c.Write(data); err != nil {
					return
				}
			}
		}()
		got := make([]byte, len("too much"))
		_, err := io.ReadFull(c, got)
		require.NoError(t, err)
		require.Equal(t, "too much", string(got))
		receive(t, stopped)
	}
}

// TestClientReset has the client reset the connection. The relay must not wait for the
// server, which keeps its connection open.
func TestClientReset(t *testing.T) {
	leave := make(chan struct{})
	defer close(leave)
	server := serve(t, func(c *net.TCPConn) {
		io.Copy(c, c)
		<-leave
	})
	everyWay(t, server, func(t *testing.T, c client) {
		hello(t, c)
		reset(t, c)
	}, "-linger", "50ms")
}

func TestServerDown(t *testing.T) {
	const unreachable = "127.0.0.1:1" // a privileged port, at which nothing listens
	p := start(t, "-to", unreachable)
	c := ways(t)[1].dial(t, p)
	rest, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Empty(t, rest)
	line := receive(t, p.lines)
	require.Contains(t, line, c.LocalAddr().String())
	require.Contains(t, line, unreachable)
	require.Contains(t, line, "connection refused")
}

func TestRequireUpgrade(t *testing.T) {
	p := start(t, "-to", serve(t, echo), "-require-upgrade")
	hello(t, ways(t)[1].dial(t, p))
	c := ways(t)[0].dial(t, p)
	_, err := io.WriteString(c, "hello\n")
	require.NoError(t, err)
	rest, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Empty(t, rest)
}

// TestCtrlC requires that open connections continue to their end, and that new ones are
// refused.
func TestCtrlC(t *testing.T) {
	p := start(t, "-to", serve(t, echo), "-grace", limit.String())
	plain, tunnel := ways(t)[0].dial(t, p), ways(t)[1].dial(t, p)
	hello(t, plain)
	hello(t, tunnel)
	p.ctrlC()
	refused(t, p.address)
	hello(t, plain)
	require.NoError(t, plain.Close())
	hello(t, tunnel)
	require.Empty(t, p.ended)
	require.NoError(t, tunnel.Close())
	require.NoError(t, receive(t, p.ended))
}

// TestCtrlCIgnored requires that no client can keep the program from ending.
func TestCtrlCIgnored(t *testing.T) {
	for _, w := range ways(t) {
		t.Run(w.name, func(t *testing.T) {
			p := start(t, append([]string{"-to", serve(t, echo), "-grace", "50ms"}, w.flags...)...)
			c := w.dial(t, p)
			hello(t, c)
			p.ctrlC()
			err := receive(t, p.ended)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "connections are still open after 50ms")
			rest, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Empty(t, rest)
		})
	}
}

func TestAddressInUse(t *testing.T) {
	p := start(t, "-to", "127.0.0.1:1")
	require.ErrorIs(t, run(t.Context(), config{listen: p.address}, io.Discard), syscall.EADDRINUSE)
}

func TestNoCertificate(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "cert.pem")
	require.ErrorContains(t, run(t.Context(), config{listen: "127.0.0.1:0", cert: missing}, io.Discard), missing)
}

func TestFlags(t *testing.T) {
	cfg, err := parseFlags([]string{"-to", "127.0.0.1:5432"})
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:9007", cfg.listen)
	_, err = parseFlags(nil)
	require.ErrorContains(t, err, "-to")
}
