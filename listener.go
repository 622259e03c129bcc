package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/preflight-go/preflight/internal/wire"
)

const (
	defaultMaxPending = 4096
	// grace is how long a client may keep us waiting for bytes before it can
	// be closed in favour of a new one.
	grace = time.Second
)

// A PreflightListener accepts TCP clients that come through an HTTP reverse
// proxy beside those that come directly, on one port. It wraps any
// [net.Listener]:
//
//	grpc.NewServer().Serve(&preflight.PreflightListener{Listener: ln})
//
// Each accepted connection is sorted by its first bytes, in a goroutine of its
// own that ends before Accept returns the connection, so that a slow client
// delays nobody:
//
//   - An upgrade request for one of Protocols is answered 101, and Accept
//     returns the tunnel behind it.
//   - Any other HTTP/1.x request is refused with an HTTP answer: 426 where it
//     is in order, and what RFC 9110 and 9112 say where it is not. It never
//     reaches the application, so that nobody can send it the body of a POST.
//   - Anything else is a plain connection, decided at the first byte that
//     cannot belong to an HTTP/1.x request line. It is handed on untouched, unless
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
// [crypto/tls.NewListener] do, it is called first.
//
// Fields must not be changed after the first call of a method. A field that is
// out of range is an error of Accept. All methods are safe for concurrent use.
type PreflightListener struct {
	// Listener is the wrapped listener. It must be set.
	net.Listener

	// Protocols are the upgrade tokens served, in order of preference,
	// compared without regard to case (RFC 9110 §7.8). nil means tcp.
	Protocols []string

	// Authorize vets an upgrade request, if it is set, before the 101 is
	// sent. The fields that it returns join the 101; they may not be
	// hop-by-hop or framing fields. A [*StatusError] chooses the refusal; any
	// other error is a 403 whose text stays here. A panic, and an answer that
	// cannot be sent, is a 500.
	//
	// The Context of the request ends with the handshake. To hand something on
	// to the application, replace the request's Context:
	//
	//	*r = *r.WithContext(context.WithValue(r.Context(), key, user))
	//
	// [Conn.Request] returns this very request; by then its Context no longer
	// ends. It must not be used by others once Authorize has returned.
	//
	// A plain connection cannot be vetted, so with Authorize it is refused
	// unless AllowPlain is set. The request may have been sent by a client, or
	// replayed by a proxy, any number of times: a credential in it cannot be
	// one that is good for one use. Authorize is called concurrently.
	Authorize func(*http.Request) (http.Header, error)

	// RequireUpgrade refuses plain connections. It wins over AllowPlain. Set
	// it wherever plain clients have no business on the port.
	RequireUpgrade bool

	// AllowPlain hands plain connections on although Authorize is set.
	AllowPlain bool

	// PlainAfter hands a client that has sent nothing for this long on as a
	// plain connection, for protocols in which the server speaks first
	// (200 ms to 1 s; MySQL, SMTP, NATS). 0 means after HandshakeTimeout;
	// negative is an error. It needs a transport with deadlines. Behind a
	// proxy that connects before it has a request to send, such as Go's
	// ReverseProxy, set RequireUpgrade instead.
	PlainAfter time.Duration

	// HandshakeTimeout bounds each handshake as a whole: reading, Authorize
	// and writing the 101. 0 means 10 seconds; negative is an error. It does
	// not run while a finished connection waits for Accept.
	HandshakeTimeout time.Duration

	// MaxHeaderBytes bounds the head of a request. 0 means 16 KiB; negative
	// is an error.
	MaxHeaderBytes int

	// MaxPending bounds the handshakes under way, from the moment a
	// connection is accepted from Listener to the moment Accept returns it. 0
	// means 4096; negative is an error. When it is reached, a new client takes
	// the place of the one that has kept us waiting for bytes the longest, and
	// for a second at least: that one is handed on as plain if it has sent
	// nothing and plain connections are allowed, else closed. If there is none,
	// new clients wait in the kernel's backlog.
	MaxPending int

	init   sync.Once
	policy policy
	err    error // of the configuration

	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	start     sync.Once
	delivered chan delivery
	room      chan struct{} // a handshake came to its end

	mu       sync.Mutex
	pending  int   // handshakes under way, the finished ones that wait for Accept included
	oldest   place // those under way, a ring in order of age; its next is the oldest
	evicting bool  // one has been evicted and has not left yet; it makes room for one
}

// A place is the place of an exchange in the ring of those under way.
type place struct {
	x          *exchange
	since      time.Time
	prev, next *place
}

// A delivery is what one call of Accept returns.
type delivery struct {
	conn *Conn
	err  error
}

// prepare resolves the configuration once; the caller's fields stay as they are.
func (l *PreflightListener) prepare() {
	l.init.Do(func() {
		l.ctx, l.cancel = context.WithCancel(context.Background())
		l.delivered = make(chan delivery)
		l.room = make(chan struct{}, 1)
		l.oldest.prev, l.oldest.next = &l.oldest, &l.oldest
		l.policy = policy{
			protocols:   slices.Clone(l.Protocols),
			authorize:   l.Authorize,
			refusePlain: l.RequireUpgrade || l.Authorize != nil && !l.AllowPlain,
			plainAfter:  l.PlainAfter,
			maxHeader:   l.MaxHeaderBytes,
		}
		if l.Protocols == nil {
			l.policy.protocols = zeroPolicy.protocols
		}
		l.policy.answers = answers(l.policy.protocols...)
		if l.MaxHeaderBytes == 0 {
			l.policy.maxHeader = defaultMaxHeader
		}
		l.err = l.check()
	})
}

func (l *PreflightListener) check() error {
	switch {
	case l.Listener == nil:
		return errors.New("preflight: PreflightListener.Listener is not set")
	case l.HandshakeTimeout < 0:
		return errors.New("preflight: PreflightListener.HandshakeTimeout is negative; a listener has no handshakes without an end")
	case l.PlainAfter < 0:
		return errors.New("preflight: PreflightListener.PlainAfter is negative")
	case l.MaxHeaderBytes < 0:
		return errors.New("preflight: PreflightListener.MaxHeaderBytes is negative")
	case l.MaxPending < 0:
		return errors.New("preflight: PreflightListener.MaxPending is negative")
	case len(l.policy.protocols) == 0:
		return errors.New("preflight: PreflightListener.Protocols is empty; nil means tcp")
	}
	for _, p := range l.policy.protocols {
		if !wire.ValidProtocol(p) {
			return fmt.Errorf("preflight: PreflightListener.Protocols: %q is not a token that Upgrade can hold", p)
		}
	}
	return nil
}

func (l *PreflightListener) handshakeTimeout() time.Duration {
	if l.HandshakeTimeout == 0 {
		return defaultTimeout
	}
	return l.HandshakeTimeout
}

func (l *PreflightListener) maxPending() int {
	if l.MaxPending == 0 {
		return defaultMaxPending
	}
	return l.MaxPending
}

// Accept returns the next connection whose handshake is done, a [*Conn]
// always. Errors of the wrapped listener are returned unchanged, each once;
// the next call of Accept goes on. After Close the error is [net.ErrClosed].
func (l *PreflightListener) Accept() (net.Conn, error) {
	l.prepare()
	if l.err != nil {
		return nil, l.err
	}
	if l.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	l.start.Do(func() { go l.acceptAll() })
	select {
	case d := <-l.delivered:
		if d.err == nil {
			return d.conn, nil
		}
		if l.ctx.Err() == nil {
			return nil, d.err
		}
	case <-l.ctx.Done():
	}
	return nil, net.ErrClosed
}

// Addr is the address of the wrapped listener.
func (l *PreflightListener) Addr() net.Addr { return l.Listener.Addr() }

// Close closes the wrapped listener, the handshakes under way and the
// connections that Accept has not returned, and waits for none of them.
// Connections that Accept has returned stay open. It must be called in the end,
// as servers do when Serve returns: closing the wrapped listener alone leaves the rest
// as it is.
func (l *PreflightListener) Close() error {
	l.prepare()
	l.cancel()
	l.mu.Lock()
	for p := l.oldest.next; p != &l.oldest; p = p.next {
		// Their goroutines close them. Closing them here could take seconds
		// each: crypto/tls waits for its last message to be sent.
		p.x.cutOff()
	}
	l.mu.Unlock()
	if l.Listener == nil {
		return nil
	}
	return l.Listener.Close()
}

// acceptAll accepts connections until Close. An error goes to the caller of
// Accept, and nothing more is accepted until it has been taken: the pause that
// the caller makes on EMFILE is ours too.
func (l *PreflightListener) acceptAll() {
	for l.ctx.Err() == nil {
		c, err := l.Listener.Accept()
		if err != nil {
			l.deliver(delivery{err: err})
			continue
		}
		x := newExchange(c)
		if !l.admit(x) {
			c.Close()
			return
		}
		go l.handshake(x)
	}
}

func (l *PreflightListener) deliver(d delivery) bool {
	select {
	case l.delivered <- d:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// admit gives x a place among the handshakes under way, and waits until there
// is one. It reports false if the listener was closed.
func (l *PreflightListener) admit(x *exchange) bool {
	for {
		l.mu.Lock()
		if l.ctx.Err() != nil {
			l.mu.Unlock()
			return false
		}
		if l.pending < l.maxPending() {
			l.pending++
			x.waiting = true
			x.place = place{x: x, since: time.Now(), prev: l.oldest.prev, next: &l.oldest}
			x.place.prev.next, x.place.next.prev = &x.place, &x.place
			l.mu.Unlock()
			return true
		}
		wait := l.makeRoom()
		l.mu.Unlock()
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-l.room:
		case <-timer:
		case <-l.ctx.Done():
		}
	}
}

// makeRoom evicts the oldest handshake that has kept us waiting for long
// enough. If there is none, it returns the time until there may be one, or 0
// if only the end of a handshake can make room. The caller holds mu.
func (l *PreflightListener) makeRoom() (wait time.Duration) {
	for p := l.oldest.next; p != &l.oldest && !l.evicting; p = p.next {
		age := time.Since(p.since)
		if age < grace {
			return grace - age
		}
		l.evicting = p.x.evict()
	}
	return 0
}

// handshake brings one connection to its end: delivered, refused or closed.
func (l *PreflightListener) handshake(x *exchange) {
	var evicted bool
	defer func() { // also where Authorize ends the goroutine
		l.mu.Lock()
		l.pending--
		if evicted {
			l.evicting = false
		}
		l.mu.Unlock()
		select {
		case l.room <- struct{}{}:
		default:
		}
	}()
	conn := l.serve(x, &evicted)
	// Close may have cut the handshake off in its last moment.
	if conn != nil && (l.ctx.Err() != nil || !l.deliver(delivery{conn: conn})) {
		conn.Close()
	}
}

// serve performs the handshake. It closes the connection and returns nil if it
// is not the application's. When it returns, Close no longer knows the
// connection, so that it never touches one that has been delivered.
func (l *PreflightListener) serve(x *exchange, evicted *bool) (conn *Conn) {
	defer func() {
		if conn == nil {
			x.conn.Close()
		}
		l.mu.Lock()
		x.place.prev.next, x.place.next.prev = x.place.next, x.place.prev
		*evicted = x.evicted
		l.mu.Unlock()
		x.free()
	}()
	if x.begin(context.Background(), time.Now().Add(l.handshakeTimeout())) != nil {
		return nil
	}
	x.ctx = l.ctx // Close cuts off every exchange; none needs a watch of its own
	h, err := x.serve(&l.policy, nil)
	if x.end(err) != nil {
		return nil
	}
	return h.conn(x.conn)
}
