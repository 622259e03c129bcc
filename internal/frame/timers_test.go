package frame

import (
	"bytes"
	"errors"
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
	"github.com/stretchr/testify/require"
)

// newEndWith is newEnd with settings.
func newEndWith(t *testing.T, k kind, cfg Config) *end {
	a, b := newLink(window)
	e := &end{t: t, kind: k, transport: a}
	cfg.Owner = e
	e.Conn = k.above(a, cfg)
	e.peer = newPeer(t, k, b)
	return e
}

func TestKeepAlive(t *testing.T) {
	const period = 20 * time.Second
	eachKind(t, func(t *testing.T, k kind) {
		e := newEndWith(t, k, Config{KeepAlivePeriod: period})
		go io.Copy(io.Discard, struct{ io.Reader }{e})
		begin := time.Now()
		var at []time.Duration
		for range 120 {
			time.Sleep(time.Second)
			if strings.Contains(e.peer.received(), "ping") {
				at = append(at, time.Since(begin))
			}
		}
		// The first PING is sent at the first tick, because nothing was written before.
		assert.Equal(t, []time.Duration{10 * time.Second, 30 * time.Second, 50 * time.Second, 70 * time.Second,
			90 * time.Second, 110 * time.Second}, at)

		// No silence is longer than a period. A side that writes data sends no PING.
		last := time.Now()
		for i := range 200 {
			time.Sleep(time.Second)
			if i%7 == 0 && i < 100 {
				e.write("x")
			}
			if got := e.peer.received(); got != "" {
				assert.LessOrEqual(t, time.Since(last), period)
				last = time.Now()
				if i > 10 && i < 100 {
					assert.Equal(t, "data x", got)
				}
			}
		}
		assert.LessOrEqual(t, time.Since(last), period)
		e.Close()
		synctest.Wait()
	})
}

// PONGs count as writes, so no PINGs are needed.
func TestKeepAliveCountsPongs(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEndWith(t, k, Config{KeepAlivePeriod: 20 * time.Second})
		go io.Copy(io.Discard, struct{ io.Reader }{e})
		for i := range uint64(20) {
			time.Sleep(8 * time.Second)
			e.peer.send(e.peer.ping(i))
			assert.NotContains(t, e.peer.received(), "ping")
		}
		e.Close()
		synctest.Wait()
	})
}

// The answer to the Ping frame of a gateway goes only to the gateway. It does not end the
// silence towards the peer, nor towards what is on the way to the peer.
func TestKeepAliveBehindGateway(t *testing.T) {
	for _, client := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const period = 20 * time.Second
			e := newEndWith(t, kind{true, client}, Config{KeepAlivePeriod: period})
			go io.Copy(io.Discard, struct{ io.Reader }{e})
			pings := 0
			for range 100 {
				time.Sleep(time.Second)
				e.peer.send(e.peer.frame(0x89, []byte("gateway")))
				got := e.peer.received()
				assert.Contains(t, got, "frame pong gateway")
				pings += strings.Count(", "+got, ", ping ")
			}
			assert.GreaterOrEqual(t, pings, 5)
			e.Close()
			synctest.Wait()
		})
	}
}

// PINGs are sent while one direction is final. They stop when both are, and after Close.
func TestKeepAliveEnds(t *testing.T) {
	const period = 20 * time.Second
	eachKind(t, func(t *testing.T, k kind) {
		e := newEndWith(t, k, Config{KeepAlivePeriod: period})
		e.peer.stopAnswering()
		assert.NoError(t, e.CloseWrite())
		e.peerGot("final, ping 1")
		time.Sleep(2 * period)
		assert.Contains(t, e.peer.received(), "ping 2")
		e.peer.send(e.peer.final(""))
		assert.Equal(t, io.EOF, e.reads(""))
		e.peer.received()
		time.Sleep(time.Hour)
		e.peerGot("")
		e.open()
	})
	eachKind(t, func(t *testing.T, k kind) {
		e := newEndWith(t, k, Config{KeepAlivePeriod: period})
		e.peer.stopAnswering()
		e.peer.send(e.peer.final(""))
		assert.Equal(t, io.EOF, e.reads(""))
		time.Sleep(2 * period)
		assert.Contains(t, e.peer.received(), "ping")
		assert.NoError(t, e.Close())
		assert.Contains(t, e.peer.received(), "final")
		time.Sleep(2 * period)
		e.peerGot("")
	})
}

// A PING that the transport does not accept is interrupted after 2 s. The next one finishes
// it.
func TestKeepAliveBlocked(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEndWith(t, k, Config{KeepAlivePeriod: 20 * time.Second})
		e.peer.stall()
		e.transport.setWindow(3)
		time.Sleep(11 * time.Second)
		assert.Equal(t, 1, running("sendControls"))
		time.Sleep(2 * time.Second)
		assert.Zero(t, running("sendControls"))
		e.transport.setWindow(window)
		e.peer.resume()
		time.Sleep(20 * time.Second)
		e.peerGot("ping 1, ping 2")
	})
}

// While a Write is in progress, no PING is sent.
func TestKeepAliveDuringWrite(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEndWith(t, k, Config{KeepAlivePeriod: 20 * time.Second})
		e.peer.stall()
		go e.Write(make([]byte, 2*window))
		time.Sleep(time.Hour)
		e.peer.resume()
		assert.NotContains(t, e.peer.received(), "ping")
		time.Sleep(20 * time.Second)
		assert.Contains(t, e.peer.received(), "ping")
	})
}

func TestMaxIdleTimeout(t *testing.T) {
	const limit = 40 * time.Second
	idle := func(t *testing.T, err error) {
		t.Helper()
		assert.ErrorIs(t, err, syscall.ETIMEDOUT)
		assert.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		op, ok := err.(*net.OpError)
		require.True(t, ok)
		assert.Equal(t, "read", op.Op)
		assert.False(t, op.Timeout(), "a loop that reads again after a timeout must end")
	}
	tests := map[string]func(e *end){
		"nothing at all": func(e *end) {
			begin := time.Now()
			err := e.reads("")
			idle(e.t, err)
			assert.Equal(e.t, limit, time.Since(begin))
			e.ended()
			_, werr := e.Write([]byte("x"))
			assert.ErrorIs(e.t, werr, syscall.ETIMEDOUT)
			assert.ErrorIs(e.t, e.CloseWrite(), syscall.ETIMEDOUT)
			assert.NoError(e.t, e.Close())
			e.ended()
			e.peerGot("end")
		},
		"it counts from the last byte": func(e *end) {
			begin := time.Now()
			b := e.peer.data("x")
			const bytes = 4 + 4 + 1 // the bytes of the capsule; headers of frames do not count
			go func() {
				e.peer.send(b[:len(b)-bytes])
				for _, b := range b[len(b)-bytes:] {
					time.Sleep(30 * time.Second)
					e.peer.send([]byte{b})
				}
			}()
			idle(e.t, e.reads("x"))
			assert.Equal(e.t, bytes*30*time.Second+limit, time.Since(begin))
		},
		"capsules of each type count": func(e *end) {
			begin := time.Now()
			go func() {
				for _, b := range [][]byte{e.peer.data(""), e.peer.ping(1), e.peer.pong(9), e.peer.capsule(0x12345678, "x"), e.peer.data("")} {
					time.Sleep(30 * time.Second)
					e.peer.send(b)
				}
			}()
			idle(e.t, e.reads(""))
			assert.Equal(e.t, 5*30*time.Second+limit, time.Since(begin))
		},
		"a buffer full of controls counts": func(e *end) {
			size := 200
			b := e.peer.capsule(0x12345678, strings.Repeat("x", size-len(e.peer.capsule(0x12345678, strings.Repeat("x", 150)))+150))
			assert.Len(e.t, b, size)
			e.peer.send(e.peer.data(""))
			begin := time.Now()
			go func() {
				time.Sleep(30 * time.Second)
				e.peer.send(b)
			}()
			_, err := e.Read(make([]byte, size))
			idle(e.t, err)
			assert.Equal(e.t, 30*time.Second+limit, time.Since(begin))
		},
		"it counts while a Read waits": func(e *end) {
			time.Sleep(time.Hour)
			e.peer.send(e.peer.data("x"))
			buf := make([]byte, 10)
			n, err := e.Read(buf)
			assert.NoError(e.t, err)
			assert.Equal(e.t, 1, n)
			time.Sleep(time.Hour)
			begin := time.Now()
			idle(e.t, e.reads(""))
			assert.Equal(e.t, limit, time.Since(begin), "from the beginning of Read")
		},
		"a deadline of the application does not end it": func(e *end) {
			begin := time.Now()
			for range 10 {
				e.SetReadDeadline(time.Now().Add(30 * time.Second))
				_, err := e.Read(make([]byte, 10))
				assert.ErrorIs(e.t, err, os.ErrDeadlineExceeded)
			}
			assert.Equal(e.t, 300*time.Second, time.Since(begin), "no Read has waited for long enough")
			e.SetReadDeadline(time.Time{})
			e.peer.send(e.peer.data("x"))
			n, err := e.Read(make([]byte, 10))
			assert.NoError(e.t, err)
			assert.Equal(e.t, 1, n)
		},
		"it also counts while a Write of this side is blocked": func(e *end) {
			e.peer.stall()
			wrote := make(chan error)
			go func() {
				_, err := e.Write(make([]byte, 2*window))
				wrote <- err
			}()
			begin := time.Now()
			idle(e.t, e.reads(""))
			assert.Equal(e.t, limit, time.Since(begin))
			assert.ErrorIs(e.t, <-wrote, syscall.ETIMEDOUT)
			e.ended()
		},
		"not after FINAL_DATA": func(e *end) {
			e.peer.send(e.peer.final(""))
			assert.Equal(e.t, io.EOF, e.reads(""))
			time.Sleep(time.Hour)
			e.open()
			e.write("still")
			e.peerGot("data still")
		},
		"not after Close": func(e *end) {
			e.peer.stopAnswering()
			go e.Read(make([]byte, 10))
			time.Sleep(limit - time.Second)
			assert.NoError(e.t, e.Close())
			time.Sleep(30 * time.Second)
			e.open()
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, k kind) { test(newEndWith(t, k, Config{MaxIdleTimeout: limit})) })
		})
	}
	t.Run("frames of WebSocket do not count", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := newEndWith(t, kind{true, true}, Config{MaxIdleTimeout: limit})
			begin := time.Now()
			go func() {
				for _, b := range [][]byte{e.peer.frame(0x89, nil), e.peer.frame(0x8a, []byte("pong")), e.peer.message(nil), e.peer.data("x")[:2]} {
					time.Sleep(9 * time.Second)
					e.peer.send(b)
				}
			}()
			idle(t, e.reads(""))
			assert.Equal(t, limit, time.Since(begin))
		})
	})
}

// Timers do not keep an unreachable Conn or its transport alive.
func TestTimersDoNotKeepConnAlive(t *testing.T) {
	for _, k := range kinds {
		client, server := tcpPipe(t)
		freed := make(chan bool)
		func() {
			c := k.above(server, Config{KeepAlivePeriod: time.Hour, MaxIdleTimeout: 3 * time.Hour})
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := c.Read(make([]byte, 1)) // starts the idle timer
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			runtime.AddCleanup(c, func(int) { close(freed) }, 0)
		}()
		for collected := false; !collected; {
			runtime.GC()
			select {
			case <-freed:
				collected = true
			case <-time.After(time.Millisecond):
			}
		}
		client.Close()
		server = nil
	}
}

// A Conn does not keep the buffers that it has used: that of Read, and Config.Rest.
func TestConnKeepsNoBuffer(t *testing.T) {
	for _, k := range kinds {
		var r recorder
		k.above(&r, Config{}).Write(make([]byte, 1000))
		wire := bytes.Join(r.calls, nil)
		freed := make(chan bool, 2)
		c := func() *Conn {
			rest, p := new([400]byte), new([4000]byte)
			runtime.AddCleanup(rest, func(int) { freed <- true }, 0)
			runtime.AddCleanup(p, func(int) { freed <- true }, 0)
			copy(rest[:], wire)
			c := kind{k.webSocket, !k.client}.above(&reader{r: bytes.NewReader(wire[len(rest):])}, Config{Rest: rest[:]})
			_, err := io.ReadFull(struct{ io.Reader }{c}, p[:1000])
			require.NoError(t, err)
			return c
		}()
		for i := 0; len(freed) < 2; i++ {
			require.Less(t, i, 1000, "%v", k)
			runtime.GC()
			<-time.After(time.Millisecond)
		}
		runtime.KeepAlive(c)
	}
}

// The silence in the error is exact, or the text says that it is an upper bound.
func TestSilence(t *testing.T) {
	// While all buffers are full, the clock is not read for each of them.
	synctest.Test(t, func(t *testing.T) {
		k := kind{false, false}
		a, b := newLink(1 << 16)
		c := k.above(a, Config{})
		const reads, size = 40, 0x300
		b.Write([]byte("\xad\x70\xf1\x00\x80\x00\x77\xf8"))
		b.Write(make([]byte, reads*size-8))
		buf := make([]byte, size)
		for range reads {
			_, err := c.Read(buf)
			require.NoError(t, err)
			time.Sleep(time.Second)
		}
		b.CloseWrite()
		_, err := c.Read(buf)
		assert.ErrorContains(t, err, "after at most")
		var e *truncatedError
		require.True(t, errors.As(err, &e))
		assert.GreaterOrEqual(t, e.silence, time.Second)
		assert.LessOrEqual(t, e.silence, 16*time.Second)
	})
}

// A slow peer answers several PINGs one after the other. The transport must not be closed
// before the last PONG has arrived: the PONG would reset it, and the peer would lose the
// Close frame.
func TestSlowPeerAnswersAllPings(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		for _, closed := range []bool{false, true} {
			e := newEndWith(t, k, Config{KeepAlivePeriod: 2 * time.Second})
			e.peer.stopAnswering()
			assert.NoError(t, e.CloseWrite())
			e.peerGot("final, ping 1")
			time.Sleep(5 * time.Second)
			e.peerGot("ping 2, ping 3")
			if closed {
				assert.NoError(t, e.Close())
			} else {
				e.peer.send(e.peer.final(""), e.peer.ping(7))
				assert.Equal(t, io.EOF, e.reads(""))
				e.peerGot("pong 7")
			}
			e.peer.send(e.peer.pong(1), e.peer.pong(2))
			e.open()
			e.peer.send(e.peer.pong(3))
			e.peerGot("<close 1000, >end")
			e.ended()
		}
	})
}

// The timer of MaxIdleTimeout ends with the connection. Otherwise each connection that was
// closed would be remembered until its limit.
func TestIdleTimerEnds(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		e := newEndWith(t, k, Config{MaxIdleTimeout: time.Hour})
		read := make(chan error)
		go func() {
			_, err := e.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		assert.True(t, e.idle.timer.Reset(time.Hour), "a Read that waits has set the timer")
		e.Close()
		e.EndLinger()
		assert.ErrorIs(t, <-read, net.ErrClosed)
		_, err := e.Read(make([]byte, 1))
		assert.ErrorIs(t, err, net.ErrClosed)
		assert.False(t, e.idle.timer.Stop(), "the timer runs on")
	})
}

// No limit is so short that the timer runs before the connection is made.
func TestIdleTimerShort(t *testing.T) {
	for range 20000 {
		a, b := net.Pipe()
		c := New(a, Config{MaxIdleTimeout: 1})
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		c.Close()
		b.Close()
	}
}
