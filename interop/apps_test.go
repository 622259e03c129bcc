package interop

import (
	"bufio"
	"bytes"
	"context"
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
	"sync/atomic"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// An app is an application that knows nothing of preflight. Its server takes
// any listener, its client any dialer: these are the lines that change.
type app struct {
	name  string
	serve func(t *testing.T, l net.Listener)
	use   func(t *testing.T, dial dialFunc, address string)
	http  bool // clients of its own are refused on the port: they speak HTTP
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

var apps = []app{
	{name: "HTTP", serve: serveHTTP, use: useHTTP, http: true},
	{name: "Lines", serve: serveLines, use: useLines},
	{name: "RPC", serve: serveRPC, use: useRPC},
}

// TestProxyApps runs each application through nginx, and its clients of old
// straight on the same port.
func TestProxyApps(t *testing.T) {
	overNginx(t, func(t *testing.T, frontOf func(backend string) front) {
		for _, a := range apps {
			t.Run(a.name, func(t *testing.T) {
				l := &preflight.PreflightListener{Listener: listenTCP(t)}
				a.serve(t, l)
				f := frontOf(l.Addr().String())
				a.use(t, f.dialer().DialContext, f.address)
				if !a.http {
					a.use(t, new(net.Dialer).DialContext, l.Addr().String())
				}
			})
		}
	})
}

// serveHTTP answers with the checksum of what is posted.
func serveHTTP(t *testing.T, l net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /sum", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		io.Copy(sum, r.Body)
		w.Write(sum.Sum(nil))
	})
	var conns atomic.Int32
	mux.HandleFunc("GET /conns", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, conns.Load())
	})
	server := &http.Server{Handler: mux, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}}
	background(t, func() { server.Serve(l) }, server.Close)
}

func useHTTP(t *testing.T, dial dialFunc, address string) {
	transport := &http.Transport{DialContext: dial}
	client := &http.Client{Transport: transport, Timeout: patience}
	t.Cleanup(transport.CloseIdleConnections)
	const requests = 10
	for i := range requests {
		data := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		want := sha256.Sum256(data)
		answer, err := client.Post("http://"+address+"/sum", "", bytes.NewReader(data))
		require.NoError(t, err)
		require.Equal(t, want[:], readAll(t, answer))
	}
	answer, err := client.Get("http://" + address + "/conns")
	require.NoError(t, err)
	require.Equal(t, "1", string(readAll(t, answer)), "all requests go through one tunnel")
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

func serveLines(t *testing.T, l net.Listener) {
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
func useLines(t *testing.T, dial dialFunc, address string) {
	const clients, lines = 10, 50
	errs := make([]error, clients)
	var all sync.WaitGroup
	for i := range clients {
		c, err := dial(t.Context(), "tcp", address)
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

func serveRPC(t *testing.T, l net.Listener) {
	server := rpc.NewServer()
	require.NoError(t, server.Register(Arith{}))
	background(t, func() { server.Accept(l) }, l.Close)
}

func useRPC(t *testing.T, dial dialFunc, address string) {
	c, err := dial(t.Context(), "tcp", address)
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
