package applications

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
)

// A stoppableServer is a server that can be stopped.
type stoppableServer struct {
	serve func(net.Listener) error // returns when there is nothing more to accept
	stop  func(context.Context)    // asks the clients to disconnect
	// lines says that it answers lines in each tunnel that it has accepted. The other
	// servers may close a tunnel without an answer, as they do over plain TCP: net/http if
	// the first request arrives after Shutdown, gRPC if the client has sent nothing.
	lines bool
}

var stoppableServers = map[string]func() stoppableServer{
	"grpc": func() stoppableServer {
		s := grpc.NewServer()
		return stoppableServer{serve: s.Serve, stop: func(context.Context) { s.GracefulStop() }}
	},
	"http": func() stoppableServer {
		s := new(http.Server)
		return stoppableServer{serve: s.Serve, stop: func(ctx context.Context) { s.Shutdown(ctx) }}
	},
	"raw": func() stoppableServer {
		s := new(rawServer)
		return stoppableServer{s.serve, func(context.Context) { s.stop() }, true}
	},
}

// A rawServer answers lines. After stop, clients still have some time for lines that are
// under way.
type rawServer struct {
	conns sync.Map // of net.Conn
}

func (s *rawServer) serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		s.conns.Store(c, nil)
		go func() {
			defer c.Close()
			defer s.conns.Delete(c)
			for lines := bufio.NewScanner(c); lines.Scan(); {
				fmt.Fprintf(c, "OK %s\r\n", lines.Text())
			}
		}()
	}
}

func (s *rawServer) stop() {
	s.conns.Range(func(c, _ any) bool {
		c.(net.Conn).SetReadDeadline(time.Now().Add(lab.Timeout))
		return true
	})
}

// TestShutdownOrder stops servers during many handshakes. Each handshake must get an answer:
// a 101, or a 503 with Retry-After. None is cut off.
func TestShutdownOrder(t *testing.T) {
	for name, start := range stoppableServers {
		t.Run(name, func(t *testing.T) {
			t.Run("Late", func(t *testing.T) {
				require.Equal(t, map[int]int{http.StatusServiceUnavailable: pendingHandshakes}, shutdownDuringHandshakes(t, start(), true))
			})
			t.Run("Racing", func(t *testing.T) {
				for range 5 {
					got := shutdownDuringHandshakes(t, start(), false)
					require.Equal(t, pendingHandshakes, got[http.StatusSwitchingProtocols]+got[http.StatusServiceUnavailable], "%v", got)
				}
			})
		})
	}
}

const pendingHandshakes = 100

// shutdownDuringHandshakes stops a server, in the order that the documentation recommends,
// while clients have sent half of their requests. If late is set, they send the rest after
// new connections are refused. Otherwise they send it at the same time. It returns the
// number of handshakes by status code.
func shutdownDuringHandshakes(t *testing.T, server stoppableServer, late bool) map[int]int {
	t.Helper()
	l := &preflight.PreflightListener{Listener: lab.Listen(t)}
	t.Cleanup(func() { l.Close() })
	address := l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- server.serve(l) }()

	conns := make([]net.Conn, pendingHandshakes)
	for i := range conns {
		conns[i] = lab.DialTCP(t, address)
		_, err := io.WriteString(conns[i], "GET / HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\n")
		require.NoError(t, err)
	}
	// The listener accepts connections in order. When it has accepted this one, it has
	// accepted all of them.
	last, err := new(preflight.PreflightDialer).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	require.NoError(t, last.Close())

	start, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		<-start
		ctx, cancel := context.WithTimeout(context.Background(), lab.Timeout)
		defer cancel()
		drained := make(chan error, 1)
		go func() { drained <- l.Shutdown(ctx) }() // no new tunnels
		<-served                                   // the server has the last one
		server.stop(ctx)                           // it tells its clients
		ended <- <-drained                         // the last one is closed
	}()
	if late {
		close(start)
		lab.WaitUntilRefused(t, address)
	}
	statuses, errs := make([]int, pendingHandshakes), make([]error, pendingHandshakes)
	var running sync.WaitGroup
	for i, c := range conns {
		running.Go(func() {
			if i == pendingHandshakes/2 && !late {
				close(start)
			}
			statuses[i], errs[i] = finishHandshake(c, server)
			errs[i] = errors.Join(errs[i], c.Close())
		})
	}
	running.Wait()
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, lab.Receive(t, ended))
	got := make(map[int]int)
	for _, status := range statuses {
		got[status]++
	}
	return got
}

// finishHandshake sends the rest of a request, and uses the tunnel if there is one.
func finishHandshake(c net.Conn, server stoppableServer) (status int, err error) {
	if _, err := io.WriteString(c, "Upgrade: tcp\r\n\r\n"); err != nil {
		return 0, err
	}
	r := bufio.NewReader(c)
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusSwitchingProtocols:
		if server.lines {
			err = lab.ExchangeLine(c, r, "hello", "OK hello")
		}
		return answer.StatusCode, err
	case http.StatusServiceUnavailable:
		if answer.Header.Get("Retry-After") == "" {
			return 0, errors.New("the 503 has no Retry-After")
		}
	}
	return answer.StatusCode, nil
}
