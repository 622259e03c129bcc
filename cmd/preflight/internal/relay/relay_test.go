package relay

import (
	"crypto/rand"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

const timeout = 30 * time.Second // no test waits for it

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	s, err := l.Accept()
	require.NoError(t, err)
	for _, c := range []net.Conn{c, s} {
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(timeout))
	}
	s.SetDeadline(time.Time{}) // the relay's
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// tunnelPair returns a tunnel: the end of the client, and that of the relay.
func tunnelPair(t *testing.T, carrier preflight.Carrier) (client, relay *preflight.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &preflight.PreflightListener{Listener: inner}
	t.Cleanup(func() { l.Close() })
	dialed := make(chan net.Conn, 1)
	go func() {
		d := preflight.PreflightDialer{Carriers: []preflight.Carrier{carrier}}
		c, err := d.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Error(err)
		}
		dialed <- c
	}()
	s, err := l.Accept()
	require.NoError(t, err)
	c := <-dialed
	t.Cleanup(func() { Reset(c); Reset(s) })
	c.SetDeadline(time.Now().Add(timeout))
	return c.(*preflight.Conn), s.(*preflight.Conn)
}

// start runs a relay, and returns what it will return.
func start(a, b Conn, idle time.Duration) <-chan Result {
	done := make(chan Result, 1)
	go func() { done <- Run(a, b, idle) }()
	return done
}

func wait(t *testing.T, done <-chan Result) Result {
	t.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(timeout):
		require.FailNow(t, "the relay does not end")
	}
	return Result{}
}

var carriers = []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierFramed, preflight.CarrierWebSocket}

// each runs a test with each kind of connection on the client's side.
func each(t *testing.T, test func(t *testing.T, client, server Conn, run func(idle time.Duration) <-chan Result)) {
	t.Run("tcp", func(t *testing.T) {
		client, a := tcpPair(t)
		server, b := tcpPair(t)
		test(t, client, server, func(idle time.Duration) <-chan Result { return start(a, b, idle) })
	})
	for _, carrier := range carriers {
		t.Run(string(carrier), func(t *testing.T) {
			client, a := tunnelPair(t, carrier)
			server, b := tcpPair(t)
			test(t, client, server, func(idle time.Duration) <-chan Result { return start(a, b, idle) })
		})
	}
}

// TestHalfClose ends each direction first, and sends much data in the other afterwards.
func TestHalfClose(t *testing.T) {
	data := make([]byte, 3<<20)
	rand.Read(data)
	each(t, func(t *testing.T, client, server Conn, run func(time.Duration) <-chan Result) {
		done := run(timeout)
		_, err := client.Write([]byte("request"))
		require.NoError(t, err)
		require.NoError(t, client.CloseWrite())
		got, err := io.ReadAll(server)
		require.NoError(t, err)
		require.Equal(t, "request", string(got))
		go func() {
			server.Write(data)
			server.CloseWrite()
		}()
		got, err = io.ReadAll(client)
		require.NoError(t, err)
		require.True(t, string(got) == string(data))
		require.Equal(t, Result{Up: 7, Down: int64(len(data))}, wait(t, done))
	})
	each(t, func(t *testing.T, client, server Conn, run func(time.Duration) <-chan Result) {
		done := run(timeout)
		require.NoError(t, server.CloseWrite())
		_, err := client.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		go func() {
			client.Write(data)
			client.CloseWrite()
		}()
		got, err := io.ReadAll(server)
		require.NoError(t, err)
		require.True(t, string(got) == string(data))
		require.Equal(t, Result{Up: int64(len(data))}, wait(t, done))
	})
}

// TestReset resets each end while both directions are open, and while one is.
func TestReset(t *testing.T) {
	for _, half := range []bool{false, true} {
		for _, byClient := range []bool{false, true} {
			each(t, func(t *testing.T, client, server Conn, run func(time.Duration) <-chan Result) {
				done := run(timeout)
				first, second := server, client
				if byClient {
					first, second = client, server
				}
				_, err := first.Write([]byte("x"))
				require.NoError(t, err)
				_, err = io.ReadFull(second, make([]byte, 1))
				require.NoError(t, err)
				if half {
					require.NoError(t, second.CloseWrite())
					_, err = first.Read(make([]byte, 1))
					require.Equal(t, io.EOF, err)
				}
				Reset(first)
				_, err = second.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.Error(t, wait(t, done).Err)
			})
		}
	}
}

// TestTruncated ends the connection below a framed tunnel in order. The server must not take
// that for the end of the data.
func TestTruncated(t *testing.T) {
	for _, carrier := range carriers[1:] {
		t.Run(string(carrier), func(t *testing.T) {
			client, a := tunnelPair(t, carrier)
			server, b := tcpPair(t)
			done := start(a, b, timeout)
			_, err := client.Write([]byte("x"))
			require.NoError(t, err)
			Bottom(client).(*net.TCPConn).CloseWrite()
			_, err = io.ReadFull(server, make([]byte, 1))
			require.NoError(t, err)
			_, err = server.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.ErrorIs(t, wait(t, done).Err, io.ErrUnexpectedEOF)
		})
	}
}

// TestLastWords has a server that says why it leaves, and resets the connection because it
// has not read everything.
func TestLastWords(t *testing.T) {
	each(t, func(t *testing.T, client, server Conn, run func(time.Duration) <-chan Result) {
		_, err := client.Write([]byte("what the server never reads"))
		require.NoError(t, err)
		done := run(timeout)
		_, err = io.ReadFull(server, make([]byte, 1))
		require.NoError(t, err)
		_, err = server.Write([]byte("goodbye"))
		require.NoError(t, err)
		server.Close()
		got := make([]byte, 7)
		_, err = io.ReadFull(client, got)
		require.NoError(t, err)
		require.Equal(t, "goodbye", string(got))
		_, err = io.Copy(io.Discard, client)
		_ = err // an end or a reset: the server's own is either
		client.Close()
		wait(t, done)
	})
}

// A pipe is one end of a connection in memory, whose directions end apart.
type pipe struct {
	net.Conn          // that is read
	out      net.Conn // that is written
}

func newPipe() (a, b *pipe) {
	r1, w1 := net.Pipe()
	r2, w2 := net.Pipe()
	return &pipe{r1, w2}, &pipe{r2, w1}
}

func (p *pipe) Write(b []byte) (int, error)        { return p.out.Write(b) }
func (p *pipe) CloseWrite() error                  { return p.out.Close() }
func (p *pipe) SetWriteDeadline(t time.Time) error { return p.out.SetWriteDeadline(t) }
func (p *pipe) Close() error                       { return errors.Join(p.Conn.Close(), p.out.Close()) }

// TestIdle proves with virtual time that the limit is for silence, and not for the whole time
// after the end of one direction.
func TestIdle(t *testing.T) {
	const idle = time.Minute
	t.Run("Silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, a := newPipe()
			server, b := newPipe()
			done := start(a, b, idle)
			time.Sleep(24 * time.Hour) // no limit while both are open
			begin := time.Now()
			client.CloseWrite()
			server.Read(make([]byte, 1))
			for range 10 {
				time.Sleep(idle - time.Second)
				_, err := server.Write([]byte("x"))
				require.NoError(t, err)
				_, err = client.Read(make([]byte, 1))
				require.NoError(t, err)
			}
			_, err := client.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			r := <-done
			require.ErrorIs(t, r.Err, ErrIdle)
			require.Equal(t, Result{Down: 10, Err: r.Err}, r)
			require.Equal(t, 10*(idle-time.Second)+idle, time.Since(begin))
			server.Close()
		})
	})
	t.Run("Stuck", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, a := newPipe()
			server, b := newPipe()
			done := start(a, b, idle)
			client.CloseWrite()
			server.Read(make([]byte, 1))
			_, err := server.Write([]byte("x")) // the client does not read
			require.NoError(t, err)
			begin := time.Now()
			require.ErrorIs(t, (<-done).Err, ErrIdle)
			require.Equal(t, idle, time.Since(begin))
		})
	})
	t.Run("StuckBefore", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, a := newPipe()
			server, b := newPipe()
			done := start(a, b, idle)
			_, err := server.Write([]byte("x")) // the client does not read
			require.NoError(t, err)
			synctest.Wait()
			begin := time.Now()
			client.CloseWrite()
			require.ErrorIs(t, (<-done).Err, ErrIdle)
			require.Equal(t, idle, time.Since(begin))
			server.Close()
		})
	})
	t.Run("None", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, a := newPipe()
			server, b := newPipe()
			done := start(a, b, 0)
			client.CloseWrite()
			server.Read(make([]byte, 1))
			time.Sleep(24 * time.Hour)
			server.CloseWrite()
			require.NoError(t, (<-done).Err)
		})
	})
}

// TestAwaitClosed ends a framed tunnel whose peer reads nothing yet.
func TestAwaitClosed(t *testing.T) {
	client, server := tunnelPair(t, preflight.CarrierFramed)
	_, err := client.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, client.CloseWrite())
	require.False(t, awaitClosed(client, 20*time.Millisecond))
	_, err = io.ReadAll(server)
	require.NoError(t, err)
	server.Close()
	_, err = client.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	require.True(t, awaitClosed(client, timeout))
	require.NoError(t, client.Close())
}

// TestCloseWriteFails has a side that cannot end its direction, such as a file on a full disk.
func TestCloseWriteFails(t *testing.T) {
	client, a := tcpPair(t)
	b, server := newPipe()
	full := errors.New("the disk is full")
	done := start(a, &failing{Conn: b, err: full}, timeout)
	require.NoError(t, client.CloseWrite())
	require.NoError(t, server.Close())
	require.Equal(t, full, wait(t, done).Err)
}

type failing struct {
	Conn
	err error
}

func (f *failing) CloseWrite() error { return f.err }

// TestBottom ends at a layer that has nothing below it.
func TestBottom(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	for _, c := range []net.Conn{a, layer{a, nil}} {
		require.Equal(t, c, Bottom(c))
		require.Equal(t, c, Bottom(layer{b, c}))
	}
}

type layer struct {
	net.Conn
	below net.Conn
}

func (l layer) NetConn() net.Conn { return l.below }
