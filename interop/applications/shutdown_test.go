package applications

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
)

// TestHTTPServerShutdown shuts the listener and the server down during a request in a tunnel.
// The request must still be answered.
func TestHTTPServerShutdown(t *testing.T) {
	l := &preflight.PreflightListener{Listener: lab.Listen(t)}
	handler := newSlowHandler()
	server := &http.Server{Handler: handler}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	transport := &http.Transport{DialContext: new(preflight.PreflightDialer).DialContext}
	answered := make(chan error, 1)
	go func() {
		response, err := (&http.Client{Transport: transport, Timeout: lab.Timeout}).Get("http://" + l.Addr().String())
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		answered <- err
	}()
	require.NoError(t, lab.Receive(t, handler.started))

	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- l.Shutdown(ctx) }()
	go func() { ended <- server.Shutdown(ctx) }()
	lab.WaitUntilRefused(t, l.Addr().String())
	require.Empty(t, ended)
	close(handler.finish)
	require.NoError(t, lab.Receive(t, answered))
	require.NoError(t, lab.Receive(t, ended))
	require.NoError(t, lab.Receive(t, ended))
	require.Error(t, lab.Receive(t, served)) // net.ErrClosed, or http.ErrServerClosed
}

// TestShutdownWaitsForHandler requires that Shutdown waits for the requests of Handler, which
// are answered. Servers close the listener before that: when they stop, and when it has
// nothing more to accept.
func TestShutdownWaitsForHandler(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
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
				l := &preflight.PreflightListener{Listener: lab.Listen(t), Handler: handler}
				t.Cleanup(func() { l.Close() })
				served := make(chan error, 1)
				go func() { served <- server.serve(l) }()
				c := lab.DialTCP(t, l.Addr().String())
				_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h.example\r\n\r\n")
				require.NoError(t, err)
				require.NoError(t, lab.Receive(t, handler.started))

				shutdown := make(chan error, 1)
				go func() { shutdown <- l.Shutdown(ctx) }()
				lab.WaitUntilRefused(t, l.Addr().String())
				if order == "WithTheServer" {
					server.stop()
				}
				lab.Receive(t, served)
				close(handler.finish)
				answer, err := http.ReadResponse(bufio.NewReader(c), nil)
				require.NoError(t, err, "the request must be answered")
				require.Equal(t, "done", string(lab.ReadBody(t, answer)))
				require.True(t, answer.Close)
				require.NoError(t, lab.Receive(t, shutdown))
			})
		}
	}
}

// A slowHandler answers when finish is closed.
type slowHandler struct {
	started chan error
	finish  chan struct{}
}

func newSlowHandler() *slowHandler {
	return &slowHandler{started: make(chan error, 1), finish: make(chan struct{})}
}

func (h *slowHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.started <- nil
	<-h.finish
	io.WriteString(w, "done")
}
