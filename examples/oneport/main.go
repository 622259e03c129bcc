// Oneport serves on a single port what otherwise takes a port each:
//
//   - a TCP server of lines, which answers in capitals: to clients of plain TCP,
//     to those that come by preflight, to those that speak TLS, by preflight in TLS,
//     and with TLS inside the tunnel
//   - a page and /healthz by HTTP and HTTPS, and the same lines by WebSocket
//   - gRPC (its health service): without TLS, by TLS, and through any tunnel
//
// One [preflight.PreflightListener] tells HTTP, TLS and upgrade requests apart.
// What is left to the application is one question about each connection that
// it accepts: does it begin as HTTP/2 does, which is gRPC, or not? See
// [server.sort]. Nobody waits for a client that is slow to answer that.
//
// Usage, from the root of the repository:
//
//	go run ./examples/oneport                    # until Ctrl-C
//	go run ./examples/oneport -listen :9007      # also for others
//
// It prints a command to try for each kind of client. Its certificate is made at
// the start, and signed by nobody else. On Ctrl-C, requests under way are answered
// and everybody else is told to go; after ten seconds it ends all the same.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/preflight-go/preflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// patience is for a client that does not go on in the middle of something.
const patience = 5 * time.Second

type config struct {
	listen string        // address of the one port
	grace  time.Duration // for everybody to finish in the end
}

func main() {
	cfg, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // package flag has said why
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err = run(ctx, cfg, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "oneport:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (config, error) {
	cfg := config{grace: 2 * patience}
	flags := flag.NewFlagSet("oneport", flag.ContinueOnError)
	flags.StringVar(&cfg.listen, "listen", "127.0.0.1:9007", "`address` of the one port")
	return cfg, flags.Parse(args)
}

// A server is what is behind the port.
type server struct {
	grpc   *grpc.Server
	health *health.Server
	http2  *feed // the connections for grpc

	ending  context.Context // once it ends, nothing more is read
	end     context.CancelFunc
	mu      sync.Mutex     // orders end and join
	clients sync.WaitGroup // of lines, by TCP and by WebSocket
}

// run serves until ctx ends, and returns nil if everybody could finish.
func run(ctx context.Context, cfg config, out io.Writer) error {
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", cfg.listen)
	if err != nil {
		return err
	}
	s := &server{
		// GracefulStop, and even Stop, wait for a client that stalls behind
		// its first line until then.
		grpc:   grpc.NewServer(grpc.ConnectionTimeout(patience)),
		health: health.NewServer(),
		http2:  newFeed(ln.Addr()),
	}
	s.ending, s.end = context.WithCancel(context.Background())
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc) // for grpcurl

	var serving sync.WaitGroup
	defer serving.Wait()

	// The one port.
	listener := &preflight.PreflightListener{
		Listener:         ln,
		TLSConfig:        tlsConfig(certificate),
		Handler:          s.web(ln.Addr().String()),
		HandshakeTimeout: patience, // below grace: Shutdown waits for it
	}
	defer listener.Close()

	failed := make(chan error, 2)
	serving.Go(func() { failed <- s.grpc.Serve(s.http2) })
	serving.Go(func() { failed <- s.acceptAll(listener) })
	fmt.Fprint(out, usage(ln.Addr().String()))
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	return errors.Join(err, s.shutdown(listener, cfg.grace))
}

// shutdown lets everybody finish, but not for longer than grace.
func (s *server) shutdown(listener *preflight.PreflightListener, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	defer context.AfterFunc(ctx, s.grpc.Stop)()

	// It refuses whoever comes now, and waits for the connections that it has
	// accepted: each of them is ended by whoever serves it.
	drained := make(chan error, 1)
	go func() { drained <- listener.Shutdown(ctx) }()

	s.mu.Lock()
	s.end()
	s.mu.Unlock()
	s.health.Shutdown() // tells those who watch
	s.grpc.GracefulStop()
	s.clients.Wait()
	if err := <-drained; err != nil {
		return fmt.Errorf("not everybody had finished after %v: %w", grace, err)
	}
	return nil
}
