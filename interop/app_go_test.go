package interop

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
	"github.com/stretchr/testify/require"
)

// runGo runs a server and its clients by each route.
func runGo(t *testing.T, serve func(t *testing.T, l *preflight.PreflightListener), use func(t *testing.T, r route)) {
	l, to := listen(t)
	serve(t, l)
	for _, r := range routes(t, to) {
		t.Run(r.name, func(t *testing.T) { use(t, r) })
	}
}

func testHTTP(t *testing.T) { runGo(t, serveHTTP, useHTTP) }

func testLines(t *testing.T) { runGo(t, serveLines, useLines) }

func testRPC(t *testing.T) { runGo(t, serveRPC, useRPC) }

// serveHTTP answers with the checksum of what is posted, and says on which
// connection it came. To the listener, clients of old are ordinary HTTP.
func serveHTTP(t *testing.T, l *preflight.PreflightListener) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		io.Copy(sum, r.Body)
		w.Header().Set("X-Connection", r.RemoteAddr)
		w.Write(sum.Sum(nil))
	})
	l.Handler = handler
	server := &http.Server{Handler: handler}
	background(t, func() { server.Serve(l) }, server.Close)
}

func useHTTP(t *testing.T, r route) {
	transport := &http.Transport{DialContext: r.DialContext}
	client := &http.Client{Transport: transport, Timeout: patience}
	t.Cleanup(transport.CloseIdleConnections)
	const requests = 10
	connections := make(map[string]bool)
	for i := range requests {
		data := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		want := sha256.Sum256(data)
		answer, err := client.Post("http://app.example/sum", "", bytes.NewReader(data))
		require.NoError(t, err)
		require.Equal(t, want[:], readAll(t, answer))
		connections[answer.Header.Get("X-Connection")] = true
	}
	require.Len(t, connections, 1, "all requests go through one tunnel")
}

func readAll(t *testing.T, answer *http.Response) []byte {
	t.Helper()
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return body
}

// A lineServer says OK to every line, and remembers it.
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

func serveLines(t *testing.T, l *preflight.PreflightListener) {
	var server lineServer
	background(t, func() {
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

// useLines lets several clients talk at once. The server ends each conversation.
func useLines(t *testing.T, r route) {
	const clients, lines = 10, 50
	errs := make([]error, clients)
	var all sync.WaitGroup
	for i := range clients {
		c, err := r.DialContext(t.Context(), "tcp", "app.example:80")
		require.NoError(t, err)
		bounded(t, c)
		all.Go(func() {
			in := bufio.NewReader(c)
			for n := range lines {
				line := fmt.Sprintf("PUB topic.%d %s", i, strings.Repeat("x", n))
				errs[i] = errors.Join(errs[i], talk(c, in, line, "OK "+line))
			}
			errs[i] = errors.Join(errs[i], talk(c, in, "QUIT", "OK QUIT"))
			if _, err := in.ReadByte(); err != io.EOF {
				errs[i] = errors.Join(errs[i], fmt.Errorf("after QUIT: %v", err))
			}
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
}

// talk writes one line and expects another.
func talk(c io.Writer, in *bufio.Reader, line, want string) error {
	if _, err := fmt.Fprintf(c, "%s\r\n", line); err != nil {
		return err
	}
	got, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	if got != want+"\r\n" {
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}

// Arith is the service of the documentation of net/rpc.
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

func serveRPC(t *testing.T, l *preflight.PreflightListener) {
	server := rpc.NewServer()
	require.NoError(t, server.Register(Arith{}))
	background(t, func() { server.Accept(l) }, l.Close)
}

func useRPC(t *testing.T, r route) {
	c, err := r.DialContext(t.Context(), "tcp", "app.example:80")
	require.NoError(t, err)
	client := rpc.NewClient(bounded(t, c))
	defer client.Close()

	const calls = 50
	done := make(chan *rpc.Call, calls)
	for i := range calls {
		client.Go("Arith.Multiply", Args{i, 7}, new(int), done)
	}
	for range calls {
		call := <-done // at the deadline of the connection at the latest
		require.NoError(t, call.Error)
		require.Equal(t, call.Args.(Args).A*7, *call.Reply.(*int))
	}
	require.EqualError(t, client.Call("Arith.Divide", Args{1, 0}, new(int)), "divide by zero")
}

// background runs a server until stop ends it with the test.
func background(t *testing.T, run func(), stop func() error) {
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
