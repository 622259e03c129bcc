package frame

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An end is a Conn under test, with its peer, its transport and the calls of its callbacks.
type end struct {
	t *testing.T
	kind
	*Conn
	peer      *peer
	transport *link
	lingers   atomic.Int32
	closes    atomic.Int32
}

func newEnd(t *testing.T, k kind, window int) *end {
	a, b := newLink(window)
	e := &end{t: t, kind: k, transport: a}
	e.Conn = k.above(a, Config{Owner: e})
	e.peer = newPeer(t, k, b)
	return e
}

func (e *end) Lingers() { e.lingers.Add(1) }
func (e *end) Ended()   { e.closes.Add(1) }

// write writes s, and asserts that all of it was written.
func (e *end) write(s string) {
	e.t.Helper()
	n, err := e.Write([]byte(s))
	assert.NoError(e.t, err)
	assert.Equal(e.t, len(s), n)
}

// reads asserts the bytes that Read returns until an error, and returns the error. It also
// asserts that the next Read returns the same error.
func (e *end) reads(want string) error {
	e.t.Helper()
	var got []byte
	buf := make([]byte, 100)
	for {
		n, err := e.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			assert.Equal(e.t, want, string(got))
			again, err2 := e.Read(buf)
			assert.Zero(e.t, again)
			assert.Equal(e.t, err, err2, "the error is permanent")
			return err
		}
	}
}

// peerGot asserts what the peer has received since the last call. The text in angle brackets
// is expected only with WebSocket.
func (e *end) peerGot(want string) {
	e.t.Helper()
	assert.Equal(e.t, e.only(want), e.peer.received())
}

func (e *end) only(want string) string {
	for {
		before, rest, found := strings.Cut(want, "<")
		if !found {
			return strings.TrimSuffix(want, ", ")
		}
		inside, after, _ := strings.Cut(rest, ">")
		if e.webSocket {
			before += inside
		}
		want = before + after
	}
}

func (e *end) open() {
	e.t.Helper()
	synctest.Wait()
	assert.False(e.t, e.transport.isClosed(), "the transport is open")
	assert.Zero(e.t, e.closes.Load())
}

func (e *end) ended() {
	e.t.Helper()
	synctest.Wait()
	assert.True(e.t, e.transport.isClosed(), "the transport is closed")
	assert.Equal(e.t, int32(1), e.closes.Load(), "calls of Ended")
	assert.LessOrEqual(e.t, e.lingers.Load(), int32(1), "calls of Lingers")
}

func (e *end) writesLast(s string) {
	e.t.Helper()
	n, err := e.WriteLast([]byte(s))
	assert.NoError(e.t, err)
	assert.Equal(e.t, len(s), n)
}

func (e *end) writeFails(want error) {
	e.t.Helper()
	n, err := e.Write([]byte("more"))
	assert.Zero(e.t, n)
	assert.ErrorIs(e.t, err, want)
	var op *net.OpError
	assert.ErrorAs(e.t, err, &op)
	assert.Equal(e.t, "write", op.Op)
}

func truncated(t *testing.T, err error, text string) {
	t.Helper()
	op, ok := err.(*net.OpError)
	require.True(t, ok, "%T: %v", err, err)
	assert.Equal(t, "read", op.Op)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.ErrorContains(t, err, text)
	assert.NotErrorIs(t, err, io.EOF)
	assert.False(t, op.Timeout())
}

// ends are tests for the end of a connection, with all orders of the steps.
var ends = []struct {
	name string
	run  func(e *end)
}{
	{"close: the peer's PONG ends it", func(e *end) {
		e.write("hi")
		assert.NoError(e.t, e.Close())
		e.peerGot("data hi, final, ping 1, <close 1000, >end")
		e.ended()
		assert.Equal(e.t, int32(1), e.lingers.Load())
	}},
	{"close: nothing was written", func(e *end) {
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1, <close 1000, >end")
		e.ended()
	}},
	{"last bytes: FINAL_DATA of Close carries them", func(e *end) {
		e.write("hi")
		e.writesLast("bye")
		e.writesLast("!")
		e.peerGot("data hi, ")
		assert.NoError(e.t, e.Close())
		e.peerGot("final bye!, ping 1")
		e.open() // the peer's FINAL_DATA may follow what TLS has read
		e.peer.send(e.peer.final(""), e.peer.ping(9))
		e.peerGot("pong 9, <close 1000, >end")
		e.ended()
	}},
	{"last bytes: FINAL_DATA of CloseWrite carries them, without a peer that reads", func(e *end) {
		e.peer.stall()
		e.transport.setWindow(0)
		e.SetWriteDeadline(time.Now().Add(-time.Second)) // does not apply
		e.writesLast(strings.Repeat("x", maxPayload))
		assert.NoError(e.t, e.CloseWrite())
		_, err := e.WriteLast([]byte("more"))
		assert.ErrorIs(e.t, err, syscall.EPIPE)
		time.Sleep(time.Hour)
		e.transport.setWindow(window)
		e.peer.resume()
		e.peerGot("final " + strings.Repeat("x", maxPayload) + ", ping 1")
		assert.NoError(e.t, e.Close())
	}},
	{"last bytes: nobody misses them after the end of the peer's transport", func(e *end) {
		e.peer.send(e.peer.final(""), e.peer.ping(1))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.peer.link.CloseWrite()
		synctest.Wait()
		e.writesLast("bye")
	}},
	{"last bytes: too many, and after Close", func(e *end) {
		e.writesLast("bye")
		n, err := e.WriteLast(make([]byte, maxPayload-2))
		assert.Zero(e.t, n)
		assert.ErrorIs(e.t, err, errLastTooLong)
		assert.NoError(e.t, e.Close())
		_, err = e.WriteLast([]byte("more"))
		assert.ErrorIs(e.t, err, net.ErrClosed)
		e.peerGot("final bye, ping 1")
		e.open()
		time.Sleep(drainLimit) // the peer's FINAL_DATA does not follow
		e.peerGot("<close 1000, >end")
		e.ended()
	}},
	{"close: while lingering, PINGs are answered and capsules are discarded", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.peer.send(e.peer.ping(70), e.peer.capsule(0x12345678, "unknown"), e.peer.pong(12345))
		e.peerGot("pong 70")
		e.open()
		e.peer.send(e.peer.pong(1))
		e.peerGot("<close 1000, >end")
		e.ended()
	}},
	{"close: a linger that discarded data ends with a reset", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.peer.send(e.peer.data("lost"), e.peer.ping(5))
		e.peerGot("pong 5")
		e.peer.send(e.peer.pong(1))
		synctest.Wait()
		got := e.peer.received()
		assert.True(e.t, strings.HasSuffix(got, "reset"), got)
		e.ended()
	}},
	{"close: a linger that discarded the data of FINAL_DATA ends with a reset", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.peer.send(e.peer.final("lost"))
		e.open()
		e.peer.send(e.peer.pong(1))
		got := e.peer.received()
		assert.True(e.t, strings.HasSuffix(got, "reset"), got)
	}},
	{"close: unread data is discarded too", func(e *end) {
		e.peer.stopAnswering()
		e.peer.send(e.peer.data("never read"))
		synctest.Wait()
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.peer.send(e.peer.pong(1))
		got := e.peer.received()
		assert.True(e.t, strings.HasSuffix(got, "reset"), got)
	}},
	{"close: data that was read in part is discarded too", func(e *end) {
		e.peer.stopAnswering()
		e.peer.send(e.peer.data("half"))
		_, err := e.Read(make([]byte, 1))
		assert.NoError(e.t, err)
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.peer.send(e.peer.pong(1))
		got := e.peer.received()
		assert.True(e.t, strings.HasSuffix(got, "reset"), got)
	}},
	{"close: without an answer it ends after 60 s", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.Close())
		time.Sleep(59 * time.Second)
		e.open()
		e.peerGot("final, ping 1")
		time.Sleep(time.Second)
		e.ended()
		e.peerGot("<close 1000, >end")
	}},
	{"close: a peer that never reads holds it for 60 s", func(e *end) {
		e.peer.stall()
		e.write("hi")
		e.transport.out.mu.Lock()
		e.transport.out.window = 0
		e.transport.out.mu.Unlock()
		assert.NoError(e.t, e.Close())
		time.Sleep(59 * time.Second)
		e.open()
		time.Sleep(time.Second)
		e.ended()
	}},
	{"close: a slow peer loses nothing", func(e *end) {
		e.peer.stall()
		e.write("hi")
		e.transport.out.mu.Lock()
		e.transport.out.window = 0
		e.transport.out.mu.Unlock()
		assert.NoError(e.t, e.Close())
		time.Sleep(30 * time.Second)
		e.transport.out.mu.Lock()
		e.transport.out.window = 7
		e.transport.out.mu.Unlock()
		e.peer.resume()
		synctest.Wait()
		time.Sleep(time.Second)
		e.peerGot("data hi, final, ping 1, <close 1000, >end")
		e.ended()
	}},
	{"close: the peer's end ends the linger", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.peer.link.CloseWrite()
		e.peerGot("end")
		e.ended()
	}},
	{"close: the peer's reset ends the linger", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.peer.link.reset()
		e.ended()
	}},
	{"close: the peer's FINAL_DATA does not end the linger, and its PING is answered", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.peer.send(e.peer.final(""), e.peer.ping(9))
		e.peerGot("pong 9")
		e.open()
		e.peer.send(e.peer.pong(1))
		e.peerGot("<close 1000, >end")
		e.ended()
	}},
	{"close: FINAL_DATA, PING and PONG arrive in one piece", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.peer.send(join(e.peer.final(""), e.peer.ping(9), e.peer.pong(1)))
		e.peerGot("pong 9, <close 1000, >end")
		e.ended()
	}},
	{"close: EndLinger ends it at once", func(e *end) {
		e.peer.stopAnswering()
		e.EndLinger()
		e.open() // it does not linger yet
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.EndLinger()
		e.peerGot("end")
		e.ended()
		e.EndLinger()
		e.ended()
	}},
	{"close: every later call is an error", func(e *end) {
		assert.NoError(e.t, e.Close())
		assert.ErrorIs(e.t, e.Close(), net.ErrClosed)
		e.writeFails(net.ErrClosed)
		assert.ErrorIs(e.t, e.reads(""), net.ErrClosed)
		assert.ErrorIs(e.t, e.CloseWrite(), net.ErrClosed)
		assert.ErrorIs(e.t, e.CloseRead(), net.ErrClosed)
		assert.ErrorIs(e.t, e.SetDeadline(time.Now()), net.ErrClosed)
		assert.ErrorIs(e.t, e.SetReadDeadline(time.Now()), net.ErrClosed)
		assert.ErrorIs(e.t, e.SetWriteDeadline(time.Now()), net.ErrClosed)
		synctest.Wait()
		e.ended()
		assert.ErrorIs(e.t, e.Close(), net.ErrClosed)
	}},
	{"close: it wakes a Read", func(e *end) {
		read := make(chan error)
		go func() {
			_, err := e.Read(make([]byte, 10))
			read <- err
		}()
		synctest.Wait()
		assert.NoError(e.t, e.Close())
		assert.ErrorIs(e.t, <-read, net.ErrClosed)
		e.peerGot("final, ping 1, <close 1000, >end")
		e.ended()
	}},
	{"close: a Write in progress is interrupted", func(e *end) {
		e.peer.stall()
		wrote := make(chan error)
		go func() {
			_, err := e.Write(make([]byte, 2*window))
			wrote <- err
		}()
		synctest.Wait()
		assert.NoError(e.t, e.Close())
		assert.ErrorIs(e.t, <-wrote, net.ErrClosed)
		e.ended()
		assert.Zero(e.t, e.lingers.Load())
		e.peer.resume()
		got := e.peer.received()
		assert.Contains(e.t, got, "half of 2d70f100")
		assert.NotContains(e.t, got, "final")
	}},
	{"close: a capsule is open", func(e *end) {
		e.peer.stall()
		e.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := e.Write(make([]byte, 2*window))
		assert.Less(e.t, n, 2*window)
		assert.ErrorIs(e.t, err, os.ErrDeadlineExceeded)
		assert.NoError(e.t, e.Close())
		e.ended()
		e.peer.resume()
		assert.NotContains(e.t, e.peer.received(), "final")
	}},
	{"close: the last Write failed between two capsules", func(e *end) {
		e.SetWriteDeadline(past)
		e.writeFails(os.ErrDeadlineExceeded)
		assert.NoError(e.t, e.Close())
		e.ended()
		e.peerGot("end")
	}},
	{"close: a Write failed, and the next one succeeded", func(e *end) {
		e.SetWriteDeadline(past)
		e.writeFails(os.ErrDeadlineExceeded)
		e.SetWriteDeadline(time.Time{})
		e.write("more")
		assert.NoError(e.t, e.Close())
		e.peerGot("data more, final, ping 1, <close 1000, >end")
	}},
	{"close write: the peer answers, then ends", func(e *end) {
		e.write("question")
		assert.NoError(e.t, e.CloseWrite())
		e.peerGot("data question, final, ping 1")
		e.writeFails(syscall.EPIPE)
		e.peer.send(e.peer.data("answer"))
		e.open()
		e.peer.send(e.peer.final(""), e.peer.ping(1))
		assert.Equal(e.t, io.EOF, e.reads("answer"))
		// Both directions are final, and the PONG has arrived: the peer has read
		// everything. Its PING is answered, unless the transport was closed before. A
		// PING that arrives at a closed transport resets it, and then the Close frame
		// may be lost.
		got := e.peer.received()
		assert.Contains(e.t, []string{e.only("<close 1000, >end"), e.only("pong 1, <close 1000, >end"),
			e.only("<close 1000, >reset"), "reset"}, got)
		e.ended()
		e.writeFails(syscall.EPIPE)
		assert.NoError(e.t, e.Close())
		e.ended()
		assert.ErrorIs(e.t, e.Close(), net.ErrClosed)
	}},
	{"close write: the peer's PING in one piece with its FINAL_DATA is answered", func(e *end) {
		assert.NoError(e.t, e.CloseWrite())
		e.peerGot("final, ping 1")
		e.peer.send(join(e.peer.final("last"), e.peer.ping(1)))
		assert.Equal(e.t, io.EOF, e.reads("last"))
		e.peerGot("pong 1, <close 1000, >end")
		e.ended()
	}},
	{"close write: a second call does nothing", func(e *end) {
		assert.NoError(e.t, e.CloseWrite())
		assert.NoError(e.t, e.CloseWrite())
		e.peerGot("final, ping 1")
		e.open()
	}},
	{"close write: both are final, and nothing more arrives", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.CloseWrite())
		e.peer.send(e.peer.final(""))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.peerGot("final, ping 1")
		time.Sleep(24 * time.Hour)
		e.open() // the application has not closed it
		e.peer.send(e.peer.ping(3))
		e.peerGot("pong 3")
		e.peer.send(e.peer.pong(1))
		e.peerGot("<close 1000, >end")
		e.ended()
		assert.NoError(e.t, e.Close())
	}},
	{"close write: both are final, and PONGs with other values arrive", func(e *end) {
		e.peer.stopAnswering()
		e.peer.send(e.peer.final(""), e.peer.ping(7))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.mu.Lock()
		e.pingDue = true
		e.flags.Or(due)
		e.release()
		e.peerGot("pong 7, ping 1")
		assert.NoError(e.t, e.CloseWrite())
		e.peerGot("final, ping 2")
		e.peer.send(e.peer.pong(1))
		e.open() // it answers the PING before FINAL_DATA
		e.peer.send(e.peer.pong(3))
		e.open() // it answers no PING
		e.peer.send(e.peer.pong(2))
		e.ended()
	}},
	{"close write: both are final, and an older PONG arrives after the newest", func(e *end) {
		e.peer.stopAnswering()
		e.mu.Lock()
		e.pingDue = true
		e.flags.Or(due)
		e.release()
		synctest.Wait()
		assert.NoError(e.t, e.CloseWrite())
		e.peerGot("ping 1, final, ping 2")
		e.peer.send(e.peer.pong(2), e.peer.pong(1), e.peer.final(""), e.peer.ping(7))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.ended()
	}},
	{"close write: both are final, and the peer's PING arrives in a separate segment", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.CloseWrite())
		e.peerGot("final, ping 1")
		e.peer.send(e.peer.pong(1), e.peer.final(""))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.open()
		e.peer.send(e.peer.ping(7))
		e.peerGot("pong 7, <close 1000, >end")
		e.ended()
	}},
	{"close write, close: the transport ends before the peer's PONG", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.CloseWrite())
		e.peer.send(e.peer.final(""), e.peer.ping(7))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.peer.link.CloseWrite()
		e.ended()
		err := e.Close()
		assert.ErrorIs(e.t, err, io.ErrUnexpectedEOF)
		assert.ErrorContains(e.t, err, "the peer has not confirmed that it has received everything")
	}},
	{"close write, close: a reset comes before the peer's PONG", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.CloseWrite())
		e.peer.send(e.peer.final(""), e.peer.ping(7))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.peer.link.reset()
		e.ended()
		assert.ErrorIs(e.t, e.Close(), syscall.ECONNRESET)
	}},
	{"close write, close: a protocol error comes before the peer's PONG", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.CloseWrite())
		e.peer.send(e.peer.final(""), e.peer.ping(7))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.peer.send(e.peer.data("behind the end"))
		synctest.Wait()
		assert.ErrorContains(e.t, e.Close(), "protocol error")
	}},
	{"close write, close: the peer's PONG comes before the end", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.CloseWrite())
		e.peer.send(e.peer.final(""), e.peer.pong(1))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.peer.link.reset()
		e.ended()
		assert.NoError(e.t, e.Close())
	}},
	{"close write, close: both are final, and the peer's PING never arrives", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.CloseWrite())
		e.peer.send(e.peer.pong(1), e.peer.final(""))
		assert.Equal(e.t, io.EOF, e.reads(""))
		assert.NoError(e.t, e.Close())
		time.Sleep(drainLimit - time.Second)
		e.peer.send(e.peer.capsule(0x12345678, "does not delay the end"))
		e.open()
		e.peerGot("final, ping 1")
		time.Sleep(time.Second)
		e.peerGot("<close 1000, >end")
		e.ended()
	}},
	{"close write: both are final, and the peer ends", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.CloseWrite())
		e.peer.send(e.peer.final(""))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.open()
		e.peer.link.CloseWrite()
		e.peerGot("final, ping 1, end")
		e.ended()
	}},
	{"close write: both are final, and the peer resets", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.CloseWrite())
		e.peer.send(e.peer.final(""))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.peer.link.reset()
		e.ended()
		assert.Equal(e.t, io.EOF, e.reads(""))
	}},
	{"close write, close: the PONG arrived before", func(e *end) {
		assert.NoError(e.t, e.CloseWrite())
		e.peer.send(e.peer.data("x"))
		_, err := e.Read(make([]byte, 10)) // also reads the PONG
		assert.NoError(e.t, err)
		e.peerGot("final, ping 1")
		e.open()
		assert.NoError(e.t, e.Close())
		e.peerGot("<close 1000, >end")
		e.ended()
	}},
	{"close write, close: the PONG arrives after", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.CloseWrite())
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.open()
		e.peer.send(e.peer.pong(1))
		e.peerGot("<close 1000, >end")
		e.ended()
	}},
	{"close write: a capsule is open", func(e *end) {
		e.peer.stall()
		e.SetWriteDeadline(time.Now().Add(time.Second))
		long := strings.Repeat("x", 2*window)
		n, err := e.Write([]byte(long))
		assert.ErrorIs(e.t, err, os.ErrDeadlineExceeded)
		err = e.CloseWrite()
		assert.ErrorContains(e.t, err, "inside a capsule")
		assert.IsType(e.t, &net.OpError{}, err)
		e.SetWriteDeadline(time.Time{})
		e.peer.resume()
		e.write(long[n:])
		assert.NoError(e.t, e.CloseWrite())
		got := e.peer.received()
		assert.True(e.t, strings.HasSuffix(got, "x, final, ping 1"), "%.100s", got)
	}},
	{"close write: the application's deadline has expired, and is kept", func(e *end) {
		e.SetWriteDeadline(past)
		assert.NoError(e.t, e.CloseWrite())
		e.peerGot("final, ping 1")
		e.transport.out.mu.Lock()
		assert.WithinDuration(e.t, past, e.transport.write.t, 0)
		e.transport.out.mu.Unlock()
	}},
	{"close write: it waits at most 2 s for a transport that is full", func(e *end) {
		e.peer.stall()
		e.write("hi")
		e.transport.out.mu.Lock()
		e.transport.out.window = 0
		e.transport.out.mu.Unlock()
		before := time.Now()
		assert.NoError(e.t, e.CloseWrite())
		assert.Equal(e.t, 2*time.Second, time.Since(before))
		time.Sleep(time.Hour)
		e.transport.out.mu.Lock()
		e.transport.out.window = window
		e.transport.out.change.Broadcast()
		e.transport.out.mu.Unlock()
		e.peer.resume()
		e.peerGot("data hi, final, ping 1")
		e.open()
	}},
	{"the peer is final: this side may answer later", func(e *end) {
		e.peer.send(e.peer.data("question"), e.peer.final(""), e.peer.ping(1))
		assert.Equal(e.t, io.EOF, e.reads("question"))
		e.peerGot("pong 1")
		time.Sleep(time.Hour)
		e.SetReadDeadline(past) // does not interrupt the background read
		e.peer.send(e.peer.ping(2), e.peer.capsule(0x12345678, "unknown"), e.peer.pong(7))
		e.peerGot("pong 2")
		e.write("answer")
		assert.NoError(e.t, e.Close())
		// The peer sends its PONG after FINAL_DATA.
		e.peerGot("data answer, final, ping 1, <close 1000, >end")
		e.ended()
	}},
	{"the peer is final with its last data: Read returns it before io.EOF", func(e *end) {
		e.peer.send(e.peer.data("ques"), e.peer.final("tion"))
		assert.Equal(e.t, io.EOF, e.reads("question"))
		e.open()
	}},
	{"the peer is final, and ends the transport: both directions have ended", func(e *end) {
		e.peer.send(e.peer.final(""))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.peer.link.CloseWrite()
		synctest.Wait()
		e.writeFails(syscall.EPIPE)
		assert.ErrorIs(e.t, e.CloseWrite(), syscall.EPIPE)
		e.open()
		assert.NoError(e.t, e.Close())
		e.peerGot("end")
		e.ended()
	}},
	{"the peer is final, and resets: Read still returns io.EOF", func(e *end) {
		e.peer.send(e.peer.final(""))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.peer.link.reset()
		synctest.Wait()
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.writeFails(syscall.EPIPE)
		assert.NoError(e.t, e.Close())
		e.ended()
	}},
	{"the peer is final, and sends data: the next Write returns the error", func(e *end) {
		for _, more := range [][]byte{e.peer.data("more"), e.peer.data(""), e.peer.final("")} {
			e := newEnd(e.t, e.kind, window)
			e.peer.send(e.peer.data("all"), e.peer.final(""))
			assert.Equal(e.t, io.EOF, e.reads("all"))
			e.write("fine")
			e.peer.send(more)
			synctest.Wait()
			_, err := e.Write([]byte("x"))
			assert.ErrorContains(e.t, err, "behind FINAL_DATA")
			assert.Equal(e.t, io.EOF, e.reads(""))
			e.peerGot("data fine, <close 1002, >end")
			assert.ErrorContains(e.t, e.CloseWrite(), "behind FINAL_DATA")
			assert.NoError(e.t, e.Close())
			e.open()
			e.peer.link.CloseWrite()
			e.ended()
		}
	}},
	{"the peer ends without FINAL_DATA", func(e *end) {
		e.peer.send(e.peer.data("half"))
		read := make(chan error)
		go func() { read <- e.reads("half") }()
		time.Sleep(90 * time.Second)
		e.peer.link.CloseWrite()
		truncated(e.t, <-read, "unexpected EOF: the transport ended before the stream was complete, after 1m30s of silence")
		e.write("it may still read")
		assert.NoError(e.t, e.Close())
		e.peerGot("data it may still read, final, ping 1, end")
		e.ended()
	}},
	{"the peer ends inside a capsule", func(e *end) {
		b := e.peer.data("half")
		e.peer.send(b[:len(b)-2])
		synctest.Wait()
		e.peer.link.CloseWrite()
		truncated(e.t, e.reads("ha"), "the transport ended")
	}},
	{"the peer ends inside FINAL_DATA", func(e *end) {
		b := e.peer.final("half")
		e.peer.send(b[:len(b)-1])
		synctest.Wait()
		e.peer.link.CloseWrite()
		truncated(e.t, e.reads("hal"), "the transport ended")
	}},
	{"the peer ends at once", func(e *end) {
		e.peer.link.CloseWrite()
		truncated(e.t, e.reads(""), "after 0s of silence")
	}},
	{"the peer resets", func(e *end) {
		e.peer.send(e.peer.data("half"))
		got := make([]byte, 10)
		n, err := e.Read(got)
		assert.NoError(e.t, err)
		assert.Equal(e.t, "half", string(got[:n]))
		e.peer.link.reset()
		err = e.reads("")
		assert.ErrorIs(e.t, err, syscall.ECONNRESET)
		assert.NotErrorIs(e.t, err, io.ErrUnexpectedEOF)
		assert.NoError(e.t, e.Close())
		e.ended()
	}},
	{"the peer does not frame", func(e *end) {
		e.peer.send(e.peer.message([]byte("220 ready\r\n")))
		err := e.reads("")
		assert.ErrorContains(e.t, err, "protocol error of the peer: the stream does not begin with a capsule of ours")
		assert.IsType(e.t, &net.OpError{}, err)
		_, werr := e.Write([]byte("x"))
		assert.ErrorContains(e.t, werr, "protocol error of the peer")
		e.peerGot("<close 1002, >end")
		e.open()
		assert.Equal(e.t, int32(1), e.lingers.Load())
		time.Sleep(1999 * time.Millisecond)
		e.peer.send([]byte("is ignored")) // and does not cause a reset
		e.open()
		time.Sleep(time.Millisecond)
		e.ended()
		assert.NoError(e.t, e.Close())
	}},
	{"a protocol error: the end of the peer's transport ends the connection", func(e *end) {
		e.peer.send(e.peer.data("fine"), e.peer.control(0x2d70f104, 1)[:0], e.peer.capsule(0x2d70f104, "seven b"))
		err := e.reads("fine")
		assert.ErrorContains(e.t, err, "not 8 bytes long")
		e.peerGot("<close 1002, >end")
		assert.NoError(e.t, e.Close())
		e.open()
		e.peer.link.CloseWrite()
		e.ended()
	}},
	{"a protocol error while lingering", func(e *end) {
		e.peer.stopAnswering()
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.peer.send(e.peer.message([]byte{1, 0}))
		e.peerGot("<close 1002, >end")
		time.Sleep(2 * time.Second)
		e.ended()
	}},
	{"a protocol error inside an open capsule", func(e *end) {
		e.peer.stall()
		e.SetWriteDeadline(time.Now().Add(time.Second))
		_, err := e.Write(make([]byte, 2*window))
		assert.ErrorIs(e.t, err, os.ErrDeadlineExceeded)
		e.peer.send(e.peer.message([]byte{1, 0}))
		assert.ErrorContains(e.t, e.reads(""), "protocol error")
		e.peer.resume()
		got := e.peer.received()
		assert.True(e.t, strings.HasSuffix(got, "end inside"), "no Close frame can be sent inside another frame")
		time.Sleep(2 * time.Second)
		e.ended()
	}},
	{"close read is local", func(e *end) {
		read := make(chan error)
		go func() {
			_, err := e.Read(make([]byte, 10))
			read <- err
		}()
		synctest.Wait()
		assert.NoError(e.t, e.CloseRead())
		assert.Equal(e.t, io.EOF, <-read)
		e.peer.send(e.peer.data("not read"))
		assert.Equal(e.t, io.EOF, e.reads(""))
		assert.NoError(e.t, e.SetReadDeadline(time.Now().Add(time.Hour)))
		assert.Equal(e.t, io.EOF, e.reads(""))
		e.write("hi")
		e.peerGot("data hi")
		e.open()
		e.peer.stopAnswering()
		assert.NoError(e.t, e.Close())
		e.peerGot("final, ping 1")
		e.peer.send(e.peer.pong(1))
		got := e.peer.received()
		assert.True(e.t, strings.HasSuffix(got, "reset"), got)
	}},
	{"abort: the transport is closed first", func(e *end) {
		e.write("hi")
		e.transport.Close()
		assert.NoError(e.t, e.Close())
		e.peerGot("data hi, end")
		e.ended()
	}},
}

func TestEnds(t *testing.T) {
	for _, test := range ends {
		t.Run(test.name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, k kind) { test.run(newEnd(t, k, window)) })
		})
	}
}

// A Close frame of the peer ends the connection.
func TestCloseFrames(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(e *end)
	}{
		{"before FINAL_DATA", func(e *end) {
			e.peer.send(e.peer.data("half"), e.peer.closeFrame(1001))
			truncated(e.t, e.reads("half"), "the peer sent a WebSocket Close with code 1001 before the stream was complete")
			e.peerGot("close 1001")
			e.writeFails(syscall.EPIPE)
			assert.ErrorIs(e.t, e.CloseWrite(), syscall.EPIPE)
			e.open()
			assert.NoError(e.t, e.Close())
			e.peerGot("end") // at once and without FINAL_DATA
			e.open()
			time.Sleep(1999 * time.Millisecond)
			e.peer.send([]byte("is ignored"))
			e.open()
			time.Sleep(time.Millisecond)
			e.ended()
		}},
		{"without a code", func(e *end) {
			e.peer.send(e.peer.frame(0x88, nil))
			truncated(e.t, e.reads(""), "the peer sent a WebSocket Close before")
			e.peerGot("close")
		}},
		{"with a reason, which is not repeated", func(e *end) {
			e.peer.send(e.peer.frame(0x88, []byte("\x0f\xa0secret")))
			err := e.reads("")
			truncated(e.t, err, "code 4000")
			assert.NotContains(e.t, err.Error(), "secret")
			e.peerGot("close 4000")
		}},
		{"after FINAL_DATA", func(e *end) {
			e.peer.send(e.peer.data("all"), e.peer.final(""), e.peer.closeFrame(1000))
			assert.Equal(e.t, io.EOF, e.reads("all"))
			e.peerGot("close 1000")
			e.writeFails(syscall.EPIPE)
			e.open()
			assert.NoError(e.t, e.Close())
			e.peerGot("end")
			e.open()
			e.peer.link.CloseWrite()
			e.ended()
		}},
		{"when both are final", func(e *end) {
			e.peer.stopAnswering()
			assert.NoError(e.t, e.CloseWrite())
			e.peerGot("final, ping 1")
			e.peer.send(e.peer.final(""), e.peer.closeFrame(1000))
			assert.Equal(e.t, io.EOF, e.reads(""))
			e.peerGot("close 1000, end")
			e.open()
			time.Sleep(2 * time.Second)
			e.ended()
		}},
		{"after FINAL_DATA, between two messages of a Write", func(e *end) {
			e.peer.stall()
			wrote := make(chan error)
			go func() {
				_, err := e.Write([]byte(strings.Repeat("x", 40*maxData)))
				wrote <- err
			}()
			synctest.Wait()
			e.peer.send(e.peer.final(""), e.peer.closeFrame(1000))
			assert.Equal(e.t, io.EOF, e.reads(""))
			synctest.Wait()
			e.peer.resume()
			assert.ErrorIs(e.t, <-wrote, syscall.EPIPE)
			got := e.peer.received()
			assert.True(e.t, strings.HasSuffix(got, "x, close 1000"), got[max(0, len(got)-100):])
		}},
		{"while lingering", func(e *end) {
			e.peer.stopAnswering()
			assert.NoError(e.t, e.Close())
			e.peerGot("final, ping 1")
			e.peer.send(e.peer.closeFrame(1001))
			e.peerGot("close 1001, end")
			e.open()
			e.peer.link.CloseWrite()
			e.ended()
		}},
		{"twice", func(e *end) {
			e.peer.send(e.peer.closeFrame(1000), e.peer.closeFrame(1000))
			truncated(e.t, e.reads(""), "code 1000")
			e.peerGot("close 1000")
		}},
		{"as the answer to ours", func(e *end) {
			e.peer.stopAnswering()
			assert.NoError(e.t, e.Close())
			e.peerGot("final, ping 1")
			time.Sleep(lingerLimit - closeFrameTimeout)
			e.peerGot("close 1000, end")
			e.ended()
		}},
		{"text", func(e *end) {
			e.peer.send(e.peer.frame(0x81, []byte("hello")))
			assert.ErrorContains(e.t, e.reads(""), "text message")
			e.peerGot("close 1003, end")
		}},
		{"fragmented text", func(e *end) {
			e.peer.send(e.peer.frame(0x01, []byte("hello")))
			assert.ErrorContains(e.t, e.reads(""), "text message")
			e.peerGot("close 1003, end")
		}},
		{"a Close that is malformed", func(e *end) {
			e.peer.send(e.peer.closeFrame(1005))
			assert.ErrorContains(e.t, e.reads(""), "protocol error")
			e.peerGot("close 1002, end")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, client := range []bool{false, true} {
				k := kind{true, client}
				t.Run(k.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { test.run(newEnd(t, k, window)) })
				})
			}
		})
	}
}

// Two Conns end their connection in every order.
func TestBothSidesEnd(t *testing.T) {
	orders := map[string]func(a, b *Conn){
		"both close":                    func(a, b *Conn) { a.Close(); b.Close() },
		"one closes, one reads":         func(a, b *Conn) { a.Close(); io.Copy(io.Discard, b); b.Close() },
		"both end one direction":        func(a, b *Conn) { a.CloseWrite(); b.CloseWrite(); io.Copy(io.Discard, a); io.Copy(io.Discard, b) },
		"question and answer":           func(a, b *Conn) { a.CloseWrite(); io.Copy(io.Discard, b); b.Close(); io.Copy(io.Discard, a); a.Close() },
		"close write, close, both":      func(a, b *Conn) { a.CloseWrite(); a.Close(); b.CloseWrite(); b.Close() },
		"one closes, one ends, neither": func(a, b *Conn) { a.Close(); b.CloseWrite(); io.Copy(io.Discard, b) },
	}
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			for _, k := range kinds {
				for _, swap := range []bool{false, true} {
					synctest.Test(t, func(t *testing.T) {
						x, y := newLink(window)
						a := k.above(x, Config{})
						b := kind{k.webSocket, !k.client}.above(y, Config{})
						if swap {
							a, b = b, a
						}
						before := time.Now()
						order(a, b)
						synctest.Wait()
						assert.True(t, x.isClosed() && y.isClosed(), "%v: both transports are closed", k)
						assert.Zero(t, time.Since(before), "neither side waited for a timer")
					})
				}
			}
		})
	}
}

// The Close method of a layer waits until the connection below is closed. That of TLS may
// wait too.
type layer struct {
	*link
	below *link
}

func (l layer) NetConn() net.Conn { return l.below }

func (l layer) Close() error {
	for !l.below.isClosed() {
		time.Sleep(time.Millisecond)
	}
	return l.link.Close()
}

// Close waits only briefly if the transport does not accept the end of the stream, which is
// sent later.
func TestCloseAndAFullTransport(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		eachKind(t, func(t *testing.T, k kind) {
			a, b := newLink(0)
			c, p := k.above(a, Config{TLS: withTLS}), newPeer(t, k, b)
			before := time.Now()
			assert.NoError(t, c.Close())
			assert.Equal(t, closeTimeout, time.Since(before))
			time.Sleep(time.Minute / 2)
			a.setWindow(window)
			assert.Contains(t, p.received(), "final, ping 1")
		})
	}
}

// If a connection must end at once, it does not wait for the layers of the transport.
func TestImmediateEnds(t *testing.T) {
	for name, run := range map[string]func(e *end){
		"a Write in progress": func(e *end) {
			e.peer.stall()
			go e.Write(make([]byte, 2*window))
			synctest.Wait()
			e.Close()
		},
		"EndLinger": func(e *end) {
			e.peer.stopAnswering()
			e.Close()
			e.EndLinger()
		},
		"the end of lingerLimit": func(e *end) {
			e.transport.setWindow(0)
			before := time.Now()
			e.Close()
			time.Sleep(lingerLimit - time.Since(before))
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, k kind) {
				a, b := newLink(window)
				below, _ := newLink(window)
				e := &end{t: t, kind: k, transport: a}
				e.Conn = k.above(layer{a, below}, Config{TLS: true, Owner: e})
				e.peer = newPeer(t, k, b)
				before := time.Now()
				run(e)
				assert.True(t, below.isClosed())
				assert.LessOrEqual(t, time.Since(before), lingerLimit)
				e.ended()
			})
		})
	}
}

// Bytes that the peer sends do not delay the end of a connection.
func TestEndIsNotDelayed(t *testing.T) {
	for _, client := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := newEnd(t, kind{true, client}, window)
			e.peer.stopAnswering()
			assert.NoError(t, e.CloseWrite())
			e.peerGot("final, ping 1")
			e.transport.setWindow(0) // for the Close frame
			e.peer.send(e.peer.pong(1), e.peer.final(""), e.peer.ping(7))
			assert.Equal(t, io.EOF, e.reads(""))
			time.Sleep(time.Second)
			e.open()
			e.peer.send(e.peer.data("a protocol error"))
			time.Sleep(time.Second)
			e.ended()
		})
	}
}

// An endedChan is closed when the transport ends.
type endedChan chan bool

func (endedChan) Lingers() {}
func (c endedChan) Ended() { close(c) }

// On a transport without deadlines, such as an SSH channel, Close cannot interrupt a Read.
// The next bytes from the peer end it. At the latest, this is the PONG for the PING of Close.
func TestCloseWithoutDeadlines(t *testing.T) {
	for _, k := range kinds {
		x, y := newLink(window)
		closed := make(endedChan)
		a := k.above(noDeadlines{x}, Config{Owner: closed})
		b := kind{k.webSocket, !k.client}.above(y, Config{})
		a.Write([]byte("hi"))
		got := make([]byte, 10)
		n, _ := b.Read(got)
		assert.Equal(t, "hi", string(got[:n]))
		read := make(chan error)
		go func() {
			_, err := a.Read(got)
			read <- err
		}()
		waitFor(func() bool { // Read waits in the transport
			x.in.mu.Lock()
			defer x.in.mu.Unlock()
			return x.reads > 0
		})
		assert.NoError(t, a.Close())
		_, err := b.Read(make([]byte, 10))
		assert.Equal(t, io.EOF, err)
		assert.ErrorIs(t, <-read, net.ErrClosed)
		<-closed
		assert.NoError(t, b.Close())
	}
}

// Without deadlines too, a transport lingers for a slow peer, unless a Read waits that nothing can
// interrupt.
func TestSlowPeerWithoutDeadlines(t *testing.T) {
	const window = 1000
	eachKind(t, func(t *testing.T, k kind) {
		x, y := newLink(window)
		e := &end{t: t, kind: k, transport: x}
		e.Conn = k.above(noDeadlines{x}, Config{Owner: e})
		e.peer = newPeer(t, k, y)
		e.peer.stall()
		e.write(strings.Repeat("x", window-30)) // FINAL_DATA and its PING do not fit behind it
		assert.NoError(t, e.Close())
		time.Sleep(3 * drainLimit)
		assert.False(t, x.isClosed())
		e.peer.resume()
		assert.Contains(t, e.peer.received(), "final, ping 1")
		e.ended()
	})
}

// Each CloseRead reports that it cannot interrupt a Read.
func TestCloseReadWithoutDeadlines(t *testing.T) {
	x, _ := newLink(window)
	c := kind{}.above(noDeadlines{x}, Config{})
	assert.ErrorIs(t, c.CloseRead(), errNoDeadlines)
	assert.ErrorIs(t, c.CloseRead(), errNoDeadlines)
	assert.NoError(t, c.Close())
	x.Close()
}

type noDeadlines struct{ *link }

var errNoDeadlines = errors.New("no deadlines here")

func (noDeadlines) SetDeadline(time.Time) error      { return errNoDeadlines }
func (noDeadlines) SetReadDeadline(time.Time) error  { return errNoDeadlines }
func (noDeadlines) SetWriteDeadline(time.Time) error { return errNoDeadlines }

// A transport that was reset, or closed below the Conn, has nothing to wait for.
func TestCloseOfDeadTransport(t *testing.T) {
	for name, die := range map[string]func(c *Conn, transport, peer *net.TCPConn){
		"reset, seen by Read": func(c *Conn, _, peer *net.TCPConn) {
			peer.SetLinger(0)
			peer.Close()
			_, err := c.Read(make([]byte, 10))
			assert.ErrorIs(t, err, syscall.ECONNRESET)
		},
		"closed below": func(_ *Conn, transport, peer *net.TCPConn) {
			transport.Close()
			peer.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, k := range kinds {
				a, b := tcpPipe(t)
				e := &end{t: t, kind: k}
				e.Conn = k.above(a, Config{Owner: e})
				die(e.Conn, a, b)
				assert.NoError(t, e.Close())
				assert.Equal(t, int32(1), e.closes.Load(), "the transport is closed when Close returns")
				assert.Zero(t, e.lingers.Load())
				assert.ErrorIs(t, e.Close(), net.ErrClosed)
			}
		})
	}
}
