package clients

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
)

const greeting = "the server speaks first"

// A server does what the path of a tunnel says.
type server struct {
	address  string
	received chan string // SHA-256 of what /first has received
	sockets  *sockets
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{received: make(chan string, 1), sockets: &sockets{Listener: lab.Listen(t)}}
	l := &preflight.PreflightListener{Listener: s.sockets, Authorize: authorize}
	s.address = lab.Serve(t, l, s.serve)
	return s
}

func authorize(r *http.Request) (http.Header, error) {
	switch r.URL.Path {
	case "/forbidden":
		return nil, &preflight.StatusError{StatusCode: http.StatusForbidden}
	case "/busy":
		return nil, &preflight.StatusError{StatusCode: http.StatusTooManyRequests}
	}
	return nil, nil
}

func (s *server) serve(c *preflight.Conn) {
	switch c.Request().URL.Path {
	case "/echo":
		io.Copy(c, c)
	case "/late": // answers when it has everything
		data, _ := io.ReadAll(c)
		c.Write(data)
	case "/first": // ends its direction before it reads
		io.WriteString(c, greeting)
		c.CloseWrite()
		data, err := io.ReadAll(c)
		if err != nil {
			data = nil
		}
		s.received <- sum(data)
	case "/cut":
		c.Write(lab.RandomBytes(size))
		s.sockets.kill()
	}
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}

// A sockets is a listener that can end its connections as the kernel does it if a process is
// killed.
type sockets struct {
	net.Listener
	mu   sync.Mutex
	open []net.Conn
}

func (l *sockets) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.open = append(l.open, c)
	}
	return c, err
}

func (l *sockets) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		c.Close()
	}
	l.open = nil
}

// contextWithTimeout bounds a run of a client.
func contextWithTimeout(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 2*lab.Timeout)
}
