package preflight

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight/internal/diagnosis"
	"github.com/preflight-go/preflight/internal/frame"
)

const (
	stageTLS       = "TLS handshake"
	stageProxyTLS  = "TLS handshake with the forward proxy"
	stageTunnelTLS = "TLS handshake in the tunnel"
	alpnHTTP       = "http/1.1" // RFC 7301 §6
)

// tlsStages are the stages of TLS, for the diagnosis.
var tlsStages = map[string]diagnosis.Stage{
	stageTLS: diagnosis.TLS, stageProxyTLS: diagnosis.ProxyTLS, stageTunnelTLS: diagnosis.TunnelTLS,
}

// handshakeTLS performs a TLS handshake, bounded by ctx and by deadline, which may be
// zero. It returns a [*tls.Conn]. peer is that of an error; nil means the peer of c.
func handshakeTLS(ctx context.Context, c net.Conn, config *tls.Config, deadline time.Time, stage string, peer net.Addr) (net.Conn, error) {
	bounded := ctx
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		bounded, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	tc := tls.Client(c, config)
	// HandshakeContext closes a TLS layer below, which could block because it sends
	// a last message. Close the bottom instead.
	stop := context.AfterFunc(bounded, func() { closeBottom(c) })
	err := tc.HandshakeContext(bounded)
	if !stop() && err == nil {
		err = bounded.Err()
	}
	if err == nil {
		return tc, nil
	}
	switch {
	case ctx.Err() != nil:
		err = contextCause(ctx)
	case bounded.Err() != nil:
		err = os.ErrDeadlineExceeded // not the caller's context: it has not ended
	case err == io.EOF:
		err = errIncomplete
	}
	err = explain(&stageError{stage: stage, err: err}, diagnosis.Evidence{Stage: tlsStages[stage]})
	return nil, failure(c, peer, err, "")
}

// tlsConfig returns a copy of config for a connection to the server called name that
// carries HTTP/1.1.
func tlsConfig(config *tls.Config, name string) (*tls.Config, error) {
	if offered := config.NextProtos; len(offered) > 0 && !slices.Contains(offered, alpnHTTP) {
		return nil, fmt.Errorf("NextProtos %q lacks http/1.1; HTTP/2 has no Upgrade", offered)
	}
	config = config.Clone()
	config.NextProtos = []string{alpnHTTP}
	return config, nameServer(config, name)
}

// nameServer sets ServerName if it is empty.
func nameServer(config *tls.Config, name string) error {
	if config.ServerName == "" {
		config.ServerName = name
	}
	if config.ServerName == "" && !config.InsecureSkipVerify {
		return errors.New("ServerName is empty and the address has no host name to take it from")
	}
	return nil
}

// tunnelConfig returns a copy of config for TLS inside the tunnel that u asks for.
func tunnelConfig(config *tls.Config, u *upgrade) *tls.Config {
	config = config.Clone()
	if config.ClientSessionCache != nil {
		path, _, _ := strings.Cut(u.target, "?")
		config.ClientSessionCache = tunnelSessions{config.ClientSessionCache, "tunnel " + u.host + path + " "}
	}
	return config
}

// tunnelSessions is the session cache of TLS inside a tunnel. crypto/tls stores a session under
// the name of the server. The edge, and the servers behind other paths, may have the same name.
// A resumed session is not passed to VerifyPeerCertificate, so an edge that could resume its own
// session inside the tunnel could take the place of the server.
type tunnelSessions struct {
	cache  tls.ClientSessionCache
	prefix string // holds a space, so no name of a server begins with it
}

func (s tunnelSessions) Get(key string) (*tls.ClientSessionState, bool) {
	return s.cache.Get(s.prefix + key)
}

func (s tunnelSessions) Put(key string, session *tls.ClientSessionState) {
	s.cache.Put(s.prefix+key, session)
}

// A tunnelConn is what TLS inside a tunnel reads from. crypto/tls takes the end of the
// connection between two records for an orderly end, because web servers often omit the
// close_notify. In a tunnel such an end is a truncation (RFC 8446 §6.1): proxies end idle
// tunnels, and tunnels whose other side was reset, in the same way.
//
// On a framed tunnel the close_notify does not wait for the peer. It leaves with the end of
// the stream.
type tunnelConn struct {
	net.Conn             // the tunnel
	open     bool        // the TLS handshake is done
	ending   atomic.Bool // the Conn above ends its direction, on a framed tunnel
	last     atomic.Bool // what TLS writes is its close_notify
}

// SetWriteDeadline is called by crypto/tls around its close_notify, with 5 seconds and then
// with the past. A framed tunnel needs no limit there, and the past would cut the stream off.
// The deadlines of the application do not come here: see [Conn.SetWriteDeadline].
func (c *tunnelConn) SetWriteDeadline(t time.Time) error {
	if !c.ending.Load() {
		return c.Conn.SetWriteDeadline(t)
	}
	c.last.Store(true)
	return nil
}

func (c *tunnelConn) Write(b []byte) (int, error) {
	if c.last.Load() {
		return c.Conn.(*frame.Conn).WriteLast(b)
	}
	return c.Conn.Write(b)
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

// endTunnelTLS tells the layer below TLS inside a framed tunnel that the TLS layer c is about
// to send its last message. It returns the layer of the capsules, or nil if c is anything
// else.
func endTunnelTLS(c net.Conn) *frame.Conn {
	tunnel, framed := framedBelow(c)
	if framed != nil {
		tunnel.ending.Store(true)
	}
	return framed
}

// framedBelow returns the layers below TLS inside a framed tunnel; nil if c is anything else.
func framedBelow(c net.Conn) (*tunnelConn, *frame.Conn) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return nil, nil
	}
	below := t.NetConn()
	if awaited, ok := below.(*awaitedConn); ok {
		below = awaited.NetConn()
	}
	tunnel, ok := below.(*tunnelConn)
	if !ok {
		return nil, nil
	}
	framed, _ := tunnel.Conn.(*frame.Conn)
	return tunnel, framed
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
	err := below.HandshakeContext(x.ctx)
	if err == nil {
		return nil
	}
	var other tls.RecordHeaderError
	if errors.As(err, &other) && other.Conn != nil && isHTTP(other.RecordHeader) {
		x.say(other.Conn, needsTLS)
	}
	return &stageError{stage: stageTLS, err: helloError(x.conn, err)}
}

// isHTTP reports whether a request stands in place of the header of a TLS record: that for a
// tunnel, or that of a health check. A HEAD is not among them, because its answer has no body.
func isHTTP(header [5]byte) bool {
	start := string(header[:])
	return start == "GET /" || start == "POST " || start == "OPTIO"
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
	x.pauseWaiting()
	ctx, cancel := context.WithDeadline(x.ctx, x.contextDeadline()) // for the callbacks of config
	defer cancel()
	below := &awaitedConn{newConn(x.conn, x.remote, new(heads), bytes.Clone(x.buf), nil), x, p}
	x.buf = nil
	x.release()
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
	defer x.pauseWaiting() // also where the transport panics
	n, err := c.Conn.Read(b)
	if x.pauseWaiting(); n > 0 {
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
