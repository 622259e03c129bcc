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

	"github.com/preflight-go/preflight/cmd/preflight/internal/address"
	"github.com/preflight-go/preflight/cmd/preflight/internal/edge"
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

// A mapping leads the connections of a listener to an edge.
type mapping struct {
	pair
	listener net.Listener
	edge     atomic.Pointer[edge.Edge]
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
		if p.listen.Network == "systemd" && slices.ContainsFunc(pairs[:i], func(q pair) bool { return q.listen == p.listen }) {
			return nil, fmt.Errorf("--listen %s is there twice: each URL needs a socket of its own", p.listen)
		}
		if !c.UnsafeListen && !p.listen.Local() {
			return nil, fmt.Errorf("--listen %s is open to other machines, and so would be the tunnel with its credentials: use a loopback address or a Unix socket, or say --unsafe-listen", p.listen)
		}
	}
	return pairs, nil
}

// open makes the mappings those of the flags c, and returns those that are new. A listener whose
// address stays is kept, and so is its edge if nothing has changed for it. If something is bad,
// everything stays as it was.
func (f *forwarder) open(c *forwardCommand) (opened []*mapping, err error) {
	pairs, err := c.pairs()
	if err != nil {
		return nil, err
	}
	sameFlags := len(f.mappings) > 0 && reflect.DeepEqual(f.current.Load().Flags, c.Flags)
	old := slices.Clone(f.mappings)
	var mappings []*mapping
	var edges []*edge.Edge
	for _, p := range pairs {
		m := &mapping{pair: p}
		if i := slices.IndexFunc(old, func(m *mapping) bool { return m.listen == p.listen }); i >= 0 {
			m = old[i]
			old = slices.Delete(old, i, i+1)
		}
		mappings = append(mappings, m)
		e := m.edge.Load()
		if !sameFlags || m.url != p.url || e == nil {
			if e, err = edge.New(p.url, c.Flags, f.log, f.telemetry); err != nil {
				return nil, fmt.Errorf("the URL for %s: %w", p.listen, err)
			}
		}
		edges = append(edges, e)
	}
	for _, m := range mappings {
		if m.listener != nil {
			continue
		}
		if m.listener, err = m.listen.Listen(c.ReusePort); err != nil {
			for _, m := range opened {
				m.listener.Close()
			}
			return nil, fmt.Errorf("--listen: %w", err)
		}
		opened = append(opened, m)
	}
	for i, m := range mappings {
		m.url = pairs[i].url
		m.edge.Store(edges[i])
	}
	for _, m := range old {
		m.listener.Close()
		f.log.Info("not listening any more", "address", m.listener.Addr().String(), "edge", m.edge.Load().String())
	}
	f.mappings = mappings
	f.current.Store(c)
	return opened, nil
}

// start accepts the connections of new mappings.
func (f *forwarder) start(opened []*mapping) {
	for _, m := range opened {
		f.log.Info("listening", "address", m.listener.Addr().String(), "edge", m.edge.Load().String())
		f.accepting.Go(func() { f.acceptAll(m) })
	}
}

// use replaces the mappings by those of flags that have changed.
func (f *forwarder) use(c *cli) error {
	opened, err := f.open(&c.Forward)
	if err != nil {
		return err
	}
	f.start(opened)
	return nil
}

// files returns what the edges have read from files.
func (f *forwarder) files() (files []reloadable) {
	for _, m := range f.mappings {
		e := m.edge.Load()
		files = append(files, reloadable{slog.String("edge", e.String()), e.Files(), e.Reload})
	}
	return files
}
