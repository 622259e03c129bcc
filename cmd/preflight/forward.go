package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/address"
	"github.com/preflight-go/preflight/cmd/preflight/internal/edge"
	"github.com/preflight-go/preflight/cmd/preflight/internal/relay"
	"github.com/preflight-go/preflight/cmd/preflight/internal/sandbox"
)

type forwardCommand struct {
	Listen           []address.Address `required:"" sep:"none" placeholder:"ADDR" help:"Accept connections here: HOST:PORT, unix:PATH, or systemd:NAME for a socket of systemd. The first is for the first URL, the second for the second, and so on."`
	URL              []string          `arg:"" name:"url" help:"An edge: https://HOST/PATH, or http, wss, ws, tcps, tcp with http_preflight=true. The flags are for all of them."`
	HalfCloseTimeout time.Duration     `default:"5m" help:"When one direction has ended, end the tunnel after this much silence in the other. 0 means never."`
	DrainTimeout     time.Duration     `default:"25s" help:"On SIGTERM or SIGINT, wait so long for open tunnels, then cut them and exit with 1. A second signal cuts them at once."`
	Landlock         bool              `default:"true" negatable:"" help:"On Linux, give up all access to files but reading those of the flags and of /etc. On by default. It is off with --header-command, which may need anything."`
	TelemetryFlags
	UnsafeListen bool `help:"Allow to listen on other addresses than loopback and Unix sockets. Everybody who reaches them can then use the tunnels."`
	edge.Flags
}

// Help is the text below the flags.
func (forwardCommand) Help() string {
	return `A connection whose tunnel cannot be opened is reset, and the reason is logged. The next connection
dials anew. The forward proxy comes from HTTPS_PROXY and NO_PROXY. SIGHUP reads the certificates
again; the header file is read for each tunnel.`
}

// A mapping leads the connections of a listener to an edge.
type mapping struct {
	listener net.Listener
	edge     *edge.Edge
}

// A forwarder is a forward command that runs.
type forwarder struct {
	*forwardCommand
	log     *slog.Logger
	tunnels tunnels
	ctx     context.Context // ends when the program stops to accept
	dialing context.Context // ends when it cuts what is open
}

func (c *forwardCommand) Run(env *environment) error {
	t, err := c.TelemetryFlags.start(env.ctx, env.log)
	if err != nil {
		return usage(err)
	}
	defer t.stop(env.log)
	mappings, err := c.open(env, t.Telemetry)
	if err != nil {
		return usage(err)
	}
	if err := c.enterSandbox(); err != nil {
		return usagef("landlock: %w; --no-landlock goes without", err)
	}
	f := &forwarder{forwardCommand: c, log: env.log}
	signals := watchSignals(env.ctx)
	defer signals.stop()
	f.ctx = signals.ctx
	dialing, cancelDials := context.WithCancel(signals.again)
	defer cancelDials()
	f.dialing = dialing
	var accepting sync.WaitGroup
	var files []reloadable
	for _, m := range mappings {
		f.log.Info("listening", "address", m.listener.Addr().String(), "edge", m.edge.String())
		files = append(files, reloadable{slog.String("edge", m.edge.String()), m.edge.Reload})
		accepting.Go(func() { f.acceptAll(m) })
	}
	ready()
	for {
		select {
		case <-signals.reload:
			reloadAll(f.log, files)
			continue
		case <-signals.ctx.Done():
		}
		break
	}
	stopping()
	f.log.Info("draining", "tunnels", f.tunnels.count(), "timeout", f.DrainTimeout)
	ctx, cancel := context.WithTimeout(signals.again, f.DrainTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, cancelDials)()
	for _, m := range mappings {
		m.listener.Close()
	}
	accepting.Wait()
	if cut := f.tunnels.wait(ctx); cut > 0 {
		return fmt.Errorf("%w after --drain-timeout: %d", errCut, cut)
	}
	f.log.Info("drained")
	return nil
}

// enterSandbox gives up what the program does not need any more.
func (c *forwardCommand) enterSandbox() error {
	if !c.Landlock || c.HeaderCommand != "" {
		return nil
	}
	needs := sandbox.Needs{Files: []string{c.HeaderFile, c.CA, c.Cert, c.Key}}
	for _, a := range c.Listen {
		if socket := a.Socket(); socket != "" {
			needs.Sockets = append(needs.Sockets, socket)
		}
	}
	return needs.Enter()
}

// open checks the flags, and listens.
func (c *forwardCommand) open(env *environment, t *preflight.Telemetry) (mappings []mapping, err error) {
	switch {
	case len(c.Listen) != len(c.URL):
		return nil, fmt.Errorf("%d times --listen and %d URLs: each URL needs one --listen", len(c.Listen), len(c.URL))
	case c.HalfCloseTimeout < 0:
		return nil, errors.New("--half-close-timeout is negative")
	case c.DrainTimeout < 0:
		return nil, errors.New("--drain-timeout is negative")
	}
	for i, a := range c.Listen {
		if a.Network == "systemd" && slices.Contains(c.Listen[:i], a) {
			return nil, fmt.Errorf("--listen %s is there twice: each URL needs a socket of its own", a)
		}
		if !c.UnsafeListen && !a.Local() {
			return nil, fmt.Errorf("--listen %s is open to other machines, and so would be the tunnel with its credentials: use a loopback address or a Unix socket, or say --unsafe-listen", a)
		}
		e, err := edge.New(c.URL[i], c.Flags, env.log, t)
		if err != nil {
			return nil, fmt.Errorf("the URL for %s: %w", a, err)
		}
		mappings = append(mappings, mapping{edge: e})
	}
	for i, a := range c.Listen {
		if mappings[i].listener, err = a.Listen(); err != nil {
			for _, m := range mappings[:i] {
				m.listener.Close()
			}
			return nil, fmt.Errorf("--listen: %w", err)
		}
	}
	return mappings, nil
}

func (f *forwarder) acceptAll(m mapping) {
	var wait backoff
	for {
		c, err := m.listener.Accept()
		switch {
		case f.ctx.Err() != nil && err != nil:
			return
		case err != nil:
			f.log.Error("accept failed", "error", err)
			wait.sleep()
		default:
			wait.reset()
			f.tunnels.add(func() { f.forward(c.(relay.Conn), m.edge) })
		}
	}
}

// forward opens a tunnel for the connection c.
func (f *forwarder) forward(c relay.Conn, e *edge.Edge) {
	log := f.log.With("edge", e.String(), "client", strings.TrimPrefix(c.RemoteAddr().String(), "@"))
	begin := time.Now()
	tunnel, err := e.Dial(f.dialing)
	if err != nil {
		// A reset, so that the client does not take this for an answer of the server.
		relay.Reset(c)
		log.Warn("no tunnel", "error", err, "answer", answerOf(err))
		return
	}
	log = log.With("carrier", string(tunnel.Carrier()))
	took := time.Since(begin).Round(time.Millisecond)
	result := f.tunnels.run(c, tunnel, f.HalfCloseTimeout, func() { log.Debug("opened", "took", took) })
	closed(log, result, time.Since(begin))
}
