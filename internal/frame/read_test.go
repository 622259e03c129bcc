package frame

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A randomPeer generates streams that another implementation could send: capsules of any
// length, unknown types, lengths in any form, and messages that a gateway has fragmented.
type randomPeer struct {
	kind   // of the Conn that reads
	random *rand.Rand
	open   bool // a message is not complete yet
}

func (f *randomPeer) integer(v uint64) []byte {
	form := f.random.IntN(4)
	switch {
	case v < 1<<6 && form == 0:
		return []byte{byte(v)}
	case v < 1<<14 && form <= 1:
		return binary.BigEndian.AppendUint16(nil, uint16(v)|0x4000)
	case v < 1<<30 && form <= 2:
		return binary.BigEndian.AppendUint32(nil, uint32(v)|0x80000000)
	}
	return binary.BigEndian.AppendUint64(nil, v|0xc000000000000000)
}

func (f *randomPeer) capsule(t uint32, value []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, t|0x80000000)
	b = append(b, f.integer(uint64(len(value)))...)
	return append(b, value...)
}

// stream returns a stream that contains data.
func (f *randomPeer) stream(data []byte) []byte {
	var capsules []byte
	for first := true; len(data) > 0 || first; first = false {
		switch f.random.IntN(6) {
		case 0:
			capsules = append(capsules, f.capsule(0x2d70f104, make([]byte, 8))...)
		case 1:
			capsules = append(capsules, f.capsule(0x2d70f105, make([]byte, 8))...)
		case 2:
			if len(capsules) > 0 {
				capsules = append(capsules, f.capsule(0x3fffffff, make([]byte, f.random.IntN(300)))...)
			}
		default:
			n := min(len(data), f.random.IntN(1+f.random.IntN(50_000)))
			capsules = append(capsules, f.capsule(0x2d70f100, data[:n])...)
			data = data[n:]
		}
	}
	capsules = append(capsules, f.capsule(0x2d70f101, nil)...)
	capsules = append(capsules, f.capsule(0x2d70f104, make([]byte, 8))...)
	return f.cut(capsules)
}

// cut splits the bytes at random and puts the parts into messages.
func (f *randomPeer) cut(b []byte) []byte {
	if !f.webSocket {
		return b
	}
	var wire []byte
	for len(b) > 0 || f.open {
		if f.random.IntN(8) == 0 {
			wire = append(wire, f.frame(0x89+byte(f.random.IntN(2)), make([]byte, f.random.IntN(126)))...)
		}
		n := min(len(b), f.random.IntN(1+f.random.IntN(100_000)))
		first := byte(0x02)
		if f.open {
			first = 0
		}
		if f.open = f.random.IntN(3) == 0; !f.open {
			first |= 0x80
		}
		wire = append(wire, f.frame(first, b[:n])...)
		b = b[n:]
	}
	return wire
}

func (f *randomPeer) frame(first byte, payload []byte) []byte {
	p := peer{kind: f.kind}
	return p.frame(first, payload)
}

// chunks returns a random number of bytes for each Read, at most max.
type chunks struct {
	r      io.Reader
	random *rand.Rand
	max    int
}

func newChunks(r io.Reader, seed uint64, max int) *chunks {
	return &chunks{r, rand.New(rand.NewPCG(seed, 77)), max}
}

func (c *chunks) Read(p []byte) (int, error) {
	return c.r.Read(p[:min(len(p), 1+c.random.IntN(c.max))])
}

// The result is the same for every way in which the transport splits a stream, and for
// every size of the buffer of Read.
func TestReadAnyChunking(t *testing.T) {
	for _, k := range kinds {
		for seed := range uint64(40) {
			random := rand.New(rand.NewPCG(seed, 9))
			data := pattern(random.IntN(1 + random.IntN(200_000)))
			f := &randomPeer{kind: k, random: random}
			wire := f.stream(data)
			rest := random.IntN(min(len(wire), 1+random.IntN(5000)))
			transport := io.Reader(newChunks(bytes.NewReader(wire[rest:]), seed, 1+random.IntN(1+random.IntN(100_000))))
			if seed%4 == 0 {
				transport = iotest.DataErrReader(transport)
			}
			c := k.above(&reader{r: transport}, Config{Rest: bytes.Clone(wire[:rest])})
			var got []byte
			buf := make([]byte, 100_000)
			asked := 1 + random.IntN(1+random.IntN(len(buf)))
			for {
				n, err := c.Read(buf[:1+random.IntN(asked)])
				got = append(got, buf[:n]...)
				if err != nil {
					require.Equal(t, io.EOF, err, "%v, seed %d", k, seed)
					break
				}
				require.NotZero(t, n)
			}
			require.True(t, bytes.Equal(data, got), "%v, seed %d", k, seed)
			c.Close()
		}
	}
}

// The stream is split at each byte. The first part is in Config.Rest, and the second comes
// from the transport. Then the same with two reads, and a deadline that expires between them.
func TestReadEachSplit(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		p := peer{kind: k}
		wire := join(p.ping(1), p.data("hello "), p.data(""), p.capsule(0x12345678, "unknown"), p.data("there"), p.final("!"), p.ping(2))
		const want = "hello there!"
		for cut := range wire {
			c := k.above(&reader{r: bytes.NewReader(wire[cut:])}, Config{Rest: bytes.Clone(wire[:cut])})
			got, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, want, string(got), "cut at %d", cut)
			c.Close()

			a, b := newLink(window)
			c = k.above(a, Config{})
			b.Write(wire[:cut])
			c.SetReadDeadline(time.Now().Add(time.Second))
			var all []byte
			buf := make([]byte, 5)
			for err = nil; err == nil; {
				var n int
				n, err = c.Read(buf)
				all = append(all, buf[:n]...)
			}
			if err != io.EOF {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				c.SetReadDeadline(time.Time{})
				b.Write(wire[cut:])
				more, err := io.ReadAll(c)
				require.NoError(t, err)
				all = append(all, more...)
			}
			require.Equal(t, want, string(all), "cut at %d", cut)
			c.Close()
			b.Close()
			synctest.Wait()
		}
	})
}

// An expired deadline takes precedence over bytes that have arrived.
func TestReadDeadlineTakesPrecedence(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		p := peer{kind: k}
		c := k.above(&reader{r: bytes.NewReader(nil)}, Config{Rest: p.data("hello")})
		c.SetReadDeadline(past)
		_, err := c.Read(make([]byte, 10))
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.True(t, err.(net.Error).Timeout())
		c.SetReadDeadline(time.Time{})
		buf := make([]byte, 3)
		n, err := c.Read(buf)
		assert.NoError(t, err)
		assert.Equal(t, "hel", string(buf[:n]))
		c.SetReadDeadline(time.Now().Add(time.Second))
		time.Sleep(time.Second)
		_, err = c.Read(buf)
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		c.SetReadDeadline(time.Time{})
		n, err = c.Read(buf)
		assert.NoError(t, err)
		assert.Equal(t, "lo", string(buf[:n]))
	})
}

// A transport may return its error together with the last bytes, and only once.
func TestReadErrorWithBytes(t *testing.T) {
	for _, k := range kinds {
		p := peer{kind: k}
		r := &reader{r: &dataErrReader{b: p.data("hello"), err: syscall.ECONNRESET}}
		got, err := io.ReadAll(k.above(r, Config{}))
		assert.Equal(t, "hello", string(got))
		assert.ErrorIs(t, err, syscall.ECONNRESET)
	}
}

type dataErrReader struct {
	b   []byte
	err error
}

func (l *dataErrReader) Read(p []byte) (int, error) {
	n := copy(p, l.b)
	err := l.err
	l.b, l.err = nil, io.EOF
	return n, err
}

func TestReadEmpty(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		n, err := e.Read(nil)
		assert.NoError(t, err)
		assert.Zero(t, n)
		e.peer.send(e.peer.data(""), e.peer.message(nil), e.peer.data("x"))
		n, err = e.Read(make([]byte, 10))
		assert.NoError(t, err)
		assert.Equal(t, 1, n, "Read does not return for empty DATA or empty messages")
		n, err = e.Read([]byte{})
		assert.NoError(t, err)
		assert.Zero(t, n)
	})
}

// A large length in a header allocates no memory.
func TestReadHugeLengths(t *testing.T) {
	for _, k := range kinds {
		wire := []byte("\xad\x70\xf1\x00\xff\xff\xff\xff\xff\xff\xff\xffsome of it")
		if k.webSocket {
			// The message has the greatest length, too.
			head := []byte("\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff")
			if !k.client {
				head[1] |= 0x80
				head = append(head, 0, 0, 0, 0)
			}
			wire = append(head, wire...)
		}
		c := k.above(&reader{r: bytes.NewReader(wire)}, Config{})
		got, err := io.ReadAll(c)
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.Equal(t, "some of it", string(got))
	}
}

// A small message that is read with a buffer of its size takes one call to the transport. A
// length and a body that are read one after the other take at most two calls, as they do
// without framing.
func TestReadSmallMessages(t *testing.T) {
	for _, k := range kinds {
		p := peer{kind: k}
		for _, size := range []int{1, 8, 64} {
			var wire bytes.Buffer
			for range 100 {
				wire.Write(unpadded(k, pattern(size)))
			}
			// The transport returns one message at a time.
			one := wire.Len() / 100
			r := &reader{r: &chunksOf{&wire, one}}
			c := k.above(r, Config{})
			buf := make([]byte, size)
			for range 100 {
				_, err := io.ReadFull(c, buf)
				require.NoError(t, err)
			}
			assert.Equal(t, 100, r.calls, "%v: %d bytes", k, size)
		}
		var wire bytes.Buffer
		for range 100 {
			wire.Write(p.data(string(append([]byte{0, 0, 0x10, 0}, make([]byte, 4096)...))))
		}
		r := &reader{r: &wire}
		c := k.above(r, Config{})
		buf := make([]byte, 4096)
		for range 100 {
			_, err := io.ReadFull(c, buf[:4])
			require.NoError(t, err)
			_, err = io.ReadFull(c, buf)
			require.NoError(t, err)
		}
		assert.LessOrEqual(t, r.calls, 200, "%v", k)
	}
}

// unpadded returns a capsule in the form in which this package writes it to a Conn of kind k.
func unpadded(k kind, data []byte) []byte {
	r := &recorder{}
	kind{k.webSocket, !k.client}.above(r, Config{}).Write(data)
	return r.calls[0]
}

// chunksOf returns at most size bytes for each Read, and never parts of two chunks.
type chunksOf struct {
	b    *bytes.Buffer
	size int
}

func (c *chunksOf) Read(p []byte) (int, error) {
	left := c.b.Len() % c.size
	if left == 0 {
		left = c.size
	}
	return c.b.Read(p[:min(len(p), left)])
}

// Two Conns read the same input of the fuzzer, one of them in pieces. Both must return the
// same bytes and the same error.
func FuzzRead(f *testing.F) {
	for i, k := range kinds {
		p := peer{kind: k}
		f.Add(join(p.data("hello"), p.ping(1), p.final(""), p.ping(2)), uint8(i), uint64(i))
		f.Add(join(p.data("hello"), p.capsule(0x2d70f104, "short")), uint8(i), uint64(i))
		f.Add((&randomPeer{kind: k, random: rand.New(rand.NewPCG(1, 2))}).stream(pattern(500)), uint8(i), uint64(i))
	}
	f.Fuzz(func(t *testing.T, wire []byte, which uint8, seed uint64) {
		k := kinds[which%4]
		whole := k.above(&reader{r: bytes.NewReader(wire)}, Config{})
		want, wantErr := io.ReadAll(whole)
		random := rand.New(rand.NewPCG(seed, 1))
		rest := random.IntN(len(wire) + 1)
		c := k.above(&reader{r: newChunks(bytes.NewReader(wire[rest:]), seed, 1+random.IntN(50))}, Config{Rest: bytes.Clone(wire[:rest])})
		var got []byte
		var err error
		buf := make([]byte, 200)
		for err == nil {
			var n int
			n, err = c.Read(buf[:1+random.IntN(len(buf))])
			got = append(got, buf[:n]...)
		}
		if !bytes.Equal(want, got) {
			t.Errorf("%q, want %q", got, want)
		}
		if wantErr == nil {
			wantErr = io.EOF
		}
		if kindOf(wantErr) != kindOf(err) {
			t.Errorf("%v, want %v", err, wantErr)
		}
		whole.Close()
		whole.EndLinger()
		c.Close()
		c.EndLinger()
	})
}

// kindOf returns the text of an error, without times.
func kindOf(err error) string {
	if op, ok := err.(*net.OpError); ok {
		if e, ok := op.Err.(*truncatedError); ok {
			return (&truncatedError{code: e.code}).Error()
		}
	}
	return err.Error()
}
