// Relay runs in front of a TCP server that is not written in Go, or that cannot be
// changed. Through it, clients reach the server by way of an HTTP reverse proxy. Tunnels
// and plain clients share its port. It forwards all data without a change:
//
//	go run ./examples/relay -listen :9007 -to 127.0.0.1:5432
//
// For a server that sends first, such as MySQL, NATS and SMTP, set -plain-after 200ms, so
// that plain clients do not wait. For a server without plain clients, set
// -require-upgrade. With -cert and -key, the relay also accepts TLS, outside and inside
// the tunnel.
//
// On Ctrl-C or SIGTERM, the relay accepts no new connections. It ends when the last
// connection has ended, or after -grace: it cannot ask clients to disconnect, because it
// does not know their protocol. A second signal ends it at once.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/preflight-go/preflight"
)

type config struct {
	listen         string        // the address of the relay
	to             string        // the address of the server
	plainAfter     time.Duration // see preflight.PreflightListener
	requireUpgrade bool          // see preflight.PreflightListener
	cert, key      string        // files; empty: no TLS
	linger         time.Duration // the time to deliver data to one end after the other has gone
	grace          time.Duration // the time for connections to end during shutdown
}

func main() {
	cfg, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // parseFlags has printed the error
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err := run(ctx, cfg, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (config, error) {
	var cfg config
	flags := flag.NewFlagSet("relay", flag.ContinueOnError)
	flags.StringVar(&cfg.listen, "listen", "127.0.0.1:9007", "`address` for tunnels and plain clients")
	flags.StringVar(&cfg.to, "to", "", "`address` of the server, must be given")
	flags.DurationVar(&cfg.plainAfter, "plain-after", 0, "hand a silent client to a server that speaks first after this `time` (200ms to 1s)")
	flags.BoolVar(&cfg.requireUpgrade, "require-upgrade", false, "refuse plain clients")
	flags.StringVar(&cfg.cert, "cert", "", "`file` of the certificate for TLS")
	flags.StringVar(&cfg.key, "key", "", "`file` of its key")
	flags.DurationVar(&cfg.linger, "linger", 5*time.Second, "`time` to deliver what one end has left to say when the other is gone")
	flags.DurationVar(&cfg.grace, "grace", 10*time.Second, "`time` for open connections to end by themselves at the end")
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	if cfg.to == "" {
		err := errors.New("-to is missing: where is the server?")
		fmt.Fprintln(flags.Output(), err)
		flags.Usage()
		return cfg, err
	}
	return cfg, nil
}

// run relays until ctx ends. It returns nil if all connections have ended in time. It
// writes errors of single connections to out.
func run(ctx context.Context, cfg config, out io.Writer) error {
	var tlsConfig *tls.Config
	if cfg.cert != "" || cfg.key != "" {
		pair, err := tls.LoadX509KeyPair(cfg.cert, cfg.key)
		if err != nil {
			return err
		}
		tlsConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	ln, err := net.Listen("tcp", cfg.listen)
	if err != nil {
		return err
	}
	r := &relay{to: cfg.to, linger: cfg.linger, log: log.New(out, "", log.LstdFlags)}
	var cut context.CancelFunc
	r.open, cut = context.WithCancel(context.Background())
	listener := &preflight.PreflightListener{
		Listener:       ln,
		TLSConfig:      tlsConfig,
		PlainAfter:     cfg.plainAfter,
		RequireUpgrade: cfg.requireUpgrade,
	}
	defer r.relaying.Wait()
	defer cut()
	defer listener.Close()
	accepted := make(chan error, 1)
	r.relaying.Go(func() { accepted <- r.acceptAll(listener) })
	fmt.Fprintf(out, "Listening on %s, relaying to %s\n", ln.Addr(), cfg.to)

	select {
	case err := <-accepted:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), cfg.grace)
	defer cancel()
	if err := listener.Shutdown(grace); err != nil {
		return fmt.Errorf("connections are still open after %v: %w", cfg.grace, err)
	}
	return nil
}

// A relay connects each client that it accepts to a server.
type relay struct {
	to       string
	linger   time.Duration
	log      *log.Logger
	open     context.Context // the connections end with it
	relaying sync.WaitGroup
}

func (r *relay) acceptAll(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		switch {
		case err == nil:
			r.relaying.Go(func() { r.serve(conn.(*preflight.Conn)) })
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			r.log.Print(err)
			time.Sleep(100 * time.Millisecond) // until a client has disconnected
		default:
			return err
		}
	}
}
