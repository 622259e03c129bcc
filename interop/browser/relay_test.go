package browser

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
)

// A relay passes connections on to an address that can change, as that of a name can. It
// records the bytes of the newest connection.
type relay struct {
	address string

	mu       sync.Mutex
	target   string
	up, down *record
}

// A record is what was sent in one direction.
type record struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(b)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

func startRelay(t *testing.T, target string) *relay {
	t.Helper()
	l := lab.Listen(t)
	r := &relay{address: l.Addr().String(), target: target}
	var serving sync.WaitGroup
	lab.RunServer(t, func() {
		defer serving.Wait()
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { r.pass(client.(*net.TCPConn)) })
		}
	}, l.Close)
	return r
}

func (r *relay) pass(client *net.TCPConn) {
	defer client.Close()
	r.mu.Lock()
	target, up, down := r.target, new(record), new(record)
	r.up, r.down = up, down
	r.mu.Unlock()
	conn, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	var forth sync.WaitGroup
	forth.Go(func() {
		io.Copy(io.MultiWriter(up, server), client)
		server.CloseWrite()
	})
	io.Copy(io.MultiWriter(down, client), server)
	client.CloseWrite()
	forth.Wait()
}

// leadTo changes where new connections go.
func (r *relay) leadTo(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

// request and answer return what the newest connection has sent, and received.
func (r *relay) request() string { return r.newest(&r.up) }
func (r *relay) answer() string  { return r.newest(&r.down) }

func (r *relay) newest(direction **record) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if *direction == nil {
		return ""
	}
	return (*direction).String()
}
