package frame

import (
	"io"
	"net"
)

// gathers reports whether w writes net.Buffers in one call (writev).
func gathers(w any) bool {
	switch w.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// A partList holds the application bytes of one read of WriteTo, in the buffer into which
// they were read. The bytes of a large capsule are not moved.
type partList struct {
	left net.Buffers // of list, while they are written
	n    int
	list [2 * maxCapsules][]byte
}

// add adds b, which follows the parts in the same buffer. It returns where the bytes belong:
// in their place, or directly behind the last part. One call writes only so many parts, and
// a part costs more than to move a few bytes.
func (p *partList) add(b []byte) []byte {
	if p.n == 0 || len(b) > maxCopy && p.n < len(p.list) {
		p.list[p.n] = b
		p.n++
		return b
	}
	last := &p.list[p.n-1]
	from := len(*last)
	*last = (*last)[:from+len(b)]
	return (*last)[from:]
}

// writeTo writes the parts, and removes them.
func (p *partList) writeTo(w io.Writer) (int64, error) {
	p.left = p.list[:p.n]
	n, err := p.left.WriteTo(w)
	p.n = 0
	clear(p.list[:])
	return n, err
}
