package warm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/relay"
	"github.com/stretchr/testify/require"
)

const timeout = 30 * time.Second // no test waits for it

// An edge accepts tunnels, and says the number of each.
type edge struct {
	t        *testing.T
	dialer   preflight.PreflightDialer
	address  string
	dials    atomic.Int64
	accepted chan *preflight.Conn
}

func newEdge(t *testing.T, carrier preflight.Carrier) *edge {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &preflight.PreflightListener{Listener: inner}
	e := &edge{
		t: t, dialer: preflight.PreflightDialer{Carriers: []preflight.Carrier{carrier}},
		address: inner.Addr().String(), accepted: make(chan *preflight.Conn, 100),
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			fmt.Fprintf(c, "%d", n)
			e.accepted <- c.(*preflight.Conn)
		}
	}()
	return e
}

func (e *edge) dial(ctx context.Context) (*preflight.Conn, error) {
	e.dials.Add(1)
	c, err := e.dialer.DialContext(ctx, "tcp", e.address)
	if err != nil {
		return nil, err
	}
	return c.(*preflight.Conn), nil
}

func (e *edge) accept() *preflight.Conn {
	select {
	case c := <-e.accepted:
		return c
	case <-time.After(timeout):
		require.FailNow(e.t, "no tunnel")
		return nil
	}
}

// get waits until the pool has a tunnel.
func get(t *testing.T, p *Pool) *Conn {
	t.Helper()
	var c *Conn
	require.Eventually(t, func() bool { c = p.Get(); return c != nil }, timeout, time.Millisecond)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(timeout))
	return c
}

var carriers = []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierFramed, preflight.CarrierWebSocket}

func start(t *testing.T, p *Pool, size int) {
	p.start(size)
	t.Cleanup(p.Close)
}

// TestGet has tunnels ready before they are needed, and no more than it should.
func TestGet(t *testing.T) {
	for _, carrier := range carriers {
		t.Run(string(carrier), func(t *testing.T) {
			e := newEdge(t, carrier)
			p := newPool(time.Hour, slog.New(slog.DiscardHandler), e.dial)
			start(t, p, 2)
			servers := map[string]*preflight.Conn{"1": e.accept(), "2": e.accept()}
			require.EqualValues(t, 2, e.dials.Load())
			for next := range 2 {
				c := get(t, p)
				got := make([]byte, 1)
				_, err := io.ReadFull(c, got)
				require.NoError(t, err)
				server := servers[string(got)]
				require.NotNil(t, server, "one of those that are open")
				_, err = c.Write([]byte("question"))
				require.NoError(t, err)
				require.NoError(t, c.CloseWrite())
				question, err := io.ReadAll(server)
				require.NoError(t, err)
				require.Equal(t, "question", string(question))
				_, err = server.Write([]byte("answer"))
				require.NoError(t, err)
				require.NoError(t, server.Close())
				answer, err := io.ReadAll(c)
				require.NoError(t, err)
				require.Equal(t, "answer", string(answer))
				servers[fmt.Sprint(next+3)] = e.accept() // in the place of it
			}
			require.EqualValues(t, 4, e.dials.Load())
		})
	}
}

// TestWriteTo copies what was said before, and the rest.
func TestWriteTo(t *testing.T) {
	e := newEdge(t, preflight.CarrierUpgrade)
	p := newPool(time.Hour, slog.New(slog.DiscardHandler), e.dial)
	start(t, p, 1)
	server := e.accept()
	c := get(t, p)
	_, err := server.Write([]byte(" and the rest"))
	require.NoError(t, err)
	require.NoError(t, server.Close())
	var got bytes.Buffer
	_, err = c.WriteTo(&got)
	require.NoError(t, err)
	require.Equal(t, "1 and the rest", got.String())
}

// TestDead ends tunnels while nobody uses them, in each way that this side can notice.
func TestDead(t *testing.T) {
	for _, carrier := range carriers {
		for name, end := range map[string]func(server *preflight.Conn){
			"end":    func(server *preflight.Conn) { server.Close() },
			"reset":  func(server *preflight.Conn) { relay.Reset(server) },
			"babble": func(server *preflight.Conn) { server.Write(make([]byte, maxFirst)) },
		} {
			t.Run(string(carrier)+"/"+name, func(t *testing.T) {
				e := newEdge(t, carrier)
				p := newPool(time.Hour, slog.New(slog.DiscardHandler), e.dial)
				start(t, p, 1)
				end(e.accept())
				e.accept() // the slot has noticed
				c := get(t, p)
				got := make([]byte, 1)
				_, err := io.ReadFull(c, got)
				require.NoError(t, err)
				require.Equal(t, "2", string(got))
			})
		}
	}
}

// TestStale has tunnels of which no packet says that they are dead.
func TestStale(t *testing.T) {
	e := newEdge(t, preflight.CarrierUpgrade)
	p := newPool(time.Hour, slog.New(slog.DiscardHandler), e.dial)
	c, err := p.open(t.Context())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, p.check(c))

	p.wall = func() time.Time { return time.Now().Add(time.Hour) }
	require.Equal(t, errSlept, p.check(c))
	require.Equal(t, errSlept, p.take(c))
	p.wall = time.Now

	c.Conn.SetReadDeadline(time.Time{})
	moved := &Conn{Conn: c.Conn, begin: c.begin, wall: c.wall}
	p.addresses = func() ([]net.Addr, error) { return []net.Addr{&net.IPNet{IP: net.IPv4(192, 0, 2, 1)}}, nil }
	require.NoError(t, p.check(moved), "loopback is always there")
	require.Equal(t, errNetwork, p.checkAddress(net.IPv4(192, 0, 2, 2)))
	require.NoError(t, p.checkAddress(net.IPv4(192, 0, 2, 1)))
	p.addresses = func() ([]net.Addr, error) { return nil, errors.New("not known") }
	require.NoError(t, p.checkAddress(net.IPv4(192, 0, 2, 2)))
}

// TestPause counts the dials to an edge that is down.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		p := New(1, time.Hour, slog.New(slog.DiscardHandler), func(context.Context) (*preflight.Conn, error) {
			dials.Add(1)
			return nil, errors.New("down")
		})
		time.Sleep(time.Hour)
		require.Greater(t, dials.Load(), int64(100))
		require.Less(t, dials.Load(), int64(260))
		require.Nil(t, p.Get())
		p.Close()
	})
	require.Nil(t, (*Pool)(nil).Get())
	(*Pool)(nil).Close()
}

// TestClose ends what nobody has taken. Where a dial or a greeting is under way, that is a reset.
func TestClose(t *testing.T) {
	e := newEdge(t, preflight.CarrierFramed)
	p := New(2, time.Hour, slog.New(slog.DiscardHandler), e.dial)
	servers := []*preflight.Conn{e.accept(), e.accept()}
	p.Close()
	for _, s := range servers {
		s.SetReadDeadline(time.Now().Add(timeout))
		_, err := io.Copy(io.Discard, s)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	require.Nil(t, p.Get())
	require.EqualValues(t, 2, e.dials.Load())
}
