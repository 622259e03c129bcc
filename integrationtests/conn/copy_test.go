package conn_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// connRecorder records the arguments that io.Copy passes to the two methods by
// which package net moves bytes inside the kernel.
type connRecorder struct {
	*net.TCPConn
	mu       sync.Mutex
	from, to []string // the types of the arguments
}

func (c *connRecorder) ReadFrom(r io.Reader) (int64, error) {
	c.mu.Lock()
	c.from = append(c.from, fmt.Sprintf("%T", r))
	c.mu.Unlock()
	return c.TCPConn.ReadFrom(r)
}

func (c *connRecorder) WriteTo(w io.Writer) (int64, error) {
	c.mu.Lock()
	c.to = append(c.to, fmt.Sprintf("%T", w))
	c.mu.Unlock()
	return c.TCPConn.WriteTo(w)
}

// connRelay copies from one TCP connection to another. Each may be a Conn. It
// returns what the recorders of their sockets have seen.
func connRelay(t *testing.T, srcIsConn, dstIsConn bool) (src, dst *connRecorder) {
	t.Helper()
	const late = " and late"
	client, in := testkit.TCPPair(t)
	out, backend := testkit.TCPPair(t)
	src, dst = &connRecorder{TCPConn: in.(*net.TCPConn)}, &connRecorder{TCPConn: out.(*net.TCPConn)}

	var from io.Reader = src
	if srcIsConn {
		from = connWith(t, client, src, connRest)
	} else {
		_, err := io.WriteString(client, connRest)
		require.NoError(t, err)
	}
	var to io.Writer = dst
	if dstIsConn {
		to, _ = connUpgraded(t, dst, backend)
	}
	_, err := io.WriteString(client, late)
	require.NoError(t, err)
	require.NoError(t, client.(*net.TCPConn).CloseWrite())

	n, err := io.Copy(to, from)
	require.NoError(t, err)
	require.EqualValues(t, len(connRest+late), n)
	require.NoError(t, dst.CloseWrite())
	got, err := io.ReadAll(backend)
	require.NoError(t, err)
	require.Equal(t, connRest+late, string(got))
	return src, dst
}

// TestConnCopy relays between TCP connections with io.Copy. A wrapper that
// inherits WriteTo loses the bytes that arrived with the handshake. A wrapper
// without WriteTo or ReadFrom copies every byte through user space, at twice
// the CPU. For splice the kernel needs both sockets: the method of each is
// called once, and that of the destination gets the same argument as without a
// Conn.
func TestConnCopy(t *testing.T) {
	_, bare := connRelay(t, false, false)
	require.Len(t, bare.from, 1)
	for _, is := range []struct{ src, dst bool }{{true, true}, {true, false}, {false, true}} {
		t.Run(fmt.Sprintf("src=%v,dst=%v", is.src, is.dst), func(t *testing.T) {
			src, dst := connRelay(t, is.src, is.dst)
			require.Len(t, src.to, 1)
			require.Equal(t, bare.from, dst.from)
		})
	}
}

// connReluctant is a writer that takes only n bytes of its first Write.
type connReluctant struct {
	bytes.Buffer
	n     int
	err   error
	meant func() // called during Write
}

func (w *connReluctant) Write(b []byte) (int, error) {
	if w.meant != nil {
		w.meant()
	}
	n, _ := w.Buffer.Write(b[:min(w.n, len(b))])
	return n, w.err
}

// TestConnWriteToReluctantWriter: bytes that a writer did not take can still be
// read.
func TestConnWriteToReluctantWriter(t *testing.T) {
	broken := errors.New("broken writer")
	for _, test := range []struct {
		name string
		w    connReluctant
		want error
	}{
		{"fails at once", connReluctant{n: 0, err: broken}, broken},
		{"fails later", connReluctant{n: 3, err: broken}, broken},
		{"fails at the end", connReluctant{n: len(connRest), err: broken}, broken},
		{"short", connReluctant{n: 3}, io.ErrShortWrite},
	} {
		for _, reader := range []string{"Read", "WriteTo"} {
			t.Run(test.name+"/"+reader, func(t *testing.T) {
				conn, peer := connEarly(t)
				w := connReluctant{n: test.w.n, err: test.w.err}
				n, err := conn.WriteTo(&w)
				require.ErrorIs(t, err, test.want)
				require.EqualValues(t, w.Len(), n)

				_, err = io.WriteString(peer, " and late")
				require.NoError(t, err)
				require.NoError(t, peer.(*net.TCPConn).CloseWrite())
				var got []byte
				if reader == "Read" {
					got, err = io.ReadAll(conn)
				} else {
					var b bytes.Buffer
					_, err = conn.WriteTo(&b)
					got = b.Bytes()
				}
				require.NoError(t, err)
				require.Equal(t, connRest+" and late", w.String()+string(got))
			})
		}
	}
}

// connFaulty is a writer that breaks its contract: it returns an impossible
// count.
type connFaulty int

func (w connFaulty) Write([]byte) (int, error) { return int(w), io.ErrClosedPipe }

func TestConnWriteToFaultyWriter(t *testing.T) {
	for claimed, want := range map[int]int64{-1: 0, 1 << 10: int64(len(connRest))} {
		conn, _ := connEarly(t)
		n, err := conn.WriteTo(connFaulty(claimed))
		require.ErrorIs(t, err, io.ErrClosedPipe)
		require.Equal(t, want, n)
	}
}

// TestConnMethodsDuringWriteTo: while a writer holds the bytes that came with the
// handshake, other methods do not wait for it. Their effect applies afterwards.
func TestConnMethodsDuringWriteTo(t *testing.T) {
	t.Run("SetReadDeadline", func(t *testing.T) {
		conn, _ := connEarly(t)
		_, err := conn.WriteTo(&connReluctant{meant: func() { conn.SetReadDeadline(time.Unix(1, 0)) }})
		require.ErrorIs(t, err, io.ErrShortWrite)
		_, err = conn.Read(make([]byte, 64))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
	t.Run("Close", func(t *testing.T) {
		conn, _ := connEarly(t)
		_, err := conn.WriteTo(&connReluctant{meant: func() { conn.Close() }})
		require.ErrorIs(t, err, io.ErrShortWrite)
		_, err = conn.Read(make([]byte, 64))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// TestConnWriteToKeepsTheOrder: bytes of the transport must not overtake the
// bytes that came with the handshake, even if the transport does not support
// deadlines or its deadline is still in the future.
func TestConnWriteToKeepsTheOrder(t *testing.T) {
	client, server := testkit.SpyPipe(t)
	conn := connWith(t, client, &testkit.SpyConn{Conn: server, NoDeadlines: true}, connRest)
	require.ErrorIs(t, conn.SetReadDeadline(time.Unix(1, 0)), testkit.ErrNoDeadlines)
	go func() {
		io.WriteString(client, " and late")
		client.Close()
	}()
	var got bytes.Buffer
	if _, err := conn.WriteTo(&got); err != nil {
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		conn.SetReadDeadline(time.Time{})
		_, err = conn.WriteTo(&got)
		require.NoError(t, err)
	}
	require.Equal(t, connRest+" and late", got.String())
}

// TestConnReadDuringWriteTo: two readers share the bytes. Each byte goes to one
// of them.
func TestConnReadDuringWriteTo(t *testing.T) {
	for range 50 {
		client, server := testkit.SpyPipe(t)
		conn := connWith(t, client, server, connRest)
		go func() {
			io.WriteString(client, " and late")
			client.Close()
		}()
		var read []byte
		var written bytes.Buffer
		var wg sync.WaitGroup
		wg.Go(func() { read, _ = io.ReadAll(conn) })
		wg.Go(func() { conn.WriteTo(&written) })
		wg.Wait()
		require.ElementsMatch(t, []byte(connRest+" and late"), append(read, written.Bytes()...))
	}
}

// TestConnReadFrom reads from a source that is no connection.
func TestConnReadFrom(t *testing.T) {
	for name, pair := range map[string]func(testing.TB) (net.Conn, net.Conn){"tcp": testkit.TCPPair, "pipe": testkit.SpyPipe} {
		t.Run(name, func(t *testing.T) {
			c, s := connUpgradedOver(t, pair)
			want := bytes.Repeat([]byte("0123456789abcdef"), 8<<10)
			go func() {
				c.ReadFrom(bytes.NewReader(want))
				c.Close()
			}()
			got, err := io.ReadAll(s)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
		})
	}
}
