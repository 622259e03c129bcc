package testkit

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// WebSocketRequest is a request for a protocol of Handler.
const WebSocketRequest = "GET /socket HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"

// WebSocketHandlers take over a connection in different ways, and echo.
var WebSocketHandlers = map[string]http.HandlerFunc{
	"WriteHeader, then Hijack": func(w http.ResponseWriter, r *http.Request) { // like coder/websocket
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		io.Copy(c, rw)
	},
	"Hijack, then write": func(w http.ResponseWriter, r *http.Request) { // like gorilla/websocket
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		io.Copy(c, rw)
	},
	"Hijack, then return": func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		go func() {
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
			io.Copy(c, rw)
		}()
	},
}

// Head returns the bytes of a head: net/http hides a part of Connection.
func (c *Client) Head(t testing.TB) (head string) {
	t.Helper()
	for !strings.HasSuffix(head, "\r\n\r\n") {
		line, err := c.R.ReadString('\n')
		require.NoError(t, err, "%q", head+line)
		head += line
	}
	return head
}

// ConnectionFields returns the values of the Connection fields of a head.
func ConnectionFields(head string) (values []string) {
	for line := range strings.SplitSeq(head, "\r\n") {
		if value, ok := strings.CutPrefix(line, "Connection: "); ok {
			values = append(values, value)
		}
	}
	return values
}
