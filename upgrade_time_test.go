package preflight_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

var errUpgradeCause = errors.New("the reason why the context ended")

// upgradeEnds are the ways in which a handshake that makes no progress ends.
var upgradeEnds = map[string]struct {
	ctx   func(context.Context) (context.Context, context.CancelFunc)
	after time.Duration
	want  error
	of    error // the context, whatever its cause; nil: it has not ended
}{
	"timeout": {context.WithCancel, 10 * time.Second, os.ErrDeadlineExceeded, nil},
	"deadline of ctx": {func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, 3*time.Second)
	}, 3 * time.Second, context.DeadlineExceeded, context.DeadlineExceeded},
	"deadline with a cause": {func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeoutCause(ctx, 3*time.Second, errUpgradeCause)
	}, 3 * time.Second, errUpgradeCause, context.DeadlineExceeded},
	"cancel": {func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(2*time.Second, cancel)
		return ctx, cancel
	}, 2 * time.Second, context.Canceled, context.Canceled},
	"cancel with a cause": {func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancelCause(ctx)
		time.AfterFunc(2*time.Second, func() { cancel(errUpgradeCause) })
		return ctx, func() { cancel(nil) }
	}, 2 * time.Second, errUpgradeCause, context.Canceled},
}

// upgradeStalls are the points at which a peer may stop to take part.
var upgradeStalls = []struct {
	name  string
	role  string
	stage string // in the error
	sends string
	reads int // bytes, before it sends
}{
	{"reads nothing", "client", "write the upgrade request", "", 0},
	{"reads half", "client", "write the upgrade request", "", len(upgradeRequest) / 2},
	{"says nothing", "client", "wait for the 101", "", len(upgradeRequest)},
	{"in the status line", "client", "read the answer", "HTTP/1.1 1", len(upgradeRequest)},
	{"in the head", "client", "read the answer", upgradeAnswer[:len(upgradeAnswer)-1], len(upgradeRequest)},
	{"behind a 103", "client", "wait for the 101", "HTTP/1.1 103 Early Hints\r\n\r\n", len(upgradeRequest)},
	{"says nothing", "server", "read the upgrade request", "", 0},
	{"in the request line", "server", "read the upgrade request", "GET /", 0},
	{"in the head", "server", "read the upgrade request", upgradeRequest[:len(upgradeRequest)-1], 0},
	{"does not read the 101", "server", "write the 101", upgradeRequest, 0},
	{"reads half of the 101", "server", "write the 101", upgradeRequest, -len(upgradeAnswer) / 2},
}

// upgradeStall plays a peer that stalls.
func upgradeStall(peer net.Conn, sends string, reads int) {
	io.ReadFull(peer, make([]byte, max(reads, 0)))
	io.WriteString(peer, sends)
	io.ReadFull(peer, make([]byte, max(-reads, 0)))
}

// TestUpgradeStalls: whatever the peer fails to do, the handshake ends at the
// end of the context or at the timeout, with the reason, and leaves no
// goroutine. A transport without deadlines is closed to that end, any other is
// left to the caller.
func TestUpgradeStalls(t *testing.T) {
	for _, stall := range upgradeStalls {
		for endName, end := range upgradeEnds {
			for _, noDeadlines := range []bool{false, true} {
				byTimeout := endName == "timeout"
				if stall.role == "server" && byTimeout && !noDeadlines && stall.stage == "read the upgrade request" {
					continue // see TestServerTimeout: that is no error, or a 408
				}
				name := fmt.Sprintf("%s/%s/%s/noDeadlines=%v", stall.role, stall.name, endName, noDeadlines)
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := end.ctx(t.Context())
						defer cancel()
						c, peer := connPipe(t)
						spy := &connSpy{Conn: c, noDeadlines: noDeadlines}
						go upgradeStall(peer, stall.sends, stall.reads)
						begun := time.Now()
						conn, err := upgradeRoles[stall.role].play(ctx, spy)
						require.Nil(t, conn)
						require.ErrorIs(t, err, end.want)
						require.ErrorContains(t, err, stall.stage)
						require.Equal(t, end.after, time.Since(begun))
						var op *net.OpError
						require.ErrorAs(t, err, &op)
						require.Equal(t, "preflight", op.Op)
						require.Equal(t, byTimeout || strings.HasPrefix(endName, "deadline of"), op.Timeout())
						if noDeadlines {
							synctest.Wait() // the interruption runs beside the handshake
							require.NotZero(t, spy.closes.Load())
						} else {
							require.Zero(t, spy.closes.Load())
						}
					})
				})
			}
		}
	}
}

// TestServerTimeout: a client that has said nothing, or no whole word of HTTP,
// by the end of the time is plain; one that stalls in its head is told so.
func TestServerTimeout(t *testing.T) {
	for _, sent := range []string{"", "GET", "GET /x"} {
		t.Run("plain "+sent, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				client, server := connPipe(t)
				go io.WriteString(client, sent)
				begun := time.Now()
				conn, err := preflight.Server(ctx, server)
				require.NoError(t, err)
				require.Equal(t, 10*time.Second, time.Since(begun))
				require.Nil(t, conn.Request())
				cancel()
				synctest.Wait()

				go func() {
					<-time.After(time.Hour) // no deadline is left
					io.WriteString(client, " and late")
					client.Close()
				}()
				got, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.Equal(t, sent+" and late", string(got))
			})
		})
	}
	t.Run("408", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := connPipe(t)
			answer := make(chan string, 1)
			go func() {
				io.WriteString(client, "GET / HTTP/1.1\r\nHost: h\r\n")
				b, _ := io.ReadAll(client)
				answer <- string(b)
			}()
			begun := time.Now()
			conn, err := preflight.Server(t.Context(), server)
			require.Nil(t, conn)
			require.Equal(t, 408, statusError(t, err).StatusCode)
			require.Equal(t, 11*time.Second, time.Since(begun), "10 s to read, 1 s to let the client read")
			require.NoError(t, server.Close())
			require.Contains(t, <-answer, "HTTP/1.1 408 Request Timeout\r\n")
		})
	})
	t.Run("408 that nobody reads", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := connPipe(t)
			go io.WriteString(client, "GET / HTTP/1.1\r\nHost: h\r\n")
			begun := time.Now()
			_, err := preflight.Server(t.Context(), server)
			require.Equal(t, 408, statusError(t, err).StatusCode)
			require.Equal(t, 11*time.Second, time.Since(begun))
		})
	})
}

// TestUpgradeContextHasEnded: nothing is sent any more.
func TestUpgradeContextHasEnded(t *testing.T) {
	for _, name := range []string{"client", "server"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errUpgradeCause)
		c, _ := connPipe(t)
		spy := &connSpy{Conn: c}
		conn, err := upgradeRoles[name].play(ctx, spy)
		require.Nil(t, conn)
		require.ErrorIs(t, err, errUpgradeCause)
		require.Zero(t, spy.writes.Load())
		require.Zero(t, spy.deadlines.Load())
	}
}

// TestUpgradeContextEndsWithTheHandshake: ctx ends at the very moment in which
// the last byte of the handshake passes. The interruption is on its way then,
// and would hit the connection after it has been returned (golang/go#16523).
func TestUpgradeContextEndsWithTheHandshake(t *testing.T) {
	for _, at := range []string{"read", "write"} {
		for _, name := range []string{"client", "server", "plain"} {
			role := upgradeRoles[name]
			if at == "write" && role.sends == "" {
				continue
			}
			for _, noDeadlines := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/noDeadlines=%v", at, name, noDeadlines), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := context.WithCancelCause(t.Context())
						c, peer := connPipe(t)
						spy := &connSpy{Conn: c, noDeadlines: noDeadlines}
						end := func() { cancel(errUpgradeCause) }
						if at == "read" {
							spy.onRead = end
						} else {
							spy.onWrite = end
						}
						go io.WriteString(peer, role.receives+"\x00banner")
						go io.Copy(io.Discard, peer)
						conn, err := role.play(ctx, spy)
						require.Nil(t, conn)
						require.ErrorIs(t, err, errUpgradeCause)
					})
				})
			}
		}
	}
}

// TestUpgradeContextEndsAfterwards: once there is a connection, the context is
// nothing to it, nor is the timeout of the handshake.
func TestUpgradeContextEndsAfterwards(t *testing.T) {
	for _, name := range []string{"client", "server", "plain"} {
		role := upgradeRoles[name]
		for _, noDeadlines := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/noDeadlines=%v", name, noDeadlines), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					c, peer := connPipe(t)
					spy := &connSpy{Conn: c, noDeadlines: noDeadlines}
					sent := make(chan struct{})
					go func() {
						io.WriteString(peer, role.receives+"\x00banner")
						close(sent)
					}()
					go func() { // reads what the role sends and "ping", then answers
						io.ReadFull(peer, make([]byte, len(role.sends)+len("ping")))
						<-sent
						io.WriteString(peer, "pong")
					}()
					conn, err := role.play(ctx, spy)
					require.NoError(t, err)
					set := spy.deadlines.Load()
					cancel()
					<-time.After(time.Hour)
					synctest.Wait()
					require.Equal(t, set, spy.deadlines.Load(), "deadlines set afterwards")
					require.Zero(t, spy.closes.Load())

					_, err = io.WriteString(conn, "ping")
					require.NoError(t, err)
					got := make([]byte, len("\x00bannerpong"))
					_, err = io.ReadFull(conn, got)
					require.NoError(t, err)
					require.Equal(t, "\x00bannerpong", string(got))
				})
			})
		}
	}
}

// TestUpgradeContextEndsAtAnyTime races the end of the context against the
// handshake: the outcome is its cause, or a connection that is not touched.
func TestUpgradeContextEndsAtAnyTime(t *testing.T) {
	for _, name := range []string{"client", "server", "plain"} {
		role := upgradeRoles[name]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for range 300 {
					ctx, cancel := context.WithCancel(t.Context())
					c, peer := net.Pipe()
					spy := &connSpy{Conn: c}
					spy.onRead = func() { go cancel() }
					go io.WriteString(peer, role.receives+"\x00banner")
					go io.Copy(io.Discard, peer)
					conn, err := role.play(ctx, spy)
					synctest.Wait()
					if err != nil {
						require.ErrorIs(t, err, context.Canceled)
						require.Nil(t, conn)
					} else {
						_, err = io.WriteString(conn, "ping")
						require.NoError(t, err)
						_, err = io.ReadFull(conn, make([]byte, len("\x00banner")))
						require.NoError(t, err)
						require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Hour)))
						begun := time.Now()
						_, err = conn.Read(make([]byte, 1))
						require.ErrorIs(t, err, os.ErrDeadlineExceeded)
						require.Equal(t, time.Hour, time.Since(begun))
					}
					c.Close()
					peer.Close()
					cancel()
				}
			})
		})
	}
}

// TestUpgradeContextEndsInRefusal: a refusal is worth more than the news that
// the context ended while its body was on the way, and does not wait for it.
func TestUpgradeContextEndsInRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		client, server := connPipe(t)
		go func() {
			upgradeRead(server)
			io.WriteString(server, "HTTP/1.1 403 No\r\n\r\nno you")
		}()
		begun := time.Now()
		_, err := upgradeClient(ctx, client)
		require.Equal(t, 403, statusError(t, err).StatusCode)
		require.Equal(t, "no you", string(statusError(t, err).Body))
		require.Equal(t, 300*time.Millisecond, time.Since(begun))
	})
}

// panicConn panics in Read.
type panicConn struct{ net.Conn }

func (panicConn) Read([]byte) (int, error) { panic("a fault of the transport") }

// A transport may panic and its caller recover, as net/http does. What bounded
// the handshake goes on and must not meet another one.
func TestUpgradeTransportPanics(t *testing.T) {
	req, err := http.NewRequest("GET", "http://h/", nil)
	require.NoError(t, err)
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs)
		require.Panics(t, func() { preflight.Client(ctx, panicConn{ours}, req) })

		// If the exchange was pooled, this one has it now.
		next, peer := net.Pipe()
		go func() {
			peer.Read(make([]byte, 1<<10))
			cancel()
			<-ctx.Done()
			io.WriteString(peer, "HTTP/1.1 101 \r\nUpgrade: tcp\r\nConnection: upgrade\r\n\r\n")
		}()
		c, err := preflight.Client(context.Background(), next, req)
		require.NoError(t, err)
		c.Close()
		ours.Close()
		theirs.Close()
		peer.Close()
	}
}
