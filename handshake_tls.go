package preflight

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"

	"github.com/preflight-go/preflight/internal/frame"
)

// A tunnelConn is what TLS inside a tunnel reads from. crypto/tls takes the end of the
// connection between two records for an orderly end, because web servers often omit the
// close_notify. In a tunnel such an end is a truncation (RFC 8446 §6.1): proxies end idle
// tunnels, and tunnels whose other side was reset, in the same way.
type tunnelConn struct {
	net.Conn      // the tunnel
	open     bool // the TLS handshake is done
}

// NetConn returns the connection below, like that of [tls.Conn].
func (c *tunnelConn) NetConn() net.Conn { return c.Conn }

// Read returns neither io.EOF nor io.ErrUnexpectedEOF itself, because crypto/tls would
// turn it into io.EOF. A TLS layer below may return io.EOF together with the last bytes,
// which may contain the close_notify. Then the next Read returns the end.
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

// framedBelow returns the layer of the capsules below TLS inside the tunnel; nil if c is
// anything else.
func framedBelow(c net.Conn) *frame.Conn {
	t, ok := c.(*tls.Conn)
	if !ok {
		return nil
	}
	below := t.NetConn()
	if awaited, ok := below.(*awaitedConn); ok {
		below = awaited.NetConn()
	}
	if tunnel, ok := below.(*tunnelConn); ok {
		framed, _ := tunnel.Conn.(*frame.Conn)
		return framed
	}
	return nil
}

// acceptTunnelTLS accepts TLS inside the tunnel.
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

// handshakeBelow makes an existing TLS layer perform its handshake now, within the whole
// deadline. In the first Read, the earlier deadline of PlainAfter would make it fail
// permanently.
func (x *exchange) handshakeBelow() error {
	below, ok := x.conn.(interface{ HandshakeContext(context.Context) error })
	if !ok {
		return nil
	}
	if err := below.HandshakeContext(x.ctx); err != nil {
		return &stageError{stage: stageTLS, err: helloError(x.conn, err)}
	}
	return nil
}

// helloError returns the error of a TLS handshake. It is a probeError if the client left
// before its ClientHello was complete.
func helloError(c net.Conn, err error) error {
	// The version is set when the ClientHello has been read.
	if state := tlsState(c); ended(err) && state != nil && state.Version == 0 {
		return probeError{err}
	}
	return err
}

// acceptTLS adds a TLS layer to the connection. The first bytes of the layer are in x.buf.
// The handshake can be evicted while it waits for the client, but not while it works:
// GetCertificate may take time.
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

// An awaitedConn is what a TLS layer reads from. It tells the listener when the handshake
// waits for the client.
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

// Close is also called by the TLS layer, when the time of its handshake is over.
func (c *awaitedConn) Close() error {
	if c.x != nil {
		return abandon(c.Conn)
	}
	return c.Conn.Close()
}

// speaksOther reports whether c is a TLS connection on which client and server have agreed
// on a protocol other than HTTP/1.1 (RFC 7301), such as gRPC's h2.
func speaksOther(c net.Conn) bool {
	state := tlsState(c)
	return state != nil && state.NegotiatedProtocol != "" && state.NegotiatedProtocol != alpnHTTP
}
