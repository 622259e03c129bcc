package preflight

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A PreflightListener accepts TCP clients that come through an HTTP reverse
// proxy beside those that come directly, on one port. It wraps any
// [net.Listener]:
//
//	grpc.NewServer().Serve(&preflight.PreflightListener{Listener: ln})
//
// Each accepted connection is sorted by its first bytes, in a goroutine of its
// own that ends before Accept returns the connection, so that a slow client
// delays nobody. The kinds are tried in this order:
//
//   - A header of the PROXY protocol, from one of TrustedProxies, tells whose
//     connection it is. What follows is sorted again.
//   - TLS is accepted if TLSConfig is set, and what it carries is sorted again. If
//     client and server agree by ALPN on a protocol other than http/1.1, the
//     connection counts as plain.
//   - An upgrade request for one of Protocols is answered 101, and Accept
//     returns the tunnel behind it.
//   - Any other HTTP/1.x request goes to Handler, if there is one. Else it is
//     refused with an HTTP answer: 426 where it is in order, and what RFC 9110 and
//     9112 say where it is not. So is a request of another version (505), and a
//     line that only a lax proxy makes of a request (400). No request reaches
//     the application, so that nobody can send it the body of a POST. Up to two
//     empty lines before a request are skipped (RFC 9112 §2.2).
//   - Anything else is a plain connection, decided at the first byte that
//     cannot belong to a request line. It is handed on untouched, unless
//     Authorize or RequireUpgrade is set: then it is closed without a word.
//
// Plain is also a client that ends its direction before that is decided, one
// that stalls in its first line until HandshakeTimeout, and one that sends
// nothing until then or until PlainAfter. A first line that is still undecided
// at MaxHeaderBytes is refused (414) if it looks like HTTP, else plain. Such a
// connection may still turn out to be a proxy's, opened long before there was
// a request for it: when its first line ends as a request line does, Read
// closes it and returns an error instead of the end of the line.
//
// If the connections of Listener have a HandshakeContext method, as those of
// [crypto/tls.NewListener] do, it is called first. ServeHTTP mounts the listener
// on an existing HTTP server.
//
// Fields must not be changed after the first call of a method. A field that is
// out of range is an error of Accept. All methods are safe for concurrent use.
type PreflightListener struct {
	// Listener is the wrapped listener. nil means that the connections come by
	// ServeHTTP alone.
	net.Listener

	// Protocols are the upgrade tokens served, in order of preference,
	// compared without regard to case (RFC 9110 §7.8). The 101 repeats the one
	// that was chosen. nil means tcp and tcps: AMPS's clients ask for tcps when
	// they speak TLS to the proxy, and mean the same. No token says anything
	// about TLS inside the tunnel, see TLSConfig. "websocket" is an error.
	// Empty, not nil, means none: every request goes to Handler, which must be
	// set, and may mount other listeners by path.
	Protocols []string

	// Authorize vets an upgrade request, if it is set, before the 101 is
	// sent. The fields that it returns join the 101; they may not be
	// hop-by-hop or framing fields. A [*StatusError] chooses the refusal. No
	// field of either may begin with Preflight- or Sec-WebSocket-. Any
	// other error is a 403 whose text stays here. A panic, which is recorded by
	// Telemetry, or else printed, and an answer that cannot be sent, are a 500.
	//
	// RemoteAddr of the request is the client's, as Conn.RemoteAddr. The
	// Context ends with the handshake, and when the client resets or ends its
	// connection; [context.Cause] says why. A half-close counts as an end: a
	// client must keep its direction open until it has the 101. An end is noticed
	// after a tenth of a second, and on a transport with deadlines alone. To hand
	// something on to the application, replace the Context:
	//
	//	*r = *r.WithContext(context.WithValue(r.Context(), key, user))
	//
	// [Conn.Request] returns this very request; by then its Context no longer
	// ends. It must not be used by others once Authorize has returned.
	//
	// Authorize guards tunnels only, not Handler. A plain connection cannot be
	// vetted, so with Authorize it is refused unless AllowPlain is set. The
	// request may have been sent by a client, or replayed by a proxy, any
	// number of times: a credential in it cannot be one that is good for one
	// use. Authorize is called concurrently.
	Authorize func(*http.Request) (http.Header, error)

	// RequireUpgrade refuses plain connections. Set it wherever plain clients
	// have no business on the port. AllowPlain or PlainAfter beside it is an
	// error.
	RequireUpgrade bool

	// AllowPlain hands plain connections on although Authorize is set. Without
	// Authorize it changes nothing.
	AllowPlain bool

	// PlainAfter hands a client that has sent nothing for this long on as a
	// plain connection, for protocols in which the server speaks first
	// (200 ms to 1 s; MySQL, SMTP, NATS). It counts from the start of the
	// innermost layer: behind a PROXY header or a TLS handshake, from there. 0
	// means after HandshakeTimeout; negative, or more than 365 days, is an error. It
	// means nothing where plain connections are refused, and needs a transport with
	// deadlines. Behind a proxy that connects before it has a request to send,
	// such as Go's ReverseProxy, set RequireUpgrade instead.
	PlainAfter time.Duration

	// Handler serves the ordinary HTTP requests on the port: health checks,
	// administration, WebSocket. nil means that they are answered 426. It is
	// called as a handler of [http.Server] is, whose timeouts are
	// HandshakeTimeout for a head and IdleTimeout between requests, with a
	// RemoteAddr that is the peer's, or that of its PROXY header. A connection
	// may send ordinary requests first and an upgrade request later; a request
	// with Upgrade that is not answered 101 ends its connection. Connections
	// with a request under way or between two are not counted by MaxPending.
	//
	// Package net/http parses the requests that Handler serves, and decides
	// which of them are malformed, wherever they stand on a connection. A first
	// request that carries Upgrade is parsed by the stricter parser of this
	// package; an upgrade request behind another one is net/http's, see
	// ServeHTTP.
	Handler http.Handler

	// IdleTimeout is how long a connection may wait for its next ordinary
	// request, for Handler. 0 means 11 minutes, which is more than the 10
	// minutes of Google's load balancers; negative means no limit. It should be
	// longer than the time for which the proxy keeps an idle connection:
	// otherwise the listener may close one just when the proxy sends a request
	// on it, which the client sees as a 502.
	IdleTimeout time.Duration

	// TLSConfig, if it is set, accepts TLS from clients that speak it first,
	// beside those that do not, and inside tunnels whose request asks for it by
	// the field "Preflight-Tunnel: tls", as PreflightDialer.TunnelTLSConfig
	// does. The 101 repeats that field, and Accept returns the connection after
	// the TLS handshake. Without TLSConfig such a request is answered 426. An
	// end of such a tunnel without TLS's close_notify is [io.ErrUnexpectedEOF].
	//
	// To require TLS from the peer, or client certificates, put
	// [crypto/tls.NewListener] underneath. To require TLS inside every tunnel,
	// leave TLSConfig nil, set RequireUpgrade, and put crypto/tls.NewListener
	// above; clients dial without TunnelTLSConfig and call [crypto/tls.Client]
	// on the connection.
	//
	// NextProtos, if there are any, must hold http/1.1 for upgrade requests over
	// TLS; before h2, if there is a Handler, because browsers offer both. The
	// Config is not modified.
	TLSConfig *tls.Config

	// TrustedProxies are the peers that are believed about the client's
	// address: by a PROXY header (version 1 or 2) at the beginning of a
	// connection, and by ClientAddrHeader in an upgrade request. From anyone
	// else both are mere bytes, and a request behind a PROXY header is answered
	// 400. The address is followed from the peer to the source in the PROXY
	// header and on through the field, from the right, as long as the address
	// so far is trusted itself; that is what Conn.RemoteAddr and the RemoteAddr
	// of a request are then. IPv4-mapped IPv6 addresses count as IPv4, and zones
	// are ignored. The peer of a Unix socket is trusted if there is any prefix,
	// because the permissions of the socket's file decide who may connect. An
	// abstract socket of Linux has no file: anybody on the machine may connect,
	// and nobody is trusted. nil means nobody.
	//
	// A PROXY header that is malformed ends the connection; a field that is, is
	// answered 400. For the further contents of PROXY headers (TLVs), wrap
	// Listener with that of github.com/pires/go-proxyproto instead; where its
	// header tells no client, the connection has the proxy's address.
	TrustedProxies []netip.Prefix

	// ClientAddrHeader is the one field that the TrustedProxies maintain: ""
	// means X-Forwarded-For; Forwarded (RFC 7239), or a field that holds one
	// address, such as X-Real-IP or CF-Connecting-IP. It must be a field that
	// they append to or replace: nginx and HAProxy hand a client's own
	// Forwarded on untouched, and whatever is handed on is the client's to forge.
	ClientAddrHeader string

	// HandshakeTimeout bounds each handshake as a whole: the PROXY header, TLS,
	// reading, Authorize, writing the 101, and TLS inside the tunnel. 0 means
	// 10 seconds; negative, or more than 365 days, is an error. It does not run
	// while a finished connection waits for Accept.
	HandshakeTimeout time.Duration

	// MaxHeaderBytes bounds the head of a request, and a PROXY header. 0 means
	// 16 KiB; negative, or more than 1 GiB, is an error. A client that stalls
	// holds 4 KiB or twice what it has sent, and not the limit. Ordinary
	// requests, which net/http reads for Handler, may be up to 8 KiB larger.
	MaxHeaderBytes int

	// MaxPending bounds the handshakes under way, from the moment a
	// connection is accepted from Listener, or a request comes by ServeHTTP, to
	// the moment Accept returns it or Handler takes it. 0 means 4096; negative, or
	// more than 1<<30, is an error. When it is reached, a new client takes the place of the one
	// that has kept us waiting for bytes the longest, and for a second at
	// least: that one is handed on as plain if it has sent nothing and plain
	// connections are allowed, else closed. If there is none, new clients wait
	// in the kernel's backlog, and requests in ServeHTTP until their
	// HandshakeTimeout (503). A client that has gone while Authorize runs gives its
	// place up at once. As many calls of Authorize as MaxPending may still be
	// running for such clients, beside those that are counted.
	MaxPending int

	// Telemetry shows the handshakes and the connections behind them; nil
	// means that nobody looks.
	Telemetry *Telemetry

	init   sync.Once
	policy policy
	err    error // of the configuration

	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	start     sync.Once
	delivered chan delivery
	room      chan struct{} // a handshake came to its end
	draining  atomic.Bool   // since Shutdown
	gone      chan struct{} // since Close: nobody accepts any more
	drained   chan struct{} // nothing more will be delivered
	idle      chan struct{} // and nothing that was is still open
	server    *http.Server  // of Handler; nil without one
	feed      *feed
	serving   sync.Once
	onClose   func() // closed, for each Conn

	mu        sync.Mutex
	pending   pending
	shutdowns int // calls of Shutdown under way
}

// A delivery is what one call of Accept returns.
type delivery struct {
	conn *Conn
	err  error
}

// Accept returns the next connection whose handshake is done, a [*Conn]
// always. Errors of the wrapped listener are returned unchanged, each once;
// the next call of Accept goes on. After Close, and once Shutdown has nothing
// more to deliver, the error is [net.ErrClosed].
func (l *PreflightListener) Accept() (net.Conn, error) {
	l.prepare()
	if l.err != nil {
		return nil, l.err
	}
	if isClosed(l.gone) {
		return nil, net.ErrClosed
	}
	if l.Listener != nil {
		l.start.Do(func() { go l.acceptAll() })
	}
	select {
	case d := <-l.delivered:
		if d.err == nil {
			return d.conn, nil
		}
		if !isClosed(l.gone) {
			return nil, d.err
		}
	case <-l.gone:
	case <-l.drained:
	}
	return nil, net.ErrClosed
}

// Addr is the address of the wrapped listener. Without one it is a fixed
// address whose Network and String are "preflight".
func (l *PreflightListener) Addr() net.Addr {
	if l.Listener == nil {
		return noAddr{}
	}
	return l.Listener.Addr()
}

// noAddr is the address of a listener that is fed by ServeHTTP alone.
type noAddr struct{}

func (noAddr) Network() string { return "preflight" }
func (noAddr) String() string  { return "preflight" }

// Close closes the wrapped listener, the handshakes under way, the connections
// that Accept has not returned and those that Handler serves, and waits for none
// of them. Connections that Accept has returned stay open, and those that
// Handler has hijacked. It must be called in the end, as servers do when Serve
// returns: closing the wrapped listener alone leaves the rest as it is.
//
// While Shutdown waits, Close leaves the handshakes and Handler to it: servers
// call Close when they are told to stop, and when Accept has no more for them.
func (l *PreflightListener) Close() error {
	l.prepare()
	l.mu.Lock()
	closeOnce(l.gone)
	waiting := l.shutdowns > 0
	l.mu.Unlock()
	if !waiting {
		l.abort()
	}
	return l.closeInner()
}

// cutOff ends what has not been delivered.
func (l *PreflightListener) abort() {
	l.cancel()
	l.mu.Lock()
	for x := l.pending.oldest.place.next; x != &l.pending.oldest; x = x.place.next {
		// Their goroutines close them. Closing them here could take seconds
		// each: crypto/tls waits for its last message to be sent.
		x.abort()
	}
	l.mu.Unlock()
	if l.server != nil {
		l.server.Close()
	}
}

func (l *PreflightListener) closeInner() error {
	if l.Listener == nil {
		return nil
	}
	err := l.Listener.Close()
	if l.draining.Load() && errors.Is(err, net.ErrClosed) {
		err = nil // Shutdown and the server that it ends both close it
	}
	return err
}

// Shutdown ends the listener in good order. It closes the wrapped listener, and
// from then on refuses upgrade requests that still arrive, on connections that
// are open or by ServeHTTP, with 503 and Retry-After. New plain connections are
// closed. Tunnels that were answered before are still returned by Accept, which
// then returns [net.ErrClosed]. Handler goes on until the rest is done; each of
// its answers ends its connection.
//
// Shutdown waits until every handshake has ended, every connection that Accept
// has returned has been closed by [Conn.Close], and Handler has served its
// requests (what it has hijacked is its own). It closes none of them: the
// application tells its peers to go, as grpc.Server.GracefulStop and
// http.Server.Shutdown do. Both call Close. Close leaves the rest to a Shutdown
// that has begun, but cuts off every handshake if none has. So begin Shutdown,
// wait until the server's Serve has returned, and then stop the server; the
// examples show that. A connection that is closed through [Conn.NetConn] is not
// seen. A silent client delays Shutdown by up to HandshakeTimeout: give ctx a
// longer deadline.
//
// It returns nil when all of that is done, or the cause of the end of ctx; what is left then
// goes on as before, and Close ends what belongs to the listener.
func (l *PreflightListener) Shutdown(ctx context.Context) error {
	l.prepare()
	l.mu.Lock()
	l.draining.Store(true)
	l.shutdowns++
	l.signalEnd()
	l.mu.Unlock()
	l.signalRoom()
	defer l.endShutdown()
	err := l.closeInner()
	if !isClosed(l.idle) { // which counts, also where ctx has ended
		select {
		case <-l.idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if l.server != nil && l.server.Shutdown(ctx) != nil {
		return context.Cause(ctx)
	}
	l.cancel()
	return err
}

// endShutdown does what Close has left to Shutdown.
func (l *PreflightListener) endShutdown() {
	l.mu.Lock()
	l.shutdowns--
	last := l.shutdowns == 0
	l.mu.Unlock()
	if last && isClosed(l.gone) {
		l.abort()
	}
}
