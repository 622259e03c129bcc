package frame

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if left := goroutinesLeft(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines left over:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// goroutinesLeft returns the stacks of the goroutines that run this package,
// once those that are about to end have had the time to.
func goroutinesLeft() string {
	var left string
	for range 100 {
		buf := make([]byte, 1<<20)
		var of []string
		for i, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if i > 0 && strings.Contains(stack, "preflight") {
				of = append(of, stack)
			}
		}
		if left = strings.Join(of, "\n\n"); left == "" {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	return left
}

// carriers are the two ways in which capsules travel.
var carriers = []struct {
	name      string
	webSocket bool
}{
	{"capsules", false},
	{"websocket", true},
}

// tcpPipe returns the two ends of a TCP connection.
func tcpPipe(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := ln.Accept()
		accepted <- c
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	s := <-accepted
	require.NotNil(t, s)
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// drip is a transport that takes and gives one byte at a time.
type drip struct {
	net.Conn
	mu sync.Mutex
}

func (d *drip) Read(p []byte) (int, error) { return d.Conn.Read(p[:min(len(p), 1)]) }

func (d *drip) Write(p []byte) (n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n < len(p) && err == nil {
		var m int
		m, err = d.Conn.Write(p[n : n+1])
		n += m
	}
	return n, err
}
