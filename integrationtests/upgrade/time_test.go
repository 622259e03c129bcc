package upgrade_test

import (
	"context"
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
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// upgradeStalls are the points at which a peer may stop to take part.
var upgradeStalls = []struct {
	name  string
	role  string
	stage string // in the error
	sends string
	reads int // bytes, before it sends
}{
	{"reads nothing", "client", "write the upgrade request", "", 0},
	{"reads half", "client", "write the upgrade request", "", len(testkit.UpgradeRequest) / 2},
	{"says nothing", "client", "wait for the 101", "", len(testkit.UpgradeRequest)},
	{"in the status line", "client", "read the answer", "HTTP/1.1 1", len(testkit.UpgradeRequest)},
	{"in the head", "client", "read the answer", testkit.UpgradeAnswer[:len(testkit.UpgradeAnswer)-1], len(testkit.UpgradeRequest)},
	{"behind a 103", "client", "wait for the 101", "HTTP/1.1 103 Early Hints\r\n\r\n", len(testkit.UpgradeRequest)},
	{"says nothing", "server", "read the upgrade request", "", 0},
	{"in the request line", "server", "read the upgrade request", "GET /", 0},
	{"in the head", "server", "read the upgrade request", testkit.UpgradeRequest[:len(testkit.UpgradeRequest)-1], 0},
	{"does not read the 101", "server", "write the 101", testkit.UpgradeRequest, 0},
	{"reads half of the 101", "server", "write the 101", testkit.UpgradeRequest, -len(testkit.UpgradeAnswer) / 2},
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
		for endName, end := range testkit.ContextEnds {
			for _, noDeadlines := range []bool{false, true} {
				byTimeout := endName == "timeout"
				if stall.role == "server" && byTimeout && !noDeadlines && stall.stage == "read the upgrade request" {
					continue // see TestServerTimeout: that is no error, or a 408
				}
				name := fmt.Sprintf("%s/%s/%s/noDeadlines=%v", stall.role, stall.name, endName, noDeadlines)
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := end.Ctx(t.Context())
						defer cancel()
						c, peer := testkit.SpyPipe(t)
						spy := &testkit.SpyConn{Conn: c, NoDeadlines: noDeadlines}
						go upgradeStall(peer, stall.sends, stall.reads)
						begun := time.Now()
						conn, err := testkit.UpgradeRoles[stall.role].Play(ctx, spy)
						require.Nil(t, conn)
						require.ErrorIs(t, err, end.Want)
						require.ErrorContains(t, err, stall.stage)
						require.Equal(t, end.After, time.Since(begun))
						var op *net.OpError
						require.ErrorAs(t, err, &op)
						require.Equal(t, "preflight", op.Op)
						require.Equal(t, byTimeout || strings.HasPrefix(endName, "deadline of"), op.Timeout())
						if noDeadlines {
							synctest.Wait() // the interruption runs beside the handshake
							require.NotZero(t, spy.Closes.Load())
						} else {
							require.Zero(t, spy.Closes.Load())
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
				client, server := testkit.SpyPipe(t)
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
			client, server := testkit.SpyPipe(t)
			answer := make(chan string, 1)
			go func() {
				io.WriteString(client, "GET / HTTP/1.1\r\nHost: h\r\n")
				b, _ := io.ReadAll(client)
				answer <- string(b)
			}()
			begun := time.Now()
			conn, err := preflight.Server(t.Context(), server)
			require.Nil(t, conn)
			require.Equal(t, 408, testkit.StatusError(t, err).StatusCode)
			require.Equal(t, 11*time.Second, time.Since(begun), "10 s to read, 1 s to let the client read")
			require.NoError(t, server.Close())
			require.Contains(t, <-answer, "HTTP/1.1 408 Request Timeout\r\n")
		})
	})
	t.Run("408 that nobody reads", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := testkit.SpyPipe(t)
			go io.WriteString(client, "GET / HTTP/1.1\r\nHost: h\r\n")
			begun := time.Now()
			_, err := preflight.Server(t.Context(), server)
			require.Equal(t, 408, testkit.StatusError(t, err).StatusCode)
			require.Equal(t, 11*time.Second, time.Since(begun))
		})
	})
}

// TestUpgradeContextHasEnded: nothing is sent any more.
func TestUpgradeContextHasEnded(t *testing.T) {
	for _, name := range []string{"client", "server"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(testkit.ErrCause)
		c, _ := testkit.SpyPipe(t)
		spy := &testkit.SpyConn{Conn: c}
		conn, err := testkit.UpgradeRoles[name].Play(ctx, spy)
		require.Nil(t, conn)
		require.ErrorIs(t, err, testkit.ErrCause)
		require.Zero(t, spy.Writes.Load())
		require.Zero(t, spy.Deadlines.Load())
	}
}

// TestUpgradeContextEndsWithTheHandshake: ctx ends at the very moment in which
// the last byte of the handshake passes. The interruption is on its way then,
// and would hit the connection after it has been returned (golang/go#16523).
func TestUpgradeContextEndsWithTheHandshake(t *testing.T) {
	for _, at := range []string{"read", "write"} {
		for _, name := range []string{"client", "server", "plain"} {
			role := testkit.UpgradeRoles[name]
			if at == "write" && role.Sends == "" {
				continue
			}
			for _, noDeadlines := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/noDeadlines=%v", at, name, noDeadlines), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := context.WithCancelCause(t.Context())
						c, peer := testkit.SpyPipe(t)
						spy := &testkit.SpyConn{Conn: c, NoDeadlines: noDeadlines}
						end := func() { cancel(testkit.ErrCause) }
						if at == "read" {
							spy.OnRead = end
						} else {
							spy.OnWrite = end
						}
						go io.WriteString(peer, role.Receives+"\x00banner")
						go io.Copy(io.Discard, peer)
						conn, err := role.Play(ctx, spy)
						require.Nil(t, conn)
						require.ErrorIs(t, err, testkit.ErrCause)
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
		role := testkit.UpgradeRoles[name]
		for _, noDeadlines := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/noDeadlines=%v", name, noDeadlines), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					c, peer := testkit.SpyPipe(t)
					spy := &testkit.SpyConn{Conn: c, NoDeadlines: noDeadlines}
					sent := make(chan struct{})
					go func() {
						io.WriteString(peer, role.Receives+"\x00banner")
						close(sent)
					}()
					go func() { // reads what the role sends and "ping", then answers
						io.ReadFull(peer, make([]byte, len(role.Sends)+len("ping")))
						<-sent
						io.WriteString(peer, "pong")
					}()
					conn, err := role.Play(ctx, spy)
					require.NoError(t, err)
					set := spy.Deadlines.Load()
					cancel()
					<-time.After(time.Hour)
					synctest.Wait()
					require.Equal(t, set, spy.Deadlines.Load(), "deadlines set afterwards")
					require.Zero(t, spy.Closes.Load())

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
		role := testkit.UpgradeRoles[name]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for range 300 {
					ctx, cancel := context.WithCancel(t.Context())
					c, peer := net.Pipe()
					spy := &testkit.SpyConn{Conn: c}
					spy.OnRead = func() { go cancel() }
					go io.WriteString(peer, role.Receives+"\x00banner")
					go io.Copy(io.Discard, peer)
					conn, err := role.Play(ctx, spy)
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
		client, server := testkit.SpyPipe(t)
		go func() {
			testkit.ReadRequest(server)
			io.WriteString(server, "HTTP/1.1 403 No\r\n\r\nno you")
		}()
		begun := time.Now()
		_, err := testkit.UpgradeClient(ctx, client)
		require.Equal(t, 403, testkit.StatusError(t, err).StatusCode)
		require.Equal(t, "no you", string(testkit.StatusError(t, err).Body))
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
