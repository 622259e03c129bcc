package main

import (
	"context"
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
		r.forward(server, client)
	}()
	r.forward(client, server)
	<-ended
}

// An end is one end of a connection, whose directions can end one by one.
type end interface {
	net.Conn
	CloseWrite() error
}

// forward moves what it reads from one end to the other. Between two TCP
// connections io.Copy has the kernel do that, so nothing may wrap them here.
//
// The end of one direction is handed on and leaves the other alone: a client may
// have said all it has to say, and still wait for the answer. That of a reset is
// handed on as an orderly one, as proxies do it.
func (r *relay) forward(to, from end) {
	_, err := io.Copy(to, from)
	to.CloseWrite()
	if err != nil {
		// One of the two is gone, and the other direction must end as well;
		// but not at once, since it may still have the server's reason to
		// deliver. CloseRead would do that without a time, but leave a client
		// that is sending stuck: Linux then opens its window no more.
		to.SetReadDeadline(time.Now().Add(r.linger))
	}
}
