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

// upgradeStalls are the steps at which a peer may stall.
var upgradeStalls = []struct {
	name  string
	role  string
	stage string // the step that the error names
	sends string
	reads int // how many bytes it reads before it sends; a negative number: after it sends
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

// TestUpgradeStalls: the peer stalls at any step. The handshake ends at the end
// of the context or at the timeout. Its error has the reason, and no goroutine
// remains. A transport without deadlines is closed for that. Any other is left
// open for the caller.
func TestUpgradeStalls(t *testing.T) {
	for _, stall := range upgradeStalls {
		for endName, end := range testkit.ContextEnds {
			for _, noDeadlines := range []bool{false, true} {
				byTimeout := endName == "timeout"
				if stall.role == "server" && byTimeout && !noDeadlines && stall.stage == "read the upgrade request" {
					continue // see TestServerTimeout: this is no error, or a 408
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
							synctest.Wait() // the interruption runs concurrently with the handshake
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

// TestServerTimeout: a client that has sent nothing, or no complete word of
// HTTP, is plain at the timeout. A client that stalls in its head gets a 408.
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
					<-time.After(time.Hour) // no deadline remains
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
	t.Run("408 that is not read", func(t *testing.T) {
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

// TestUpgradeContextHasEnded: if the context has ended, nothing is sent.
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

// TestUpgradeContextEndsWithTheHandshake: ctx ends exactly when the last byte
// of the handshake passes. The interruption has then started, and would hit the
// connection after it has been returned (golang/go#16523).
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

// TestUpgradeContextEndsAfterwards: after the handshake, neither the context
// nor the timeout affects the connection.
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
					go func() { // reads the bytes of the role and "ping", then answers
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

// TestUpgradeContextEndsAtAnyTime: the context ends while the handshake runs.
// The result is the cause of the context, or a connection that is not affected.
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

// TestUpgradeContextEndsInRefusal: the context ends while the body of a refusal
// arrives. The error is the refusal, because it says more, and Client does not
// wait for the rest of the body.
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

// A transport may panic and its caller may recover, as net/http does. The watch
// on the context of that handshake still runs, and must not interrupt another
// handshake.
func TestUpgradeTransportPanics(t *testing.T) {
	req, err := http.NewRequest("GET", "http://h/", nil)
	require.NoError(t, err)
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs)
		require.Panics(t, func() { preflight.Client(ctx, panicConn{ours}, req) })

		// If the memory of the handshake was pooled, this handshake uses it
		// now.
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
