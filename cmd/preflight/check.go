package main

import (
	"encoding/json"
	"os"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/check"
	"github.com/preflight-go/preflight/cmd/preflight/internal/edge"
)

type checkCommand struct {
	URL  string `arg:"" name:"url" help:"The edge, as for forward and connect."`
	JSON bool   `name:"json" help:"Print the report as JSON."`
	edge.Flags
}

// Help is the text below the flags.
func (checkCommand) Help() string {
	return `It walks the path hop by hop (names, TCP, the forward proxy, TLS), opens a tunnel by each carrier,
and asks the path what one dial cannot: another path, another Host, a malformed head, another
protocol. Then it says which hop is at fault, why, and what to change.

No value of a field, no query, no credential and no body of an answer is shown. Credentials are sent
only where forward would send them.

Exit codes: 0 a tunnel opens; 1 it opens, and does not do what was asked for; 2 bad flags; 3 no
tunnel, because of the network, a name or TLS; 4 no tunnel, because of the answer.`
}

func (c *checkCommand) Run(env *environment) error {
	e, err := edge.New(c.URL, c.Flags, env.log, nil)
	if err != nil {
		return usage(err)
	}
	parts, err := e.Parts()
	if err != nil {
		return usage(err)
	}
	wanted := parts.Dialer.Carriers
	if len(wanted) == 0 {
		wanted = []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierWebSocket}
	}
	t := &check.Target{Name: e.String(), Address: parts.Address, Dialer: parts.Dialer, Fields: parts.Fields, Wanted: wanted, GivenRoots: c.CA != ""}
	view := check.NewView(env.stdout, env.stderr, c.JSON || !isTerminal(env.stderr), os.Getenv("NO_COLOR") == "" && isTerminal(env.stdout))
	report := check.Run(env.ctx, t, view.Progress)
	view.Done()
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
	return exitStatus(report)
}

// exitStatus is the result of the check as the exit code of the program. The report has said
// all, so nothing more is printed.
func exitStatus(r *check.Report) error {
	switch {
	case r.Works:
		return nil
	case r.Answered:
		panic(exited(exitRefused))
	}
	panic(exited(exitDial))
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
