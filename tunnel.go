package preflight

import (
	"fmt"
	"io"
	"net"
)

// A tunnelConn is what TLS inside a tunnel reads from. crypto/tls takes an end of
// the connection between two records for a clean one, because web servers often
// omit the close_notify. Here such an end is a truncation (RFC 8446 §6.1): proxies
// end tunnels that are idle, or whose other side was reset, in the same way.
type tunnelConn struct {
	net.Conn      // the tunnel
	open     bool // the TLS handshake is done
}

// NetConn is the connection below, as that of [tls.Conn].
func (c *tunnelConn) NetConn() net.Conn { return c.Conn }

// Read does not return io.EOF, nor io.ErrUnexpectedEOF itself: crypto/tls would
// make an io.EOF of it. A TLS layer below may return io.EOF together with the last
// bytes, among which may be the close_notify; then the end is left to the next
// Read.
func (c *tunnelConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	switch {
	case err != io.EOF || !c.open:
	case n > 0:
		err = nil
	default:
		err = opError("read", c.Conn, errTruncated)
	}
	return n, err
}

var errTruncated = fmt.Errorf("the tunnel ended without TLS's close_notify, so that data may be missing: %w", io.ErrUnexpectedEOF)

// secureTunnel accepts TLS inside the tunnel.
func (x *exchange) secureTunnel(p *policy) error {
	below := &tunnelConn{Conn: x.conn}
	x.mu.Lock()
	x.conn = below
	x.mu.Unlock()
	if err := x.secure(p); err != nil {
		return err
	}
	below.open = true
	return nil
}
