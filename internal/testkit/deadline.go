package testkit

import (
	"bufio"
	"net"
	"time"
)

// BufferedConn is a connection of which some has been read into r.
type BufferedConn struct {
	net.Conn
	R *bufio.Reader
}

func (c BufferedConn) Read(b []byte) (int, error) { return c.R.Read(b) }

const (
	ProxyV2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\x12\x67\x01\xbb"
	// Twice is a pause with which a hundred bytes take twice the time.
	Twice = 200 * time.Millisecond
)
