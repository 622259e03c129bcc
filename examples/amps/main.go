// Amps is a small AMPS server for the clients of 60East's AMPS, all behind one
// port: by plain TCP, by TLS, by HTTP preflight through a reverse proxy, and by
// WebSocket for JavaScript.
//
//	go run ./examples/amps
//
// It has publish and subscribe, filters, delta messages, the state of the world
// (SOW) of topics with a key, bookmark subscriptions, heartbeats, and the acks that
// the clients' publish stores need. It keeps everything in memory, within bounds.
// Use it to try the clients through a proxy. It does not replace AMPS. It refuses
// with a failure ack what it does not serve; README.md has the list.
//
// On Ctrl-C or SIGTERM, the server sends each client what is left for it and ends,
// after ten seconds at most. A second signal ends it at once.
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
	"strings"
	"syscall"
	"time"
)

type config struct {
	listen    string // address of the one port
	cert, key string // files; empty: no TLS
	user      string // the user who has the token
	token     string // "": none is required
	path      string // of tunnels and of WebSocket
	sow       keyFields
	grace     time.Duration // for the clients to leave at the end
	limits

	maxClients int // at the same time
	maxSOW     int // bytes of all SOWs
	maxJournal int // bytes of the messages kept for bookmark subscriptions
}

func defaults() config {
	return config{
		sow:        keyFields{"sow": "/id"},
		grace:      10 * time.Second,
		limits:     limits{frame: 8 << 20, outbox: 64 << 20},
		maxClients: 1000,
		maxSOW:     256 << 20,
		maxJournal: 64 << 20,
	}
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
	if err := run(ctx, cfg, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "amps:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (config, error) {
	cfg := defaults()
	given := keyFields{}
	flags := flag.NewFlagSet("amps", flag.ContinueOnError)
	flags.StringVar(&cfg.listen, "listen", "127.0.0.1:9007", "`address` of the one port")
	flags.StringVar(&cfg.cert, "tls-cert", "", "`file` of the certificate for TLS")
	flags.StringVar(&cfg.key, "tls-key", "", "`file` of its key")
	flags.StringVar(&cfg.user, "user", "", "`name` of the user who has the token")
	flags.StringVar(&cfg.token, "token", "", "`secret` that a request must carry as \"Authorization: Bearer SECRET\"")
	flags.StringVar(&cfg.path, "path", "/amps/json", "`path` of tunnels and of WebSocket")
	flags.Var(given, "sow", "`topic:/field`: keep the last message for each value of the field (may be repeated; default sow:/id)")
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	if len(given) > 0 {
		cfg.sow = given
	}
	var err error
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unknown argument %q", flags.Arg(0))
	case (cfg.cert == "") != (cfg.key == ""):
		err = errors.New("-tls-cert and -tls-key belong together")
	case (cfg.user == "") != (cfg.token == ""):
		err = errors.New("-user and -token belong together")
	case !strings.HasPrefix(cfg.path, "/") || strings.ContainsAny(cfg.path, "{} "):
		err = errors.New("-path must begin with a slash")
	}
	if err != nil {
		fmt.Fprintln(flags.Output(), err)
		flags.Usage()
	}
	return cfg, err
}

// keyFields is the flag -sow.
type keyFields map[string]string

func (k keyFields) String() string { return "" }

func (k keyFields) Set(value string) error {
	topic, field, ok := strings.Cut(value, ":")
	if !ok || !strings.HasPrefix(field, "/") || strings.HasSuffix(field, "/") || checkTopic(topic) != nil {
		return errors.New("want topic:/field")
	}
	k[topic] = field
	return nil
}

// run serves until ctx ends. It returns nil if all clients have left in time.
func run(ctx context.Context, cfg config, out, logTo io.Writer) error {
	var tlsConfig *tls.Config
	if cfg.cert != "" {
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
	s := newServer(cfg, log.New(logTo, "", log.LstdFlags))
	listener := s.listener(ln, tlsConfig)
	defer listener.Close()
	failed := make(chan error, 1)
	go func() { failed <- s.acceptAll(listener) }()
	fmt.Fprintf(out, "listening on %s\n", ln.Addr())
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	return errors.Join(err, s.shutdown(listener, cfg.grace))
}
