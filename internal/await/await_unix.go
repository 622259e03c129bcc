//go:build unix

package await

import (
	"io"
	"net"
	"os"
	"syscall"
)

// Read reads what arrives at c into the buffer that room returns. If nothing has arrived, it
// calls idle, after which the buffer is not used, waits, and calls room again. A deadline that
// passes then does not hold up the bytes that have ended the wait. The errors are those of
// c.Read. Read does not allocate, unless it fails.
func Read(c *net.TCPConn, room func() []byte, idle func()) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := error(syscall.EAGAIN)
	for err == nil && failed == syscall.EAGAIN {
		b, waited := room(), false
		err = raw.Read(func(fd uintptr) (done bool) {
			if waited {
				return true
			}
			n, failed = read(fd, b)
			if waited = failed == syscall.EAGAIN; waited {
				b = nil // or the garbage collector would keep it as long as this waits
				idle()
			}
			return !waited
		})
		if err == nil && waited {
			// Not in the function above, because the stack is deeper there.
			b = room()
			err = raw.Control(func(fd uintptr) { n, failed = read(fd, b) })
		}
	}
	if err == nil && failed == nil && n > 0 {
		return n, nil
	}
	return 0, readError(c, err, failed)
}

func read(fd uintptr, b []byte) (n int, err error) {
	for {
		if n, err = syscall.Read(int(fd), b); err != syscall.EINTR {
			return n, err
		}
	}
}

// readError returns the error of c.Read. It is [io.EOF] if both are nil.
//
//go:noinline
func readError(c *net.TCPConn, err, failed error) error {
	if op, ok := err.(*net.OpError); ok {
		op.Op = "read" // not "raw-read"
	}
	switch {
	case err != nil:
		return err
	case failed == nil:
		return io.EOF
	}
	return &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", failed)}
}
