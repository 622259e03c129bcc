// Command preflight gives the tunnels of package preflight to programs that are not written
// in Go. See docs/command.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/config"
)

// The exit codes.
const (
	exitOK      = 0
	exitCut     = 1 // something that was open ended early
	exitUsage   = 2 // flags, or a file that they name
	exitDial    = 3 // no tunnel: the network, a name or TLS
	exitRefused = 4 // no tunnel: an HTTP answer
)

// description is the first part of the help.
const description = `Reach any TCP server through an HTTP reverse proxy, without a line of Go.

Run "preflight serve" in front of the server, and "preflight forward" or "preflight connect"
on the client's machine. Between them there only has to be an HTTP reverse proxy. It forwards
one upgrade request, or a WebSocket, and then the bytes.

Examples:

  # in front of PostgreSQL, behind nginx
  preflight serve --listen 127.0.0.1:9007 --to 127.0.0.1:5432 --token-file tokens

  # on the machine of psql
  preflight forward --listen 127.0.0.1:15432 https://edge.example/pg --header-file token

  # for ssh, in ~/.ssh/config
  ProxyCommand preflight connect https://edge.example/ssh

Exit codes: 0 done; 1 an open tunnel was cut; 2 bad flags or files; 3 no tunnel, because of the
network, a name or TLS; 4 no tunnel, because of the answer to the request.`

type cli struct {
	LogFormat string           `enum:"text,json" default:"text" help:"The format of log records: text or json."`
	LogLevel  slog.Level       `default:"info" placeholder:"LEVEL" help:"The lowest level of log records to print: debug, info, warn or error."`
	Version   kong.VersionFlag `help:"Print the version and exit."`

	Serve   serveCommand   `cmd:"" help:"Accept tunnels for TCP servers."`
	Forward forwardCommand `cmd:"" help:"Listen on this machine, and open a tunnel for each connection."`
	Connect connectCommand `cmd:"" help:"Open one tunnel for standard input and output, for example as the ProxyCommand of ssh."`
	Check   checkCommand   `cmd:"" help:"Find out why a tunnel does not open, and what to change."`

	Config     configCommand     `cmd:"" help:"Print the configuration of a reverse proxy that forwards tunnels."`
	Completion completionCommand `cmd:"" help:"Print the completion script of a shell."`
	Man        manCommand        `cmd:"" help:"Print the manual page."`
	Complete   completeCommand   `cmd:"" hidden:""`
}

// An environment is what a command sees of the outside.
type environment struct {
	ctx            context.Context
	log            *slog.Logger
	stdin          io.ReadCloser
	stdout, stderr io.WriteCloser

	parsed *kong.Context                     // the flags in use
	parse  func(*cli) (*kong.Context, error) // reads them again, and the file of --config
}

func main() {
	os.Exit(run(os.Args[1:], environment{ctx: context.Background(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}))
}

// exited carries the code of --help and --version out of kong.
type exited int

func run(args []string, env environment) (code int) {
	defer func() {
		if v := recover(); v != nil {
			e, ok := v.(exited)
			if !ok {
				panic(v)
			}
			code = int(e)
		}
	}()
	var c cli
	parser := []kong.Option{
		kong.Name("preflight"),
		kong.Description(description),
		kong.Help(printHelp),
		kong.Writers(env.stdout, env.stderr),
		kong.Vars{"version": version(), "products": strings.Join(config.Products(), ", ")},
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
	}
	parsed, err := kong.Must(&c, parser...).Parse(args)
	if err != nil {
		return env.report(usageError{err, "preflight --help"})
	}
	env.parsed = parsed
	env.parse = func(fresh *cli) (*kong.Context, error) { return kong.Must(fresh, parser...).Parse(args) }
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		env.log = slog.New(slog.NewJSONHandler(env.stderr, options))
	} else {
		env.log = slog.New(slog.NewTextHandler(env.stderr, options))
	}
	return env.report(parsed.Run(&env))
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return fmt.Sprintf("preflight %s %s", info.Main.Version, info.GoVersion)
	}
	return "preflight"
}

// A usageError is a mistake in flags, or in a file that they name.
type usageError struct {
	error
	hint string // what to do; "": the error says it
}

func usage(err error) error                   { return usageError{error: err} }
func usagef(format string, args ...any) error { return usage(fmt.Errorf(format, args...)) }

// errCut is the end of a command that had to cut tunnels.
var errCut = errors.New("tunnels were cut")

// report prints err as the last lines of the program, and returns the exit code.
func (env *environment) report(err error) (code int) {
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(env.stderr, "preflight: error: %v\n", err)
	var bad usageError
	var refused *preflight.StatusError
	var dial dialError
	switch {
	case errors.As(err, &bad):
		if bad.hint != "" {
			fmt.Fprintf(env.stderr, "preflight: hint: %s\n", bad.hint)
		}
		return exitUsage
	case errors.As(err, &refused):
		if says := answerOf(err); says != "" {
			fmt.Fprintf(env.stderr, "preflight: the server says: %s\n", says)
		}
		return exitRefused
	case errors.As(err, &dial):
		return exitDial
	}
	return exitCut
}

// A dialError says that a tunnel could not be opened.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// answerOf is the text of a refusal by a preflight listener, as one line. That of a proxy is
// seldom of use, and is a page of HTML.
func answerOf(err error) string {
	var refused *preflight.StatusError
	if !errors.As(err, &refused) || refused.Reason == "" {
		return ""
	}
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, string(refused.Body[:min(len(refused.Body), 200)]))
	return strings.Join(strings.Fields(text), " ")
}
