package interop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// programs is a folder for what the tests build.
var programs string

// TestMain fails if a goroutine of the library or of a test outlives the tests.
func TestMain(m *testing.M) {
	runChild()
	var err error
	if programs, err = os.MkdirTemp("", "preflight-interop-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(programs)
	if left := goroutinesLeft(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines left over:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// goroutinesLeft returns the stacks of the goroutines that run this module or
// the library, once those that are about to end have had the time to.
func goroutinesLeft() string {
	var left string
	for range 100 {
		buf := make([]byte, 8<<20)
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

// patience ends a test that would otherwise hang. No test expects it to pass.
const patience = 30 * time.Second

// serve accepts from l, which gets a loopback listener if it has none, and runs
// handle for every connection until the end of the test. It returns the address.
func serve(t *testing.T, l *preflight.PreflightListener, handle func(*preflight.Conn)) string {
	t.Helper()
	if l.Listener == nil {
		l.Listener = listenTCP(t)
	}
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(patience))
			handlers.Go(func() {
				defer c.Close()
				handle(c.(*preflight.Conn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		handlers.Wait() // not for ever: their connections have deadlines
	})
	return l.Addr().String()
}

// serveEcho sends back what it gets.
func serveEcho(t *testing.T) string {
	t.Helper()
	return serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) { io.Copy(c, c) })
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// dialPlain connects to a server itself, as a client does that knows no preflight.
func dialPlain(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	return bounded(t, c)
}

// bounded gives c a deadline, and closes it at the end of the test.
func bounded(t *testing.T, c net.Conn) net.Conn {
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// echo sends data to an echo server, and reads it back meanwhile: the two
// directions of a long one could otherwise wait for each other.
func echo(c net.Conn, data []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	_, err := io.ReadFull(c, got)
	if err = errors.Join(err, <-sent); err == nil && !bytes.Equal(got, data) {
		err = errors.New("the echo differs from what was sent")
	}
	return err
}

// statusError is the StatusError in err, which there must be.
func statusError(t *testing.T, err error) *preflight.StatusError {
	t.Helper()
	var e *preflight.StatusError
	require.ErrorAs(t, err, &e)
	return e
}
