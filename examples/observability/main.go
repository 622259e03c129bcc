// Observability shows what the library reports by OpenTelemetry: a span for each
// handshake, on both sides and in one trace, and the metrics that dashboard.json
// (Grafana) and alerts.yaml (Prometheus) use.
//
// It plays what happens on a port behind a reverse proxy: tunnels, refusals, a plain
// client, an ordinary request, and clients that are too slow.
// Usage, from the root of the repository:
//
//	# A tree of spans for each act, and a line for each metric.
//	go run ./examples/observability
//
//	# Send it to a collector.
//	OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 go run ./examples/observability
//
//	# Print the complete spans and metrics as JSON.
//	OTEL_TRACES_EXPORTER=console OTEL_METRICS_EXPORTER=console go run ./examples/observability
//
//	# Repeat it until Ctrl-C, for a Prometheus that scrapes localhost:9464.
//	OTEL_METRICS_EXPORTER=prometheus go run ./examples/observability -listen 127.0.0.1:9007
//
// It also reads the other variables of OpenTelemetry, such as OTEL_EXPORTER_OTLP_PROTOCOL
// and OTEL_SERVICE_NAME. An application needs two things: the field Telemetry of the
// listener and of the dialer, both in [run], and its own spans, as in [server.talk].
// telemetry.go sets up OpenTelemetry in the usual way.
package main

import (
	"context"
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

const (
	// timeout bounds each step that waits for another party.
	timeout = 10 * time.Second
	pause   = time.Second // between two demonstrations

	// maxPending is small, so that the demonstration can exceed it.
	maxPending = 8
)

type config struct {
	listen string // the address of the proxy
	repeat bool   // repeat the demonstration until ctx ends
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
	err = runAndExport(ctx, cfg, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "observability:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (config, error) {
	cfg := config{listen: "127.0.0.1:0"}
	flags := flag.NewFlagSet("observability", flag.ContinueOnError)
	flags.Func("listen", "serve on this `address`, and repeat the demonstration until Ctrl-C", func(address string) error {
		cfg = config{listen: address, repeat: true}
		return nil
	})
	return cfg, flags.Parse(args)
}

// runAndExport runs the program with the exporters that the environment selects. It flushes
// them before it returns.
func runAndExport(ctx context.Context, cfg config, out, notes io.Writer) error {
	telemetry, flush, err := export(ctx, out)
	if err != nil {
		return err
	}
	return errors.Join(run(ctx, cfg, telemetry, notes), flush())
}

// run starts the server and the proxy in front of it, and runs the demonstration.
func run(ctx context.Context, cfg config, telemetry *preflight.Telemetry, notes io.Writer) (err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &server{tracer: telemetry.TracerProvider.Tracer(scope)}

	// The server.
	listener := &preflight.PreflightListener{
		Listener:   ln,
		Telemetry:  telemetry,
		Authorize:  authorize,
		AllowPlain: true,
		Handler:    health,
		MaxPending: maxPending,
	}

	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.serve(listener); !errors.Is(err, net.ErrClosed) {
			log.Print(err)
		}
	})
	defer func() { err = errors.Join(err, drain(ctx, listener)); serving.Wait() }()

	edge, stop, err := startProxy(cfg.listen, ln.Addr().String())
	if err != nil {
		return err
	}
	defer stop()

	clients := &clients{
		edge:   edge,
		server: ln.Addr().String(),
		tracer: telemetry.TracerProvider.Tracer(scope),

		// The clients.
		dialer: preflight.PreflightDialer{Telemetry: telemetry},
	}
	fmt.Fprintf(notes, "The proxy listens on %s, the server behind it on %s.\n", edge, clients.server)
	for {
		err := clients.demonstrate(ctx, notes)
		switch {
		case cfg.repeat && ctx.Err() != nil:
			return nil
		case err != nil, !cfg.repeat:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// drain waits until the sessions have ended, because that is when their metrics are recorded.
func drain(ctx context.Context, listener *preflight.PreflightListener) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	return errors.Join(listener.Shutdown(ctx), listener.Close())
}
