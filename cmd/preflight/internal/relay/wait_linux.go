package relay

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyAll is io.Copy, but it holds nothing while a TCP or Unix src is silent. io.Copy would
// keep the two descriptors of a pipe for splice, or the buffer of a framed tunnel, for as long
// as the connection is open. A framed src copies by itself, and needs to see dst: it gathers
// the buffers of a call if dst can.
func copyAll(dst, src Conn) (int64, error) {
	to, ok := dst.(io.ReaderFrom)
	switch {
	case ok && splices(dst) && !framed(src):
		return io.Copy(&waiter{dst, to, true}, src)
	case ok && framed(dst):
		return io.Copy(&waiter{dst, to, false}, src)
	}
	return io.Copy(dst, src)
}

// splices reports whether the kernel can move bytes to c: there is nothing but a TCP
// connection below it.
func splices(c net.Conn) bool {
	if framed(c) {
		return false
	}
	if layer, ok := c.(interface{ NetConn() net.Conn }); ok {
		if _, ok := c.(*tls.Conn); ok {
			return false
		}
		return splices(layer.NetConn())
	}
	_, ok := c.(*net.TCPConn)
	return ok
}

// A waiter is the destination of io.Copy. The source calls ReadFrom with the connection at
// its bottom, if the bytes need no more than to be moved.
type waiter struct {
	io.Writer
	to      io.ReaderFrom
	splices bool
}

// ReadFrom waits until r has bytes, and only then has the destination take them.
func (w *waiter) ReadFrom(r io.Reader) (n int64, err error) {
	conn, ok := r.(syscall.Conn)
	if !ok {
		return w.to.ReadFrom(r)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	b := newBurst(r, raw)
	some := &io.LimitedReader{R: r}
	for {
		arrived, err := b.wait()
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		var m int64
		if w.splices {
			// The kernel moves bytes only from a connection itself.
			some.N = int64(arrived)
			m, err = w.to.ReadFrom(some)
		} else {
			m, err = w.to.ReadFrom(b)
		}
		n += m
		if err != nil {
			return n, err
		}
	}
}

// A burst reads what has arrived at a connection. Its Read returns io.EOF when there is no
// more at the moment.
type burst struct {
	of        io.Reader
	raw       syscall.RawConn
	look, get func(fd uintptr) bool // made once, because each would be an allocation

	p      []byte
	n      int
	failed error
}

func newBurst(of io.Reader, raw syscall.RawConn) *burst {
	b := &burst{of: of, raw: raw}
	b.look = func(fd uintptr) (done bool) {
		b.n, b.failed = arrivedAt(int(fd))
		return b.failed != syscall.EAGAIN
	}
	b.get = func(fd uintptr) (done bool) {
		b.n, b.failed = syscall.Read(int(fd), b.p)
		return b.failed != syscall.EINTR
	}
	return b
}

// wait waits for bytes, and returns how many there are at least. The error is that of a Read of
// the connection.
func (b *burst) wait() (arrived int, err error) {
	if err := b.do(b.look); err != nil {
		return 0, err
	}
	return b.n, nil
}

// Read implements io.Reader.
func (b *burst) Read(p []byte) (int, error) {
	b.p = p
	err := b.do(b.get)
	b.p = nil
	switch {
	case err != nil:
		return 0, err
	case b.n == 0:
		return 0, io.EOF // wait finds it again
	}
	return b.n, nil
}

func (b *burst) do(f func(fd uintptr) bool) error {
	if err := b.raw.Read(f); err != nil {
		if op, ok := err.(*net.OpError); ok {
			op.Op = "read" // not "raw-read"
		}
		return err
	}
	switch b.failed {
	case nil, io.EOF:
		return b.failed
	case syscall.EAGAIN:
		return io.EOF // of the burst
	}
	// The kernel reports it only once.
	return readError(b.of, os.NewSyscallError("read", b.failed))
}

// readError returns the error of a Read of r.
func readError(r io.Reader, err error) error {
	if c, ok := r.(net.Conn); ok {
		return &net.OpError{Op: "read", Net: c.RemoteAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
	}
	return err
}

// arrivedAt returns how many bytes can be read from a socket, at least 1, or the error that a
// read would return.
func arrivedAt(fd int) (int, error) {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ) // tcp(7), unix(7)
	if err != nil || n > 0 {
		return n, err
	}
	// It does not tell the end from silence.
	var b [1]byte
	for {
		n, _, err = syscall.Recvfrom(fd, b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case err == syscall.EINTR:
		case err == nil && n == 0:
			return 0, io.EOF
		default:
			return n, err
		}
	}
}
