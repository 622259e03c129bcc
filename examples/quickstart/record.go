package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// A recorder is a [preflight.ContextDialer] that records what goes over a connection, until
// take. It only shows the handshake as it is on the wire. Using the library does not need
// it.
type recorder struct {
	mu                sync.Mutex
	done              bool
	received, written bytes.Buffer
}

func (r *recorder) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &recordedConn{conn, r}, nil
}

// take ends the recording, and returns what was recorded.
func (r *recorder) take() (received, written []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = true
	return r.received.Bytes(), r.written.Bytes()
}

func (r *recorder) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done
}

func (r *recorder) record(to *bytes.Buffer, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.done {
		to.Write(b)
	}
}

type recordedConn struct {
	net.Conn
	recorder *recorder
}

func (c *recordedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.recorder.record(&c.recorder.received, b[:n])
	return n, err
}

// Write records before it writes. When the peer has the data, it is recorded.
func (c *recordedConn) Write(b []byte) (int, error) {
	c.recorder.record(&c.recorder.written, b)
	return c.Conn.Write(b)
}

// A recordedListener records the connections that it accepts, until the recording ends.
type recordedListener struct {
	net.Listener
	recorder *recorder
}

func (l *recordedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil || l.recorder.ended() {
		return conn, err
	}
	return &recordedConn{conn, l.recorder}, nil
}

// printExchange prints the bytes of the handshake on both sides of the proxy.
func printExchange(out io.Writer, client, server *recorder) {
	answer, request := client.take()
	forwarded, answered := server.take()
	fmt.Fprintf(out, "\nThe exchange, byte for byte:\n")
	printBytes(out, "client -> proxy", request)
	printBytes(out, "         proxy -> server", forwarded)
	printBytes(out, "         proxy <- server", answered)
	printBytes(out, "client <- proxy", answer)
}

func printBytes(out io.Writer, title string, b []byte) {
	fmt.Fprintf(out, "\n  %s\n", title)
	for text := range strings.Lines(string(b)) {
		quoted := fmt.Sprintf("%q", text) // shows line ends
		fmt.Fprintf(out, "    %s\n", quoted[1:len(quoted)-1])
	}
}
