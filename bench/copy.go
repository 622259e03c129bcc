package main

import (
	"io"
	"net"
)

// copyArg is the first argument of a process that runs copyRelay.
const copyArg = "copy"

// copySize is as much as a framed tunnel moves in one call.
const copySize = 256 << 10

// copyRelay relays between listen and next until it is killed. It reads and writes, and does
// nothing else.
func copyRelay(listen, next string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	for {
		a, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer a.Close()
			b, err := net.Dial("tcp", next)
			if err != nil {
				return
			}
			defer b.Close()
			go copyBytes(a, b)
			copyBytes(b, a)
		}()
	}
}

// copyBytes is io.Copy without splice.
func copyBytes(to, from net.Conn) {
	io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, copySize))
}
