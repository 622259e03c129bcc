package preflight

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight/internal/wire"
	"golang.org/x/net/http/httpguts"
)

// defaultIdleTimeout is longer than the 600 s for which Google's load balancers keep a
// connection. Otherwise the server could close a connection while a request is on its way.
const defaultIdleTimeout = 11 * time.Minute

// ServeHTTP accepts upgrade requests from a server of package net/http, on which the
// listener is mounted like any handler:
//
//	mux.Handle("/client/", ln)
//
// Accept returns the tunnels as if they had come through Listener, which may be nil. A
// request that is not for a tunnel goes to Handler. Without a Handler it is answered 426.
// HTTP/2 has no upgrade: a request that came by it is answered 505, unless it is for
// Handler. After Close every request is answered 503. ServeHTTP returns when Accept has taken
// the tunnel, or when the request was answered.
//
// net/http parses these requests. It is laxer than this package about the syntax of a head.
// Its result must then meet the same rules. If a middleware hides http.Hijacker, so that the
// ResponseWriter cannot be hijacked, the request is answered 500.
func (l *PreflightListener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.prepare()
	switch {
	case l.err != nil:
		e := refusal(http.StatusInternalServerError, wire.CodeInternal, "the server is misconfigured")
		e.finer = reasonConfig
		l.respond(w, r, e)
	case l.ctx.Err() != nil:
		l.respond(w, r, unavailable(whyDraining))
	case l.Handler != nil && !l.isForTunnel(r):
		l.serveOrdinary(w, r)
	case r.ProtoMajor != 1:
		l.respond(w, r, refusal(http.StatusHTTPVersionNotSupported, wire.CodeHTTP2,
			"HTTP/2 has no upgrade (RFC 9113 §8.6): the client, or the proxy on the way, is to speak HTTP/1.1 to this server"))
	case l.isForTunnel(r):
		l.upgrade(w, r)
	default:
		var request wire.Request
		head := headOf(r)
		broken := request.Parse(head)
		if broken == nil {
			broken = request.Ordinary()
		}
		l.respond(w, r, refusalOf(broken).refine(head))
	}
}

// isForTunnel reports whether r asks for a tunnel, in the sense of [wire.Request.Terms].
// Then this package upgrades or refuses it.
func (l *PreflightListener) isForTunnel(r *http.Request) bool {
	protocols := l.policy.offer.Protocols
	if len(protocols) == 0 {
		return false
	}
	return len(r.Header[wire.CarriersField]) > 0 || len(r.Header[wire.FramingField]) > 0 ||
		listsExactly(r.Header["Sec-Websocket-Protocol"], wire.Subprotocol) ||
		slices.ContainsFunc(protocols, func(p string) bool {
			return httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], p)
		})
}

// listsExactly reports whether a list of values has a member, with regard to case.
func listsExactly(values []string, member string) bool {
	for _, value := range values {
		for m := range strings.SplitSeq(value, ",") {
			if textproto.TrimString(m) == member {
				return true
			}
		}
	}
	return false
}

// respond sends a refusal through net/http.
func (l *PreflightListener) respond(w http.ResponseWriter, r *http.Request, e *StatusError) {
	if obs := l.policy.role.begin(); obs != nil {
		obs.arrive(r.Context(), []byte(r.Method), headOf(r))
		defer obs.fail(r.Context(), e)
	}
	if l.Logger != nil {
		peer := requestAddr(r.RemoteAddr)
		defer l.policy.log(r.Context(), e, peer, peer)
	}
	body := e.complete(&l.policy)
	header := w.Header()
	for name, values := range e.Header {
		header[name] = values
	}
	if r.ProtoMajor == 1 {
		setConnectionClose(header)
	} else {
		header.Del("Upgrade") // RFC 9113 §8.2.2
	}
	w.WriteHeader(e.StatusCode)
	w.Write(body)
}

// A requestAddr is the RemoteAddr of a request.
type requestAddr string

func (requestAddr) Network() string  { return "tcp" }
func (a requestAddr) String() string { return string(a) }

// setConnectionClose makes an answer the last one of its connection. net/http expects close
// to stand first.
func setConnectionClose(h http.Header) {
	h.Set("Connection", "close")
	if len(h["Upgrade"]) > 0 {
		h.Add("Connection", "Upgrade") // RFC 9110 §7.8
	}
}

// upgrade takes the connection of a request from net/http. It continues as if the connection
// had just been accepted and had sent this head.
func (l *PreflightListener) upgrade(w http.ResponseWriter, r *http.Request) {
	deadline := time.Now().Add(l.handshakeTimeout())
	if d, ok := r.Context().Deadline(); ok {
		deadline = earlier(deadline, d)
	}
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		e := refusal(http.StatusInternalServerError, wire.CodeInternal,
			fmt.Sprintf("the connection cannot be taken over from net/http; does a middleware hide http.Hijacker? (%v)", err))
		e.finer = reasonHijack
		l.respond(w, r, e)
		return
	}
	// net/http ends the context of a client that has ended its direction, which
	// may well go on in the other.
	ctx, cancel := context.WithDeadline(context.WithoutCancel(r.Context()), deadline)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()

	head := headOf(r)
	buf := head
	if buffered != nil && buffered.Reader != nil { // else a middleware's that does little
		leftover, _ := buffered.Peek(buffered.Reader.Buffered())
		buf = append(buf, leftover...)
	}
	var remote *net.TCPAddr
	var unknown bool
	if ours, ok := c.(*httpConn); ok {
		buf = append(buf, ours.drop()...)
		c, remote, unknown = ours.conn, ours.remote, ours.unknown
	}
	x := newExchange(c)
	x.buf, x.remote, x.unknown, x.obs = buf, remote, unknown, l.policy.role.begin()
	if l.admit(ctx, x) {
		l.handshakeOf(requestOf(r, ctx), x, len(head))
		return
	}
	defer abandon(c)
	x.obs.arrive(ctx, []byte(r.Method), head)
	why := whyFull
	if l.ctx.Err() != nil || l.draining.Load() {
		why = whyDraining
	}
	if x.begin(context.Background(), time.Now().Add(drainTime)) == nil {
		x.refuse(unavailable(why), &l.policy)
	}
	x.free()
}

// headOf returns the head of r as it would have arrived without net/http.
func headOf(r *http.Request) []byte {
	header := r.Header.Clone()
	if r.Host != "" { // it may be missing in HTTP/1.0
		header["Host"] = []string{r.Host}
	}
	if len(r.TransferEncoding) > 0 {
		header["Transfer-Encoding"] = r.TransferEncoding
	}
	for name := range r.Trailer {
		header.Add("Trailer", name)
	}
	return wire.AppendHead(nil, fmt.Sprintf("%s %s HTTP/1.%d", r.Method, r.RequestURI, r.ProtoMinor), header)
}

// requestOf returns r for Conn.Request, without a body and with a context of its own.
func requestOf(r *http.Request, ctx context.Context) *http.Request {
	r = r.WithContext(ctx)
	r.Body = http.NoBody
	return r
}

// An httpConn is a connection that the server of Handler serves.
type httpConn struct {
	*Conn
	unknown bool            // a proxy does not tell who the client is
	rule    *wire.Error     // that the first request breaks, if it may be for a tunnel; then nil
	open    context.Context // of the listener
	state   atomic.Int32    // an http.ConnState
}

// Close sends no last message of TLS if no peer would miss it. net/http closes idle
// connections, or all of them, one after the other while it holds its lock.
func (c *httpConn) Close() error {
	state := http.ConnState(c.state.Load())
	if state == http.StateIdle || c.open.Err() != nil && state != http.StateHijacked {
		return abandon(c.Conn)
	}
	return c.Conn.Close()
}

type httpConnKey struct{}

// newServer makes the server of Handler.
func (l *PreflightListener) newServer() *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(l.serveOwn),
		ReadHeaderTimeout: l.handshakeTimeout(),
		IdleTimeout:       l.idleTimeout(),
		MaxHeaderBytes:    l.policy.maxHeader,
		// Else net/http would answer OPTIONS * itself, and keep the
		// connection although the request has Upgrade.
		DisableGeneralOptionsHandler: true,
		ConnState: func(c net.Conn, state http.ConnState) {
			c.(*httpConn).state.Store(int32(state))
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, httpConnKey{}, c)
		},
	}
}

// serveOwn is ServeHTTP for connections that this listener accepted.
func (l *PreflightListener) serveOwn(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(httpConnKey{}).(*httpConn)
	r.TLS = tlsState(c.conn)
	rule := c.rule
	if c.rule = nil; rule != nil && (carriesUpgrade(r) || l.isForTunnel(r)) {
		l.respond(w, r, refusalOf(rule))
		return
	}
	l.ServeHTTP(w, r)
}

// carriesUpgrade reports whether the connection of r must end unless r is answered 101, see
// lastAnswer.
func carriesUpgrade(r *http.Request) bool { return r.ProtoMajor == 1 && len(r.Header["Upgrade"]) > 0 }

// serveOrdinary passes a request to Handler.
func (l *PreflightListener) serveOrdinary(w http.ResponseWriter, r *http.Request) {
	switch {
	case carriesUpgrade(r):
		last := &lastAnswer{ResponseWriter: w}
		l.Handler.ServeHTTP(last, r)
		last.finish()
		return
	case r.ProtoMajor == 1 && l.policy.isDraining():
		setConnectionClose(w.Header())
	}
	l.Handler.ServeHTTP(w, r)
}

// lastAnswer ends the connection after the answer to a request with Upgrade. Varnish and
// other proxies then already forward everything that follows without inspection. If the
// connection stayed open, the client's next request would bypass the rules of its proxy.
// Therefore lastAnswer has all methods that http.ResponseController looks for, and no
// Unwrap: through Unwrap a handler could ask net/http to keep the connection.
type lastAnswer struct {
	http.ResponseWriter
	status   int // of the final answer; 0: none yet
	hijacked bool
}

func (w *lastAnswer) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
		if status >= 200 {
			setConnectionClose(w.Header())
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// answered begins the answer as net/http would.
func (w *lastAnswer) answered() http.ResponseWriter {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter
}

func (w *lastAnswer) Write(b []byte) (int, error) { return w.answered().Write(b) }

func (w *lastAnswer) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.answered(), r) }

func (w *lastAnswer) Flush() { w.FlushError() }

func (w *lastAnswer) FlushError() error { return http.NewResponseController(w.answered()).Flush() }

func (w *lastAnswer) SetReadDeadline(t time.Time) error {
	return http.NewResponseController(w.ResponseWriter).SetReadDeadline(t)
}

func (w *lastAnswer) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(t)
}

func (w *lastAnswer) EnableFullDuplex() error {
	return http.NewResponseController(w.ResponseWriter).EnableFullDuplex()
}

func (w *lastAnswer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = err == nil
	return c, rw, err
}

// finish is called after the handler has returned.
func (w *lastAnswer) finish() {
	switch {
	case w.hijacked:
	case w.status == http.StatusSwitchingProtocols:
		panic(http.ErrAbortHandler) // the handler did not take the connection over
	default:
		w.answered()
	}
}

// feed is the listener of the server of Handler.
type feed struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

func (f *feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

func (f *feed) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

func (f *feed) Addr() net.Addr { return f.addr }

// handOver passes a connection with an ordinary request to the server of Handler. rule is as
// in handover.
func (l *PreflightListener) handOver(c *Conn, unknown bool, rule *wire.Error) {
	l.serving.Do(func() { go l.server.Serve(l.feed) })
	select {
	case l.feed.conns <- &httpConn{Conn: c, unknown: unknown, rule: rule, open: l.ctx}:
	case <-l.feed.done:
		c.Close()
	}
}
