// Package warm keeps tunnels open that nobody uses yet, so that the next one costs no round trip.
package warm

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/relay"
)

// A Pool holds tunnels. A nil Pool holds none.
type Pool struct {
	dial   func(context.Context) (*preflight.Conn, error)
	maxAge time.Duration
	log    *slog.Logger
	offers chan *Conn // without a buffer: each slot offers what it holds
	stop   context.CancelFunc
	slots  sync.WaitGroup

	// Of the system. Tests replace them.
	wall      func() time.Time
	addresses func() ([]net.Addr, error)
}

// New returns a pool of size tunnels, none of which gets older than maxAge. A slot that loses its
// tunnel dials again; if that fails, it waits. Close must be called.
func New(size int, maxAge time.Duration, log *slog.Logger, dial func(context.Context) (*preflight.Conn, error)) *Pool {
	p := newPool(maxAge, log, dial)
	p.start(size)
	return p
}

func newPool(maxAge time.Duration, log *slog.Logger, dial func(context.Context) (*preflight.Conn, error)) *Pool {
	return &Pool{dial: dial, maxAge: maxAge, log: log, offers: make(chan *Conn), wall: time.Now, addresses: net.InterfaceAddrs}
}

func (p *Pool) start(size int) {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	for range size {
		p.slots.Go(func() { p.keep(ctx) })
	}
}

// Close closes the tunnels that nobody has taken.
func (p *Pool) Close() {
	if p != nil {
		p.stop()
		p.slots.Wait()
	}
}

// Get returns a tunnel that is alive as far as this side can know, or nil if there is none at the
// moment.
func (p *Pool) Get() *Conn {
	if p == nil {
		return nil
	}
	for {
		select {
		case c := <-p.offers:
			err := p.take(c)
			if err == nil {
				return c
			}
			p.log.Debug("an idle tunnel was dropped", "error", err)
			relay.Reset(c)
		default:
			return nil
		}
	}
}

const (
	// checkPeriod is how often a slot looks whether its tunnel can still be alive.
	checkPeriod = 5 * time.Second

	minPause, maxPause = time.Second, 30 * time.Second
)

// keep holds a tunnel, and replaces it by another when it is taken or has ended.
func (p *Pool) keep(ctx context.Context) {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		begin := time.Now()
		c, err := p.open(ctx)
		if err == nil {
			err = p.hold(ctx, c)
		}
		switch {
		case err == nil:
			pause = 0
			continue
		case ctx.Err() != nil:
			return
		}
		p.log.Debug("an idle tunnel has ended", "error", err)
		if time.Since(begin) >= checkPeriod {
			pause = 0
		}
		pause = min(max(2*pause, minPause), maxPause)
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
		}
	}
}

// hold offers c until somebody takes it, and returns nil then and at its greatest age. Otherwise
// it returns why c has ended.
func (p *Pool) hold(ctx context.Context, c *Conn) error {
	check := time.NewTicker(checkPeriod)
	defer check.Stop()
	old := time.NewTimer(p.maxAge - rand.N(p.maxAge/10+1)) // not all at the same time
	defer old.Stop()
	for {
		select {
		case p.offers <- c:
			return nil
		case <-old.C:
			c.Close()
			return nil
		case <-c.ended:
			relay.Reset(c)
			return c.err
		case <-ctx.Done():
			c.Close()
			return ctx.Err()
		case <-check.C:
			if err := p.check(c); err != nil {
				// The next one may be good at once, so there is no pause.
				p.log.Debug("an idle tunnel was dropped", "error", err)
				relay.Reset(c)
				return nil
			}
		}
	}
}

// A Conn is a tunnel of a pool.
type Conn struct {
	*preflight.Conn

	begin, wall time.Time     // when it was opened; by the clock of the system, wall
	ended       chan struct{} // closed when reading has ended
	err         error         // why
	first       []byte        // what the server has said before the tunnel was taken
}

// maxFirst is the most that a server may say before it is asked. Greetings are shorter.
const maxFirst = 4 << 10

var (
	errTooMuch = errors.New("the server has sent too much before it was asked")
	errSlept   = errors.New("the machine has slept, or its clock was set")
	errNetwork = errors.New("this machine does not have its address any more")
)

func (p *Pool) open(ctx context.Context) (*Conn, error) {
	tunnel, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: tunnel, begin: time.Now(), wall: p.wall().Round(0), ended: make(chan struct{})}
	go c.watch()
	return c, nil
}

// watch reads until the tunnel ends or is taken, to notice its end. A framed tunnel also answers
// PINGs only while it is read.
func (c *Conn) watch() {
	defer close(c.ended)
	b := make([]byte, maxFirst)
	for len(c.first) < maxFirst {
		n, err := c.Conn.Read(b[len(c.first):])
		c.first = b[:len(c.first)+n]
		if err != nil {
			c.err = err
			return
		}
	}
	c.err = errTooMuch
}

// take ends watch, and returns an error if c has ended.
func (p *Pool) take(c *Conn) error {
	c.Conn.SetReadDeadline(time.Unix(1, 0))
	<-c.ended
	if !errors.Is(c.err, os.ErrDeadlineExceeded) {
		return c.err
	}
	if err := p.check(c); err != nil {
		return err
	}
	return c.Conn.SetReadDeadline(time.Time{})
}

// check returns an error if the connection cannot be alive any more, although nobody has said so.
func (p *Pool) check(c *Conn) error {
	// The monotonic clock stands still while the machine sleeps.
	const tolerance = 2 * time.Second
	if p.wall().Round(0).Sub(c.wall)-time.Since(c.begin) > tolerance {
		return errSlept
	}
	if local, ok := c.LocalAddr().(*net.TCPAddr); ok && !local.IP.IsLoopback() {
		return p.checkAddress(local.IP)
	}
	return nil
}

func (p *Pool) checkAddress(local net.IP) error {
	addresses, err := p.addresses()
	if err != nil {
		return nil // it is not known
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(local) {
			return nil
		}
	}
	return errNetwork
}

// Read returns what the server has said already, and then reads from the tunnel.
func (c *Conn) Read(b []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.first)
	c.first = c.first[n:]
	return n, nil
}

// WriteTo does likewise. It leaves the rest to the tunnel, which can splice.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	if len(c.first) == 0 {
		return c.Conn.WriteTo(w)
	}
	n, err := w.Write(c.first)
	c.first = c.first[n:]
	if err != nil {
		return int64(n), err
	}
	rest, err := c.Conn.WriteTo(w)
	return int64(n) + rest, err
}
