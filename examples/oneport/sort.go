package main

import (
	"bufio"
	"context"
	"errors"
	"log"
	"net"
	"syscall"
	"time"

	"github.com/preflight-go/preflight"
)

// preface is the beginning of HTTP/2, and so of gRPC (RFC 9113 §3.4). A line of this server
// is not likely to begin with it.
const preface = "PRI * HTTP/2.0\r\n"

// acceptAll accepts until the listener is closed. Each connection has its own goroutine from
// the beginning, because a client may take its time to send the first bytes.
func (s *server) acceptAll(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		switch {
		case err == nil:
			go s.sort(conn.(*preflight.Conn))
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			log.Print(err)
			time.Sleep(100 * time.Millisecond) // until a client has disconnected
		default:
			return err
		}
	}
}

// sort passes a connection to gRPC if it begins as HTTP/2 does, and otherwise to the server of
// lines. The connection may have come in any of the ways that the listener supports.
func (s *server) sort(conn *preflight.Conn) {
	if !s.join() {
		conn.Close()
		return
	}
	defer s.clients.Done()
	unwatch := context.AfterFunc(s.ending, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	r := bufio.NewReader(conn)
	if !begins(r, preface) {
		defer unwatch()
		defer conn.Close()
		s.lines(conn, r)
		return
	}
	if !unwatch() || !s.http2.give(&peeked{conn, r}) {
		conn.Close()
	}
}

// begins reports whether the data of r begins with prefix. It reads no more bytes than it
// needs: it returns at the first byte that differs.
func begins(r *bufio.Reader, prefix string) bool {
	for i := range len(prefix) {
		b, err := r.Peek(i + 1)
		if err != nil || b[i] != prefix[i] {
			return false
		}
	}
	return true
}

// A peeked connection is a connection whose first bytes are in a buffer.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (c *peeked) Read(b []byte) (int, error) { return c.r.Read(b) }

// A feed is a listener that accepts the connections that it is given.
type feed struct {
	addr  net.Addr
	conns chan net.Conn
	open  context.Context
	close context.CancelFunc
}

func newFeed(addr net.Addr) *feed {
	open, cancel := context.WithCancel(context.Background())
	return &feed{addr: addr, conns: make(chan net.Conn), open: open, close: cancel}
}

// give passes c to Accept. It returns false if the feed is closed.
func (f *feed) give(c net.Conn) bool {
	select {
	case f.conns <- c:
		return true
	case <-f.open.Done():
		return false
	}
}

func (f *feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.open.Done():
		return nil, net.ErrClosed
	}
}

func (f *feed) Close() error {
	f.close()
	return nil
}

func (f *feed) Addr() net.Addr { return f.addr }
