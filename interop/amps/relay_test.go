package amps

import (
	"bytes"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A relay is a hop of TCP that cuts connections while they are in use.
type relay struct {
	address string
	dialed  chan struct{} // a connection has come
	cut     chan struct{} // one has been cut

	mu    sync.Mutex
	sent  int   // by the client, in all connections
	cuts  []int // at how much of that the connection is cut
	heads []*bytes.Buffer
	conns []net.Conn
}

// headSize is more than a preflight request needs.
const headSize = 1024

// startRelay relays to a server until the end of the test.
func startRelay(t *testing.T, to string, cuts ...int) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
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
	default: // enough have come
	}
	return head
}

// upstream takes what the client sends to the server, until it is time to cut:
// first by a reset, and then by what looks like an orderly end.
func (r *relay) upstream(client, server net.Conn, head *bytes.Buffer) {
	copyAll(client, server, func(data []byte) (goOn bool) {
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
		return false // what has just come is lost
	})
}

// copyAll copies until one side ends, and then ends both.
func copyAll(from, to net.Conn, look func(data []byte) (goOn bool)) {
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

// requests returns the beginnings of what the client has sent.
func (r *relay) requests() (requests []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, head := range r.heads {
		requests = append(requests, head.String())
	}
	return requests
}
