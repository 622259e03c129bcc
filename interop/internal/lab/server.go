package lab

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// Listen returns a TCP listener on the loopback interface.
func Listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// A Server runs a handler for each connection of a listener.
type Server struct {
	Address  string
	listener *preflight.PreflightListener
	handlers sync.WaitGroup
}

// StartServer accepts from l, and runs handle for each connection, which has a
// deadline and is closed when handle returns. If l has no listener, it gets one on
// the loopback interface. The test ends by Close of l, and waits for the handlers.
func StartServer(t *testing.T, l *preflight.PreflightListener, handle func(*preflight.Conn)) *Server {
	t.Helper()
	if l.Listener == nil {
		l.Listener = Listen(t)
	}
	s := &Server{Address: l.Addr().String(), listener: l}
	s.handlers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(Timeout))
			s.handlers.Go(func() {
				defer c.Close()
				handle(c.(*preflight.Conn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.handlers.Wait() // the deadlines bound this
	})
	return s
}

// Shutdown ends the server in order. It waits until all connections are closed and
// all handlers have returned.
func (s *Server) Shutdown(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	if err := s.listener.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	s.listener.Close()
	s.handlers.Wait()
}

// Serve is StartServer for tests that need the address alone.
func Serve(t *testing.T, l *preflight.PreflightListener, handle func(*preflight.Conn)) (address string) {
	t.Helper()
	return StartServer(t, l, handle).Address
}

// ServeEcho runs a server that sends back what it receives.
func ServeEcho(t *testing.T) (address string) {
	t.Helper()
	return Serve(t, &preflight.PreflightListener{}, func(c *preflight.Conn) { io.Copy(c, c) })
}

// RunServer runs any server. run serves, and stop makes run return at the end of the
// test.
func RunServer(t *testing.T, run func(), stop func() error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		run()
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
}
