package carriers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// inMemory opens a tunnel over a connection without a buffer, in virtual time.
func inMemory(t *testing.T, n *testkit.Network, accepted <-chan *preflight.Conn, carrier preflight.Carrier) (*peer, *preflight.Conn, *testkit.NetworkConn) {
	t.Helper()
	c := n.Dial(t)
	p := ask(t, bufferedConn{c}, carrier, "", "", "")
	return p, testkit.NextConn(t, accepted), c.Server
}

// The transport of a closed connection stays open until the peer has received everything, and
// Shutdown waits for that.
func TestShutdownWaitsForThePeerToRead(t *testing.T) {
	each(t, framed, func(t *testing.T, carrier preflight.Carrier) {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
			p, conn, transport := inMemory(t, n, testkit.AcceptAll(t, l), carrier)
			testkit.Carry(t, "x", conn, p)
			require.NoError(t, conn.Close())
			done := make(chan error, 1)
			go func() { done <- l.Shutdown(context.Background()) }()
			time.Sleep(time.Second)
			synctest.Wait()
			require.Empty(t, done)
			require.False(t, transport.Closed.Load())
			rest, err := io.ReadAll(p)
			require.NoError(t, err)
			require.Empty(t, rest)
			synctest.Wait()
			require.Len(t, done, 1)
			require.NoError(t, <-done)
			require.True(t, transport.Closed.Load())
			require.NoError(t, p.Close())
		})
	})
}

// A peer that never reads delays Shutdown for at most one minute, and for at most as long as
// the context of Shutdown allows. Close of the listener does not wait.
func TestShutdownAndAPeerThatNeverReads(t *testing.T) {
	each(t, framed, func(t *testing.T, carrier preflight.Carrier) {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
			_, conn, transport := inMemory(t, n, testkit.AcceptAll(t, l), carrier)
			require.NoError(t, conn.Close())
			begin := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			require.ErrorIs(t, l.Shutdown(ctx), context.DeadlineExceeded)
			require.Equal(t, 10*time.Second, time.Since(begin))
			require.False(t, transport.Closed.Load(), "it lingers after Shutdown has returned")
			require.NoError(t, l.Shutdown(context.Background()))
			require.Equal(t, time.Minute, time.Since(begin).Round(time.Second))
			require.True(t, transport.Closed.Load())
		})
	})
	each(t, framed, func(t *testing.T, carrier preflight.Carrier) {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
			p, conn, transport := inMemory(t, n, testkit.AcceptAll(t, l), carrier)
			require.NoError(t, conn.Close())
			begin := time.Now()
			require.NoError(t, l.Close())
			require.Zero(t, time.Since(begin))
			require.False(t, transport.Closed.Load())
			rest, err := io.ReadAll(p)
			require.NoError(t, err, "what was written is not lost")
			require.Empty(t, rest)
			require.NoError(t, p.Close())
		})
	})
}

// Peers that never read keep at most MaxPending transports open: the oldest is closed first.
func TestMaxPendingBoundsLingers(t *testing.T) {
	each(t, framed, func(t *testing.T, carrier preflight.Carrier) {
		synctest.Test(t, func(t *testing.T) {
			const limit = 2
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: limit})
			accepted := testkit.AcceptAll(t, l)
			var transports []*testkit.NetworkConn
			var peers []*peer
			for i := range 5 {
				p, conn, transport := inMemory(t, n, accepted, carrier)
				peers, transports = append(peers, p), append(transports, transport)
				require.NoError(t, conn.Close())
				synctest.Wait()
				for j, transport := range transports {
					require.Equal(t, j < i+1-limit, transport.Closed.Load(), "%d of %d", j, i+1)
				}
			}
			// A transport that has ended in order no longer counts.
			_, err := io.ReadAll(peers[4])
			require.NoError(t, err)
			synctest.Wait()
			require.True(t, transports[4].Closed.Load())
			_, conn, _ := inMemory(t, n, accepted, carrier)
			require.NoError(t, conn.Close())
			synctest.Wait()
			require.False(t, transports[3].Closed.Load())
			require.NoError(t, l.Shutdown(context.Background()), "each of them is counted once")
		})
	})
}

// A connection that both sides have ended counts as active until the application closes it.
func TestActiveUntilClosed(t *testing.T) {
	each(t, framed, func(t *testing.T, carrier preflight.Carrier) {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
			p, conn, transport := inMemory(t, n, testkit.AcceptAll(t, l), carrier)
			end(t, p, conn)
			end(t, conn, p)
			synctest.Wait()
			require.True(t, transport.Closed.Load(), "both directions have ended")
			done := make(chan error, 1)
			go func() { done <- l.Shutdown(context.Background()) }()
			synctest.Wait()
			require.Empty(t, done)
			require.NoError(t, conn.Close())
			synctest.Wait()
			require.Len(t, done, 1)
			require.NoError(t, <-done)
			p.Close()
		})
	})
}

// HandshakeTimeout also limits the handshake of TLS inside a framed tunnel. After that,
// nothing remains open.
func TestTLSInsideThatStalls(t *testing.T) {
	server, _ := testkit.TLSConfigs(t)
	each(t, framed, func(t *testing.T, carrier preflight.Carrier) {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, TLSConfig: server, HandshakeTimeout: time.Minute})
			testkit.AcceptAll(t, l)
			begin := time.Now()
			c := n.Dial(t)
			p := ask(t, bufferedConn{c}, carrier, "Preflight-Tunnel: tls\r\n", "", "Preflight-Tunnel: tls\r\n")
			_, err := io.WriteString(p, "\x16\x03\x01") // the beginning of a ClientHello
			require.NoError(t, err)
			_, err = io.ReadAll(p) // reads the PINGs of the server
			require.Error(t, err)
			require.Equal(t, time.Minute, time.Since(begin))
			require.True(t, c.Server.Closed.Load())
			require.NoError(t, l.Shutdown(context.Background()))
			p.Close()
		})
	})
}

// If a tunnel was answered but never accepted, Close of the listener ends it without
// FINAL_DATA, because no application has served it.
func TestCloseOfTunnelsThatWereNotAccepted(t *testing.T) {
	each(t, framed, func(t *testing.T, carrier preflight.Carrier) {
		l := testkit.Listen(t, new(preflight.PreflightListener))
		first := make(chan error, 1)
		go func() {
			_, err := l.Accept()
			first <- err
		}()
		dial(t, l, carrier, "", "")
		require.NoError(t, <-first)
		second := dial(t, l, carrier, "", "")
		require.NoError(t, l.Close())
		_, err := second.Read(make([]byte, 1))
		require.True(t, errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
		second.Close()
	})
}

// With TLS inside a framed tunnel, the end of the stream does not wait for a peer that does
// not read. The peer receives everything when it reads, also after the 5 seconds that
// crypto/tls allows for its close_notify.
func TestTLSInsideAndAPeerThatReadsLate(t *testing.T) {
	server, client := testkit.PipeTLS(t)
	type halfConn interface {
		net.Conn
		CloseWrite() error
	}
	ways := map[string]func(halfConn) error{
		"Close":                  halfConn.Close,
		"CloseWrite":             halfConn.CloseWrite,
		"CloseWrite, then Close": func(c halfConn) error { return errors.Join(c.CloseWrite(), c.Close()) },
	}
	each(t, framed, func(t *testing.T, carrier preflight.Carrier) {
		for name, closeWay := range ways {
			for _, listener := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, by the listener %t", name, listener), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n := testkit.NewNetwork()
						accepted := testkit.AcceptAll(t, testkit.Listen(t, &preflight.PreflightListener{Listener: n, TLSConfig: server}))
						d := &preflight.PreflightDialer{
							Carriers: []preflight.Carrier{carrier}, TunnelTLSConfig: client,
							NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) { return n.Dial(t).Conn, nil }),
						}
						c, err := d.Dial("tcp", "example.com:80")
						require.NoError(t, err)
						ending, peer := c.(halfConn), halfConn(testkit.NextConn(t, accepted))
						if listener {
							ending, peer = peer, ending
						}
						testkit.Carry(t, "x", ending, peer)
						begin := time.Now()
						require.NoError(t, closeWay(ending))
						require.LessOrEqual(t, time.Since(begin), 2*time.Second)
						time.Sleep(30 * time.Second)
						rest, err := io.ReadAll(peer)
						require.NoError(t, err)
						require.Empty(t, rest)
						require.NoError(t, peer.Close())
						ending.Close()
					})
				})
			}
		}
	})
}

// With TLS inside a framed tunnel, a deadline that is set while another goroutine ends the
// direction changes nothing about what has been written.
func TestTLSInsideAndADeadlineBesideTheEnd(t *testing.T) {
	server, client := testkit.TLSConfigs(t)
	each(t, framed, func(t *testing.T, carrier preflight.Carrier) {
		l := testkit.Listen(t, &preflight.PreflightListener{TLSConfig: server})
		accepted := testkit.AcceptAll(t, l)
		for range 20 {
			d := &preflight.PreflightDialer{Carriers: []preflight.Carrier{carrier}, TunnelTLSConfig: client}
			c, err := d.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			conn, peer := c.(*preflight.Conn), testkit.NextConn(t, accepted)
			written, received := make(chan int, 1), make(chan int, 1)
			begun, ended := make(chan struct{}), make(chan struct{})
			go func() {
				total, b := 0, make([]byte, 256<<10)
				for {
					n, err := conn.Write(b)
					if total += n; err != nil {
						written <- total
						return
					}
					if total == len(b) {
						close(begun)
					}
				}
			}()
			go func() {
				n, err := io.Copy(io.Discard, peer)
				if err != nil {
					t.Error("the peer's stream is not complete:", err)
				}
				received <- int(n)
			}()
			go func() {
				for {
					select {
					case <-ended:
						return
					default:
						conn.SetWriteDeadline(time.Now().Add(time.Hour))
					}
				}
			}()
			<-begun
			require.NoError(t, conn.CloseWrite())
			close(ended)
			require.Equal(t, <-written, <-received)
			require.NoError(t, conn.Close())
			peer.Close() // its close_notify may come too late
		}
	})
}
