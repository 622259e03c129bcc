package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"time"

	"github.com/coder/websocket"
	"github.com/preflight-go/preflight"
)

// lines serves a client of lines. It answers each line with the way by which the client came,
// and with the line in capitals, until the client or the server ends.
func (s *server) lines(conn *preflight.Conn, r *bufio.Reader) {
	way := wayIn(conn)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return // a line that is longer than the buffer is an error too
		}
		conn.SetWriteDeadline(time.Now().Add(timeout))
		if _, err := conn.Write(answer(way, line)); err != nil {
			return
		}
	}
}

func answer(way string, line []byte) []byte {
	return fmt.Appendf(nil, "%s: %s", way, bytes.ToUpper(line))
}

// webSocket does the same for WebSocket clients. A message is a line. The listener passes the
// request to Handler, as any ordinary request.
func (s *server) webSocket(w http.ResponseWriter, r *http.Request) {
	if !s.join() {
		http.Error(w, "the server ends", http.StatusServiceUnavailable)
		return
	}
	defer s.clients.Done()
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has sent the error
	}
	defer c.CloseNow()
	defer context.AfterFunc(s.ending, func() { c.Close(websocket.StatusGoingAway, "the server ends") })()
	for {
		kind, message, err := c.Read(context.Background())
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		err = c.Write(ctx, kind, answer("WebSocket "+r.URL.Path, message))
		cancel()
		if err != nil {
			return
		}
	}
}

// join counts a client. It returns false if the server is ending.
func (s *server) join() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending.Err() != nil {
		return false
	}
	s.clients.Add(1)
	return true
}

// wayIn returns the way by which a connection came. An application does not need it.
func wayIn(conn *preflight.Conn) string {
	_, secure := conn.NetConn().(*tls.Conn)
	request := conn.Request()
	switch {
	case request == nil && secure:
		return "TLS"
	case request == nil:
		return "plain TCP"
	case conn.Response().Header.Get("Preflight-Tunnel") == "tls":
		return "TLS in a tunnel " + request.URL.Path
	case secure:
		return "preflight in TLS " + request.URL.Path
	}
	return "preflight " + request.URL.Path
}
