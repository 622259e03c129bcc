package telemetry_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// faultyConn is a transport that panics once in one of the methods that end a
// connection. Close panics after it has closed the transport. SetDeadline and
// SetReadDeadline panic when they get a deadline in the past, and do not set
// it.
type faultyConn struct {
	*testkit.NetworkConn
	in   string
	once *sync.Once
}

func (c faultyConn) fault(in string) {
	if in == c.in {
		c.once.Do(func() { panic("a fault of " + in) })
	}
}

func (c faultyConn) Close() error {
	err := c.NetworkConn.Close()
	c.fault("Close")
	return err
}

func (c faultyConn) SetDeadline(t time.Time) error {
	switch {
	case c.in == "Close": // this ends a transport without deadlines
		return testkit.ErrNoDeadlines
	case !t.IsZero() && t.Before(time.Now()):
		c.fault("SetDeadline")
	}
	return c.NetworkConn.SetDeadline(t)
}

func (c faultyConn) SetReadDeadline(t time.Time) error {
	switch {
	case c.in == "Close":
		return testkit.ErrNoDeadlines
	case !t.IsZero() && t.Before(time.Now()):
		c.fault("SetReadDeadline")
	}
	return c.NetworkConn.SetReadDeadline(t)
}

func newFaulty(t testing.TB, in string) (peer *testkit.Client, c faultyConn) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	c = faultyConn{&testkit.NetworkConn{Conn: theirs}, in, new(sync.Once)}
	return testkit.Raw(ours, c.NetworkConn), c
}

// The end of a context, and HandshakeTimeout, interrupt a transport on a
// goroutine of the library. The caller cannot recover a panic there.
func TestTransportPanicsWhenItIsInterrupted(t *testing.T) {
	for _, tt := range []struct {
		in, by string
		want   error
	}{
		{"SetDeadline", "ctx", context.Canceled},
		{"Close", "ctx", context.Canceled},
		{"Close", "HandshakeTimeout", os.ErrDeadlineExceeded},
	} {
		for name, role := range testkit.UpgradeRoles {
			t.Run(tt.in+"/"+tt.by+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					printed := testkit.CaptureLog(t)
					_, c := newFaulty(t, tt.in)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if tt.by == "ctx" {
						time.AfterFunc(time.Second, cancel)
					}
					_, err := role.Play(ctx, c)
					require.ErrorIs(t, err, tt.want)
					synctest.Wait()
					require.Contains(t, printed.String(), "a fault of "+tt.in)
				})
			})
		}
	}
}

// Close interrupts every handshake, and a new client interrupts the oldest one.
// Both hold the lock of the listener.
func TestTransportPanicsInTheListener(t *testing.T) {
	for _, in := range []string{"SetDeadline", "SetReadDeadline", "Close"} {
		for _, how := range []string{"Close of the listener", "eviction", "the end of the client"} {
			t.Run(in+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					printed, n := testkit.CaptureLog(t), testkit.NewNetwork()
					l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 2, HandshakeTimeout: time.Hour})
					accepted := testkit.AcceptAll(t, l)
					faulty, c := newFaulty(t, in)
					n.Backlog <- c
					faulty.Send(t, "GET /")
					other := n.Dial(t)
					time.Sleep(2 * time.Second)
					called := in == "Close"
					switch how {
					case "Close of the listener":
						l.Close()
						other.Ended(t)
						called = called || in == "SetDeadline"
					case "eviction":
						next := n.Dial(t).Upgraded(t, testkit.Request())
						testkit.Talk(t, next, <-accepted)
						called = called || in == "SetReadDeadline"
					case "the end of the client":
						faulty.Send(t, " HTTP/1.1\r\n\x00")
						faulty.Answer("GET")
						faulty.Close()
						other.Upgraded(t, testkit.Request())
						testkit.Talk(t, other, <-accepted)
					}
					synctest.Wait()
					require.True(t, c.Closed.Load())
					require.Equal(t, called, strings.Contains(printed.String(), "a fault of "+in), printed.String())
					if how != "Close of the listener" {
						for range 3 { // every place is free
							next := n.Dial(t).Upgraded(t, testkit.Request())
							testkit.Talk(t, next, <-accepted)
							synctest.Wait() // the client has left
						}
					}
				})
			})
		}
	}
}

// faultyListener panics in every second Accept.
type faultyListener struct {
	net.Listener
	calls atomic.Int32
}

func (l *faultyListener) Accept() (net.Conn, error) {
	if l.calls.Add(1)%2 == 1 {
		panic("a fault of Accept")
	}
	return l.Listener.Accept()
}

// The wrapped listener is called on a goroutine of the library. A panic there
// becomes an error of Accept, and the next call works.
func TestListenerPanicInAccept(t *testing.T) {
	printed := testkit.CaptureLog(t)
	l := testkit.Listen(t, &preflight.PreflightListener{Listener: &faultyListener{Listener: testkit.ListenTCP(t)}})
	conns, errs := 0, 0
	for range 3 {
		c := testkit.DialClient(t, l)
		c.Send(t, testkit.Request())
	}
	for conns < 3 {
		conn, err := l.Accept()
		if err != nil {
			require.ErrorContains(t, err, "PreflightListener.Listener: panic")
			require.NotErrorIs(t, err, net.ErrClosed)
			errs++
			continue
		}
		conns++
		require.NoError(t, conn.Close())
	}
	require.GreaterOrEqual(t, errs, conns, "each once")
	require.GreaterOrEqual(t, strings.Count(printed.String(), "a fault of Accept\ngoroutine"), errs)
}

// A hollow transport panics in every method. A listener that drops the error of the one below
// returns such a connection.
type hollow struct{ net.Conn }

// hollowListener returns a hollow connection before each real one.
type hollowListener struct {
	net.Listener
	calls atomic.Int32
}

func (l *hollowListener) Accept() (net.Conn, error) {
	if l.calls.Add(1)%2 == 1 {
		return hollow{}, nil
	}
	return l.Listener.Accept()
}

// A connection whose methods all panic ends alone, also if its address is to be logged.
func TestListenerHollowTransport(t *testing.T) {
	printed := testkit.CaptureLog(t)
	var log logbook
	e := testkit.NewRecorder()
	l := testkit.Listen(t, &preflight.PreflightListener{
		Listener: &hollowListener{Listener: testkit.ListenTCP(t)}, Logger: log.logger(slog.LevelDebug), Telemetry: e.Watch(),
	})
	for range 3 {
		c := testkit.DialClient(t, l)
		c.Send(t, testkit.Request())
		conn, err := l.Accept()
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	require.NoError(t, l.Shutdown(t.Context()))
	require.Contains(t, printed.String(), "panic in a transport")
	require.Zero(t, e.Sum("server.handshake.pending"))
}

// nilListener returns nothing, in two forms.
type nilListener struct {
	net.Listener
	calls atomic.Int32
}

func (l *nilListener) Accept() (net.Conn, error) {
	switch l.calls.Add(1) % 3 {
	case 1:
		return nil, nil
	case 2:
		return (*net.TCPConn)(nil), nil
	}
	return l.Listener.Accept()
}

// A nil connection is an error of Accept, and a later call returns the next connection.
func TestListenerNilConn(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{Listener: &nilListener{Listener: testkit.ListenTCP(t)}})
	testkit.DialClient(t, l).Send(t, testkit.Request())
	errs := 0
	conn, err := l.Accept()
	for ; err != nil; conn, err = l.Accept() {
		require.ErrorContains(t, err, "(*telemetry_test.nilListener) returned neither a connection nor an error")
		errs++
	}
	require.GreaterOrEqual(t, errs, 2)
	require.NoError(t, conn.Close())
}
