package fall_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/preflight-go/preflight/internal/websocket"
	"github.com/preflight-go/preflight/spec/vectors"
	"github.com/stretchr/testify/require"
)

// TestVectors runs the answers of the wire document, in one piece and byte by byte.
func TestVectors(t *testing.T) {
	all, err := vectors.All()
	require.NoError(t, err)
	count := 0
	for _, v := range all {
		if v.Kind != vectors.ResponseHead {
			continue
		}
		count++
		t.Run(v.ID, func(t *testing.T) {
			testVector(t, v, len(v.Bytes)+1)
			if v.EachByte {
				testVector(t, v, 1)
			}
		})
	}
	require.Greater(t, count, 100)
}

// testVector dials a server that answers with the bytes of v in pieces of n bytes. The server
// answers a second request with 503, which ends the dial.
func testVector(t *testing.T, v vectors.Vector, n int) {
	ln := testkit.ListenTCP(t)
	first := make(chan net.Conn, 1)
	defer func() { (<-first).Close() }() // otherwise a lingering transport waits for it
	afterRequest := make(chan []byte, 1) // the bytes after the first request
	requests := make(chan int, 1)
	go func() {
		defer close(requests)
		for i := range 4 {
			c, err := ln.Accept()
			if err != nil {
				requests <- i
				return
			}
			c.SetDeadline(time.Now().Add(testkit.Patience))
			head := testkit.ReadRequest(c)
			if i == 0 {
				first <- c
				answerVector(c, v, head, n)
				if !v.Tunnel {
					go func() { b, _ := io.ReadAll(c); afterRequest <- b }()
					continue
				}
				hello := make([]byte, 1)
				io.ReadFull(c, hello)
				afterRequest <- hello
			} else {
				io.WriteString(c, refusal(503, ""))
			}
			c.Close()
		}
	}()
	d := preflight.PreflightDialer{KeepAlivePeriod: -1}
	for _, carrier := range v.Carriers {
		d.Carriers = append(d.Carriers, preflight.Carrier(carrier))
	}
	if len(v.Protocols) > 0 {
		d.Protocol = v.Protocols[0]
	}
	if v.TLS {
		d.TunnelTLSConfig = &tls.Config{ServerName: "edge.example"}
	}
	c, err := d.Dial("tcp", ln.Addr().String())
	ln.Close()
	switch {
	case v.Expect == "fall":
		require.Error(t, err)
		require.Equal(t, 2, <-requests)
	case v.Expect == "fail":
		require.Error(t, err)
		require.Equal(t, 1, <-requests)
		if v.Transport != "reset" {
			require.Empty(t, <-afterRequest, "the client sent bytes after its request")
		}
	case v.Tunnel:
		require.ErrorContains(t, err, "TLS handshake in the tunnel")
		require.Contains(t, "\x16\xad\x82", string(<-afterRequest), "neither a ClientHello nor a capsule")
	default:
		require.NoError(t, err)
		defer c.Close()
		require.Equal(t, v.Carrier, string(c.(*preflight.Conn).Carrier()))
		c.SetDeadline(time.Now().Add(testkit.Patience))
		got := make([]byte, len(v.Data))
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		require.Equal(t, v.Data, got)
		if v.End == "clean" {
			n, err := c.Read(make([]byte, 1))
			require.Zero(t, n)
			require.Equal(t, io.EOF, err)
		}
	}
}

// answerVector sends the bytes of v, and then ends the transport as v says.
func answerVector(c net.Conn, v vectors.Vector, head string, n int) {
	b := bytes.ReplaceAll(v.Bytes, []byte(websocket.Accept(v.Key)), []byte(websocket.Accept(field(head, "Sec-WebSocket-Key"))))
	if strings.Contains(v.ID, "accept-case") { // the answer to the sample key in another case
		b = v.Bytes
	}
	for len(b) > 0 {
		sent, err := c.Write(b[:min(n, len(b))])
		if err != nil {
			return
		}
		b = b[sent:]
	}
	switch v.Transport {
	case "end":
		c.(*net.TCPConn).CloseWrite()
	case "reset":
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}
