package vectors_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A transport is a net.Conn whose peer sends the bytes of a vector, and accepts everything.
type transport struct {
	mu       sync.Mutex
	change   *sync.Cond
	chunks   [][]byte
	last     error // the error that Read returns after the chunks; nil: it waits
	deadline time.Time
	closed   bool
	written  bytes.Buffer
}

func newTransport(chunks [][]byte, how string) *transport {
	t := &transport{last: map[string]error{"end": io.EOF, "reset": syscall.ECONNRESET}[how]}
	for _, c := range chunks {
		if len(c) > 0 {
			t.chunks = append(t.chunks, c)
		}
	}
	t.change = sync.NewCond(&t.mu)
	return t
}

func (t *transport) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case t.closed:
			return 0, net.ErrClosed
		case !t.deadline.IsZero() && !time.Now().Before(t.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(t.chunks) > 0:
			n := copy(p, t.chunks[0])
			if t.chunks[0] = t.chunks[0][n:]; len(t.chunks[0]) == 0 {
				t.chunks = t.chunks[1:]
			}
			return n, nil
		case t.last != nil:
			return 0, t.last
		}
		t.change.Wait()
	}
}

func (t *transport) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return 0, net.ErrClosed
	}
	return t.written.Write(p)
}

// isClosed reports whether Close was called.
func (t *transport) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// end ends the direction from the peer.
func (t *transport) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil {
		t.last = io.EOF
	}
	t.change.Broadcast()
}

// sent returns the bytes that have been written so far.
func (t *transport) sent() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.written.Bytes())
}

func (t *transport) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.change.Broadcast()
	return nil
}

func (t *transport) SetReadDeadline(d time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.deadline = d
	t.change.Broadcast()
	if wait := time.Until(d); !d.IsZero() && wait > 0 {
		time.AfterFunc(wait, t.change.Broadcast)
	}
	return nil
}

// SetWriteDeadline does nothing, because a Write never waits.
func (t *transport) SetWriteDeadline(time.Time) error { return nil }
func (t *transport) SetDeadline(d time.Time) error    { return t.SetReadDeadline(d) }
func (t *transport) CloseWrite() error                { return nil }
func (t *transport) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (t *transport) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
