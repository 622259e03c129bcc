package interop

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
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
)

// An orderlyServer is a server that can be told to end.
type orderlyServer struct {
	serve func(net.Listener) error // returns when there is nothing more to accept
	stop  func(context.Context)    // tells the clients to go
	// lines: it answers in each tunnel that it has accepted. The others may close
	// one without a word: net/http when a first request arrives behind Shutdown,
	// gRPC when the client has said nothing. They do so over plain TCP, too.
	lines bool
}

var orderlyServers = map[string]func() orderlyServer{
	"grpc": func() orderlyServer {
		s := grpc.NewServer()
		return orderlyServer{serve: s.Serve, stop: func(context.Context) { s.GracefulStop() }}
	},
	"http": func() orderlyServer {
		s := new(http.Server)
		return orderlyServer{serve: s.Serve, stop: func(ctx context.Context) { s.Shutdown(ctx) }}
	},
	"raw": func() orderlyServer {
		s := new(rawServer)
		return orderlyServer{s.serve, func(context.Context) { s.stop() }, true}
	},
}

// A rawServer answers lines. When it is told to stop, a client has a while for
// what is on its way.
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
		c.(net.Conn).SetReadDeadline(time.Now().Add(patience))
		return true
	})
}

// Whoever is in the middle of a handshake when a server ends gets an answer: a
// tunnel, or 503 and when to come again. No handshake is cut off.
func TestShutdownOrder(t *testing.T) {
	for name, start := range orderlyServers {
		t.Run(name, func(t *testing.T) {
			t.Run("Late", func(t *testing.T) {
				require.Equal(t, map[int]int{http.StatusServiceUnavailable: halfSent}, endHalfSent(t, start(), true))
			})
			t.Run("Racing", func(t *testing.T) {
				for range 5 {
					got := endHalfSent(t, start(), false)
					require.Equal(t, halfSent, got[http.StatusSwitchingProtocols]+got[http.StatusServiceUnavailable], "%v", got)
				}
			})
		})
	}
}

const halfSent = 100 // handshakes

// endHalfSent ends a server in the order of the README while clients are in the
// middle of their handshakes. They send the rest when new clients are refused
// already (late), or at the same moment. It returns how many got which status.
func endHalfSent(t *testing.T, server orderlyServer, late bool) map[int]int {
	t.Helper()
	l := &preflight.PreflightListener{Listener: listenTCP(t)}
	t.Cleanup(func() { l.Close() })
	address := l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- server.serve(l) }()

	conns := make([]net.Conn, halfSent)
	for i := range conns {
		conns[i] = dialPlain(t, address)
		_, err := io.WriteString(conns[i], "GET / HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\n")
		require.NoError(t, err)
	}
	// The listener accepts in the order in which they come: they are there when
	// this one is.
	last, err := new(preflight.PreflightDialer).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	require.NoError(t, last.Close())

	begin, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		<-begin
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		drained := make(chan error, 1)
		go func() { drained <- l.Shutdown(ctx) }() // no new tunnels
		<-served                                   // the server has the last one
		server.stop(ctx)                           // it tells its clients
		ended <- <-drained                         // the last one is closed
	}()
	if late {
		close(begin)
		refusedByTCP(t, address)
	}
	statuses, errs := make([]int, halfSent), make([]error, halfSent)
	var all sync.WaitGroup
	for i, c := range conns {
		all.Go(func() {
			if i == halfSent/2 && !late {
				close(begin)
			}
			statuses[i], errs[i] = finishHalfSent(c, server)
			errs[i] = errors.Join(errs[i], c.Close())
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, receive(t, ended))
	got := make(map[int]int)
	for _, status := range statuses {
		got[status]++
	}
	return got
}

// finishHalfSent sends the rest of a handshake, and uses the tunnel if there is one.
func finishHalfSent(c net.Conn, server orderlyServer) (status int, err error) {
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
			err = talk(c, r, "hello", "OK hello")
		}
		return answer.StatusCode, err
	case http.StatusServiceUnavailable:
		if answer.Header.Get("Retry-After") == "" {
			return 0, errors.New("it does not say when to come again")
		}
	}
	return answer.StatusCode, nil
}
