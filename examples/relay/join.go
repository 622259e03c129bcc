package main

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/preflight-go/preflight"
)

// serve connects a client to the server until both directions have ended.
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

// An end is a connection whose directions can be closed separately.
type end interface {
	net.Conn
	CloseWrite() error
}

// forward copies from one end to the other. Between two TCP connections, io.Copy has the
// kernel copy, so nothing may wrap them here.
//
// forward passes on the end of one direction. The other direction stays open, because a
// client may have sent everything, and still wait for the answer. A reset is passed on as
// an orderly end, as proxies do.
func (r *relay) forward(to, from end) {
	_, err := io.Copy(to, from)
	to.CloseWrite()
	if err != nil {
		// One of the two ends has gone, so the other direction must end too. It must
		// not end at once, because it may still deliver an error message of the
		// server. CloseRead would need no deadline, but it would block a client that
		// is sending: Linux then does not open the TCP window again.
		to.SetReadDeadline(time.Now().Add(r.linger))
	}
}
