package main

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/preflight-go/preflight"
)

// serve connects a client with the server until both directions have ended.
func (r *relay) serve(client *preflight.Conn) {
	defer client.Close()
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(r.open, "tcp", r.to)
	if err != nil {
		r.log.Printf("for %s: %v", client.RemoteAddr(), err)
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	defer context.AfterFunc(r.open, func() {
		client.Close()
		server.Close()
	})()

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		forward(server, client)
	}()
	forward(client, server)
	<-ended
}

// An end is one end of a connection whose directions can be ended one by one.
type end interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
}

// forward moves what it reads from one end to the other. Between two TCP
// connections io.Copy has the kernel do that, so nothing may wrap them here.
//
// The end of one direction is handed on and leaves the other alone: a client may
// have said all it has to say, and still wait for the answer. That of a reset is
// handed on as an orderly one, as proxies do it.
func forward(to, from end) {
	_, err := io.Copy(to, from)
	to.CloseWrite()
	if err != nil {
		// One of the two is gone, so the other direction has to end, too; but
		// not before it has delivered what is here already, which may be the
		// server's reason. TLS cannot do that.
		if errors.Is(to.CloseRead(), errors.ErrUnsupported) {
			to.Close()
		}
	}
}
