package applications

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/rpc"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// runGoApp runs a server that is written in Go, and clients over each route.
func runGoApp(t *testing.T, serve func(t *testing.T, l *preflight.PreflightListener), use func(t *testing.T, r route)) {
	l, to := listenWithTLS(t)
	serve(t, l)
	for _, r := range routes(t, to) {
		t.Run(r.name, func(t *testing.T) { use(t, r) })
	}
}

func testHTTP(t *testing.T) { runGoApp(t, serveHTTP, useHTTP) }

func testLines(t *testing.T) { runGoApp(t, serveLines, useLines) }

func testRPC(t *testing.T) { runGoApp(t, serveRPC, useRPC) }

// serveHTTP runs a server that answers with the checksum of the request body. A field
// identifies the connection. To the listener, plain clients are ordinary HTTP, and their
// requests go to Handler.
func serveHTTP(t *testing.T, l *preflight.PreflightListener) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		io.Copy(sum, r.Body)
		w.Header().Set("X-Connection", r.RemoteAddr)
		w.Write(sum.Sum(nil))
	})
	l.Handler = handler
	server := &http.Server{Handler: handler}
	lab.RunServer(t, func() { server.Serve(l) }, server.Close)
}

// useHTTP sends requests with large bodies on one connection.
func useHTTP(t *testing.T, r route) {
	transport := &http.Transport{DialContext: r.DialContext}
	client := &http.Client{Transport: transport, Timeout: lab.Timeout}
	t.Cleanup(transport.CloseIdleConnections)
	const requests = 10
	connections := make(map[string]bool)
	for i := range requests {
		data := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		want := sha256.Sum256(data)
		response, err := client.Post("http://app.example/sum", "", bytes.NewReader(data))
		require.NoError(t, err)
		require.Equal(t, want[:], lab.ReadBody(t, response))
		connections[response.Header.Get("X-Connection")] = true
	}
	require.Len(t, connections, 1, "all requests share one tunnel")
}

// A lineServer answers each line with OK, and records the lines.
type lineServer struct {
	mu    sync.Mutex
	lines []string
}

func (s *lineServer) serve(c net.Conn) {
	in, out := bufio.NewScanner(c), bufio.NewWriter(c)
	for in.Scan() {
		s.mu.Lock()
		s.lines = append(s.lines, in.Text())
		s.mu.Unlock()
		fmt.Fprintf(out, "OK %s\r\n", in.Text())
		if out.Flush() != nil || in.Text() == "QUIT" {
			return
		}
	}
}

func (s *lineServer) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

// serveLines runs a lineServer.
func serveLines(t *testing.T, l *preflight.PreflightListener) {
	var server lineServer
	lab.RunServer(t, func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				server.serve(c)
			}()
		}
	}, l.Close)
}

// useLines has several clients send lines at once. The server closes each connection.
func useLines(t *testing.T, r route) {
	const clients, lines = 10, 50
	errs := make([]error, clients)
	var running sync.WaitGroup
	for i := range clients {
		c, err := r.DialContext(t.Context(), "tcp", "app.example:80")
		require.NoError(t, err)
		lab.WithDeadline(t, c)
		running.Go(func() {
			in := bufio.NewReader(c)
			for n := range lines {
				line := fmt.Sprintf("PUB topic.%d %s", i, strings.Repeat("x", n))
				errs[i] = errors.Join(errs[i], lab.ExchangeLine(c, in, line, "OK "+line))
			}
			errs[i] = errors.Join(errs[i], lab.ExchangeLine(c, in, "QUIT", "OK QUIT"))
			if _, err := in.ReadByte(); err != io.EOF {
				errs[i] = errors.Join(errs[i], fmt.Errorf("after QUIT: %v", err))
			}
		})
	}
	running.Wait()
	require.NoError(t, errors.Join(errs...))
}

// Arith is the example service of the documentation of net/rpc.
type Arith struct{}

type Args struct{ A, B int }

func (Arith) Multiply(args Args, reply *int) error {
	*reply = args.A * args.B
	return nil
}

func (Arith) Divide(args Args, reply *int) error {
	if args.B == 0 {
		return errors.New("divide by zero")
	}
	*reply = args.A / args.B
	return nil
}

// serveRPC runs a server of net/rpc.
func serveRPC(t *testing.T, l *preflight.PreflightListener) {
	server := rpc.NewServer()
	require.NoError(t, server.Register(Arith{}))
	lab.RunServer(t, func() { server.Accept(l) }, l.Close)
}

// useRPC makes many calls at once, on one connection.
func useRPC(t *testing.T, r route) {
	c, err := r.DialContext(t.Context(), "tcp", "app.example:80")
	require.NoError(t, err)
	client := rpc.NewClient(lab.WithDeadline(t, c))
	defer client.Close()

	const calls = 50
	done := make(chan *rpc.Call, calls)
	for i := range calls {
		client.Go("Arith.Multiply", Args{i, 7}, new(int), done)
	}
	for range calls {
		call := <-done // the deadline of the connection bounds this
		require.NoError(t, call.Error)
		require.Equal(t, call.Args.(Args).A*7, *call.Reply.(*int))
	}
	require.EqualError(t, client.Call("Arith.Divide", Args{1, 0}, new(int)), "divide by zero")
}
