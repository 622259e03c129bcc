//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package address

import (
	"syscall"

	sys "golang.org/x/sys/unix"
)

// reusePort lets several sockets listen at one address (socket(7), SO_REUSEPORT).
func reusePort(_, _ string, c syscall.RawConn) error {
	var err error
	if controlErr := c.Control(func(fd uintptr) {
		err = sys.SetsockoptInt(int(fd), sys.SOL_SOCKET, sys.SO_REUSEPORT, 1)
	}); controlErr != nil {
		return controlErr
	}
	return err
}
