package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// The race detector allows 8128 goroutines, so a run with more than 4000 relays is one without
// it.
var idleRelays = flag.Int("relays", 2000, "how many idle relays TestIdleRelays holds")

// TestIdleRelays holds many relays of serve that nothing moves in, half of them raw and half of
// them framed. Each has two descriptors and two goroutines. When they have ended there are none.
func TestIdleRelays(t *testing.T) {
	relays := *idleRelays
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	require.Greater(t, limit.Cur, uint64(2*relays+100), "too few descriptors (ulimit -Hn), or use -relays")

	target := listen(t, func(c *net.TCPConn) {
		// io.Copy from and to a connection would hold a pipe for splice.
		io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 16))
		c.CloseWrite()
	})
	serve := startCounted(t, "serve", "--listen", "127.0.0.1:0", "--to", target, "--allow-all", "--require-upgrade", "--max-conns", "0")
	dialers := []*preflight.PreflightDialer{
		{Carriers: []preflight.Carrier{preflight.CarrierUpgrade}},
		{Carriers: []preflight.Carrier{preflight.CarrierFramed}},
	}
	tunnels := make([]net.Conn, relays)
	open := func(i int) (err error) {
		tunnels[i], err = openTunnel(dialers[i%len(dialers)], serve.address)
		return err
	}
	end := func(i int) error { return endTunnel(tunnels[i]) }
	begin := serve.counts(t)
	mustEach(t, relays, open)
	held := serve.awaitCounts(t, begin.descriptors+2*relays, begin.goroutines+2*relays)
	mustEach(t, relays, end)
	ended := serve.awaitCounts(t, begin.descriptors, begin.goroutines)
	t.Logf("%d relays: before %+v, with them %+v, after %+v", relays, begin, held, ended)
	require.Equal(t, relays, serve.logged(`level=INFO msg=closed `))
	require.Zero(t, serve.logged(`level=WARN|level=ERROR|closed early`))
}

// openTunnel opens a tunnel, and sends a byte through it that must come back.
func openTunnel(d *preflight.PreflightDialer, address string) (net.Conn, error) {
	c, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(timeout))
	defer c.SetDeadline(time.Time{})
	if _, err := c.Write([]byte{'x'}); err != nil {
		return c, err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return c, err
}

// endTunnel ends both directions of a tunnel in order.
func endTunnel(c net.Conn) error {
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	if err := c.(*preflight.Conn).CloseWrite(); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	if err != io.EOF {
		return fmt.Errorf("after the end: %v", err)
	}
	return nil
}

// mustEach is each, and ends the test if there are errors.
func mustEach(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	each(t, n, f)
	if t.Failed() {
		t.FailNow()
	}
}

// each calls f for the numbers below n, some at a time.
func each(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var running sync.WaitGroup
	const workers = 16
	for w := range workers {
		running.Go(func() {
			for i := w; i < n && !t.Failed(); i += workers {
				if err := f(i); err != nil {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	running.Wait()
}

// listen runs a TCP server until the test ends. Then no connection may be open.
func listen(t *testing.T, serve func(*net.TCPConn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("the server accepts nothing more: %v", err)
				return
			}
			running.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(2 * timeout))
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return l.Addr().String()
}
