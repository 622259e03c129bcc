package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/preflight-go/preflight"
	"go.opentelemetry.io/otel/trace"
)

// A server answers each line in capitals.
type server struct {
	tracer trace.Tracer
}

// serve serves each client that ln accepts. It returns when ln is closed and the last client
// has disconnected.
func (s *server) serve(ln net.Listener) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		sessions.Go(func() { s.talk(conn.(*preflight.Conn)) })
	}
}

// talk serves one client. The spans of its answers belong to the trace in which the client
// dialed. A plain client has no trace.
func (s *server) talk(conn *preflight.Conn) {
	defer conn.Close()
	ctx := context.Background()
	if r := conn.Request(); r != nil {
		ctx = r.Context() // with the span of the handshake
	}
	for lines := bufio.NewReader(conn); ; {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return // a line that is longer than the buffer is an error too
		}
		_, span := s.tracer.Start(ctx, "answer")
		conn.SetWriteDeadline(time.Now().Add(timeout))
		_, err = conn.Write(bytes.ToUpper(line))
		span.End()
		if err != nil {
			return
		}
	}
}

// authorize refuses one path.
func authorize(r *http.Request) (http.Header, error) {
	if r.URL.Path == "/forbidden" {
		return nil, &preflight.StatusError{StatusCode: http.StatusForbidden}
	}
	return nil, nil
}

// health answers the health checks of a load balancer.
var health = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })

// startProxy starts a reverse proxy on an address, and returns the actual address.
func startProxy(address, server string) (actual string, stop func(), err error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, fmt.Errorf("start the proxy: %w", err)
	}
	proxy := &http.Server{
		Handler: &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: server}) },
			// The demonstration must leave no connection open.
			Transport: &http.Transport{DisableKeepAlives: true},
		},
		ReadHeaderTimeout: timeout,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := proxy.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Print(err)
		}
	}()
	return ln.Addr().String(), func() { proxy.Close(); <-done }, nil
}
