package frame

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// setWindow sets how many bytes the transport accepts.
func (l *link) setWindow(n int) {
	l.out.mu.Lock()
	defer l.out.mu.Unlock()
	l.out.window = n
	l.out.change.Broadcast()
}

func (l *link) writeDeadline() (t time.Time, sets int) {
	l.out.mu.Lock()
	defer l.out.mu.Unlock()
	return l.write.t, l.write.sets
}

// running counts the goroutines of the caller's bubble that run a method of Conn. It does
// not count goroutines of earlier tests, which may need a moment to end.
func running(method string) int { return runningAt("frame.(*Conn)." + method + "(") }

func runningAt(function string) (n int) {
	buf := make([]byte, 1<<20)
	stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	bubble := bubbleOf(stacks[0]) // the first stack is that of the caller
	for _, stack := range stacks {
		if bubbleOf(stack) == bubble && strings.Contains(stack, function) {
			n++
		}
	}
	return n
}

// bubbleOf returns the number of the synctest bubble that the head of a stack names.
func bubbleOf(stack string) string {
	head, _, _ := strings.Cut(stack, "]:")
	_, number, _ := strings.Cut(head, "synctest bubble ")
	return number
}

func TestPong(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		go io.Copy(io.Discard, struct{ io.Reader }{e})
		e.peer.send(e.peer.ping(0x0102030405060708))
		e.peerGot("pong 72623859790382856")
		e.peer.send(e.peer.ping(1<<64-1), e.peer.ping(0))
		got := e.peer.received()
		assert.True(t, strings.HasSuffix(got, "pong 0"), got)
		e.Close()
		synctest.Wait()
	})
}

// Read never writes, so a transport that accepts nothing does not block it. One goroutine
// answers the newest of the PINGs that arrive in the meantime.
func TestReadNeverWrites(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		e.transport.setWindow(0)
		buf := make([]byte, 10)
		for i := range uint64(100) {
			e.peer.send(e.peer.ping(i), e.peer.data("x"))
			n, err := e.Read(buf)
			assert.NoError(t, err)
			assert.Equal(t, 1, n)
		}
		synctest.Wait()
		assert.Equal(t, 1, running("sendControls"))
		e.transport.setWindow(window)
		// The PONG that was blocked, and the newest PONG.
		got := strings.Split(e.peer.received(), ", ")
		assert.LessOrEqual(t, len(got), 2)
		assert.Equal(t, "pong 99", got[len(got)-1])
		assert.Zero(t, running("sendControls"))
	})
}

// A Write in progress sends the PONG between two capsules.
func TestPongInsideWrite(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		e.transport.setWindow(1000)
		e.peer.stall()
		wrote := make(chan error)
		go func() {
			_, err := e.Write([]byte(strings.Repeat("x", 6*maxData)))
			wrote <- err
		}()
		synctest.Wait()
		e.peer.send(e.peer.ping(1), e.peer.ping(2), e.peer.data("y"))
		_, err := e.Read(make([]byte, 10))
		assert.NoError(t, err)
		assert.Zero(t, running("sendControls"), "the Write sends the PONG")
		e.peer.resume()
		assert.NoError(t, <-wrote)
		x := "data " + strings.Repeat("x", maxData)
		e.peerGot(strings.Join([]string{x, x, "pong 2", x, x, x, x}, ", "))
	})
}

// If a PING arrives during the last call of a Write, it is answered after the Write.
func TestPongAfterWrite(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		e.transport.setWindow(10)
		e.peer.stall()
		wrote := make(chan error)
		go func() {
			_, err := e.Write([]byte("one capsule"))
			wrote <- err
		}()
		synctest.Wait()
		e.peer.send(e.peer.ping(1), e.peer.data("y"))
		_, err := e.Read(make([]byte, 10))
		assert.NoError(t, err)
		e.peer.resume()
		assert.NoError(t, <-wrote)
		e.peerGot("data one capsule, pong 1")
	})
}

// If the transport is full for 2 s, the goroutine that sends controls ends, and the deadline
// of the application is restored. The rest of the controls is sent first, by the next write.
func TestControlExpires(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		e.transport.setWindow(8)
		e.peer.stall()
		deadline := time.Now().Add(time.Hour)
		e.SetWriteDeadline(deadline)
		e.peer.send(e.peer.ping(1), e.peer.data("y"))
		_, err := e.Read(make([]byte, 10))
		assert.NoError(t, err)
		synctest.Wait()
		during, _ := e.transport.writeDeadline()
		assert.Equal(t, 2*time.Second, time.Until(during))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Zero(t, running("sendControls"))
		after, _ := e.transport.writeDeadline()
		assert.WithinDuration(t, deadline, after, 0)

		e.transport.setWindow(window)
		e.peer.resume()
		assert.Empty(t, e.peer.received(), "part of a PONG")
		e.write("data")
		e.peerGot("pong 1, data data")

		// The next PONG also finishes an interrupted one.
		e.transport.setWindow(4)
		e.peer.stall()
		e.peer.send(e.peer.ping(2), e.peer.data("y"))
		e.Read(make([]byte, 10))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		e.transport.setWindow(window)
		e.peer.resume()
		e.peer.send(e.peer.ping(3), e.peer.data("y"))
		e.Read(make([]byte, 10))
		e.peerGot("pong 2, pong 3")
		e.Close()
		e.ended()
	})
}

// A Write interrupts controls that are blocked, and its own deadline applies.
func TestWriteInterruptsControls(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		e.transport.setWindow(5)
		e.peer.stall()
		e.peer.send(e.peer.ping(1), e.peer.data("y"))
		e.Read(make([]byte, 10))
		synctest.Wait()
		assert.Equal(t, 1, running("sendControls"))
		before := time.Now()
		e.SetWriteDeadline(before.Add(100 * time.Millisecond))
		n, err := e.Write([]byte("data"))
		assert.Zero(t, n)
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.Equal(t, 100*time.Millisecond, time.Since(before))
		assert.False(t, e.hasFlag(openCapsule))

		e.SetWriteDeadline(time.Time{})
		wrote := make(chan error)
		go func() {
			_, err := e.Write([]byte("data"))
			wrote <- err
		}()
		synctest.Wait()
		e.transport.setWindow(window)
		e.peer.resume()
		assert.NoError(t, <-wrote)
		e.peerGot("pong 1, data data")
	})
}

// The application's deadline does not apply to controls, and they do not change it.
func TestControlsIgnoreDeadline(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		e.SetWriteDeadline(past)
		e.peer.send(e.peer.ping(1), e.peer.data("y"))
		e.Read(make([]byte, 10))
		e.peerGot("pong 1")
		e.writeFails(os.ErrDeadlineExceeded)
		assert.NoError(t, e.CloseWrite())
		e.peerGot("final, ping 1")
	})
}

// If the application sets a deadline while controls are being written, it applies after them.
func TestDeadlineDuringControls(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		e.transport.setWindow(5)
		e.peer.stall()
		e.peer.send(e.peer.ping(1), e.peer.data("y"))
		e.Read(make([]byte, 10))
		synctest.Wait()
		deadline := time.Now().Add(time.Minute)
		assert.NoError(t, e.SetDeadline(deadline))
		during, _ := e.transport.writeDeadline()
		assert.Equal(t, 2*time.Second, time.Until(during))
		e.transport.setWindow(window)
		e.peer.resume()
		e.peerGot("pong 1")
		after, _ := e.transport.writeDeadline()
		assert.WithinDuration(t, deadline, after, 0)
	})
}

// On TLS, no deadline interrupts controls: the goroutine waits. The deadline of the
// application applies as soon as the application waits in a Write.
func TestControlsOnTLS(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		a, b := newLink(window)
		a.setWindow(5)
		c := k.above(a, Config{TLS: true})
		p := newPeer(t, k, b)
		p.stall()
		_, sets := a.writeDeadline()
		p.send(p.ping(1), p.data("y"))
		c.Read(make([]byte, 10))
		time.Sleep(time.Hour)
		assert.Equal(t, 1, running("sendControls"))
		_, now := a.writeDeadline()
		assert.Equal(t, sets, now, "no deadline was set")

		// FINAL_DATA waits for the PONG. CloseWrite does not wait.
		before := time.Now()
		assert.NoError(t, c.CloseWrite())
		assert.Zero(t, time.Since(before))
		a.setWindow(window)
		p.resume()
		assert.Equal(t, "pong 1, final, ping 1", p.received())
		assert.Zero(t, running("sendControls"))
	})
	eachKind(t, func(t *testing.T, k kind) {
		a, b := newLink(window)
		c := k.above(a, Config{TLS: true})
		p := newPeer(t, k, b)
		p.stall()
		a.setWindow(5)
		before := time.Now()
		assert.NoError(t, c.CloseWrite())
		assert.Zero(t, time.Since(before), "it does not wait for the transport")
		time.Sleep(time.Hour)
		a.setWindow(window)
		p.resume()
		assert.Equal(t, "final, ping 1", p.received())
	})
	eachKind(t, func(t *testing.T, k kind) {
		a, b := newLink(window)
		a.setWindow(5)
		c := k.above(a, Config{TLS: true})
		p := newPeer(t, k, b)
		p.stall()
		c.SetWriteDeadline(past)
		p.send(p.ping(1), p.data("y"))
		c.Read(make([]byte, 10))
		synctest.Wait()
		during, _ := a.writeDeadline()
		assert.True(t, during.IsZero(), "the expired deadline of the application would break TLS")
		c.SetWriteDeadline(time.Now().Add(time.Second))
		during, _ = a.writeDeadline()
		assert.True(t, during.IsZero())
		a.setWindow(window)
		p.resume()
		assert.Equal(t, "pong 1", p.received())
		after, _ := a.writeDeadline()
		assert.Equal(t, time.Second, time.Until(after))
	})
	// The deadline of a Write applies while the Write waits for controls, whether it was
	// set before or is set in the meantime. The Write waits for a mutex, so the test does
	// not use a bubble.
	for _, k := range kinds {
		for _, duringWait := range []bool{false, true} {
			a, _ := newLink(5)
			c := k.above(a, Config{TLS: true})
			c.gotPing(1)
			c.startControls()
			waitFor(func() bool { return a.calls() > 0 })
			if !duringWait {
				c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
			}
			wrote := make(chan error)
			go func() {
				_, err := c.Write([]byte("x"))
				wrote <- err
			}()
			if duringWait {
				waitFor(func() bool { return c.writes.Load() > 0 })
				c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
			}
			assert.ErrorIs(t, <-wrote, os.ErrDeadlineExceeded)
			assert.NoError(t, c.Close())
			assert.True(t, a.isClosed())
		}
	}
}

// waitFor waits for a state that another goroutine is about to reach.
func waitFor(reached func() bool) {
	for !reached() {
		runtime.Gosched()
	}
}

// calls returns the number of calls of Write.
func (l *link) calls() int {
	l.out.mu.Lock()
	defer l.out.mu.Unlock()
	return l.writes
}

// If writing controls fails, no call returns the error at once. Read returns it after the
// last data.
func TestControlError(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		a, b := newLink(window)
		broken := &brokenWriter{link: a}
		c := k.above(broken, Config{})
		p := newPeer(t, k, b)
		p.send(p.ping(1), p.data("still "))
		synctest.Wait()
		buf := make([]byte, 6)
		n, err := io.ReadFull(c, buf)
		assert.NoError(t, err)
		assert.Equal(t, "still ", string(buf[:n]))
		synctest.Wait()
		broken.err = errors.New("another, later")
		p.send(p.ping(2), p.data("readable"))
		synctest.Wait()
		p.link.CloseWrite()
		got, err := io.ReadAll(c)
		assert.Equal(t, "readable", string(got))
		assert.ErrorIs(t, err, syscall.EHOSTUNREACH)
		_, err = c.Read(buf)
		assert.ErrorIs(t, err, syscall.EHOSTUNREACH)
		assert.NoError(t, c.Close())
		synctest.Wait()
		assert.True(t, a.isClosed())
	})
	// CloseWrite returns it.
	eachKind(t, func(t *testing.T, k kind) {
		a, _ := newLink(window)
		c := k.above(&brokenWriter{link: a}, Config{})
		assert.ErrorIs(t, c.CloseWrite(), syscall.EHOSTUNREACH)
		// FINAL_DATA was not written, so Close does not linger.
		assert.NoError(t, c.Close())
		synctest.Wait()
		assert.True(t, a.isClosed())
	})
}

// An SSH channel that the peer has closed returns io.EOF for a Write. That is not the end of the
// peer's stream.
func TestControlErrorIsNoEndOfStream(t *testing.T) {
	for _, failure := range []error{io.EOF, io.ErrUnexpectedEOF, fmt.Errorf("closed by the peer: %w", io.EOF)} {
		eachKind(t, func(t *testing.T, k kind) {
			a, b := newLink(window)
			c := k.above(&brokenWriter{link: a, err: failure}, Config{})
			p := newPeer(t, k, b)
			p.send(p.ping(1), p.data("half of"))
			buf := make([]byte, 7)
			_, err := io.ReadFull(c, buf)
			assert.NoError(t, err)
			synctest.Wait() // the PONG has failed
			p.link.CloseWrite()
			_, err = c.Read(buf)
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			assert.ErrorContains(t, err, "before the stream was complete")
			assert.NoError(t, c.Close())
		})
	}
}

type brokenWriter struct {
	*link
	err error
}

func (b *brokenWriter) Write([]byte) (int, error) {
	if b.err == nil {
		b.err = &net.OpError{Op: "write", Err: syscall.EHOSTUNREACH}
	}
	return 0, b.err
}

// CloseWrite does not return an error that occurs after FINAL_DATA was written.
func TestCloseWriteBeforeError(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		a, b := newLink(window)
		once := &writeOnce{link: a}
		c := k.above(once, Config{})
		once.then = func() { c.gotPing(1) } // makes another control due
		p := newPeer(t, k, b)
		assert.NoError(t, c.CloseWrite())
		assert.Equal(t, "final, ping 1", p.received())
		c.Close()
	})
}

type writeOnce struct {
	*link
	then func()
}

func (w *writeOnce) Write(p []byte) (int, error) {
	if w.then == nil {
		return 0, syscall.EHOSTUNREACH
	}
	w.then()
	w.then = nil
	return w.link.Write(p)
}

// A Close frame that the transport does not accept yet is not lost. A Write, which fails,
// does not remove it. Neither does time, while the application holds the connection.
func TestBlockedCloseFrame(t *testing.T) {
	protocolError := func(e *end) { e.peer.send(e.peer.message([]byte{1, 0})) }
	closeFrame := func(e *end) { e.peer.send(e.peer.closeFrame(1001)) }
	write := func(e *end) {
		_, err := e.Write([]byte("x"))
		assert.Error(e.t, err)
		_, err = e.ReadFrom(strings.NewReader("x"))
		assert.Error(e.t, err)
	}
	for _, test := range []struct {
		name      string
		send, cut func(e *end)
		want      string
	}{
		{"protocol error, Write", protocolError, write, "close 1002, end"},
		{"protocol error, a Write had begun", protocolError, func(e *end) { e.interruptControls() }, "close 1002, end"},
		{"Close frame, Write", closeFrame, write, "close 1001"},
		{"Close frame, a Write had begun", closeFrame, func(e *end) { e.interruptControls() }, "close 1001"},
		{"Close frame, time", closeFrame, func(*end) { time.Sleep(time.Minute) }, "close 1001"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, client := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					e := newEnd(t, kind{true, client}, window)
					e.transport.setWindow(0)
					test.send(e)
					e.reads("")
					synctest.Wait()
					test.cut(e)
					e.peerGot("")
					e.transport.setWindow(window)
					e.peerGot(test.want)
				})
			}
		})
	}
}

// If a deadline interrupts controls on TLS, they are not sent again, because the connection
// is broken. Read does not return a timeout, after which a caller would read again. The same
// applies if the owner does not know that there is TLS.
func TestInterruptedControlsOnTLS(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		a, b := newLink(window)
		a.setWindow(5)
		c := k.above(&fragile{link: a}, Config{TLS: true})
		p := newPeer(t, k, b)
		p.stall()
		p.send(p.data("y"))
		assert.NoError(t, c.CloseWrite())
		synctest.Wait()
		c.SetWriteDeadline(past)
		c.interruptControls() // for a Write that had begun before CloseWrite
		synctest.Wait()
		assert.Zero(t, running("sendControls"))
		p.link.CloseWrite()
		got, err := io.ReadAll(c)
		assert.Equal(t, "y", string(got))
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.NoError(t, c.Close())
		synctest.Wait()
		assert.True(t, a.isClosed())
	})
	eachKind(t, func(t *testing.T, k kind) {
		a, b := newLink(window)
		a.setWindow(5)
		c := k.above(&fragile{link: a}, Config{})
		p := newPeer(t, k, b)
		p.stall()
		c.CloseWrite()
		synctest.Wait()
		assert.Zero(t, running("sendControls"))
		assert.NoError(t, c.Close())
		synctest.Wait()
		assert.True(t, a.isClosed())
	})
}

// A fragile link behaves like TLS: after a failed Write, every Write fails.
type fragile struct {
	*link
	err error
}

func (f *fragile) Write(p []byte) (n int, err error) {
	if f.err == nil {
		n, f.err = f.link.Write(p)
	}
	return n, f.err
}

// While a Write waits, no goroutine sends controls: the Write sends them.
func TestWriteSendsControls(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		e.gotPing(1)
		e.writes.Add(1)
		e.flush(controlTimeout)
		e.startControls()
		e.peerGot("")
		e.writes.Add(-1)
		e.write("x")
		e.peerGot("pong 1, data x")
	})
}

// If a PING arrives while a capsule is open, it is answered after the capsule.
func TestPingInsideCapsule(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		e.peer.stall()
		e.transport.setWindow(30)
		e.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := e.Write([]byte("a message that has no room"))
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.Positive(t, n)
		e.peer.send(e.peer.ping(1), e.peer.data("x"))
		e.Read(make([]byte, 100))
		synctest.Wait()
		assert.Zero(t, running("sendControls"), "there is nothing to do")
		e.transport.setWindow(window)
		e.peer.resume()
		e.SetWriteDeadline(time.Time{})
		e.write("a message that has no room"[n:])
		e.peerGot("data a message that has no room, pong 1")
	})
}

// Nothing follows a Close frame.
func TestNothingAfterCloseFrame(t *testing.T) {
	for _, client := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := newEndWith(t, kind{true, client}, Config{KeepAlivePeriod: time.Second})
			e.peer.send(e.peer.closeFrame(1000))
			e.reads("")
			e.peerGot("close 1000")
			time.Sleep(time.Hour)
			e.peerGot("")

			// This includes the data of a Write that had begun before.
			e = newEndWith(t, kind{true, client}, Config{})
			e.gotClose(1000)
			n, err := e.writeBatch([]byte("data"), 0, false)
			assert.Equal(t, errStopped, err)
			assert.Zero(t, n)
			e.peerGot("")
		})
	}
}

// After a protocol error, no FINAL_DATA is sent: it would say that the stream is complete.
func TestNoFinalDataAfterProtocolError(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEnd(t, k, window)
		e.mu.Lock()
		e.ownFinal, e.finalDue, e.pingDue = true, true, true
		e.mu.Unlock()
		e.gotProtocolError(errors.New("broken"))
		e.startControls()
		e.peerGot("<close 1002, >end")
	})
}

// Ping frames, which gateways send, are answered. At least the newest one is.
func TestPingFrames(t *testing.T) {
	for _, client := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := newEnd(t, kind{true, client}, window)
			long := strings.Repeat("p", 125)
			e.peer.send(e.peer.frame(0x89, []byte("hello")), e.peer.data("x"))
			e.Read(make([]byte, 10))
			e.peerGot("frame pong hello")
			e.peer.send(join(e.peer.frame(0x89, []byte("old")), e.peer.frame(0x89, []byte(long)), e.peer.frame(0x8a, []byte("unasked")), e.peer.ping(4), e.peer.data("x")))
			e.Read(make([]byte, 10))
			// The answers may be sent together or one by one.
			got := strings.Split(strings.TrimPrefix(e.peer.received(), "frame pong old, "), ", ")
			assert.ElementsMatch(t, []string{"pong 4", "frame pong " + long}, got)
			// An empty Ping frame inside a fragmented message.
			whole := []byte("\xad\x70\xf1\x00\x03abc")
			e.peer.send(e.peer.frame(0x02, whole[:3]), e.peer.frame(0x89, nil), e.peer.frame(0x80, whole[3:]))
			n, err := io.ReadFull(e, make([]byte, 3))
			assert.NoError(t, err)
			assert.Equal(t, 3, n)
			e.peerGot("frame pong ")
		})
	}
}
