package differential

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// listeners are configurations that accept plain connections. They get the connections of
// the proxy in turn.
var listeners = []struct {
	name  string
	piece int // the limit of bytes for each Read of the listener; 0: none
	make  func() *preflight.PreflightListener
}{
	{"zero", 0, func() *preflight.PreflightListener { return &preflight.PreflightListener{} }},
	{"byte by byte", 1, func() *preflight.PreflightListener { return &preflight.PreflightListener{} }},
	{"handed on at once, and watched", 7, func() *preflight.PreflightListener {
		return &preflight.PreflightListener{PlainAfter: time.Millisecond}
	}},
	{"AllowPlain", 0, func() *preflight.PreflightListener {
		return &preflight.PreflightListener{
			AllowPlain: true,
			Authorize:  func(*http.Request) (http.Header, error) { return nil, &preflight.StatusError{StatusCode: 403} },
		}
	}},
	{"TrustedProxies", 0, func() *preflight.PreflightListener {
		return &preflight.PreflightListener{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	}},
}

// A backend is the server behind a proxy. Behind each of the listeners it has an
// application that reads.
type backend struct {
	address string
	stop    func() // waits for the open connections
	mu      sync.Mutex
	conns   []*conn
}

func startBackend(t *testing.T) *backend {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &backend{address: inner.Addr().String()}
	var running sync.WaitGroup
	var turns []turn
	for _, l := range listeners {
		turn := make(turn)
		turns = append(turns, turn)
		listener := l.make()
		listener.Listener = turn
		running.Go(func() { serve(listener) })
	}
	running.Go(func() {
		for i := 0; ; i++ {
			accepted, err := inner.Accept()
			if err != nil {
				for _, turn := range turns {
					close(turn)
				}
				return
			}
			l := listeners[i%len(listeners)]
			c := &conn{TCPConn: accepted.(*net.TCPConn), listener: l.name, piece: l.piece}
			b.mu.Lock()
			b.conns = append(b.conns, c)
			b.mu.Unlock()
			turns[i%len(turns)] <- c
		}
	})
	b.stop = func() {
		inner.Close()
		running.Wait() // the deadlines of the connections bound this
	}
	t.Cleanup(b.stop)
	return b
}

// serve is the application behind a listener.
func serve(l *preflight.PreflightListener) {
	var running sync.WaitGroup
	defer running.Wait()
	defer l.Close()
	for {
		accepted, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			panic(err) // or the proxies would wait for this listener's turn without end
		}
		running.Go(func() {
			defer accepted.Close()
			c := accepted.(*preflight.Conn)
			if c.Request() != nil {
				return // a tunnel may carry any data
			}
			c.SetDeadline(time.Now().Add(2 * time.Second))
			of := c.NetConn().(*conn)
			for buf := make([]byte, 512); of.leaked() == ""; {
				n, err := c.Read(buf)
				of.mu.Lock()
				of.plain = append(of.plain, buf[:n]...)
				of.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
}

// all returns the connections so far.
func (b *backend) all() []*conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns
}

// reached reports whether a request to address arrives at b.
func (b *backend) reached(address string) bool {
	before := len(b.all())
	send(address, "GET /client/ HTTP/1.1\r\nHost: h.example\r\nConnection: close\r\n\r\n")
	return len(b.all()) > before
}

// A turn is a listener that accepts the connections that it is given.
type turn chan net.Conn

func (l turn) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (turn) Close() error   { return nil }
func (turn) Addr() net.Addr { return &net.TCPAddr{} }

// A conn is a connection of the proxy. It records what has been read from it.
type conn struct {
	*net.TCPConn
	listener string
	piece    int

	mu    sync.Mutex
	all   []byte // read by the listener and the application
	plain []byte // read by the application, as plain data
}

func (c *conn) Read(b []byte) (int, error) {
	if c.piece > 0 {
		b = b[:min(len(b), c.piece)]
	}
	n, err := c.TCPConn.Read(b)
	c.mu.Lock()
	c.all = append(c.all, b[:n]...)
	c.mu.Unlock()
	return n, err
}

// WriteTo hides the method of TCPConn, which would bypass Read.
func (c *conn) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, struct{ io.Reader }{c}) }

// sent returns what has been read from the proxy, without a PROXY header, which is the
// proxy's own.
func (c *conn) sent() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return withoutHeader(string(c.all))
}

// leaked returns what the application has read of a request, if that is at least a line.
func (c *conn) leaked() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if plain := withoutHeader(string(c.plain)); strings.Contains(plain, "\n") {
		return plain
	}
	return ""
}

// withoutHeader removes a PROXY header.
func withoutHeader(s string) string {
	const signature = "\r\n\r\n\x00\r\nQUIT\n"
	const fixed = len(signature) + 4 // version, family, length
	switch {
	case strings.HasPrefix(s, "PROXY TCP4 "):
		_, s, _ = strings.Cut(s, "\n")
	case strings.HasPrefix(s, signature) && len(s) >= fixed:
		n := fixed + int(binary.BigEndian.Uint16([]byte(s[fixed-2:])))
		return s[min(n, len(s)):]
	case strings.HasPrefix(signature, s[:min(len(s), len(signature))]): // an incomplete one
		return ""
	}
	return s
}
