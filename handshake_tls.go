package preflight

import (
	"bytes"
	"context"
	"crypto/tls"
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
func (x *exchange) acceptTunnelTLS(p *policy) error {
	below := &tunnelConn{Conn: x.conn}
	x.mu.Lock()
	x.conn = below
	x.mu.Unlock()
	if err := x.acceptTLS(p); err != nil {
		return err
	}
	below.open = true
	return nil
}

// handshakeBelow makes a TLS layer below us shake hands now, under the whole
// deadline: left to the first Read, it would fail for good at the earlier
// deadline of PlainAfter.
func (x *exchange) handshakeBelow() error {
	below, ok := x.conn.(interface{ HandshakeContext(context.Context) error })
	if !ok {
		return nil
	}
	if err := below.HandshakeContext(x.ctx); err != nil {
		return &stageError{stageTLS, helloError(x.conn, err)}
	}
	return nil
}

// helloError is the error of a TLS handshake: that of a probe if the client has
// gone before its ClientHello was whole.
func helloError(c net.Conn, err error) error {
	// The version is set when the ClientHello has been read.
	if state := tlsState(c); ended(err) && state != nil && state.Version == 0 {
		return probeError{err}
	}
	return err
}

// secure puts a TLS layer on the connection, whose first bytes are in x.buf. The
// handshake can be evicted while it waits for the client, and not while it works:
// GetCertificate may take its time.
func (x *exchange) acceptTLS(p *policy) error {
	x.stopWaiting()
	ctx, cancel := context.WithDeadline(x.ctx, x.deadline) // for the callbacks of config
	defer cancel()
	below := &awaitedConn{newConn(x.conn, x.remote, heads{}, bytes.Clone(x.buf), nil), x, p}
	x.buf = x.buf[:0]
	tc := tls.Server(below, p.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		return helloError(tc, err) // below may yet be closed, by the end of ctx
	}
	below.x = nil
	x.mu.Lock()
	x.conn = tc
	x.mu.Unlock()
	return nil
}

// An awaitedConn is what a TLS layer reads from.
type awaitedConn struct {
	*Conn
	x *exchange // during the handshake
	p *policy
}

func (c *awaitedConn) Read(b []byte) (int, error) {
	x := c.x
	if x == nil {
		return c.Conn.Read(b)
	}
	c.p.waitsForClient(x)
	defer x.stopWaiting() // also where the transport panics
	n, err := c.Conn.Read(b)
	if x.stopWaiting(); n > 0 {
		c.p.progressed(x)
	}
	return n, err
}

// Close is called by the TLS layer too, when the time of its handshake is over.
func (c *awaitedConn) Close() error {
	if c.x != nil {
		return abandon(c.Conn)
	}
	return c.Conn.Close()
}

// speaksOther reports whether c is a TLS connection on which client and server
// have agreed to speak something else than HTTP/1.1 (RFC 7301), such as gRPC's h2.
func speaksOther(c net.Conn) bool {
	state := tlsState(c)
	return state != nil && state.NegotiatedProtocol != "" && state.NegotiatedProtocol != alpnHTTP
}
