package preflight

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A PreflightListener accepts TCP clients that come through an HTTP reverse proxy and
// clients that connect directly, on one port. It wraps any [net.Listener]:
//
//	grpc.NewServer().Serve(&preflight.PreflightListener{Listener: ln})
//
// Each accepted connection is classified by its first bytes. This happens in a
// goroutine of its own, which ends before Accept returns the connection, so a slow
// client delays nobody else. The kinds are tried in this order:
//
//   - A header of the PROXY protocol, from one of TrustedProxies, gives the client's
//     address. The bytes after it are classified again.
//   - TLS is accepted if TLSConfig is set, and its content is classified again. If
//     client and server agree by ALPN on a protocol other than http/1.1, the
//     connection counts as plain.
//   - An upgrade request for one of Protocols is answered 101, and Accept returns the
//     tunnel.
//   - Any other HTTP/1.x request is passed to Handler. Without a Handler it is refused
//     with an HTTP answer: 426 if it is valid, otherwise the status that RFC 9110 and
//     RFC 9112 require. A request of another version is refused with 505. A line that
//     is not a valid request line, but that a lenient parser would accept as one, is
//     refused with 400. No request reaches the application, so nobody can send it the
//     body of a POST. Up to two empty lines
//     before a request are skipped (RFC 9112 §2.2).
//   - Anything else is a plain connection. This is decided at the first byte that
//     cannot belong to a request line. The connection is passed on unchanged. If
//     Authorize or RequireUpgrade is set, it is closed without an answer instead.
//
// These clients are plain too: one that ends its direction before the decision, one
// that stalls in its first line until HandshakeTimeout, and one that sends nothing
// until then or until PlainAfter. A first line that is still undecided at
// MaxHeaderBytes is refused (414) if it looks like HTTP, and is plain otherwise.
//
// A proxy may open a connection long before it has a request to send. The listener can
// then take the connection for a plain one, because it was silent or stalled for too
// long. If the first line of such a connection turns out to be a request line, Read
// closes the connection and returns an error instead of the end of the line.
//
// If the connections of Listener have a HandshakeContext method, as those of
// [crypto/tls.NewListener] do, it is called first. ServeHTTP mounts the listener on an
// existing HTTP server.
//
// Fields must not be changed after the first call of a method. A field that is out of
// range is an error of Accept. All methods are safe for concurrent use.
type PreflightListener struct {
	// Listener is the wrapped listener. nil means that all connections come
	// through ServeHTTP.
	net.Listener

	// Protocols are the upgrade tokens that are served, in order of preference.
	// They are compared case-insensitively (RFC 9110 §7.8). The 101 repeats the
	// chosen one. nil means tcp and tcps: AMPS clients ask for tcps if they speak
	// TLS to the proxy, and mean the same. No token says anything about TLS inside
	// the tunnel, see TLSConfig. "websocket" is an error. A slice that is empty but
	// not nil means no tokens: every request goes to Handler, which must be set and
	// may mount other listeners by path.
	Protocols []string

	// Carriers are the carriers that are served. nil means all. An unknown, a
	// repeated and an empty list are errors. A request for a tunnel by another
	// carrier is answered 426. A WebSocket whose client does not ask for the
	// subprotocol preflight.v1 is no tunnel, and goes to Handler.
	Carriers []Carrier

	// AllowedOrigins are the origins of the web pages that may open tunnels: a
	// browser lets any page in it open a WebSocket to any server. A request for a
	// tunnel that has an Origin field is answered 403, before Authorize, unless the
	// origin is listed. nil means none. An entry is an origin as browsers write it,
	// such as "https://app.example" or "https://app.example:8443" (RFC 6454 §6.2).
	// "https://*.app.example" allows every name below app.example, but not that name
	// itself. "*" allows every origin. "null", which browsers send for files and
	// sandboxed frames, must be listed like any other. Anything else is an error.
	// Requests without Origin, which browsers cannot send, are not affected, and
	// neither are those for Handler.
	AllowedOrigins []string

	// KeepAlivePeriod is the longest silence of this side of a framed or WebSocket
	// tunnel. Then it sends a PING, so that proxies do not end a tunnel that looks
	// idle. 0 means 20 seconds. A negative value disables PINGs. Less than a
	// millisecond and more than 365 days are errors.
	KeepAlivePeriod time.Duration

	// MaxIdleTimeout ends a framed or WebSocket tunnel while Read waits, if nothing
	// at all, not even a PING, has come for so long. Read then returns an error that
	// wraps ETIMEDOUT. 0 means no limit. Twice the peer's KeepAlivePeriod is a good
	// value. A negative value, less than a millisecond, less than twice KeepAlivePeriod,
	// or more than 365 days is an error.
	MaxIdleTimeout time.Duration

	// Authorize decides about an upgrade request before the 101 is sent. nil
	// accepts every request. The fields that it returns are added to the 101. They
	// must not be hop-by-hop or framing fields. A [*StatusError] chooses the
	// refusal. No field of either may begin with Preflight- or Sec-WebSocket-. Any
	// other error is answered 403, and its text is not sent. A panic is answered
	// 500; Telemetry records it, or it is printed. An answer that cannot be sent
	// is a 500 too.
	//
	// RemoteAddr of the request is the client's address, as in Conn.RemoteAddr. The
	// Context ends with the handshake, and when the client resets or ends its
	// connection; [context.Cause] says why. A half-close counts as an end, so a
	// client must keep its direction open until it has the 101. An end is noticed
	// only after a tenth of a second, and only on a transport with deadlines. To
	// pass a value to the application, replace the Context:
	//
	// 	*r = *r.WithContext(context.WithValue(r.Context(), key, user))
	//
	// [Conn.Request] returns this same request. By then its Context no longer ends.
	// Nobody else may use the request after Authorize has returned.
	//
	// Authorize guards only tunnels, not Handler. It cannot decide about a plain
	// connection. Therefore plain connections are refused if Authorize is set,
	// unless AllowPlain is set too. A client may send the same request any number
	// of times, and a proxy may replay it. A credential in it cannot be valid for
	// only one use. Authorize is called concurrently.
	Authorize func(*http.Request) (http.Header, error)

	// RequireUpgrade refuses plain connections. Set it if only tunnels are allowed
	// on the port. Setting AllowPlain or PlainAfter too is an error.
	RequireUpgrade bool

	// AllowPlain accepts plain connections although Authorize is set. Without
	// Authorize it has no effect.
	AllowPlain bool

	// PlainAfter is the time after which a client that has sent nothing is passed
	// on as a plain connection. It is for protocols in which the server speaks
	// first (200 ms to 1 s; MySQL, SMTP, NATS). The time starts with the innermost
	// layer: after a PROXY header or a TLS handshake. 0 means HandshakeTimeout. A
	// negative value, less than a millisecond, or more than 365 days is an error.
	//
	// PlainAfter has no effect if plain connections are refused. It needs a
	// transport with deadlines. Some proxies, such as Go's ReverseProxy, connect
	// before they have a request to send. With PlainAfter such a connection counts
	// as plain. Behind them, set RequireUpgrade instead.
	PlainAfter time.Duration

	// Handler serves the ordinary HTTP requests on the port: health checks,
	// administration, WebSocket. nil means that they are answered 426. It is called
	// like a handler of [http.Server]. HandshakeTimeout bounds the head of a request,
	// and IdleTimeout the wait between requests. The body of a request has no limit
	// in time or size: Handler sets it, by [http.ResponseController] and
	// [http.MaxBytesReader]. RemoteAddr is the address of the peer, or that in its
	// PROXY header. A connection may send ordinary requests first and an upgrade
	// request later. A request with Upgrade that is not answered 101 ends its
	// connection. MaxPending does not count connections that serve a request or wait
	// for the next one.
	//
	// Package net/http parses the requests that Handler serves, and decides which
	// of them are malformed. A first request with Upgrade is parsed by the stricter
	// parser of this package. A later upgrade request on the same connection is
	// parsed by net/http, see ServeHTTP. Empty lines before the first request are
	// skipped. Before a later request they belong to net/http, which skips them
	// after a POST and answers 400 otherwise.
	//
	// A request that asks for a tunnel is never passed to Handler, unless Protocols
	// is empty but not nil. A proxy may have removed Upgrade from the request. The
	// listener still recognizes it by the fields Preflight-Carriers and
	// Preflight-Framing, and by the subprotocol preflight.v1, and refuses it.
	Handler http.Handler

	// IdleTimeout is how long a connection may wait for its next ordinary request,
	// for Handler. 0 means 11 minutes, which is more than the 10 minutes of
	// Google's load balancers. A negative value means no limit. Less than a
	// millisecond and more than 365 days are errors. It should be longer than the time for which the proxy keeps an idle
	// connection. Otherwise the listener may close a connection just when the proxy
	// sends a request on it, and the client sees a 502.
	IdleTimeout time.Duration

	// TLSConfig accepts TLS on the same port, from clients that speak it first. It
	// also accepts TLS inside tunnels whose request asks for it with the field
	// "Preflight-Tunnel: tls", as PreflightDialer.TunnelTLSConfig does. The 101
	// repeats that field, and Accept returns the connection after the TLS
	// handshake. nil means no TLS; a request for TLS inside the tunnel is then
	// answered 426. If such a tunnel ends without TLS's close_notify, Read returns
	// [io.ErrUnexpectedEOF].
	//
	// To require TLS from the peer, or client certificates, put
	// [crypto/tls.NewListener] underneath. To require TLS inside every tunnel,
	// leave TLSConfig nil, set RequireUpgrade, and put crypto/tls.NewListener
	// above. Clients then dial without TunnelTLSConfig and call
	// [crypto/tls.Client] on the connection.
	//
	// If NextProtos is not empty, it must contain http/1.1 for upgrade requests
	// over TLS. With a Handler, http/1.1 must stand before h2, because browsers
	// offer both. The Config is not modified.
	TLSConfig *tls.Config

	// TrustedProxies are the peers whose information about the client's address is
	// used: a PROXY header (version 1 or 2) at the beginning of a connection, and
	// ClientAddrHeader in an upgrade request. From any other peer, neither is
	// interpreted. A request after such a PROXY header is answered 400. Without a
	// request, the header is the beginning of a plain connection. nil means that no
	// peer is trusted.
	//
	// The search for the client's address starts at the peer. It continues with the
	// source in the PROXY header, and then with the entries of the field, from
	// right to left, as long as the address found so far is trusted itself. The
	// result is Conn.RemoteAddr, and RemoteAddr of a request. IPv4-mapped IPv6
	// addresses count as IPv4, and zones are ignored.
	//
	// The peer of a Unix socket is trusted if there is any prefix, because the
	// permissions of the socket's file decide who may connect. An abstract socket
	// of Linux has no file, so anybody on the machine may connect to it, and its
	// peers are not trusted.
	//
	// A malformed PROXY header from a trusted peer ends the connection. A malformed
	// field is answered 400. To read the TLVs of PROXY headers, wrap Listener with that of
	// github.com/pires/go-proxyproto instead. If its header names no client, the
	// connection has the proxy's address.
	TrustedProxies []netip.Prefix

	// ClientAddrHeader is the header field that the TrustedProxies maintain. ""
	// means X-Forwarded-For. Other values are Forwarded (RFC 7239), and fields with
	// a single address, such as X-Real-IP or CF-Connecting-IP. The proxies must
	// append to the field or replace it. nginx and HAProxy forward the client's own
	// Forwarded unchanged, and a client can forge a field that is forwarded.
	ClientAddrHeader string

	// HandshakeTimeout bounds each handshake as a whole: the PROXY header, TLS,
	// reading, Authorize, writing the 101, and TLS inside the tunnel. 0 means 10
	// seconds. A negative value, less than a millisecond, or more than 365 days is an
	// error. The timeout does not run while a finished connection waits for Accept.
	HandshakeTimeout time.Duration

	// MaxHeaderBytes bounds the head of a request, and a PROXY header. 0 means 16
	// KiB. A negative value, or more than 1 GiB, is an error. A client that stalls
	// uses 4 KiB or twice what it has sent, not the limit. Ordinary requests, which
	// net/http reads for Handler, may be up to 8 KiB larger.
	MaxHeaderBytes int

	// MaxPending bounds the handshakes in progress. A handshake counts from the
	// moment when the connection is accepted from Listener, or a request arrives by
	// ServeHTTP, until Accept returns the connection or Handler takes it. 0 means
	// 4096. A negative value, or more than 1<<30, is an error.
	//
	// At the limit, a new client replaces the client that has kept the listener
	// waiting for bytes the longest, if that is at least a second. If the replaced
	// client has sent nothing and plain connections are allowed, it is passed on as
	// plain. Otherwise it is closed. If no client can be replaced, new clients wait
	// in the kernel's backlog, and requests wait in ServeHTTP until their
	// HandshakeTimeout (503).
	//
	// A client that leaves while Authorize runs no longer counts. Its call of Authorize
	// can continue to run. At most MaxPending such calls run at the same time, in
	// addition to those that count.
	//
	// MaxPending also bounds the framed and WebSocket tunnels whose connection
	// outlives [Conn.Close], because the peer has not received everything. At the limit
	// the oldest of them is closed.
	MaxPending int

	// Logger gets one record for each handshake that is refused or fails. nil means no
	// records. Its attributes are the reason, the status of a refusal or the stage of a
	// failure, the peer, and the client if a proxy reports another. The reasons are the
	// values of preflight.reason in telemetry. No record has a value of a field, a path
	// or the text of an error.
	//
	// The level depends on who can correct the cause. Error: a panic, an answer of Authorize that
	// cannot be sent, a middleware that hides http.Hijacker, an invalid configuration.
	// Warn: MaxPending is reached, a trusted proxy sends an address that cannot be read,
	// or Authorize answers 500 or above. Debug: everything that a client can cause by what
	// it sends, including all other refusals, and clients that send nothing.
	Logger *slog.Logger

	// Telemetry reports the handshakes and the connections after them. nil disables
	// telemetry.
	Telemetry *Telemetry

	init   sync.Once
	policy policy
	err    error // of the configuration

	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	start     sync.Once
	delivered chan delivery
	room      chan struct{} // signalled when a handshake may begin, see admit
	draining  atomic.Bool   // since Shutdown
	gone      chan struct{} // closed by Close
	drained   chan struct{} // closed when nothing more will be delivered, by Close too
	idle      chan struct{} // closed when, also, no delivered connection is open
	server    *http.Server  // of Handler; nil without one
	feed      *feed
	serving   sync.Once
	onClose   func() // closed, for each Conn

	mu        sync.Mutex
	pending   pending
	sweeper   *time.Timer // calls sweep
	shutdowns int         // calls of Shutdown under way
}

// A delivery is the result of one call of Accept.
type delivery struct {
	conn *Conn
	err  error
}

// Accept returns the next connection whose handshake is complete. It is always a
// [*Conn]. Each error of the wrapped listener is returned once, unchanged, and the next
// call of Accept continues. After Close, and after Shutdown when nothing is left to
// return, the error is [net.ErrClosed].
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
	case <-l.drained:
	}
	return nil, net.ErrClosed
}

// Addr returns the address of the wrapped listener. Without one it is a fixed address
// whose Network and String are "preflight".
func (l *PreflightListener) Addr() net.Addr {
	if l.Listener == nil {
		return noAddr{}
	}
	return l.Listener.Addr()
}

// noAddr is the address of a listener whose connections all come through ServeHTTP.
type noAddr struct{}

func (noAddr) Network() string { return "preflight" }
func (noAddr) String() string  { return "preflight" }

// Close closes the wrapped listener, the handshakes in progress, the connections that
// Accept has not returned, and the connections that Handler serves. It waits for none
// of them, nor for the peers of framed tunnels that have been closed. Connections that
// Accept has returned stay open, and so do those that Handler has hijacked. Close must
// be called in the end, as servers do when Serve returns. Closing only the wrapped
// listener leaves everything else open.
//
// While Shutdown waits, Close leaves the handshakes and Handler to Shutdown. Servers
// call Close both when they are told to stop and when Accept returns an error.
func (l *PreflightListener) Close() error {
	l.prepare()
	l.mu.Lock()
	closeOnce(l.gone)
	closeOnce(l.drained)
	waiting := l.shutdowns > 0
	l.mu.Unlock()
	if !waiting {
		l.abort()
	}
	return l.closeInner()
}

// abort ends everything that has not been delivered.
func (l *PreflightListener) abort() {
	l.cancel()
	l.mu.Lock()
	for x := l.pending.oldest.place.next; x != &l.pending.oldest; x = x.place.next {
		// The goroutines of the handshakes close their connections. Closing them
		// here could take seconds each, because crypto/tls waits until its last
		// message is sent.
		x.abort()
	}
	if l.sweeper != nil {
		l.sweeper.Stop() // or it would keep the listener in memory
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
		err = nil // Shutdown and the server both close it
	}
	return err
}

// Shutdown stops the listener gracefully. It closes the wrapped listener. Upgrade
// requests that still arrive, on open connections or by ServeHTTP, are refused with
// 503 and Retry-After. New plain connections are closed. Accept still returns the
// tunnels that were answered before, and then [net.ErrClosed]. Handler continues until
// everything else is done. Each of its answers ends its connection.
//
// Shutdown waits until every handshake has ended, until every connection that Accept
// has returned has been closed by [Conn.Close], and until Handler has served its
// requests. For framed and WebSocket tunnels it also waits until the peers have read
// everything, for at most 60 seconds after Conn.Close. It does not wait for connections
// that Handler has hijacked. It does not notice that a connection was closed through
// [Conn.NetConn]. It closes none of them: the application tells its peers to leave, as
// grpc.Server.GracefulStop and http.Server.Shutdown do.
//
// Both of these call Close. Close leaves the rest to a Shutdown that has begun, but
// aborts every handshake if none has. Therefore begin Shutdown, wait until the
// server's Serve has returned, and then stop the server. The examples show this. A
// silent client delays Shutdown by up to HandshakeTimeout, so give ctx a longer
// deadline.
//
// Shutdown returns nil when everything is done. If ctx ends first, it returns the cause
// ([context.Cause]). Everything that is left then continues, and Close ends what
// belongs to the listener.
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
	if !isClosed(l.idle) { // done is done, even if ctx has ended too
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
