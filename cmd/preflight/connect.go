package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"github.com/alecthomas/kong"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/edge"
	"github.com/preflight-go/preflight/cmd/preflight/internal/relay"
)

type connectCommand struct {
	URL         string        `arg:"" name:"url" help:"The edge: https://HOST/PATH, or http, wss, ws, tcps, tcp with http_preflight=true."`
	SSHConfig   string        `name:"ssh-config" placeholder:"HOST" help:"Print the lines for ~/.ssh/config that reach HOST by this URL, and exit. The lines contain the flags of this command."`
	IdleTimeout time.Duration `default:"5m" name:"half-close-timeout" help:"When one direction has ended, end the tunnel after this much silence in the other. 0 means never."`
	edge.Flags
}

// Help is the text below the flags.
func (connectCommand) Help() string {
	return `When standard input ends, connect ends the direction to the server. It still reads the answer to its
end. A framed or WebSocket tunnel that ends early is an error, and never looks like the end of the
data. Standard output carries only the bytes of the tunnel.`
}

func (c *connectCommand) Run(env *environment, parsed *kong.Context) error {
	if c.IdleTimeout < 0 {
		return usagef("--half-close-timeout is negative")
	}
	if len(c.Carrier) == 0 {
		// The end of standard input is a half-close, which few proxies pass otherwise.
		c.Carrier = []string{string(preflight.CarrierFramed), string(preflight.CarrierWebSocket)}
	}
	e, err := edge.New(c.URL, c.Flags, env.log, nil)
	if err != nil {
		return usage(err)
	}
	if c.SSHConfig != "" {
		return c.printSSHConfig(env.stdout, parsed)
	}
	tunnel, err := e.Dial(env.ctx)
	if err != nil {
		return dialError{err}
	}
	local := newStdio(env)
	received := make(chan os.Signal, 2)
	signal.Notify(received, slices.Concat(endSignals, reloadSignals)...)
	defer signal.Stop(received)
	env.log.Debug("opened", "edge", e.String(), "carrier", string(tunnel.Carrier()))
	done := make(chan relay.Result, 1)
	go func() { done <- relay.Run(local, tunnel, c.IdleTimeout) }()
	return await(done, received, local, tunnel)
}

// endTimeout is how long the server may take to end its direction after a signal.
const endTimeout = 2 * time.Second

// await waits for the end of the tunnel. A signal is the end of standard input: ssh sends one
// when it is done, and a program that is killed would look like a cut tunnel at the other end.
//
// What a signal has begun ends after endTimeout, or with a second signal, even if the relay
// does not: nothing can interrupt a Write to a pipe that nobody reads.
func await(done <-chan relay.Result, received <-chan os.Signal, local *stdio, tunnel net.Conn) error {
	var limit <-chan time.Time
	for {
		select {
		case r := <-done:
			return tunnelError(r)
		case <-received:
			if limit == nil {
				limit = time.After(endTimeout)
				local.in.pipe.Close()
				continue
			}
		case <-limit:
		}
		relay.Reset(tunnel)
		return errSignal
	}
}

// errSignal is the end of a tunnel by a signal.
var errSignal = errors.New("the tunnel was cut by a signal")

func tunnelError(r relay.Result) error {
	err := r.Err
	if err == nil && r.Gone != nil {
		err = fmt.Errorf("the server ended its direction, and did not read the other to its end: %w", r.Gone)
	}
	if err != nil {
		return fmt.Errorf("the tunnel ended early, after %d bytes sent and %d received: %w", r.Up, r.Down, err)
	}
	return nil
}

// stdio is standard input and output as a connection.
type stdio struct {
	net.Conn // what was read of standard input; it has deadlines, which a terminal has not
	out      io.WriteCloser
	in       *input
}

// An input copies standard input into a pipe.
type input struct {
	pipe net.Conn
	mu   sync.Mutex
	err  error // of standard input; nil if it has ended
}

func newStdio(env *environment) *stdio {
	r, w := net.Pipe()
	s := &stdio{Conn: r, out: env.stdout, in: &input{pipe: w}}
	// It ends with the program: nothing else can interrupt a Read of a terminal.
	go func() {
		_, err := io.Copy(w, env.stdin)
		if !errors.Is(err, io.ErrClosedPipe) {
			s.in.mu.Lock()
			s.in.err = err
			s.in.mu.Unlock()
		}
		w.Close()
	}()
	return s
}

func (s *stdio) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err == io.EOF {
		s.in.mu.Lock()
		defer s.in.mu.Unlock()
		if s.in.err != nil {
			err = fmt.Errorf("standard input: %w", s.in.err)
		}
	}
	return n, err
}

func (s *stdio) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s *stdio) SetWriteDeadline(time.Time) error { return nil } // the reader of a pipe may take its time
func (s *stdio) CloseWrite() error                { return s.out.Close() }
