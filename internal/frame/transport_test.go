package frame

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tcpPipe returns the two ends of a TCP connection.
func tcpPipe(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := ln.Accept()
		accepted <- c
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	s := <-accepted
	require.NotNil(t, s)
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// A link is a connection in memory whose ends behave like those of TCP. If a side is closed
// with unread bytes, it resets the other side, which loses the bytes that it has not read.
// Each direction has a window of limited size. A link works inside a synctest bubble.
type link struct {
	in, out       *direction
	read, write   deadline
	mu            sync.Mutex
	closed        bool
	linger        bool // SetLinger(0) was called
	reads, writes int  // the numbers of calls
}

type direction struct {
	mu           sync.Mutex
	change       *sync.Cond
	buf          []byte
	window       int
	end          error // the error after the bytes in buf
	readerClosed bool
	stall        bool // Read blocks until resume
}

func newLink(window int) (a, b *link) {
	x, y := &direction{window: window}, &direction{window: window}
	x.change, y.change = sync.NewCond(&x.mu), sync.NewCond(&y.mu)
	a, b = &link{in: x, out: y}, &link{in: y, out: x}
	a.read.d, b.read.d, a.write.d, b.write.d = x, y, y, x
	return a, b
}

// A deadline is guarded by its direction.
type deadline struct {
	d     *direction
	t     time.Time
	timer *time.Timer
	sets  int
}

func (l *deadline) set(t time.Time) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	l.sets++
	l.t = t
	if l.timer != nil {
		l.timer.Stop()
	}
	if !t.IsZero() {
		l.timer = time.AfterFunc(time.Until(t), l.d.change.Broadcast)
	}
	l.d.change.Broadcast()
}

func (l *deadline) passed() bool { return !l.t.IsZero() && !time.Now().Before(l.t) }

func (l *link) error(op string, err error) error {
	return &net.OpError{Op: op, Net: "link", Err: err}
}

func (l *link) Read(p []byte) (int, error) {
	d := l.in
	d.mu.Lock()
	defer d.mu.Unlock()
	l.reads++
	for {
		switch {
		case d.readerClosed:
			return 0, l.error("read", net.ErrClosed)
		case l.read.passed():
			return 0, l.error("read", os.ErrDeadlineExceeded)
		case d.stall:
		case len(d.buf) > 0:
			n := copy(p, d.buf)
			d.buf = d.buf[n:]
			d.change.Broadcast()
			return n, nil
		case d.end == io.EOF:
			return 0, io.EOF
		case d.end != nil:
			return 0, l.error("read", d.end)
		}
		d.change.Wait()
	}
}

func (l *link) Write(p []byte) (n int, err error) {
	d := l.out
	d.mu.Lock()
	defer d.mu.Unlock()
	l.writes++
	for {
		switch {
		case d.end != nil:
			return n, l.error("write", net.ErrClosed)
		case l.write.passed():
			return n, l.error("write", os.ErrDeadlineExceeded)
		case d.readerClosed:
			return n, l.error("write", syscall.EPIPE)
		case len(p) == 0:
			return n, nil
		}
		if m := min(len(p), d.window-len(d.buf)); m > 0 {
			d.buf = append(d.buf, p[:m]...)
			n += m
			p = p[m:]
			d.change.Broadcast()
			continue
		}
		d.change.Wait()
	}
}

func (l *link) CloseWrite() error {
	l.finish(io.EOF)
	return nil
}

func (l *link) finish(end error) {
	d := l.out
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.end == nil {
		d.end = end
	}
	if end != io.EOF {
		d.end, d.buf = end, nil
	}
	d.change.Broadcast()
}

func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.error("close", net.ErrClosed)
	}
	l.closed = true
	d := l.in
	d.mu.Lock()
	unread := len(d.buf) > 0
	d.readerClosed, d.buf = true, nil
	d.change.Broadcast()
	d.mu.Unlock()
	if unread || l.linger {
		l.finish(syscall.ECONNRESET)
	} else {
		l.finish(io.EOF)
	}
	l.read.set(time.Time{})
	l.write.set(time.Time{})
	return nil
}

// reset ends the connection with SetLinger(0) and Close.
func (l *link) reset() {
	l.SetLinger(0)
	l.Close()
}

func (l *link) SetLinger(sec int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.linger = sec == 0
	return nil
}

func (l *link) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

func (l *link) LocalAddr() net.Addr  { return linkAddr{} }
func (l *link) RemoteAddr() net.Addr { return linkAddr{} }

func (l *link) SetDeadline(t time.Time) error {
	l.read.set(t)
	l.write.set(t)
	return nil
}
func (l *link) SetReadDeadline(t time.Time) error  { l.read.set(t); return nil }
func (l *link) SetWriteDeadline(t time.Time) error { l.write.set(t); return nil }

type linkAddr struct{}

func (linkAddr) Network() string { return "link" }
func (linkAddr) String() string  { return "link" }

// A slowReader is a transport that returns one byte for most Reads. Every 32nd Read returns
// up to 500 bytes, so that a MiB takes less than a second, even under the race detector.
type slowReader struct {
	net.Conn
	reads *atomic.Int64
}

func newSlowReader(c net.Conn) slowReader { return slowReader{c, new(atomic.Int64)} }

func (d slowReader) Read(p []byte) (int, error) {
	size := 1
	if d.reads.Add(1)%32 == 0 {
		size = 500
	}
	return d.Conn.Read(p[:min(len(p), size)])
}

// A repeat returns the same bytes again and again.
type repeat struct {
	b  []byte
	at int
}

func (r *repeat) Read(p []byte) (n int, err error) {
	for n < len(p) {
		m := copy(p[n:], r.b[r.at:])
		n += m
		r.at = (r.at + m) % len(r.b)
	}
	return n, nil
}
