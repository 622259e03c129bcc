package relay

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyAll is io.Copy, but it holds nothing while src is silent. io.Copy would keep the two
// descriptors of a pipe for splice, or the buffer of a framed tunnel, for as long as the
// connection is open.
func copyAll(dst, src Conn) (int64, error) {
	to, ok := dst.(io.ReaderFrom)
	if _, unix := Bottom(dst).(*net.UnixConn); !ok || unix {
		return io.Copy(dst, src) // to a Unix socket, only that can splice
	}
	return io.Copy(&waiter{dst, to}, src)
}

// A waiter is the destination of io.Copy. The source calls ReadFrom with the connection at
// its bottom, if the bytes need no more than to be moved.
type waiter struct {
	io.Writer
	to io.ReaderFrom
}

// ReadFrom waits until r has bytes, and only then has the destination take as many.
func (w *waiter) ReadFrom(r io.Reader) (n int64, err error) {
	conn, ok := r.(syscall.Conn)
	if !ok {
		return w.to.ReadFrom(r)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var arrived int
	var failed error
	look := func(fd uintptr) (done bool) {
		arrived, failed = arrivedAt(int(fd))
		return failed != syscall.EAGAIN
	}
	some := &io.LimitedReader{R: r}
	for {
		if err := raw.Read(look); err != nil {
			if op, ok := err.(*net.OpError); ok {
				op.Op = "read" // not "raw-read"
			}
			return n, err
		}
		switch failed {
		case nil:
		case io.EOF:
			return n, nil
		default: // the kernel reports it only once, so no Read would return it
			return n, readError(r, os.NewSyscallError("recvfrom", failed))
		}
		some.N = int64(arrived)
		m, err := w.to.ReadFrom(some)
		n += m
		if err != nil || some.N > 0 {
			return n, err
		}
	}
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
