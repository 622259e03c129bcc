// Oneport serves on one port what otherwise needs several ports:
//
//   - a TCP server of lines, which answers in capitals: to plain TCP clients, in tunnels,
//     over TLS, in tunnels over TLS, and with TLS inside tunnels
//   - a page and /healthz by HTTP and HTTPS, and the same lines by WebSocket
//   - gRPC (its health service): without TLS, over TLS, and in all tunnels
//
// One [preflight.PreflightListener] distinguishes HTTP, TLS and upgrade requests. The
// application must only decide whether a connection that it accepts begins as HTTP/2
// does, which means gRPC. See [server.sort]. A client that is slow to send its first bytes
// blocks no other client.
//
// Usage, from the root of the repository:
//
//	go run ./examples/oneport                    # until Ctrl-C
//	go run ./examples/oneport -listen :9007      # for other machines too
//
// It prints a command to try for each kind of client. It creates a self-signed
// certificate at its start. On Ctrl-C it answers the requests in progress, and asks all
// other clients to disconnect. It ends after ten seconds at the latest.
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

// timeout bounds the time in which a client must complete what it has begun.
const timeout = 5 * time.Second

type config struct {
	listen string        // the address of the port
	grace  time.Duration // the time for clients to finish during shutdown
}

func main() {
	cfg, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // package flag has printed the error
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err = run(ctx, cfg, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "oneport:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (config, error) {
	cfg := config{grace: 2 * timeout}
	flags := flag.NewFlagSet("oneport", flag.ContinueOnError)
	flags.StringVar(&cfg.listen, "listen", "127.0.0.1:9007", "`address` of the one port")
	return cfg, flags.Parse(args)
}

// A server has the servers behind the port.
type server struct {
	grpc   *grpc.Server
	health *health.Server
	http2  *feed // the connections for grpc

	ending  context.Context // when it ends, nothing more is read
	end     context.CancelFunc
	mu      sync.Mutex     // orders end and join
	clients sync.WaitGroup // the clients of lines, by TCP and by WebSocket
}

// run serves until ctx ends. It returns nil if all clients could finish in time.
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
		// GracefulStop, and even Stop, wait so long for a client that stalls after
		// its first line.
		grpc:   grpc.NewServer(grpc.ConnectionTimeout(timeout)),
		health: health.NewServer(),
		http2:  newFeed(ln.Addr()),
	}
	s.ending, s.end = context.WithCancel(context.Background())
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc) // for grpcurl

	var serving sync.WaitGroup
	defer serving.Wait()

	// The port.
	listener := &preflight.PreflightListener{
		Listener:         ln,
		TLSConfig:        tlsConfig(certificate),
		Handler:          s.web(ln.Addr().String()),
		HandshakeTimeout: timeout, // less than grace, because Shutdown waits for handshakes
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

// shutdown lets all clients finish, for no longer than grace.
func (s *server) shutdown(listener *preflight.PreflightListener, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	defer context.AfterFunc(ctx, s.grpc.Stop)()

	// It refuses new clients, and waits for the connections that it has accepted. The
	// server of a connection ends it.
	drained := make(chan error, 1)
	go func() { drained <- listener.Shutdown(ctx) }()

	s.mu.Lock()
	s.end()
	s.mu.Unlock()
	s.health.Shutdown() // notifies the clients that watch
	s.grpc.GracefulStop()
	s.clients.Wait()
	if err := <-drained; err != nil {
		return fmt.Errorf("not everybody had finished after %v: %w", grace, err)
	}
	return nil
}
