package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/address"
	"github.com/preflight-go/preflight/cmd/preflight/internal/check"
	"github.com/preflight-go/preflight/cmd/preflight/internal/edge"
	"golang.org/x/net/idna"
)

type checkCommand struct {
	URL       string           `arg:"" optional:"" name:"url" help:"The edge, as for forward and connect."`
	JSON      bool             `name:"json" help:"Print the report as JSON."`
	Sizes     bool             `help:"Send 16, 32, 64 and 128 KiB in one write through each carrier. Needs the far end."`
	HalfClose bool             `help:"Find out by which carriers the end of one direction passes. Needs the far end."`
	Idle      time.Duration    `placeholder:"TIME" help:"Wait this long for the path to end a silent tunnel. If a busy tunnel ends too, the limit is one for age."`
	Listen    *address.Address `placeholder:"ADDR" help:"Be the far end instead: listen here in place of the server, print what arrives, and send the bytes of tunnels back, until a signal. Anyone may open tunnels to it."`
	edge.Flags
}

// Help is the text below the flags.
func (checkCommand) Help() string {
	return `check follows the path hop by hop (names, TCP, the forward proxy, TLS), and tries to open a tunnel
with each carrier. Then it sends requests that a dial does not send: another path, another Host, a
malformed head, another protocol. It says which hop is at fault, why, and what to change. It sends
about 20 short requests.

The report shows no query, no credential and no body of an answer. Of the values of fields it shows
only the scheme of credentials, the port of a redirect, and the names of products. check sends
credentials only where forward would send them.

Exit codes: 0 a tunnel opens; 1 a tunnel opens, but not each time, or a test that a flag asked for
fails; 2 bad flags; 3 no tunnel, because of the network, a name or TLS; 4 no tunnel, because of the
answer.`
}

func (c *checkCommand) Run(env *environment) error {
	if c.Listen != nil {
		return c.beFarEnd(env)
	}
	t, err := c.target(env)
	if err != nil {
		return usage(err)
	}
	view := check.NewView(env.stdout, env.stderr, c.JSON || !isTerminal(env.stderr), isTerminal(env.stdout) && os.Getenv("NO_COLOR") == "")
	ctx, stop := signal.NotifyContext(env.ctx, endSignals...)
	report := check.Run(ctx, t, view.Progress)
	interrupted := ctx.Err() != nil
	stop()
	view.Done()
	if interrupted {
		return errors.New("interrupted")
	}
	if c.JSON {
		encoder := json.NewEncoder(env.stdout)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(report); err != nil {
			return err
		}
	} else {
		view.Print(report)
	}
	panic(exited(exitStatus(report))) // the report has said all
}

// target checks the flags.
func (c *checkCommand) target(env *environment) (*check.Target, error) {
	switch {
	case c.URL == "":
		return nil, errors.New("check needs the URL of the edge, or --listen")
	case c.Idle < 0:
		return nil, errors.New("--idle is negative")
	}
	e, err := edge.New(c.URL, c.Flags, env.log, nil)
	if err != nil {
		return nil, err
	}
	parts, err := e.Parts()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(parts.Address)
	if err != nil {
		return nil, err
	}
	if ascii, err := idna.Lookup.ToASCII(host); err == nil { // as the library dials it; an IPv6 address is none
		parts.Address = net.JoinHostPort(ascii, port)
	}
	wanted := parts.Dialer.Carriers
	if len(wanted) == 0 {
		wanted = []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierWebSocket}
	}
	return &check.Target{
		Name: e.String(), Address: parts.Address, Dialer: parts.Dialer, Fields: parts.Fields, Wanted: wanted, GivenRoots: c.CA != "",
		Sizes: c.Sizes, HalfClose: c.HalfClose, Idle: c.Idle,
	}, nil
}

func exitStatus(r *check.Report) int {
	asked := func(f check.Finding) bool { return !f.OK && f.Name != "header-limit" }
	switch {
	case r.Works && (r.Unsteady || slices.ContainsFunc(r.Findings, asked)):
		return exitCut
	case r.Works:
		return exitOK
	case r.Answered:
		return exitRefused
	}
	return exitDial
}

// beFarEnd stands in place of a server.
func (c *checkCommand) beFarEnd(env *environment) error {
	if c.URL != "" {
		return usagef("--listen is for the far end, and the URL for the near one: give one of them")
	}
	l, err := c.Listen.Listen(false)
	if err != nil {
		return usagef("--listen: %w", err)
	}
	ctx, stop := signal.NotifyContext(env.ctx, endSignals...)
	defer stop()
	env.log.Info("listening", "address", l.Addr().String())
	far := &check.FarEnd{Arrivals: check.Arrivals{Seen: func(a check.Arrival) {
		if !c.JSON {
			fmt.Fprintln(env.stdout, a)
			return
		}
		if line, err := json.Marshal(a); err == nil {
			fmt.Fprintf(env.stdout, "%s\n", line)
		}
	}}}
	return far.Serve(ctx, l)
}

// isTerminal reports whether f is a terminal.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
