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

// preface is what HTTP/2, and so gRPC, begins with (RFC 9113 §3.4). No line of
// ours is likely to.
const preface = "PRI * HTTP/2.0\r\n"

// acceptAll accepts until the listener is closed. Each connection has a
// goroutine of its own from the first: what it speaks is for the client to
// say, and a client may take its time.
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
			time.Sleep(100 * time.Millisecond) // some client will go
		default:
			return err
		}
	}
}

// sort gives a connection to gRPC, if it begins as HTTP/2 does, else to the
// server of lines. It may have come by any of the ways that the listener knows.
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

// begins reports whether what r reads begins with prefix. It waits for no byte
// that does not matter: the first that differs decides.
func begins(r *bufio.Reader, prefix string) bool {
	for i := range len(prefix) {
		b, err := r.Peek(i + 1)
		if err != nil || b[i] != prefix[i] {
			return false
		}
	}
	return true
}

// A peeked connection is one that has been looked at.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (c *peeked) Read(b []byte) (int, error) { return c.r.Read(b) }

// A feed is a listener that accepts what it is given.
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

// give reports whether c has been accepted.
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
