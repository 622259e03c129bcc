package telemetry

import (
	"context"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

const (
	upgraded = " preflight.carrier=upgrade preflight.kind=upgraded"
	received = ".connection.io network.io.direction=receive" + upgraded
	sent     = ".connection.io network.io.direction=transmit" + upgraded
)

// TestTunnels opens many tunnels at once, and requires exact sums.
func TestTunnels(t *testing.T) {
	const dialers, each = 64, 4
	near, far := newObserver(), newObserver()
	address, stop := serve(t, &preflight.PreflightListener{Telemetry: far.Telemetry}, func(c *preflight.Conn) { io.Copy(c, c) })
	d := &preflight.PreflightDialer{Telemetry: near.Telemetry}
	var running sync.WaitGroup
	for i := range dialers {
		running.Go(func() {
			for range each {
				c, err := d.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				data := make([]byte, 100+i)
				if _, err := c.Write(data); err != nil {
					t.Error(err)
				}
				if _, err := io.ReadFull(c, data); err != nil {
					t.Error(err)
				}
				c.Close()
			}
		})
	}
	running.Wait()
	stop()
	bytes := int64(each * (dialers*100 + dialers*(dialers-1)/2))
	for side, e := range map[string]observer{"client": near, "server": far} {
		metrics := e.metrics(t)
		require.Equal(t, int64(dialers*each), metrics[side+".handshake.duration http.response.status_code=101"+upgraded])
		require.Equal(t, int64(dialers*each), metrics[side+".connection.duration"+upgraded])
		require.Equal(t, bytes, metrics[side+received])
		require.Equal(t, bytes, metrics[side+sent])
		require.Len(t, e.spans(), dialers*each)
		requireQuiet(t, metrics)
	}
}

// TestEarlyBytes requires that bytes which arrive with the head, or with the 101, are
// counted for the tunnel.
func TestEarlyBytes(t *testing.T) {
	near, far := newObserver(), newObserver()
	address, stop := serve(t, &preflight.PreflightListener{Telemetry: far.Telemetry}, func(c *preflight.Conn) { io.Copy(io.Discard, c) })
	c := lab.DialTCP(t, address)
	_, err := io.WriteString(c, request+"\r\nearly")
	require.NoError(t, err)
	c.CloseWrite()
	io.Copy(io.Discard, c)
	stop()
	require.Equal(t, int64(5), far.metrics(t)["server"+received])

	early := answer(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly")
	conn, err := (&preflight.PreflightDialer{Telemetry: near.Telemetry}).Dial("tcp", early)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, conn)
	require.NoError(t, err)
	conn.Close()
	require.Equal(t, int64(5), near.metrics(t)["client"+received])
}

// TestRelay copies between two tunnels. The kernel moves the bytes, and they must still be
// counted, even if the copy ends after its connection was closed.
func TestRelay(t *testing.T) {
	const size = 64 << 20
	in, out := newObserver(), newObserver()
	far, stopFar := serve(t, new(preflight.PreflightListener), func(c *preflight.Conn) { io.Copy(c, c) })
	relay, stopRelay := serve(t, &preflight.PreflightListener{Telemetry: in.Telemetry}, func(c *preflight.Conn) {
		onward, err := (&preflight.PreflightDialer{Telemetry: out.Telemetry}).Dial("tcp", far)
		if err != nil {
			t.Error(err)
			return
		}
		var back sync.WaitGroup
		back.Go(func() {
			io.Copy(c, onward)
			c.Close()
			onward.Close()
		})
		io.Copy(onward, c)
		c.Close() // while the other copy may be running
		onward.Close()
		back.Wait()
	})
	conn, err := new(preflight.PreflightDialer).Dial("tcp", relay)
	require.NoError(t, err)
	before := readsAndWrites(t)
	var sending sync.WaitGroup
	sending.Go(func() {
		if _, err := io.CopyN(conn, zeros{}, size); err != nil {
			t.Error(err)
		}
	})
	_, err = io.CopyN(io.Discard, conn, size)
	require.NoError(t, err)
	sending.Wait()
	calls := readsAndWrites(t) - before
	conn.Close()
	stopRelay()
	stopFar()
	for _, metrics := range []map[string]int64{in.metrics(t), out.metrics(t)} {
		for name, n := range metrics {
			if strings.Contains(name, "connection.io") {
				require.Equal(t, int64(size), n, name)
			}
		}
	}
	require.Len(t, in.spans(), 1)

	// The client writes 32 KiB at a time, and io.Discard reads 8 KiB. The relay and the
	// echo use splice. If they copied 32 KiB at a time, there would be twice as many calls.
	t.Logf("%d calls of read and write for %d MiB each way", calls, size>>20)
	require.Less(t, calls, int64(2*size/(8<<10)))
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// readsAndWrites returns how many times this process has called read and write. A splice is
// neither. It returns 0 if the kernel does not count them.
func readsAndWrites(t *testing.T) (n int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name == "syscr" || name == "syscw" {
			calls, err := strconv.ParseInt(value, 10, 64)
			require.NoError(t, err)
			n += calls
		}
	}
	return n
}

// TestLateCount requires that a Read which returns after Close is counted.
func TestLateCount(t *testing.T) {
	e := newObserver()
	client, server := net.Pipe()
	defer server.Close()
	go io.Copy(io.Discard, server)
	go io.WriteString(server, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	d := &preflight.PreflightDialer{NetDialer: pipe{client}, Telemetry: e.Telemetry}
	c, err := d.Dial("tcp", "pipe:80")
	require.NoError(t, err)
	n, err := c.(*preflight.Conn).ReadFrom(&closing{c: c, data: "late"})
	require.Error(t, err)
	require.Equal(t, int64(4), n)
	require.Equal(t, int64(4), e.metrics(t)["client"+sent])
}

type pipe struct{ net.Conn }

func (p pipe) DialContext(context.Context, string, string) (net.Conn, error) { return p.Conn, nil }

// closing is a reader that closes the connection after its data.
type closing struct {
	c    net.Conn
	data string
}

func (r *closing) Read(b []byte) (int, error) {
	if r.data == "" {
		r.c.Close()
		return 0, net.ErrClosed
	}
	n := copy(b, r.data)
	r.data = r.data[n:]
	return n, nil
}
