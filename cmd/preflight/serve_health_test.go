package main

import (
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// TestOrdinaryRequestsEnd sends ordinary requests after which a connection must end, although the
// client keeps it open.
func TestOrdinaryRequestsEnd(t *testing.T) {
	defer func(d time.Duration) { bodyTimeout = d }(bodyTimeout)
	bodyTimeout = time.Millisecond
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &server{log: slog.New(slog.DiscardHandler)}
	s.current.Store(&settings{serveCommand: new(serveCommand)})
	l := &preflight.PreflightListener{Listener: inner, RequireUpgrade: true, Handler: s.handler()}
	defer l.Close()
	go l.Accept()
	for name, request := range map[string]string{
		"no upgrade": "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"length":     "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly a part",
		"chunked":    "POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly a part",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", inner.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			c.SetDeadline(time.Now().Add(timeout))
			_, err = io.WriteString(c, request)
			require.NoError(t, err)
			answer, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Contains(t, string(answer), "HTTP/1.1 ")
			require.Contains(t, string(answer), "Connection: close\r\n")
		})
	}
}
