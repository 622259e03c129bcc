package testkit

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// ShdScene is a listener in memory that serves every kind of connection: on
// the one it wraps, and mounted on another HTTP server.
type ShdScene struct {
	*preflight.PreflightListener
	Direct, Mounted *LisNet
	Server          *http.Server // on which it is mounted
	ClientTLS       *tls.Config
	Hijacked        chan net.Conn // by Handler
	Release         chan struct{} // ends what Handler does for /held
}

const (
	ShdOrdinary = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
	ShdHeld     = "GET /held HTTP/1.1\r\nHost: h\r\n\r\n"
	ShdHijack   = "GET /hijack HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	// shdMalformed lacks Host. It is ours to refuse because it carries Upgrade.
	shdMalformed = "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	ShdProxy     = "PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n"
	// ShdHello begins a ClientHello.
	ShdHello = "\x16\x03\x01\x02\x00\x01\x00"
)

// ShdTunnels is an upgrade request for a tunnel with TLS inside.
var ShdTunnels = KndRequestTLS

// shdCerts are made before the bubble begins, which has no network.
type shdCerts struct{ Server, Client *tls.Config }

func ShdNewCerts(t testing.TB) shdCerts {
	t.Helper()
	server, client := LisTLS(t)
	return shdCerts{server, client}
}

// ShdNew makes a scene in the bubble of t. change, which may be nil, changes
// the listener before its first call.
func ShdNew(t testing.TB, certs shdCerts, change func(*preflight.PreflightListener)) *ShdScene {
	t.Helper()
	s := &ShdScene{
		Direct: LisNewNet(), Mounted: LisNewNet(), ClientTLS: certs.Client,
		Hijacked: make(chan net.Conn, 1), Release: make(chan struct{}),
	}
	s.PreflightListener = &preflight.PreflightListener{
		Listener:       s.Direct,
		TLSConfig:      certs.Server,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")},
		AllowPlain:     true,
		Authorize:      ShdAuthorize,
		Handler:        http.HandlerFunc(s.handle),
	}
	if change != nil {
		change(s.PreflightListener)
	}
	t.Cleanup(func() { s.Close() })
	s.Server = &http.Server{Handler: s.PreflightListener}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Server.Serve(s.Mounted)
	}()
	t.Cleanup(func() { s.Server.Close(); <-served })
	return s
}

// ShdAuthorize waits for the end of the handshake if the request says so.
func ShdAuthorize(r *http.Request) (http.Header, error) {
	if r.Header.Get("Wait") == "" {
		return nil, nil
	}
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func (s *ShdScene) handle(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/held":
		select {
		case <-r.Context().Done():
		case <-s.Release:
			io.WriteString(w, "held, and let go")
		}
	case "/hijack":
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			s.Hijacked <- c
		}
	default:
		io.WriteString(w, "hello")
	}
}

// A shdKind is a way to a connection that Accept returns.
type shdKind struct {
	Name    string
	Mounted bool
	// talk gets the connection through its handshake, and returns the
	// application's end of it.
	Talk func(testing.TB, *ShdScene, *LisClient) *LisClient
}

var ShdKinds = []shdKind{
	{Name: "plain", Talk: func(t testing.TB, _ *ShdScene, c *LisClient) *LisClient {
		c.Send(t, "\x00")
		return c
	}},
	{Name: "tunnel", Talk: func(t testing.TB, _ *ShdScene, c *LisClient) *LisClient { return c.Upgraded(t, LisRequest()) }},
	{Name: "tunnel behind a PROXY header", Talk: func(t testing.TB, _ *ShdScene, c *LisClient) *LisClient {
		return c.Upgraded(t, ShdProxy+LisRequest())
	}},
	{Name: "tunnel over TLS", Talk: func(t testing.TB, s *ShdScene, c *LisClient) *LisClient {
		return LisSecure(t, c, s.ClientTLS).Upgraded(t, LisRequest())
	}},
	{Name: "tunnel with TLS inside", Talk: func(t testing.TB, s *ShdScene, c *LisClient) *LisClient {
		return LisSecure(t, c.Upgraded(t, ShdTunnels), s.ClientTLS)
	}},
	{Name: "tunnel behind an ordinary request", Talk: func(t testing.TB, _ *ShdScene, c *LisClient) *LisClient {
		return c.Asked(t, ShdOrdinary).Upgraded(t, LisRequest())
	}},
	{Name: "tunnel by ServeHTTP", Mounted: true, Talk: func(t testing.TB, _ *ShdScene, c *LisClient) *LisClient {
		return c.Upgraded(t, LisRequest())
	}},
	{Name: "tunnel by ServeHTTP with TLS inside", Mounted: true, Talk: func(t testing.TB, s *ShdScene, c *LisClient) *LisClient {
		return LisSecure(t, c.Upgraded(t, ShdTunnels), s.ClientTLS)
	}},
}

// Upgraded sends an upgrade request, which must be answered 101.
func (c *LisClient) Upgraded(t testing.TB, request string) *LisClient {
	t.Helper()
	a := <-c.Ask(request)
	require.NoError(t, a.Err)
	require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
	return c
}

// Asked sends an ordinary request, which must be served.
func (c *LisClient) Asked(t testing.TB, request string) *LisClient {
	t.Helper()
	a := <-c.Ask(request)
	require.NoError(t, a.Err)
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Equal(t, "hello", a.Text)
	return c
}

// Dial connects in memory: to the server on which the listener is mounted, or to
// the listener.
func (s *ShdScene) Dial(t testing.TB, mounted bool) *LisClient {
	t.Helper()
	if mounted {
		return s.Mounted.Dial(t)
	}
	return s.Direct.Dial(t)
}

// Start calls Accept for the first time, which starts the acceptor, and leaves
// nothing behind.
func (s *ShdScene) Start(t testing.TB) { LisLeaveOnce(t, s.Direct, s.PreflightListener) }

// A ShdPair is both ends of a connection that Accept has returned.
type ShdPair struct {
	Client *LisClient
	Conn   *preflight.Conn
}

// Deliver makes a connection of this kind and accepts it.
func (s *ShdScene) Deliver(t testing.TB, k shdKind) ShdPair {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := s.Accept()
		accepted <- c
	}()
	p := ShdPair{Client: k.Talk(t, s, s.Dial(t, k.Mounted))}
	c := <-accepted
	require.NotNil(t, c)
	p.Conn = c.(*preflight.Conn)
	t.Cleanup(func() { p.Close() })
	if p.Conn.Request() == nil {
		LisSkip(t, p.Conn, "\x00")
	}
	return p
}

// Talks requires that the connection carries bytes.
func (p ShdPair) Talks(t testing.TB) {
	t.Helper()
	LisTalk(t, p.Client, p.Conn)
}

// Close closes both ends. A TLS layer sends a last message, which somebody must read.
func (p ShdPair) Close() {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(io.Discard, p.Client)
	}()
	p.Conn.Close()
	<-drained
	p.Client.Server.Conn.Close() // under a TLS layer, which the client may not close
	p.Client.Close()
}

// DeliverAll makes one connection of each kind.
func (s *ShdScene) DeliverAll(t testing.TB) []ShdPair {
	t.Helper()
	var pairs []ShdPair
	for _, k := range ShdKinds {
		pairs = append(pairs, s.Deliver(t, k))
	}
	return pairs
}

// Hijack makes a connection that Handler has taken for itself.
func (s *ShdScene) Hijack(t testing.TB) (*LisClient, net.Conn) {
	t.Helper()
	c := s.Direct.Dial(t)
	c.Send(t, ShdHijack)
	conn := <-s.Hijacked
	t.Cleanup(func() { conn.Close() })
	return c, conn
}

// ShdMute is the end of a client of whose writes only the first arrive.
type ShdMute struct {
	net.Conn
	Left int
}

func (c *ShdMute) Write(b []byte) (int, error) {
	if c.Left--; c.Left < 0 {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// HalfTLS gets c into the middle of a TLS handshake: the server has sent its
// part, and waits for the client's last.
func (s *ShdScene) HalfTLS(t testing.TB, c *LisClient) {
	t.Helper()
	require.NoError(t, tls.Client(&ShdMute{c.Conn, 1}, s.ClientTLS).Handshake())
}

// ShdRead reads in the background what the server sends.
func ShdRead(c *LisClient) { go io.Copy(io.Discard, c.R) }

// BeginShutdown calls Shutdown in the background, and returns when that waits or has
// returned.
func (s *ShdScene) BeginShutdown(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(ctx) }()
	synctest.Wait()
	return done
}

// ShdBase is the connection in memory at the bottom of c.
func ShdBase(c net.Conn) *LisConn {
	for {
		if base, ok := c.(*LisConn); ok {
			return base
		}
		c = c.(interface{ NetConn() net.Conn }).NetConn()
	}
}
