package interop

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
)

// A request that comes by a tunnel is answered, though listener and server end.
func TestHTTPServerShutdown(t *testing.T) {
	l := &preflight.PreflightListener{Listener: listenTCP(t)}
	handler := newSlowHandler()
	server := &http.Server{Handler: handler}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	transport := &http.Transport{DialContext: new(preflight.PreflightDialer).DialContext}
	answered := make(chan error, 1)
	go func() {
		answer, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://" + l.Addr().String())
		if err == nil {
			_, err = io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
		}
		answered <- err
	}()
	require.NoError(t, receive(t, handler.begun))

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- l.Shutdown(ctx) }()
	go func() { ended <- server.Shutdown(ctx) }()
	refusedByTCP(t, l.Addr().String())
	require.Empty(t, ended)
	close(handler.finish)
	require.NoError(t, receive(t, answered))
	require.NoError(t, receive(t, ended))
	require.NoError(t, receive(t, ended))
	require.Error(t, receive(t, served)) // net.ErrClosed, or http.ErrServerClosed
}

// Handler's requests are answered as well, and Shutdown waits for them. Servers
// close their listener long before: when they are told to stop, and when it has
// nothing more to accept.
func TestShutdownWaitsForHandler(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	type server struct {
		serve func(net.Listener) error
		stop  func()
	}
	for name, start := range map[string]func() server{
		"gRPC": func() server { s := grpc.NewServer(); return server{s.Serve, s.GracefulStop} },
		"HTTP": func() server { s := new(http.Server); return server{s.Serve, func() { s.Shutdown(ctx) }} },
	} {
		for _, order := range []string{"ShutdownAlone", "WithTheServer"} {
			t.Run(name+"/"+order, func(t *testing.T) {
				server := start()
				handler := newSlowHandler()
				l := &preflight.PreflightListener{Listener: listenTCP(t), Handler: handler}
				t.Cleanup(func() { l.Close() })
				served := make(chan error, 1)
				go func() { served <- server.serve(l) }()
				c := dialPlain(t, l.Addr().String())
				_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h.example\r\n\r\n")
				require.NoError(t, err)
				require.NoError(t, receive(t, handler.begun))

				shutdown := make(chan error, 1)
				go func() { shutdown <- l.Shutdown(ctx) }()
				refusedByTCP(t, l.Addr().String())
				if order == "WithTheServer" {
					server.stop()
				}
				receive(t, served)
				close(handler.finish)
				answer, err := http.ReadResponse(bufio.NewReader(c), nil)
				require.NoError(t, err, "the request is answered")
				require.Equal(t, "done", string(readAll(t, answer)))
				require.True(t, answer.Close)
				require.NoError(t, receive(t, shutdown))
			})
		}
	}
}

// A slowHandler answers when it is told to finish.
type slowHandler struct {
	begun  chan error
	finish chan struct{}
}

func newSlowHandler() *slowHandler {
	return &slowHandler{begun: make(chan error, 1), finish: make(chan struct{})}
}

func (h *slowHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.begun <- nil
	<-h.finish
	io.WriteString(w, "done")
}
