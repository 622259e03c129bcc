package testkit

import (
	"bufio"
	"net"
	"time"
)

// BufferedConn is a connection of which some bytes have already been read into
// R.
type BufferedConn struct {
	net.Conn
	R *bufio.Reader
}

func (c BufferedConn) Read(b []byte) (int, error) { return c.R.Read(b) }

const (
	ProxyV2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\x12\x67\x01\xbb"
	// Twice is a pause for each byte. With it, a hundred bytes take twice
	// HandshakeTimeout.
	Twice = 200 * time.Millisecond
)
