package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/coder/websocket"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/examples/quickstart/broker"
)

// serveHTTP serves h on address until stop is called.
func serveHTTP(address string, h http.Handler) (actual string, stop func(), err error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Print(err)
		}
	}()
	return ln.Addr().String(), func() { server.Close(); <-done }, nil
}

// webSocket connects WebSocket clients to the broker. A message is a line.
func webSocket(b *broker.Broker) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // Accept has sent the error
		}
		// The WebSocket must not end with the context of the request.
		conn := websocket.NetConn(context.Background(), c, websocket.MessageText)
		b.Talk(&webSocketConn{Conn: conn, path: r.URL.Path})
	})
}

type webSocketConn struct {
	net.Conn
	path string
}

// adminPage shows who is connected, and how.
func adminPage(b *broker.Broker) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var page strings.Builder
		table := tabwriter.NewWriter(&page, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "connection\tpublished\treceived")
		for _, c := range b.Clients() {
			fmt.Fprintf(table, "%s\t%d\t%d\n", wayIn(c.Conn), c.Published, c.Received)
		}
		table.Flush()
		fmt.Fprint(w, page.String())
	})
}

// wayIn returns how a connection came. The listener returns each TCP connection as a
// [preflight.Conn]. A tunnel has the request with which it was opened.
func wayIn(conn net.Conn) string {
	switch c := conn.(type) {
	case *webSocketConn:
		return "WebSocket " + c.path
	case *preflight.Conn:
		if r := c.Request(); r != nil {
			return "TCP by preflight " + r.URL.Path
		}
	}
	return "plain TCP"
}
