package testkit

import (
	"bufio"
	"net"
	"time"
)

// ShdBuffered is a connection of which some has been read into r.
type ShdBuffered struct {
	net.Conn
	R *bufio.Reader
}

func (c ShdBuffered) Read(b []byte) (int, error) { return c.R.Read(b) }

const (
	ShdProxyV2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\x12\x67\x01\xbb"
	// ShdTwice is a pause with which a hundred bytes take twice the time.
	ShdTwice = 200 * time.Millisecond
)
