package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight/cmd/preflight/internal/address"
	"github.com/preflight-go/preflight/cmd/preflight/internal/edge"
	"github.com/preflight-go/preflight/cmd/preflight/internal/warm"
)

// A pair is an address to listen at, and the edge that its connections go to.
type pair struct {
	listen address.Address
	url    string
}

// UnmarshalText implements [encoding.TextUnmarshaler] for flags.
func (p *pair) UnmarshalText(text []byte) error {
	listen, url, ok := strings.Cut(string(text), "=")
	if !ok {
		return errors.New("it is not ADDR=URL") // the URL may hold a secret
	}
	a, err := address.Parse(listen)
	*p = pair{a, url}
	return err
}

// A mapping leads the connections of a listener to a target.
type mapping struct {
	pair
	listener net.Listener
	running  bool // acceptAll
	target   atomic.Pointer[target]
}

// A target is an edge, with the tunnels that are ready for it.
type target struct {
	edge *edge.Edge
	pool *warm.Pool // nil: there are none
}

// pairs checks the flags, and returns what they ask for.
func (c *forwardCommand) pairs() (pairs []pair, err error) {
	switch {
	case len(c.Listen) != len(c.URL):
		return nil, fmt.Errorf("%d times --listen and %d URLs: each URL needs one --listen", len(c.Listen), len(c.URL))
	case len(c.Listen)+len(c.Map) == 0:
		return nil, errors.New("nothing to forward: set --listen with a URL, or --map")
	case c.HalfCloseTimeout < 0:
		return nil, errors.New("--half-close-timeout is negative")
	case c.Idle < 0 || c.Idle > maxIdle:
		return nil, fmt.Errorf("--idle must be from 0 to %d", maxIdle)
	case c.IdleAge < time.Second:
		return nil, errors.New("--idle-age must be at least 1s")
	case c.DrainTimeout < 0:
		return nil, errors.New("--drain-timeout is negative")
	}
	if err := c.ConfigFlags.check(); err != nil {
		return nil, err
	}
	for i, a := range c.Listen {
		pairs = append(pairs, pair{a, c.URL[i]})
	}
	pairs = append(pairs, c.Map...)
	for i, p := range pairs {
		again := slices.ContainsFunc(pairs[:i], func(q pair) bool { return q.listen == p.listen })
		if again && (p.listen.Network != "tcp" || p.listen.Port() != 0) {
			// With --reuse-port, the kernel would share the connections out between the URLs.
			return nil, fmt.Errorf("--listen %s is there twice: each URL needs a socket of its own", p.listen)
		}
		if !c.UnsafeListen && !p.listen.Local() {
			return nil, fmt.Errorf("other machines can connect to --listen %s, and could use the tunnel with its credentials: use a loopback address or a Unix socket, or set --unsafe-listen", p.listen)
		}
	}
	return pairs, nil
}

// maxIdle is the greatest --idle. Each tunnel is a connection to the server.
const maxIdle = 100

// open makes the mappings those of the flags c. A listener whose address stays is kept, and so is
// its target if nothing has changed for it. If something is bad, everything stays as it was.
func (f *forwarder) open(c *forwardCommand) (err error) {
	pairs, err := c.pairs()
	if err != nil {
		return err
	}
	old := slices.Clone(f.mappings)
	var mappings, opened []*mapping
	var targets []*target
	for _, p := range pairs {
		m := &mapping{pair: p}
		if i := slices.IndexFunc(old, func(m *mapping) bool { return m.listen == p.listen }); i >= 0 {
			m = old[i]
			old = slices.Delete(old, i, i+1)
		}
		mappings = append(mappings, m)
		t := m.target.Load()
		if t == nil || m.url != p.url || !f.current.Load().sameTarget(c) {
			t = new(target)
			if t.edge, err = edge.New(p.url, c.Flags, f.log, f.telemetry); err != nil {
				return fmt.Errorf("the URL for %s: %w", p.listen, err)
			}
		}
		targets = append(targets, t)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ending {
		return errors.New("the program is ending")
	}
	for _, m := range mappings {
		if m.listener != nil {
			continue
		}
		if m.listener, err = m.listen.Listen(c.ReusePort); err != nil {
			for _, m := range opened {
				m.listener.Close()
			}
			return fmt.Errorf("--listen: %w", err)
		}
		opened = append(opened, m)
	}
	for i, m := range mappings {
		m.url = pairs[i].url
		if before := m.target.Swap(targets[i]); before != nil && before != targets[i] {
			before.pool.Close()
		}
	}
	for _, m := range old {
		m.listener.Close()
		m.target.Load().pool.Close()
		f.log.Info("not listening any more", "address", m.listener.Addr().String(), "edge", m.target.Load().edge.String())
	}
	f.mappings = mappings
	f.current.Store(c)
	return nil
}

// sameTarget reports whether the flags differ in nothing that a target was made of.
func (c *forwardCommand) sameTarget(d *forwardCommand) bool {
	return reflect.DeepEqual(c.Flags, d.Flags) && c.Idle == d.Idle && c.IdleAge == d.IdleAge
}

// start begins what is new of the mappings.
func (f *forwarder) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ending {
		return
	}
	c := f.current.Load()
	for _, m := range f.mappings {
		t := m.target.Load()
		if c.Idle > 0 && t.pool == nil {
			m.target.Store(&target{t.edge, warm.New(c.Idle, c.IdleAge, f.log.With("edge", t.edge.String()), t.edge.Dial)})
		}
		if !m.running {
			m.running = true
			f.log.Info("listening", "address", m.listener.Addr().String(), "edge", t.edge.String())
			f.accepting.Go(func() { f.acceptAll(m) })
		}
	}
}

// use replaces the mappings by those of flags that have changed.
func (f *forwarder) use(c *cli) error {
	if c.Forward.HeaderCommand != "" && f.sandboxed {
		return errors.New("--header-command cannot be added while the program runs, because Landlock would restrict the command too: restart it")
	}
	if err := f.open(&c.Forward); err != nil {
		return err
	}
	f.start()
	return nil
}

// files returns what the edges have read from files.
func (f *forwarder) files() (files []reloadable) {
	for _, m := range f.mappings {
		e := m.target.Load().edge
		files = append(files, reloadable{slog.String("edge", e.String()), e.Files(), e.Reload})
	}
	return files
}
