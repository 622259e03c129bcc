// Package relay copies between two connections until both directions have ended.
package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/preflight-go/preflight"
)

// A Conn is one side of a relay. *net.TCPConn, *net.UnixConn, *tls.Conn and
// *preflight.Conn implement it.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// ErrIdle is the end of a relay of which one direction had ended, and in which nothing has
// moved in the other direction for the idle limit.
var ErrIdle = errors.New("one direction had ended, and nothing moved in the other")

// A Result is what a relay has done.
type Result struct {
	Up, Down int64 // bytes from a to b, and from b to a
	Err      error // nil if both directions ended in order, or if one side has Gone

	// Gone is the failed write to a side that had ended its own direction in order, and did
	// not read the other to its end, as a server that answers early. nil: there was none.
	Gone  error
	GoneA bool // that side is a, and not b
}

const (
	// After a failure the data that has already arrived is still passed on: a server
	// often says why it leaves, and then resets the connection. A read that waits for
	// so long shows that there is no more.
	drainRead = 100 * time.Millisecond
	// This bounds the passing on as a whole. A peer that never stops sending must not
	// hide that the connection is broken.
	drainTotal = 5 * time.Second

	// The size of a buffer that holds a frame of either framed carrier.
	bufferSize = 64 << 10
)

// Run copies in both directions, and closes a and b when both have ended. The connection of a
// framed tunnel then stays open until the peer has confirmed that it has received everything. Run
// waits for that, for idle or for 60 seconds, if that is longer. A program that exits would end
// it before. If the confirmation does not come, that is an error. Run returns when also the
// connections below have been closed.
//
// The end of a direction is passed on by CloseWrite, and the other direction goes on. From
// then on, idle is the longest time in which no byte moves. Zero means no limit. There is
// no limit as long as both directions are open.
//
// A reset is passed on as a reset, and so is the early end of a framed tunnel, which is an
// error of Read. What had arrived before is written first. But the reset drops what the kernel
// has not sent until then. A Unix socket has no resets: its peer sees an end.
//
// As long as both directions are open the kernel moves the bytes between TCP connections
// (splice), also where one of them is below a *preflight.Conn.
func Run(a, b Conn, idle time.Duration) Result {
	r := &relay{idle: idle}
	up, down := &direction{src: a, dst: b}, &direction{src: b, dst: a}
	var running sync.WaitGroup
	running.Go(func() { r.run(up, down) })
	r.run(down, up)
	running.Wait()
	err, gone := r.result()
	if err == nil && gone == nil {
		err = errors.Join(confirm(a, max(idle, confirmLimit)), confirm(b, max(idle, confirmLimit)))
	}
	if err != nil {
		Reset(a)
		Reset(b)
	}
	a.Close()
	b.Close()
	awaitClosed(a, lingerLimit)
	awaitClosed(b, lingerLimit)
	return Result{Up: up.n, Down: down.n, Err: err, Gone: gone, GoneA: gone != nil && gone == down.err}
}

// lingerLimit is longer than the library keeps a connection open after Close.
const lingerLimit = 65 * time.Second

// confirmLimit is as long as the library waits for the confirmation behind Close.
const confirmLimit = 60 * time.Second

// confirm waits until the peer of a framed tunnel has confirmed that it has received everything:
// the connection then ends by itself. Other connections have no such confirmation.
func confirm(c Conn, limit time.Duration) error {
	if !framed(c) {
		return nil
	}
	if !awaitClosed(c, limit) {
		return fmt.Errorf("the peer has not confirmed within %v that it has received everything", limit)
	}
	return c.Close()
}

// framed reports whether c is a framed tunnel.
func framed(c net.Conn) bool {
	tunnel, ok := c.(interface{ Carrier() preflight.Carrier })
	return ok && tunnel.Carrier() != "" && tunnel.Carrier() != preflight.CarrierUpgrade
}

// A relay is what both directions share.
type relay struct {
	idle time.Duration

	mu    sync.Mutex
	first *direction // that has ended; nil: both are open
	errs  []error    // of the directions, in the order of their ends
}

type direction struct {
	src, dst Conn
	n        int64
	err      error
	writeBy  time.Time // the limit of the Write that is under way when the other direction ends
}

// run copies d until it ends. The direction that ends first interrupts the other, which then
// goes on under limits.
func (r *relay) run(d, other *direction) {
	d.n, d.err = copyAll(d.dst, d.src)
	if first := r.interrupted(d); first != nil {
		n, err := copyWithin(d, r.limits(first))
		d.n, d.err = d.n+n, err
	}
	if d.err == nil {
		d.err = d.dst.CloseWrite()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.err != nil {
		r.errs = append(r.errs, d.err)
	}
	if r.first != nil {
		return
	}
	r.first = d
	if l := r.limits(d); l.each > 0 {
		// A Read fails at once, or as soon as the Write under way is done. The Write
		// itself must not be cut short, because its bytes would be lost.
		other.writeBy = l.next(l.write)
		other.dst.SetWriteDeadline(other.writeBy)
		other.src.SetReadDeadline(time.Unix(1, 0))
	}
}

// interrupted returns the direction that has ended first, if d was interrupted because of
// that. Nothing is lost then: copyAll was in a Read, and has written all that it has read.
func (r *relay) interrupted(d *direction) (first *direction) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !errors.Is(d.err, os.ErrDeadlineExceeded) || r.first == nil {
		return nil
	}
	if !time.Now().Before(d.writeBy) {
		d.err = r.limits(r.first).expired // it was the Write
		return nil
	}
	return r.first
}

// result returns the error of the relay, or the Gone of its Result.
func (r *relay) result() (err, gone error) {
	for _, err := range r.errs {
		// If the side that is written to has gone, the other direction decides.
		if !isGone(err) && err != errBroken {
			return err, nil
		}
	}
	switch len(r.errs) {
	case 0:
		return nil, nil
	case 1:
		return nil, r.errs[0]
	}
	return r.errs[0], nil
}

// isGone reports whether err says that the side that is written to has gone, and in order:
// Linux reports EPIPE of a write, and ENOTCONN of a half-close, only if the peer's end came
// before its reset.
func isGone(err error) bool { return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN) }

// limits bound a direction when the other has ended.
type limits struct {
	each    time.Duration // for a Read; 0: none
	write   time.Duration // for a Write
	until   time.Time     // for all of them; zero: none
	expired error
}

// errBroken is the end of a direction after the failure of the other.
var errBroken = errors.New("the other direction failed")

func (r *relay) limits(first *direction) limits {
	if first.err != nil {
		return limits{drainRead, drainTotal, time.Now().Add(drainTotal), errBroken}
	}
	return limits{each: r.idle, write: r.idle, expired: fmt.Errorf("%w for %v", ErrIdle, r.idle)}
}

// next is the deadline of an operation that begins now and may take d.
func (l *limits) next(d time.Duration) time.Time {
	t := time.Now().Add(d)
	if !l.until.IsZero() && l.until.Before(t) {
		return l.until
	}
	return t
}

// copyWithin copies with a limit for each Read and each Write. io.Copy cannot have these.
func copyWithin(d *direction, l limits) (copied int64, err error) {
	buf := make([]byte, bufferSize)
	for {
		d.src.SetReadDeadline(l.next(l.each))
		n, readErr := d.src.Read(buf)
		if n > 0 {
			d.dst.SetWriteDeadline(l.next(l.write))
			n, err = d.dst.Write(buf[:n])
			copied += int64(n)
		}
		switch {
		case err == nil && readErr == io.EOF:
			return copied, nil
		case err == nil:
			err = readErr
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = l.expired
		}
		if err != nil {
			return copied, err
		}
	}
}

// Bottom returns the connection below all layers of c, such as the TCP connection of a
// tunnel.
func Bottom(c net.Conn) net.Conn {
	for {
		layer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		below := layer.NetConn()
		if below == nil {
			return c
		}
		c = below
	}
}

// Reset closes c with a reset. It closes the connection at the bottom first: no layer above
// it may then end the stream in order, by close_notify or by a final capsule.
func Reset(c net.Conn) {
	bottom := Bottom(c)
	if tcp, ok := bottom.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	bottom.Close()
	c.Close()
}

// awaitClosed waits until the connection at the bottom of c has been closed, for at most
// limit. It reports whether that has happened.
func awaitClosed(c net.Conn, limit time.Duration) bool {
	raw, ok := Bottom(c).(syscall.Conn)
	if !ok {
		return true
	}
	const most = 250 * time.Millisecond
	timeout := time.After(limit)
	for wait := time.Millisecond; ; wait = min(2*wait, most) {
		// An empty Control changes nothing, and fails on a closed connection.
		if s, err := raw.SyscallConn(); err != nil || s.Control(func(uintptr) {}) != nil {
			return true
		}
		select {
		case <-time.After(wait):
		case <-timeout:
			return false
		}
	}
}
