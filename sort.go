package preflight

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight/internal/wire"
)

// sort reads until it is known what the client speaks, trying the kinds in the
// order in which they stand on the wire: a PROXY header, TLS, an HTTP request,
// anything else. It returns the length of the HTTP head that x.buf begins with,
// or 0 for a plain connection: with a watch if the client has not said enough to
// be sure. A reverse proxy may connect long before it has a request to send.
func (x *exchange) sort(p *policy) (int, *watch, error) {
	// A TLS layer below us shakes hands now, under the whole deadline: left
	// to the first Read, it would fail for good at the earlier deadline of
	// PlainAfter.
	if below, ok := x.conn.(handshaker); ok {
		if err := below.HandshakeContext(x.ctx); err != nil {
			return 0, nil, &stageError{stageTLS, err}
		}
	}
	// The address is not asked for in vain: that of a proxyproto.Conn waits for
	// the client.
	if p.proxies.any() && p.proxies.trust(x.addr()) {
		if err := x.proxyHeader(p); err != nil {
			return 0, nil, &stageError{"read the PROXY header", err}
		}
	}
	if p.tls != nil {
		if err := x.acceptTLS(p); err != nil {
			return 0, nil, &stageError{stageTLS, err}
		}
	}
	if speaksOther(x.conn) {
		return 0, nil, nil
	}
	var sniffer wire.Sniffer
	for {
		verdict := sniffer.Next(x.buf)
		if verdict == wire.More && len(x.buf) == p.maxHeader {
			if verdict = sniffer.AtLimit(x.buf); verdict == wire.Plain {
				verdict = wire.Doubt
			}
		}
		switch verdict {
		case wire.Plain:
			return 0, nil, nil
		case wire.Doubt:
			return 0, watchOf(sniffer), nil
		case wire.HTTP:
			n, err := x.requestHead(p)
			return n, nil, err
		}
		if err := x.more(p, p.maxHeader); err != nil {
			return 0, watchOf(sniffer), x.unread(err, verdict, p)
		}
	}
}

// more reads more of what the client says. For its first word on each layer it
// has no longer than PlainAfter.
func (x *exchange) more(p *policy, limit int) error {
	brief := len(x.buf) == 0 && p.plainAfter > 0 && !p.refusePlain
	if brief {
		x.readBy(earlier(x.deadline, time.Now().Add(p.plainAfter)))
	}
	err := x.read(limit)
	if brief && err == nil {
		x.readBy(x.deadline)
	}
	return err
}

// proxyHeader consumes a header of the PROXY protocol, if there is one, and
// believes it. A client of whom nothing can be read is left to the layers above.
func (x *exchange) proxyHeader(p *policy) error {
	for {
		m, n := wire.ProxyHeader(x.buf)
		switch {
		case m == wire.No:
			return nil
		case n < 0 || n > p.maxHeader:
			return errors.New("it has no end, or is longer than MaxHeaderBytes")
		case n > 0 && n <= len(x.buf):
			err := x.believe(x.buf[:n])
			x.consume(n)
			return err
		}
		if err := x.more(p, p.maxHeader); err != nil {
			if m == wire.Maybe {
				return nil
			}
			return err
		}
	}
}

// believe takes the client's address from a header of the PROXY protocol. One
// that names none, as a proxy's own health checks send it, leaves it as it is.
func (x *exchange) believe(header []byte) error {
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(header)))
	if err != nil {
		return err
	}
	source, _, ok := h.IPs()
	if h.Command.IsLocal() || !ok {
		return nil
	}
	ip, _ := netip.AddrFromSlice(source)
	port, _, _ := h.Ports()
	x.remote = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	return nil
}

// acceptTLS shakes hands with a client that speaks TLS first. The first record
// is waited for here, where a client that stalls in it costs no TLS state.
func (x *exchange) acceptTLS(p *policy) error {
	for {
		m, n := wire.ClientHello(x.buf)
		switch {
		case m == wire.No:
			return nil
		case m == wire.Yes && n <= len(x.buf):
			return x.secure(p.tls)
		case m == wire.Yes && len(x.buf) == cap(x.buf):
			x.grow(min(n, 2*len(x.buf)))
		}
		if err := x.more(p, max(n, p.maxHeader)); err != nil {
			if m == wire.Maybe {
				return nil
			}
			return err
		}
	}
}

// secure puts a TLS layer on the connection, whose first bytes are in x.buf.
func (x *exchange) secure(config *tls.Config) error {
	ctx, cancel := context.WithDeadline(x.ctx, x.deadline) // for the callbacks of config
	defer cancel()
	tc := tls.Server(newConn(x.conn, x.remote, heads{}, bytes.Clone(x.buf), nil), config)
	x.buf = x.buf[:0]
	err := tc.HandshakeContext(ctx)
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.conn = tc
	x.mu.Unlock()
	return nil
}

// A handshaker is a TLS layer of any make.
type handshaker interface {
	HandshakeContext(context.Context) error
}

// speaksOther reports whether c is a TLS connection on which client and server
// have agreed to speak something else than HTTP/1.1 (RFC 7301), such as gRPC's h2.
func speaksOther(c net.Conn) bool {
	state := tlsState(c)
	return state != nil && state.NegotiatedProtocol != "" && state.NegotiatedProtocol != alpnHTTP
}

// watchOf goes on where the sniffer has come to.
func watchOf(s wire.Sniffer) *watch { return &watch{sniffer: s} }

// requestHead reads until x.buf begins with a head, and returns its length.
func (x *exchange) requestHead(p *policy) (int, error) {
	for scanned := 0; ; {
		n, broken := wire.RequestEnd(x.buf, scanned)
		scanned = len(x.buf)
		if broken == nil && n == 0 && scanned == p.maxHeader {
			broken = tooLarge(x.buf)
		}
		if broken != nil {
			return 0, x.refuseHead(broken, p)
		}
		if n > 0 {
			return n, nil
		}
		if err := x.read(p.maxHeader); err != nil {
			return 0, x.unread(err, wire.HTTP, p)
		}
	}
}

// unread decides what to do with a client of whom no more can be read. nil
// stands for a plain connection.
func (x *exchange) unread(err error, verdict wire.Verdict, p *policy) error {
	failed := &stageError{"read the upgrade request", err}
	x.mu.Lock()
	evicted := x.evicted
	x.mu.Unlock()
	switch {
	case x.ctx.Err() != nil:
		return failed
	case evicted:
		// Room is made at the cost of a client that is silent, which an
		// application whose server speaks first knows how to serve.
		if len(x.buf) > 0 || p.refusePlain || !isTimeout(err) {
			return errEvicted
		}
		return nil
	case err == io.EOF && verdict == wire.HTTP:
		return x.refuseHead(&wire.Error{Status: 400, Offset: len(x.buf), Rule: "the request ends inside its head: RFC 9112 §8"}, p)
	case isTimeout(err) && verdict == wire.HTTP:
		return x.refuseHead(&wire.Error{Status: 408, Offset: len(x.buf), Rule: "the head of the request did not arrive in time: RFC 9110 §15.5.9"}, p)
	case err == io.EOF || isTimeout(err):
		return nil
	}
	return failed
}
