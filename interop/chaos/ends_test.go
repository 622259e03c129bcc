package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A server takes part in every tunnel that comes, as its plan says.
type server struct {
	*preflight.PreflightListener
	accepted counter
	held     chan struct{} // gets one for each handshake that is held
	release  chan struct{} // closed: they are held no longer
	sessions sync.WaitGroup
	mu       sync.Mutex
	ends     map[uint64]error // of the tunnels, by their id
}

// listen makes a server of l, on the loopback interface. It is closed at the end of
// the test, if it has not been stopped before.
func listen(t *testing.T, l *preflight.PreflightListener) *server {
	t.Helper()
	var err error
	l.Listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := newServer(l)
	t.Cleanup(func() {
		s.Close()
		s.sessions.Wait() // not for ever: tunnels have deadlines
	})
	return s
}

func newServer(l *preflight.PreflightListener) *server {
	s := &server{
		PreflightListener: l,
		held:              make(chan struct{}),
		release:           make(chan struct{}),
		ends:              make(map[uint64]error),
	}
	s.Listener = countingListener{l.Listener, &s.accepted}
	s.RequireUpgrade = true // as it should be behind a proxy: half a line is no client
	s.Authorize = s.authorize
	s.sessions.Go(s.serve)
	return s
}

func (s *server) authorize(r *http.Request) (http.Header, error) {
	p, err := parsePlan(r.URL.RawQuery)
	if err != nil || !p.hold {
		return nil, err
	}
	select {
	case s.held <- struct{}{}:
	case <-r.Context().Done():
	}
	select {
	case <-s.release:
	case <-r.Context().Done():
	}
	return nil, nil
}

func (s *server) serve() {
	for {
		c, err := s.Accept()
		if err != nil {
			return
		}
		s.sessions.Go(func() {
			c := c.(*preflight.Conn)
			p, err := parsePlan(c.Request().URL.RawQuery)
			if err == nil {
				err = p.converse(c, fromServer, fromClient, p.serverLeaves)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if _, twice := s.ends[p.id]; twice {
				err = fmt.Errorf("%w: tunnel %d came twice", errCorrupt, p.id)
			}
			s.ends[p.id] = err
		})
	}
}

// stop requires that every handshake and every tunnel comes to its end, of itself,
// and returns the ends of the tunnels.
func (s *server) stop(t *testing.T) map[uint64]error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, s.Shutdown(ctx), "a handshake or a tunnel does not end")
	s.sessions.Wait()
	require.NoError(t, s.Close())
	require.Zero(t, s.accepted.open(), "connections that were not closed")
	return s.ends
}

// A road leads from a client through a proxy to a server, at these addresses.
type road struct{ proxy, server string }

// An end is how it ended for a client. One that got no tunnel has dialed in vain.
type end struct {
	dial, tunnel error
}

func (e end) err() error { return errors.Join(e.dial, e.tunnel) }

// travel dials, does its part of the plan and closes the tunnel. handshake bounds
// the dial.
func (r road) travel(p plan, handshake time.Duration) (e end) {
	_, port, err := net.SplitHostPort(r.server)
	if err != nil {
		return end{dial: err}
	}
	var dialed counter
	defer func() {
		if dialed.open() != 0 {
			e.dial = errors.Join(e.dial, errLeak)
		}
	}()
	d := &preflight.PreflightDialer{
		NetDialer: countingDialer{&dialed}, Path: "/" + port + "?" + p.query(), HandshakeTimeout: handshake,
	}
	// Where HandshakeTimeout has no effect, the error is the context's.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", r.proxy)
	if err != nil {
		return end{dial: err}
	}
	return end{tunnel: p.converse(c.(*preflight.Conn), fromClient, fromServer, p.clientLeaves)}
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// requireFailure requires an error that an application can make something of.
func requireFailure(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.NotErrorIs(t, err, errCorrupt)
	require.NotErrorIs(t, err, errLeak)
}

// requireRefusal requires the error of a dial that was cut short: an answer of the
// proxy for the lost server, or the end of the handshake.
func requireRefusal(t *testing.T, err error) {
	t.Helper()
	requireFailure(t, err)
	var status *preflight.StatusError
	if errors.As(err, &status) {
		require.Equal(t, http.StatusBadGateway, status.StatusCode)
		return
	}
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Contains(t, []string{"dial", "preflight"}, op.Op, err)
	require.False(t, isTimeout(err), err)
}
