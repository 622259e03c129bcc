//go:build !unix

package main

import (
	"os"
	"syscall"
)

var (
	endSignals    = []os.Signal{syscall.SIGTERM, os.Interrupt}
	reloadSignals []os.Signal // none: restart the program
)
