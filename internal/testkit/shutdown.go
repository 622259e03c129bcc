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

// Scene is an in-memory listener that serves every kind of connection: on its
// wrapped listener, and mounted on another HTTP server.
type Scene struct {
	*preflight.PreflightListener
	Direct, Mounted *Network
	Server          *http.Server // the server on which it is mounted
	ClientTLS       *tls.Config
	Hijacked        chan net.Conn // the connections that Handler has hijacked
	Release         chan struct{} // closed to end the requests to /held
}

const (
	Ordinary = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
	Held     = "GET /held HTTP/1.1\r\nHost: h\r\n\r\n"
	Hijack   = "GET /hijack HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	// malformedStage lacks Host. The listener refuses it itself because it
	// carries Upgrade.
	malformedStage = "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	ThroughProxy   = "PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n"
	// SceneHello is the beginning of a ClientHello.
	SceneHello = "\x16\x03\x01\x02\x00\x01\x00"
)

// TunnelTLSRequest is an upgrade request for a tunnel with TLS inside.
var TunnelTLSRequest = RequestTLS

// sceneCerts are made before the bubble begins, because there is no network
// inside it.
type sceneCerts struct{ Server, Client *tls.Config }

func NewCerts(t testing.TB) sceneCerts {
	t.Helper()
	server, client := TLSConfigs(t)
	return sceneCerts{server, client}
}

// NewScene makes a scene in the bubble of t. change may be nil. It changes the
// listener before its first call.
func NewScene(t testing.TB, certs sceneCerts, change func(*preflight.PreflightListener)) *Scene {
	t.Helper()
	s := &Scene{
		Direct: NewNetwork(), Mounted: NewNetwork(), ClientTLS: certs.Client,
		Hijacked: make(chan net.Conn, 1), Release: make(chan struct{}),
	}
	s.PreflightListener = &preflight.PreflightListener{
		Listener:       s.Direct,
		TLSConfig:      certs.Server,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")},
		AllowPlain:     true,
		Authorize:      SceneAuthorize,
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

// SceneAuthorize waits for the end of the handshake if the request asks for it.
func SceneAuthorize(r *http.Request) (http.Header, error) {
	if r.Header.Get("Wait") == "" {
		return nil, nil
	}
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func (s *Scene) handle(w http.ResponseWriter, r *http.Request) {
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

// A sceneKind is a way to a connection that Accept returns.
type sceneKind struct {
	Name    string
	Mounted bool
	// Talk completes the handshake of the connection, and returns the client's
	// end of the application's stream.
	Talk func(testing.TB, *Scene, *Client) *Client
}

var Kinds = []sceneKind{
	{Name: "plain", Talk: func(t testing.TB, _ *Scene, c *Client) *Client {
		c.Send(t, "\x00")
		return c
	}},
	{Name: "tunnel", Talk: func(t testing.TB, _ *Scene, c *Client) *Client { return c.Upgraded(t, Request()) }},
	{Name: "tunnel behind a PROXY header", Talk: func(t testing.TB, _ *Scene, c *Client) *Client {
		return c.Upgraded(t, ThroughProxy+Request())
	}},
	{Name: "tunnel over TLS", Talk: func(t testing.TB, s *Scene, c *Client) *Client {
		return Secure(t, c, s.ClientTLS).Upgraded(t, Request())
	}},
	{Name: "tunnel with TLS inside", Talk: func(t testing.TB, s *Scene, c *Client) *Client {
		return Secure(t, c.Upgraded(t, TunnelTLSRequest), s.ClientTLS)
	}},
	{Name: "tunnel behind an ordinary request", Talk: func(t testing.TB, _ *Scene, c *Client) *Client {
		return c.Asked(t, Ordinary).Upgraded(t, Request())
	}},
	{Name: "tunnel by ServeHTTP", Mounted: true, Talk: func(t testing.TB, _ *Scene, c *Client) *Client {
		return c.Upgraded(t, Request())
	}},
	{Name: "tunnel by ServeHTTP with TLS inside", Mounted: true, Talk: func(t testing.TB, s *Scene, c *Client) *Client {
		return Secure(t, c.Upgraded(t, TunnelTLSRequest), s.ClientTLS)
	}},
}

// Upgraded sends an upgrade request, and requires a 101.
func (c *Client) Upgraded(t testing.TB, request string) *Client {
	t.Helper()
	a := <-c.Ask(request)
	require.NoError(t, a.Err)
	require.Equal(t, http.StatusSwitchingProtocols, a.StatusCode)
	return c
}

// Asked sends an ordinary request, and requires that it is served.
func (c *Client) Asked(t testing.TB, request string) *Client {
	t.Helper()
	a := <-c.Ask(request)
	require.NoError(t, a.Err)
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Equal(t, "hello", a.Text)
	return c
}

// Dial makes an in-memory connection, to the server that mounts the listener or
// to the listener itself.
func (s *Scene) Dial(t testing.TB, mounted bool) *Client {
	t.Helper()
	if mounted {
		return s.Mounted.Dial(t)
	}
	return s.Direct.Dial(t)
}

// Start calls Accept for the first time, which starts the acceptor. Nothing
// remains of the call.
func (s *Scene) Start(t testing.TB) { CloseOnce(t, s.Direct, s.PreflightListener) }

// A Pair holds both ends of a connection that Accept has returned.
type Pair struct {
	Client *Client
	Conn   *preflight.Conn
}

// Deliver makes a connection of this kind and accepts it.
func (s *Scene) Deliver(t testing.TB, k sceneKind) Pair {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := s.Accept()
		accepted <- c
	}()
	p := Pair{Client: k.Talk(t, s, s.Dial(t, k.Mounted))}
	c := <-accepted
	require.NotNil(t, c)
	p.Conn = c.(*preflight.Conn)
	t.Cleanup(func() { p.Close() })
	if p.Conn.Request() == nil {
		Skip(t, p.Conn, "\x00")
	}
	return p
}

// Talks requires that the connection carries bytes.
func (p Pair) Talks(t testing.TB) {
	t.Helper()
	Talk(t, p.Client, p.Conn)
}

// Close closes both ends. A TLS layer sends a last message, which the other end
// must read.
func (p Pair) Close() {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(io.Discard, p.Client)
	}()
	p.Conn.Close()
	<-drained
	p.Client.Server.Conn.Close() // closes the connection below a TLS layer that the client does not close
	p.Client.Close()
}

// DeliverAll makes one connection of each kind.
func (s *Scene) DeliverAll(t testing.TB) []Pair {
	t.Helper()
	var pairs []Pair
	for _, k := range Kinds {
		pairs = append(pairs, s.Deliver(t, k))
	}
	return pairs
}

// Hijack makes a connection that Handler has hijacked.
func (s *Scene) Hijack(t testing.TB) (*Client, net.Conn) {
	t.Helper()
	c := s.Direct.Dial(t)
	c.Send(t, Hijack)
	conn := <-s.Hijacked
	t.Cleanup(func() { conn.Close() })
	return c, conn
}

// Mute is a client's end of a connection. Only its first Writes arrive.
type Mute struct {
	net.Conn
	Left int
}

func (c *Mute) Write(b []byte) (int, error) {
	if c.Left--; c.Left < 0 {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// HalfTLS brings c to the middle of a TLS handshake: the server has sent its
// part, and waits for the client's last message.
func (s *Scene) HalfTLS(t testing.TB, c *Client) {
	t.Helper()
	require.NoError(t, tls.Client(&Mute{c.Conn, 1}, s.ClientTLS).Handshake())
}

// DiscardInput reads in the background and discards the bytes from the server.
func DiscardInput(c *Client) { go io.Copy(io.Discard, c.R) }

// BeginShutdown calls Shutdown in the background. It returns when Shutdown
// waits or has returned.
func (s *Scene) BeginShutdown(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(ctx) }()
	synctest.Wait()
	return done
}

// BaseConn returns the in-memory connection at the bottom of c.
func BaseConn(c net.Conn) *NetworkConn {
	for {
		if base, ok := c.(*NetworkConn); ok {
			return base
		}
		c = c.(interface{ NetConn() net.Conn }).NetConn()
	}
}
