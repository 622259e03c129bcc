package amps

import (
	"bytes"
	"net"
	"sync"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
)

// A relay forwards TCP connections, and cuts them while they are in use.
type relay struct {
	address string
	dialed  chan struct{} // receives a value for each connection
	cut     chan struct{} // receives a value for each cut

	mu    sync.Mutex
	sent  int   // bytes that the client has sent, in all connections
	cuts  []int // the values of sent at which a connection is cut
	heads []*bytes.Buffer
	conns []net.Conn
}

// headSize is larger than any preflight request.
const headSize = 1024

// startRelay runs a relay in front of a server.
func startRelay(t *testing.T, to string, cuts ...int) *relay {
	t.Helper()
	l := lab.Listen(t)
	r := &relay{
		address: l.Addr().String(),
		dialed:  make(chan struct{}, 64),
		cut:     make(chan struct{}, len(cuts)),
		cuts:    cuts,
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			head := r.add(client, server)
			running.Go(func() { r.upstream(client, server, head) })
			running.Go(func() { copyAll(server, client, nil) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			c.Close()
		}
		r.mu.Unlock()
		running.Wait()
	})
	return r
}

func (r *relay) add(client, server net.Conn) (head *bytes.Buffer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	head = new(bytes.Buffer)
	r.heads, r.conns = append(r.heads, head), append(r.conns, client, server)
	select {
	case r.dialed <- struct{}{}:
	default: // no test waits for so many
	}
	return head
}

// upstream forwards what the client sends, until it is time to cut. The last cut looks like an
// orderly end. The cuts before it are resets.
func (r *relay) upstream(client, server net.Conn, head *bytes.Buffer) {
	copyAll(client, server, func(data []byte) (more bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		head.Write(data[:min(len(data), headSize-head.Len())])
		r.sent += len(data)
		if len(r.cuts) == 0 || r.sent < r.cuts[0] {
			return true
		}
		if r.cuts = r.cuts[1:]; len(r.cuts) > 0 {
			client.(*net.TCPConn).SetLinger(0)
			server.(*net.TCPConn).SetLinger(0)
		}
		r.cut <- struct{}{}
		return false // data is lost
	})
}

// copyAll copies until one side ends or look returns false. Then it closes both.
func copyAll(from, to net.Conn, look func(data []byte) (more bool)) {
	defer from.Close()
	defer to.Close()
	for buf := make([]byte, 32<<10); ; {
		n, err := from.Read(buf)
		if n > 0 && look != nil && !look(buf[:n]) {
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// requests returns the beginning of each connection, as the client has sent it.
func (r *relay) requests() (requests []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, head := range r.heads {
		requests = append(requests, head.String())
	}
	return requests
}
