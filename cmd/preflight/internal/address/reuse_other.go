//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package address

import (
	"errors"
	"syscall"
)

func reusePort(_, _ string, _ syscall.RawConn) error {
	return errors.New("this system has no SO_REUSEPORT")
}
