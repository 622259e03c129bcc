package preflight_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// shdScene is a listener in memory that serves every kind of connection: on
// the one it wraps, and mounted on another HTTP server.
type shdScene struct {
	*preflight.PreflightListener
	direct, mounted *lisNet
	server          *http.Server // on which it is mounted
	clientTLS       *tls.Config
	hijacked        chan net.Conn // by Handler
	release         chan struct{} // ends what Handler does for /held
}

const (
	shdOrdinary = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
	shdHeld     = "GET /held HTTP/1.1\r\nHost: h\r\n\r\n"
	shdHijack   = "GET /hijack HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	shdProxy    = "PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n"
	// shdHello begins a ClientHello.
	shdHello = "\x16\x03\x01\x02\x00\x01\x00"
)

// shdTunnels is an upgrade request for a tunnel with TLS inside.
var shdTunnels = kndRequestTLS

// shdCerts are made before the bubble begins, which has no network.
type shdCerts struct{ server, client *tls.Config }

func shdNewCerts(t testing.TB) shdCerts {
	t.Helper()
	server, client := lisTLS(t)
	return shdCerts{server, client}
}

// shdNew makes a scene in the bubble of t. change, which may be nil, changes
// the listener before its first call.
func shdNew(t testing.TB, certs shdCerts, change func(*preflight.PreflightListener)) *shdScene {
	t.Helper()
	s := &shdScene{
		direct: lisNewNet(), mounted: lisNewNet(), clientTLS: certs.client,
		hijacked: make(chan net.Conn, 1), release: make(chan struct{}),
	}
	s.PreflightListener = &preflight.PreflightListener{
		Listener:       s.direct,
		TLSConfig:      certs.server,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")},
		AllowPlain:     true,
		Authorize:      shdAuthorize,
		Handler:        http.HandlerFunc(s.handle),
	}
	if change != nil {
		change(s.PreflightListener)
	}
	t.Cleanup(func() { s.Close() })
	s.server = &http.Server{Handler: s.PreflightListener}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.server.Serve(s.mounted)
	}()
	t.Cleanup(func() { s.server.Close(); <-served })
	return s
}

// shdAuthorize waits for the end of the handshake if the request says so.
func shdAuthorize(r *http.Request) (http.Header, error) {
	if r.Header.Get("Wait") == "" {
		return nil, nil
	}
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func (s *shdScene) handle(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/held":
		select {
		case <-r.Context().Done():
		case <-s.release:
			io.WriteString(w, "held, and let go")
		}
	case "/hijack":
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			s.hijacked <- c
		}
	default:
		io.WriteString(w, "hello")
	}
}

// A shdKind is a way to a connection that Accept returns.
type shdKind struct {
	name    string
	mounted bool
	// talk gets the connection through its handshake, and returns the
	// application's end of it.
	talk func(testing.TB, *shdScene, *lisClient) *lisClient
}

var shdKinds = []shdKind{
	{name: "plain", talk: func(t testing.TB, _ *shdScene, c *lisClient) *lisClient {
		c.send(t, "\x00")
		return c
	}},
	{name: "tunnel", talk: func(t testing.TB, _ *shdScene, c *lisClient) *lisClient { return c.upgraded(t, lisRequest()) }},
	{name: "tunnel behind a PROXY header", talk: func(t testing.TB, _ *shdScene, c *lisClient) *lisClient {
		return c.upgraded(t, shdProxy+lisRequest())
	}},
	{name: "tunnel over TLS", talk: func(t testing.TB, s *shdScene, c *lisClient) *lisClient {
		return lisSecure(t, c, s.clientTLS).upgraded(t, lisRequest())
	}},
	{name: "tunnel with TLS inside", talk: func(t testing.TB, s *shdScene, c *lisClient) *lisClient {
		return lisSecure(t, c.upgraded(t, shdTunnels), s.clientTLS)
	}},
	{name: "tunnel behind an ordinary request", talk: func(t testing.TB, _ *shdScene, c *lisClient) *lisClient {
		return c.asked(t, shdOrdinary).upgraded(t, lisRequest())
	}},
	{name: "tunnel by ServeHTTP", mounted: true, talk: func(t testing.TB, _ *shdScene, c *lisClient) *lisClient {
		return c.upgraded(t, lisRequest())
	}},
	{name: "tunnel by ServeHTTP with TLS inside", mounted: true, talk: func(t testing.TB, s *shdScene, c *lisClient) *lisClient {
		return lisSecure(t, c.upgraded(t, shdTunnels), s.clientTLS)
	}},
}

// upgraded sends an upgrade request, which must be answered 101.
func (c *lisClient) upgraded(t testing.TB, request string) *lisClient {
	t.Helper()
	a := <-c.ask(request)
	require.NoError(t, a.err)
	require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
	return c
}

// asked sends an ordinary request, which must be served.
func (c *lisClient) asked(t testing.TB, request string) *lisClient {
	t.Helper()
	a := <-c.ask(request)
	require.NoError(t, a.err)
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Equal(t, "hello", a.body)
	return c
}

// dial connects in memory: to the server on which the listener is mounted, or to
// the listener.
func (s *shdScene) dial(t testing.TB, mounted bool) *lisClient {
	t.Helper()
	if mounted {
		return s.mounted.dial(t)
	}
	return s.direct.dial(t)
}

// start calls Accept for the first time, which starts the acceptor, and leaves
// nothing behind.
func (s *shdScene) start(t testing.TB) { lisLeaveOnce(t, s.direct, s.PreflightListener) }

// A shdPair is both ends of a connection that Accept has returned.
type shdPair struct {
	client *lisClient
	conn   *preflight.Conn
}

// deliver makes a connection of this kind and accepts it.
func (s *shdScene) deliver(t testing.TB, k shdKind) shdPair {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := s.Accept()
		accepted <- c
	}()
	p := shdPair{client: k.talk(t, s, s.dial(t, k.mounted))}
	c := <-accepted
	require.NotNil(t, c)
	p.conn = c.(*preflight.Conn)
	t.Cleanup(func() { p.close() })
	if p.conn.Request() == nil {
		lisSkip(t, p.conn, "\x00")
	}
	return p
}

// talks requires that the connection carries bytes.
func (p shdPair) talks(t testing.TB) {
	t.Helper()
	lisTalk(t, p.client, p.conn)
}

// close closes both ends. A TLS layer sends a last message, which somebody must read.
func (p shdPair) close() {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(io.Discard, p.client)
	}()
	p.conn.Close()
	<-drained
	p.client.server.Conn.Close() // under a TLS layer, which the client may not close
	p.client.Close()
}

// deliverAll makes one connection of each kind.
func (s *shdScene) deliverAll(t testing.TB) []shdPair {
	t.Helper()
	var pairs []shdPair
	for _, k := range shdKinds {
		pairs = append(pairs, s.deliver(t, k))
	}
	return pairs
}

// hijack makes a connection that Handler has taken for itself.
func (s *shdScene) hijack(t testing.TB) (*lisClient, net.Conn) {
	t.Helper()
	c := s.direct.dial(t)
	c.send(t, shdHijack)
	conn := <-s.hijacked
	t.Cleanup(func() { conn.Close() })
	return c, conn
}

// shdMute is the end of a client of whose writes only the first arrive.
type shdMute struct {
	net.Conn
	left int
}

func (c *shdMute) Write(b []byte) (int, error) {
	if c.left--; c.left < 0 {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// halfTLS gets c into the middle of a TLS handshake: the server has sent its
// part, and waits for the client's last.
func (s *shdScene) halfTLS(t testing.TB, c *lisClient) {
	t.Helper()
	require.NoError(t, tls.Client(&shdMute{c.Conn, 1}, s.clientTLS).Handshake())
}

// shdRead reads in the background what the server sends.
func shdRead(c *lisClient) { go io.Copy(io.Discard, c.r) }

// shutdown calls Shutdown in the background, and returns when that waits or has
// returned.
func (s *shdScene) shutdown(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(ctx) }()
	synctest.Wait()
	return done
}

// shdClosed requires that n calls of Accept at once report the end.
func shdClosed(t testing.TB, l net.Listener, n int) {
	t.Helper()
	type result struct {
		c   net.Conn
		err error
	}
	results := make(chan result, n)
	for range n {
		go func() {
			c, err := l.Accept()
			results <- result{c, err}
		}()
	}
	for range n {
		select {
		case r := <-results:
			require.Equal(t, net.ErrClosed, r.err)
			require.Nil(t, r.c)
		case <-time.After(patience):
			require.FailNow(t, "Accept does not return")
		}
	}
}

// shdDialer dials the network in memory.
type shdDialer struct {
	t testing.TB
	n *lisNet
}

func (d shdDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	select {
	case <-d.n.closed:
		return nil, errShdRefused
	default:
		return d.n.dial(d.t).Conn, nil
	}
}

var errShdRefused = errors.New("connection refused")
