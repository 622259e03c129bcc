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
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A server accepts tunnels, and does in each what the plan of the tunnel says.
type server struct {
	*preflight.PreflightListener
	accepted counter
	held     chan struct{} // receives a value for each handshake that is held
	release  chan struct{} // closed to end all holds
	sessions sync.WaitGroup
	mu       sync.Mutex
	ends     map[uint64]error // how the tunnels ended, by their IDs
	traffic  map[uint64]traffic
}

// listen runs a server with the settings of l on the loopback interface. The end of the
// test closes it.
func listen(t *testing.T, l *preflight.PreflightListener) *server {
	t.Helper()
	var err error
	l.Listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := newServer(l)
	t.Cleanup(func() {
		s.Close()
		s.sessions.Wait() // the deadlines of the tunnels bound this
	})
	return s
}

func newServer(l *preflight.PreflightListener) *server {
	s := &server{
		PreflightListener: l,
		held:              make(chan struct{}),
		release:           make(chan struct{}),
		ends:              make(map[uint64]error),
		traffic:           make(map[uint64]traffic),
	}
	s.Listener = countingListener{l.Listener, &s.accepted}
	s.RequireUpgrade = true // otherwise half of a request line could become a plain connection
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
			var traffic traffic
			if err == nil {
				traffic, err = p.converse(c, fromServer, fromClient, p.serverLeaves)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if _, twice := s.ends[p.id]; twice {
				err = fmt.Errorf("%w: tunnel %d came twice", errCorrupt, p.id)
			}
			s.ends[p.id], s.traffic[p.id] = err, traffic
		})
	}
}

// stop requires that each handshake and each tunnel ends by itself, and returns how the
// tunnels ended.
func (s *server) stop(t *testing.T) map[uint64]error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.Timeout)
	defer cancel()
	require.NoError(t, s.Shutdown(ctx), "a handshake or a tunnel does not end")
	s.sessions.Wait()
	require.NoError(t, s.Close())
	require.Zero(t, s.accepted.open(), "connections that were not closed")
	return s.ends
}

// A route has the addresses of a proxy and of a server behind it.
type route struct{ proxy, server string }

// An end says how a tunnel ended for a client: the error of the dial, or of the tunnel.
type end struct {
	dial, tunnel error
	carrier      preflight.Carrier
	traffic      traffic
	dialed       *counter // of a framed tunnel, which may close its connection later
}

// requireWhole requires of a framed tunnel that an end that has read io.EOF has received
// all that the other end has written. server is zero if it is lost with its process.
func (e end) requireWhole(t *testing.T, server traffic) {
	t.Helper()
	if e.carrier == "" {
		return
	}
	if e.traffic.clean {
		require.Equal(t, server.sent, e.traffic.received, "io.EOF at the client of a stream that was cut")
	}
	if server.clean {
		require.Equal(t, e.traffic.sent, server.received, "io.EOF at the server of a stream that was cut")
	}
}

// requireClosed requires that the connection of a framed tunnel is closed soon. Nothing is
// left on the way to the peer by then.
func (e end) requireClosed(t *testing.T) {
	t.Helper()
	if e.dialed != nil {
		lab.WaitUntil(t, "the connection of a framed tunnel is closed", func() bool { return e.dialed.open() == 0 })
	}
}

func (e end) err() error { return errors.Join(e.dial, e.tunnel) }

// run dials, does the client's part of the plan, and closes the tunnel. handshake is the
// HandshakeTimeout of the dial.
func (r route) run(p plan, handshake time.Duration) (e end) {
	_, port, err := net.SplitHostPort(r.server)
	if err != nil {
		return end{dial: err}
	}
	var dialed counter
	defer func() {
		if dialed.open() == 0 {
			return
		}
		if p.carrier != "" && e.dial == nil {
			e.dialed = &dialed // Close lets it linger
			return
		}
		e.dial = errors.Join(e.dial, errLeak)
	}()
	d := &preflight.PreflightDialer{
		NetDialer: countingDialer{&dialed}, Path: "/" + port + "?" + p.query(), HandshakeTimeout: handshake,
	}
	if p.carrier != "" {
		d.Carriers = []preflight.Carrier{p.carrier}
	}
	// If HandshakeTimeout had no effect, the error would be that of the context.
	ctx, cancel := context.WithTimeout(context.Background(), lab.Timeout)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", r.proxy)
	if err != nil {
		return end{dial: err}
	}
	e.carrier = p.carrier
	e.traffic, e.tunnel = p.converse(c.(*preflight.Conn), fromClient, fromServer, p.clientLeaves)
	return e
}

// isTimeout reports whether a deadline has passed.
func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// requireFailure requires an error that is neither corrupt data nor a leak.
func requireFailure(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.NotErrorIs(t, err, errCorrupt)
	require.NotErrorIs(t, err, errLeak)
}

// requireRefusal requires the error of a dial that was cut: a 502 of the proxy, which has
// lost the server, or an error of the handshake.
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
