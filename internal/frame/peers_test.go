package frame

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sides returns a client and a server over the two ends of a transport.
func sides(webSocket bool, a, b net.Conn, cfg Config) (client, server *Conn) {
	return kind{webSocket, true}.above(a, cfg), kind{webSocket, false}.above(b, cfg)
}

// Two peers never deadlock while both windows are full of data and both must answer PINGs.
// Both directions end in order.
func TestFullWindows(t *testing.T) {
	const each = 4 << 20
	transports := map[string]func(t *testing.T) (a, b net.Conn){
		"tcp": func(t *testing.T) (a, b net.Conn) {
			c, s := tcpPipe(t)
			for _, end := range []*net.TCPConn{c, s} {
				end.SetReadBuffer(64 << 10)
				end.SetWriteBuffer(64 << 10)
			}
			return c, s
		},
		"link": func(*testing.T) (a, b net.Conn) { return newLink(700) },
		"pipe": func(*testing.T) (a, b net.Conn) { return net.Pipe() },
	}
	for name, pipe := range transports {
		for _, carrier := range carriers {
			t.Run(name+"/"+carrier.name, func(t *testing.T) {
				a, b := pipe(t)
				client, server := sides(carrier.webSocket, a, b, Config{KeepAlivePeriod: 2 * time.Millisecond})
				var all sync.WaitGroup
				for _, c := range []*Conn{client, server} {
					wrote := make(chan [32]byte, 1)
					all.Go(func() {
						sum := sha256.New()
						random := rand.New(rand.NewPCG(1, 1))
						for left := each; left > 0; {
							p := pattern(min(left, 1+random.IntN(100_000)))
							n, err := c.Write(p)
							if !assert.NoError(t, err) {
								return
							}
							sum.Write(p)
							left -= n
						}
						assert.NoError(t, c.CloseWrite())
						wrote <- [32]byte(sum.Sum(nil))
					})
					other := server
					if c == server {
						other = client
					}
					all.Go(func() {
						sum := sha256.New()
						n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{other}, make([]byte, 3000))
						assert.NoError(t, err)
						assert.Equal(t, int64(each), n)
						assert.Equal(t, <-wrote, [32]byte(sum.Sum(nil)))
					})
				}
				all.Wait()
				assert.NoError(t, client.Close())
				assert.NoError(t, server.Close())
			})
		}
	}
}

// A reader that is slow receives everything and a clean end, even if the writer has closed
// long before.
func TestSlowReader(t *testing.T) {
	for _, carrier := range carriers {
		for _, fromClient := range []bool{false, true} {
			for _, delay := range []time.Duration{0, time.Second, 30 * time.Second, 59 * time.Second} {
				synctest.Test(t, func(t *testing.T) {
					a, b := newLink(2 << 20)
					// The period is short, so that some PINGs are always unread.
					from, to := sides(carrier.webSocket, a, b, Config{KeepAlivePeriod: max(20*time.Millisecond, delay/100)})
					if !fromClient {
						from, to = to, from
					}
					p := pattern(1 << 20)
					from.Write(p)
					assert.NoError(t, from.Close())
					time.Sleep(delay)
					got, err := io.ReadAll(to)
					assert.NoError(t, err)
					assert.True(t, bytes.Equal(p, got))
					assert.NoError(t, to.Close())
				})
			}
		}
	}
}

// A half-close with 1 MiB in flight loses nothing, in both directions, over TCP and over TLS.
func TestHalfClose(t *testing.T) {
	for _, carrier := range carriers {
		for _, secure := range []bool{false, true} {
			for _, fromClient := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/tls=%v/client=%v", carrier.name, secure, fromClient), func(t *testing.T) {
					var a, b net.Conn
					a, b = tcpPipe(t)
					if secure {
						a, b = tlsPipe(t, a, b)
					}
					from, to := sides(carrier.webSocket, a, b, Config{KeepAlivePeriod: 10 * time.Millisecond, TLS: secure})
					if !fromClient {
						from, to = to, from
					}
					question, answer := pattern(1<<20), pattern(1<<20+1)
					var all sync.WaitGroup
					all.Go(func() {
						got, err := io.ReadAll(to)
						assert.NoError(t, err)
						assert.True(t, bytes.Equal(question, got))
						n, err := to.Write(answer)
						assert.NoError(t, err)
						assert.Equal(t, len(answer), n)
						assert.NoError(t, to.Close())
					})
					_, err := from.Write(question)
					assert.NoError(t, err)
					assert.NoError(t, from.CloseWrite())
					got, err := io.ReadAll(from)
					assert.NoError(t, err)
					assert.True(t, bytes.Equal(answer, got))
					assert.NoError(t, from.Close())
					all.Wait()
				})
			}
		}
	}
}

// If the transport is closed during a transfer, the reader never sees a clean end.
func TestTransportClosedDuringTransfer(t *testing.T) {
	for _, carrier := range carriers {
		for _, secure := range []bool{false, true} {
			var a, b net.Conn
			client, server := tcpPipe(t)
			a, b = client, server
			if secure {
				a, b = tlsPipe(t, a, b)
			}
			from, to := sides(carrier.webSocket, a, b, Config{TLS: secure})
			var all sync.WaitGroup
			all.Go(func() {
				_, err := io.Copy(io.Discard, to)
				assert.Error(t, err)
				assert.True(t, errors.Is(err, io.ErrUnexpectedEOF) || isReset(err), "%v", err)
			})
			_, err := from.Write(pattern(1 << 20))
			assert.NoError(t, err)
			client.Close()
			all.Wait()
			assert.NoError(t, from.Close())
			assert.NoError(t, to.Close())
		}
	}
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !errors.Is(err, io.EOF)
}

// tlsPipe adds TLS to the two ends of a connection.
func tlsPipe(t *testing.T, a, b net.Conn) (client, server net.Conn) {
	t.Helper()
	cert := certificate(t)
	c := tls.Client(a, &tls.Config{InsecureSkipVerify: true})
	s := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}})
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	require.NoError(t, c.Handshake())
	require.NoError(t, <-done)
	return c, s
}

// A relay between two framed connections passes on all data and the end of each direction.
func TestRelay(t *testing.T) {
	for _, carrier := range carriers {
		a, b := tcpPipe(t)
		c, d := tcpPipe(t)
		first, in := sides(carrier.webSocket, a, b, Config{})
		out, last := sides(!carrier.webSocket, c, d, Config{})
		var all sync.WaitGroup
		relay := func(dst, src *Conn) {
			_, err := io.Copy(dst, src)
			assert.NoError(t, err)
			assert.NoError(t, dst.CloseWrite())
		}
		all.Go(func() { relay(out, in) })
		all.Go(func() { relay(in, out) })
		all.Go(func() {
			n, err := io.Copy(last, last) // an echo
			assert.NoError(t, err)
			assert.Equal(t, int64(3<<20), n)
			assert.NoError(t, last.CloseWrite())
		})
		sum := make(chan hash.Hash, 1)
		all.Go(func() {
			h := sha256.New()
			n, err := io.Copy(h, first)
			assert.NoError(t, err)
			assert.Equal(t, int64(3<<20), n)
			sum <- h
		})
		p := pattern(3 << 20)
		n, err := first.ReadFrom(bytes.NewReader(p))
		assert.NoError(t, err)
		assert.Equal(t, int64(len(p)), n)
		assert.NoError(t, first.CloseWrite())
		want := sha256.Sum256(p)
		assert.Equal(t, want[:], (<-sum).Sum(nil))
		all.Wait()
		for _, c := range []*Conn{first, in, out, last} {
			assert.NoError(t, c.Close())
		}
	}
}

// WriteTo to a TCP connection gathers the data of capsules of any size from between their
// headers. A part may be too small to be gathered, or one too many.
func TestWriteToTCP(t *testing.T) {
	for _, k := range kinds {
		random := rand.New(rand.NewPCG(7, 8))
		r := &recorder{}
		c := k.above(r, Config{})
		var want bytes.Buffer
		for _, most := range []int{200, 9000, 6000, 3 * maxData, 5000} {
			for range 50 {
				p := pattern(1 + random.IntN(most))
				want.Write(p)
				c.Write(p)
			}
		}
		wire := bytes.Join(r.calls, nil)
		for _, piece := range []int{999, 70_000, 1 << 30} {
			a, b := tcpPipe(t)
			got := make(chan []byte)
			go func() {
				all, err := io.ReadAll(b)
				assert.NoError(t, err)
				got <- all
			}()
			other := kind{k.webSocket, !k.client}.above(&reader{r: &pieces{bytes.NewReader(wire[9:]), piece}}, Config{Rest: wire[:9]})
			n, err := other.WriteTo(a)
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			assert.Equal(t, int64(want.Len()), n)
			a.CloseWrite()
			assert.True(t, bytes.Equal(want.Bytes(), <-got), "%v in pieces of %d", k, piece)
		}
	}
}

// WriteTo returns the same bytes for every stream of a peer and every way in which the
// transport splits it. A TCP connection gathers them, and a buffer does not.
func TestWriteToAnyChunking(t *testing.T) {
	for _, k := range kinds {
		a, b := tcpPipe(t)
		for seed := range uint64(60) {
			random := rand.New(rand.NewPCG(seed, 10))
			data := pattern(random.IntN(1 + random.IntN(900_000)))
			wire := (&randomPeer{kind: k, random: random}).stream(data)
			size := 1 + random.IntN(1+random.IntN(500_000))
			open := func() *Conn {
				rest := min(int(seed), len(wire)/2)
				return k.above(&reader{r: iotest.DataErrReader(&pieces{bytes.NewReader(wire[rest:]), size})}, Config{Rest: bytes.Clone(wire[:rest])})
			}
			var buf bytes.Buffer
			n, err := open().WriteTo(&buf)
			require.NoError(t, err)
			require.Equal(t, int64(len(data)), n)
			require.True(t, bytes.Equal(data, buf.Bytes()), "%v, seed %d", k, seed)

			got := make([]byte, len(data))
			read := make(chan error)
			go func() {
				_, err := io.ReadFull(b, got)
				read <- err
			}()
			n, err = open().WriteTo(a)
			require.NoError(t, err)
			require.Equal(t, int64(len(data)), n)
			require.NoError(t, <-read)
			require.True(t, bytes.Equal(data, got), "%v, seed %d", k, seed)
		}
	}
}

// A pieces returns at most size bytes from each Read.
type pieces struct {
	io.Reader
	size int
}

func (p *pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.size)]) }

// On a TCP connection with small buffers, deadlines interrupt many Writes and ReadFroms, some
// of them between the buffers of one writev call. Nothing is lost.
func TestInterruptedWritesOnTCP(t *testing.T) {
	for _, k := range kinds {
		a, b := tcpPipe(t)
		a.SetWriteBuffer(64 << 10)
		b.SetReadBuffer(64 << 10)
		c := k.above(a, Config{KeepAlivePeriod: time.Millisecond})
		other := kind{k.webSocket, !k.client}.above(b, Config{})
		p := pattern(8 << 20)
		// The peer does not read yet, so the deadline interrupts the first Write.
		c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		sent, err := c.Write(p)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var all sync.WaitGroup
		all.Go(func() {
			var got bytes.Buffer
			buf := make([]byte, 20_000)
			for {
				n, err := other.Read(buf)
				got.Write(buf[:n])
				if err != nil {
					assert.Equal(t, io.EOF, err)
					break
				}
			}
			assert.True(t, bytes.Equal(p, got.Bytes()))
			assert.NoError(t, other.Close())
		})
		random := rand.New(rand.NewPCG(3, 4))
		for sent < len(p) {
			c.SetWriteDeadline(time.Now().Add(time.Duration(random.IntN(300)) * time.Microsecond))
			some := p[sent:min(len(p), sent+1+random.IntN(600_000))]
			var n int64
			if random.IntN(2) == 0 {
				n, err = c.ReadFrom(struct{ io.Reader }{bytes.NewReader(some)})
			} else {
				written, writeErr := c.Write(some)
				n, err = int64(written), writeErr
			}
			if err != nil {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			}
			sent += int(n)
		}
		assert.NoError(t, c.CloseWrite())
		all.Wait()
		assert.NoError(t, c.Close())
	}
}
