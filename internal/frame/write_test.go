package frame

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight/internal/capsule"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A recorder is a transport that accepts everything and keeps it in memory.
type recorder struct {
	net.Conn
	calls [][]byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.calls = append(r.calls, bytes.Clone(p))
	return len(p), nil
}

func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

func (r *recorder) hex() string {
	all := hex.EncodeToString(bytes.Join(r.calls, nil))
	r.calls = nil
	return all
}

// TestWire compares the bytes on the wire.
func TestWire(t *testing.T) {
	for _, c := range []struct {
		kind
		do   func(c *Conn)
		want string
	}{
		{kind{false, true}, func(c *Conn) { c.Write([]byte("hello")) }, "ad70f100 05 68656c6c6f"},
		{kind{false, false}, func(c *Conn) { c.Write([]byte("hello")) }, "ad70f100 05 68656c6c6f"},
		{kind{true, false}, func(c *Conn) { c.Write([]byte("hello")) }, "82 0a ad70f100 05 68656c6c6f"},
		{kind{true, false}, func(c *Conn) { c.Write(make([]byte, 200)) }, "82 7e00ce ad70f100 40c8" + strings.Repeat("00", 200)},
		{kind{false, false}, func(c *Conn) { c.CloseWrite() }, "ad70f101 00 ad70f104 08 0000000000000001"},
		{kind{true, false}, func(c *Conn) { c.CloseWrite() }, "82 05 ad70f101 00 82 0d ad70f104 08 0000000000000001"},
		{kind{false, false}, func(c *Conn) { c.Write(nil) }, ""},
		{kind{true, false}, func(c *Conn) { c.Write([]byte{}) }, ""},
	} {
		r := &recorder{}
		conn := c.above(r, Config{})
		c.do(conn)
		assert.Equal(t, strings.ReplaceAll(c.want, " ", ""), r.hex(), "%v", c.kind)
	}

	// A client uses a new mask each time. Without the mask, it sends the bytes that a server
	// sends.
	r := &recorder{}
	conn := kind{true, true}.above(r, Config{})
	keys := map[string]bool{}
	for range 20 {
		conn.Write([]byte("hello"))
		wire := r.calls[len(r.calls)-1]
		require.Equal(t, "828a", hex.EncodeToString(wire[:2]))
		keys[string(wire[2:6])] = true
		for i := range wire[6:] {
			wire[6+i] ^= wire[2+i%4]
		}
		assert.Equal(t, "ad70f1000568656c6c6f", hex.EncodeToString(wire[6:]))
	}
	assert.Len(t, keys, 20)
}

// sizes are the lengths at which Write begins to use another form or another path.
var sizes = []int{1, 55, 63, 64, 119, 120, 125, 126, 127, 512, maxCopy - 1, maxCopy, maxCopy + 1, 16383, 16384,
	maxData - 1, maxData, maxData + 1, 2*maxData - 1, 2 * maxData, 2*maxData + 1, 200_000}

// A Write makes one call to the transport for each 64 KiB, in capsules of at most 32 KiB,
// and does not change p.
func TestWriteCalls(t *testing.T) {
	for _, k := range kinds {
		for _, size := range sizes {
			p := pattern(size)
			given := bytes.Clone(p)
			r := &recorder{}
			c := k.above(r, Config{})
			n, err := c.Write(p)
			assert.NoError(t, err)
			assert.Equal(t, size, n)
			assert.Equal(t, given, p)
			assert.Len(t, r.calls, (size+2*maxData-1)/(2*maxData), "%v: calls for %d bytes", k, size)
			assert.Equal(t, given, unframe(t, k, bytes.Join(r.calls, nil)), "%v: %d bytes", k, size)

			// ReadFrom puts one capsule into each call. TCP gathers more.
			r = &recorder{}
			c = k.above(r, Config{})
			n64, err := c.ReadFrom(struct{ io.Reader }{bytes.NewReader(p)})
			assert.NoError(t, err)
			assert.Equal(t, int64(size), n64)
			assert.Len(t, r.calls, (size+maxData-1)/maxData, "%v: calls for %d bytes", k, size)
			assert.Equal(t, given, unframe(t, k, bytes.Join(r.calls, nil)), "%v: %d bytes", k, size)
		}
	}
}

// pattern returns n pseudo-random bytes, the same for each call.
func pattern(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{1, byte(n), byte(n >> 8), byte(n >> 16)}).Read(p)
	return p
}

// unframe returns the data that a peer of a Conn of kind k reads from wire.
func unframe(t *testing.T, k kind, wire []byte) []byte {
	t.Helper()
	data, err := io.ReadAll(kind{k.webSocket, !k.client}.above(&reader{r: bytes.NewReader(wire)}, Config{}))
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	return data
}

// A reader is a transport that can only be read.
type reader struct {
	net.Conn
	r     io.Reader
	calls int
}

func (r *reader) Read(p []byte) (int, error)       { r.calls++; return r.r.Read(p) }
func (r *reader) LocalAddr() net.Addr              { return linkAddr{} }
func (r *reader) RemoteAddr() net.Addr             { return linkAddr{} }
func (r *reader) SetReadDeadline(time.Time) error  { return nil }
func (r *reader) SetWriteDeadline(time.Time) error { return nil }
func (r *reader) Write(p []byte) (int, error)      { return len(p), nil }
func (r *reader) Close() error                     { return nil }

// A limitedWriter accepts left bytes. After that, Write fails until the test increases left.
type limitedWriter struct {
	recorder
	left int
}

func (m *limitedWriter) Write(p []byte) (int, error) {
	n := min(len(p), m.left)
	m.left -= n
	m.recorder.Write(p[:n])
	if n < len(p) {
		return n, &net.OpError{Op: "write", Err: os.ErrDeadlineExceeded}
	}
	return n, nil
}

func (m *limitedWriter) LocalAddr() net.Addr  { return linkAddr{} }
func (m *limitedWriter) RemoteAddr() net.Addr { return linkAddr{} }

// A Write is interrupted at each byte. The bytes that it reports are on the wire, and later
// Writes complete the capsule. Controls and FINAL_DATA wait for that.
func TestInterruptedWrite(t *testing.T) {
	for _, k := range kinds {
		for _, size := range []int{10, 200, 70_000} {
			t.Run(fmt.Sprintf("%v/%d", k, size), func(t *testing.T) {
				p := pattern(size)
				probe := &recorder{}
				k.above(probe, Config{}).Write(p)
				total := len(bytes.Join(probe.calls, nil))
				for cut := 0; cut < total; cut += 1 + cut/40*(size/7000) {
					m := &limitedWriter{left: cut}
					c := k.above(m, Config{})
					n, err := c.Write(p)
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					require.LessOrEqual(t, n, size)
					open := c.hasFlag(openCapsule)

					// Inside a capsule, no PING can be answered, and the direction
					// cannot end.
					c.gotPing(7)
					m.left = 1 << 30
					c.flush(controlTimeout)
					onWire := bytes.Join(m.calls, nil)
					if open {
						require.Len(t, onWire, cut)
						require.ErrorContains(t, c.CloseWrite(), "inside a capsule")
					} else {
						require.Greater(t, len(onWire), cut)
					}
					// Two Writes send the rest. The first may be too small to
					// complete the capsule.
					some := (size - n) / 3
					for _, b := range [][]byte{p[n : n+some], p[n+some:]} {
						m, err := c.Write(b)
						require.NoError(t, err)
						require.Equal(t, len(b), m)
					}
					require.NoError(t, c.CloseWrite())
					wire := bytes.Join(m.calls, nil)
					other := kind{k.webSocket, !k.client}.above(&reader{r: bytes.NewReader(wire)}, Config{})
					got, err := io.ReadAll(other)
					require.NoError(t, err, "cut at %d: the stream is complete", cut)
					require.True(t, bytes.Equal(p, got), "cut at %d", cut)
					other.mu.Lock()
					require.Equal(t, uint64(1), other.ping, "the PING after FINAL_DATA")
					other.mu.Unlock()
				}
			})
		}
	}
}

// Write and ReadFrom are interrupted many times, at random.
func TestInterruptedWritesAtRandom(t *testing.T) {
	for _, k := range kinds {
		for seed := range uint64(30) {
			random := rand.New(rand.NewPCG(seed, 5))
			p := pattern(300_000)
			m := &limitedWriter{}
			c := k.above(m, Config{})
			for sent := 0; sent < len(p); {
				m.left = random.IntN(1 + random.IntN(50_000))
				b := p[sent:min(len(p), sent+1+random.IntN(100_000))]
				if random.IntN(3) == 0 {
					// ReadFrom loses the bytes that it has read and cannot write, so
					// it gets only as many as the transport accepts.
					b = b[:min(len(b), max(m.left-100, 0), maxData)]
					n, err := c.ReadFrom(struct{ io.Reader }{bytes.NewReader(b)})
					require.NoError(t, err)
					require.Equal(t, int64(len(b)), n)
					sent += len(b)
					continue
				}
				n, err := c.Write(b)
				require.True(t, err == nil && n == len(b) || errors.Is(err, os.ErrDeadlineExceeded) && n <= len(b), "%d of %d: %v", n, len(b), err)
				sent += n
			}
			m.left = 1 << 30
			require.NoError(t, c.CloseWrite())
			other := kind{k.webSocket, !k.client}.above(&reader{r: bytes.NewReader(bytes.Join(m.calls, nil))}, Config{})
			got, err := io.ReadAll(other)
			require.NoError(t, err)
			require.True(t, bytes.Equal(p, got))
		}
	}
}

// Write returns a valid result even if the transport breaks the contract of io.Writer.
func TestWriteWrongCount(t *testing.T) {
	for _, k := range kinds {
		for _, n := range []int{-5, 0, 3, 1 << 20} {
			c := k.above(&wrongCount{n: n}, Config{})
			m, err := c.Write([]byte("hello"))
			if n == 1<<20 {
				assert.NoError(t, err)
				assert.Equal(t, 5, m)
			} else {
				assert.ErrorIs(t, err, io.ErrShortWrite)
				assert.Zero(t, m)
			}
		}
	}
}

type wrongCount struct {
	reader
	n int
}

func (w *wrongCount) Write([]byte) (int, error) { return w.n, nil }

// CloseWrite waits for a Write in progress, which completes.
func TestCloseWriteWaitsForWrite(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		c, p := k.pair(t, window, Config{})
		p.stall()
		type result struct {
			n   int
			err error
		}
		done := make(chan result)
		go func() {
			n, err := c.Write(make([]byte, 3*window))
			done <- result{n, err}
		}()
		synctest.Wait()
		// CloseWrite waits for the Write.
		closed := make(chan error)
		go func() { closed <- c.CloseWrite() }()
		p.resume()
		r := <-done
		assert.NoError(t, r.err)
		assert.Equal(t, 3*window, r.n)
		assert.NoError(t, <-closed)
		got := p.received()
		assert.True(t, strings.HasSuffix(got, "final, ping 1"))
	})
}

// ReadFrom and WriteTo ask for more at once as long as they get all that they ask for.
func TestCopySizes(t *testing.T) {
	const large, huge = maxCopied * maxData, maxCapsules * maxData
	sizes := &sizedReader{next: []int{large, huge, huge, huge - 1, large - 1, 1, large, 1, 1}}
	_, err := kind{client: true}.above(&recorder{}, Config{}).ReadFrom(sizes)
	require.NoError(t, err)
	require.Equal(t, []int{large, huge, huge, huge, large, large, large, huge, large, large}, sizes.asked)

	transport := &sizedReader{next: []int{large + 9, huge + 9, huge, large, 8}, data: append(capsule.AppendHeader(nil, dataHeader(1<<20)), make([]byte, 1<<20)...)}
	_, err = kind{client: true}.above(&reader{r: transport}, Config{}).WriteTo(io.Discard)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	l, h := len(largeBuffer{}), len(hugeBuffer{})
	require.Equal(t, []int{l, h, h, h, l, l}, transport.asked)
}

// A source that claims more than it was asked for does not make ReadFrom send what another
// connection has left in the buffer. The Conn stays usable.
func TestReadFromBrokenSource(t *testing.T) {
	r := &recorder{}
	c := kind{client: true}.above(r, Config{})
	require.Panics(t, func() { c.ReadFrom(excessive{}) })
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(unframe(t, kind{client: true}, bytes.Join(r.calls, nil))))
}

type excessive struct{}

func (excessive) Read(p []byte) (int, error) { return len(p) + 1, io.EOF }

// A sizedReader returns the next number of bytes from each Read, of data or of zeros.
type sizedReader struct {
	next, asked []int
	data        []byte
}

func (r *sizedReader) Read(p []byte) (int, error) {
	r.asked = append(r.asked, len(p))
	if len(r.next) == 0 {
		return 0, io.EOF
	}
	n := r.next[0]
	r.next = r.next[1:]
	r.data = r.data[copy(p[:n], r.data):]
	return n, nil
}

// ReadFrom and WriteTo return at the end of the source, and return the error of either side.
func TestCopy(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		c, p := k.pair(t, window, Config{})
		n, err := c.ReadFrom(io.MultiReader(strings.NewReader("some"), &failing{}))
		assert.Equal(t, int64(4), n)
		assert.ErrorIs(t, err, errFailing)
		assert.Equal(t, "data some", p.received())

		p.send(p.data("hello"), p.data(" there"), p.final("!"))
		var b strings.Builder
		n, err = c.WriteTo(&b)
		assert.NoError(t, err)
		assert.Equal(t, int64(12), n)
		assert.Equal(t, "hello there!", b.String())

		assert.NoError(t, c.CloseWrite())
		n, err = c.ReadFrom(strings.NewReader("late"))
		assert.Zero(t, n)
		assert.Error(t, err)
	})
	eachKind(t, func(t *testing.T, k kind) {
		c, p := k.pair(t, window, Config{})
		p.send(p.data("hello"))
		n, err := c.WriteTo(&failing{})
		assert.Equal(t, int64(2), n)
		assert.ErrorIs(t, err, errFailing)
		p.send(p.data("hello"))
		n, err = c.WriteTo(&short{})
		assert.Equal(t, int64(2), n)
		assert.ErrorIs(t, err, io.ErrShortWrite)
		p.link.reset()
		_, err = c.WriteTo(io.Discard)
		assert.Error(t, err)
	})
}

var errFailing = errors.New("failing")

type failing struct{}

func (failing) Read([]byte) (int, error)  { return 0, errFailing }
func (failing) Write([]byte) (int, error) { return 2, errFailing }

type short struct{}

func (short) Write([]byte) (int, error) { return 2, nil }
