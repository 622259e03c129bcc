package room_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// slowConn is the server's end of a connection that is slow: its Close takes
// time, and so does its second Read after it has its bytes, as with a busy
// scheduler.
type slowConn struct {
	*testkit.NetworkConn
	close, second time.Duration
	reads         *atomic.Int32
}

func (c slowConn) Close() error {
	time.Sleep(c.close)
	return c.NetworkConn.Close()
}

func (c slowConn) Read(b []byte) (int, error) {
	n, err := c.NetworkConn.Read(b)
	if err == nil && c.reads.Add(1) == 2 {
		time.Sleep(c.second)
	}
	return n, err
}

// dialSlow puts a slowConn into the backlog of n.
func dialSlow(t testing.TB, n *testkit.Network, closes, second time.Duration) *testkit.Client {
	t.Helper()
	ours, theirs := net.Pipe()
	c := &testkit.Client{Conn: ours, R: bufio.NewReader(ours), Server: &testkit.NetworkConn{Conn: theirs}}
	n.Backlog <- slowConn{c.Server, closes, second, new(atomic.Int32)}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return c
}

// halvesConn is the client's end of a connection. Its first message is sent in
// two parts.
type halvesConn struct {
	net.Conn
	rest chan struct{} // closed when the second part may be sent
	once sync.Once
}

func (c *halvesConn) Write(b []byte) (n int, err error) {
	c.once.Do(func() {
		n, _ = c.Conn.Write(b[:10])
		<-c.rest
	})
	m, err := c.Conn.Write(b[n:])
	return n + m, err
}

// Two clients wait for room, and two others may be evicted. Both get a place,
// although the first place becomes free only after some time, and no other
// does.
func TestListenerMakesRoomForEachThatWaits(t *testing.T) {
	for _, tt := range []struct {
		name   string
		mounts int  // how many of the two come through ServeHTTP; the acceptor can wait for only one
		silent bool // the old clients are silent, and are delivered as plain
	}{
		{name: "the acceptor and ServeHTTP", mounts: 1},
		{name: "ServeHTTP twice", mounts: 2},
		{name: "the acceptor and ServeHTTP, silent clients", mounts: 1, silent: true},
		{name: "ServeHTTP twice, silent clients", mounts: 2, silent: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const busy = 300 * time.Millisecond
				direct, mounted := testkit.NewNetwork(), testkit.NewNetwork()
				var asked atomic.Int32
				hold := make(chan struct{})
				release := sync.OnceFunc(func() { close(hold) })
				defer release()
				l := testkit.Listen(t, &preflight.PreflightListener{
					Listener: direct, MaxPending: 2, HandshakeTimeout: time.Hour, AllowPlain: true,
					Authorize: func(*http.Request) (http.Header, error) {
						asked.Add(1)
						<-hold // so that no other place becomes free
						return nil, nil
					},
				})
				accepted := testkit.AcceptAll(t, l)
				testkit.Mount(t, mounted, l)
				start := time.Now()
				var old []*testkit.Client
				for range 2 {
					c := dialSlow(t, direct, busy, 0)
					if !tt.silent {
						c.Send(t, "GET / HTTP/1.1\r\n")
					}
					old = append(old, c)
					synctest.Wait()
				}
				var answers []<-chan testkit.Answer
				for i := range 2 {
					n := direct
					if i < tt.mounts {
						n = mounted
					}
					answers = append(answers, n.Dial(t).Ask(testkit.Request()))
				}
				time.Sleep(time.Second + 2*busy)
				synctest.Wait()
				require.EqualValues(t, 2, asked.Load(), "one for each old client; they are evicted one after the other")
				require.Equal(t, time.Second+2*busy, time.Since(start))
				if tt.silent {
					require.Len(t, accepted, 2)
					for range old {
						(<-accepted).Close()
					}
				}
				for _, c := range old {
					c.Ended(t)
				}
				release()
				for _, a := range answers {
					require.Equal(t, 101, (<-a).StatusCode)
				}
			})
		})
	}
}

// A client was to be evicted, but its bytes have arrived, so its handshake
// continues. If that takes time, its place does not become free, and the next
// client is evicted instead.
func TestListenerMakesRoomBesideOneThatContinues(t *testing.T) {
	server, client := testkit.PipeTLS(t)
	const takes = 10 * time.Minute
	slowly := server.Clone()
	slowly.Certificates = nil
	slowly.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		time.Sleep(takes)
		return &server.Certificates[0], nil
	}
	for _, tt := range []struct {
		name, sent, last string
		config           *tls.Config // if set, the client's bytes are those of its TLS handshake
	}{
		{name: "into Authorize", sent: "GET ", last: testkit.Request("Block: " + takes.String())[4:]},
		{name: "behind a PROXY header, into Authorize", sent: "PROXY ", last: "TCP4 192.0.2.7 192.0.2.8 1 2\r\n" + testkit.Request("Block: "+takes.String())},
		{name: "into GetCertificate", config: slowly},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{
					Listener: n, MaxPending: 2, HandshakeTimeout: time.Hour, Authorize: blockedAuthorize,
					TLSConfig: tt.config, TrustedProxies: testkit.Prefixes("192.0.2.1/32"),
				})
				accepted := testkit.AcceptAll(t, l)
				start := time.Now()
				old := dialSlow(t, n, 0, time.Second)
				halves := &halvesConn{Conn: old.Conn, rest: make(chan struct{})}
				secure := tls.Client(halves, client)
				shaken := make(chan error, 1)
				if tt.config != nil {
					go func() { shaken <- secure.Handshake() }()
				} else {
					old.Send(t, tt.sent)
				}
				synctest.Wait()
				stuck := n.Dial(t)
				stuck.Send(t, "GET / HTTP/1.1\r\n")
				time.Sleep(2 * time.Second)
				var oldAnswer <-chan testkit.Answer
				if tt.config != nil {
					close(halves.rest)
				} else {
					oldAnswer = old.Ask(tt.last)
				}
				synctest.Wait() // now it has read all bytes, and has not sorted them yet
				next := n.Dial(t)
				answer := next.Ask(testkit.Request())
				stuck.Ended(t)
				require.Equal(t, 101, (<-answer).StatusCode)
				require.Equal(t, 3*time.Second, time.Since(start), "as soon as the old one continues")
				testkit.Talk(t, next, <-accepted)
				require.Empty(t, oldAnswer)

				// The next new client is not delayed either.
				stuck = n.Dial(t)
				stuck.Send(t, "GET / HTTP/1.1\r\n")
				time.Sleep(time.Second)
				next = n.Dial(t)
				require.Equal(t, 101, (<-next.Ask(testkit.Request())).StatusCode)
				stuck.Ended(t)
				testkit.Talk(t, next, <-accepted)
				require.Equal(t, 4*time.Second, time.Since(start))
				if tt.config != nil {
					require.NoError(t, <-shaken)
					old = &testkit.Client{Conn: secure, R: bufio.NewReader(secure)}
					oldAnswer = old.Ask(testkit.Request())
				}
				require.Equal(t, 101, (<-oldAnswer).StatusCode)
				require.Equal(t, 3*time.Second+takes, time.Since(start))
				conn := <-accepted
				time.Sleep(2 * time.Hour) // no deadline remains
				testkit.Talk(t, old, conn)
				go io.Copy(io.Discard, old) // the end of TLS is a message too
				require.NoError(t, conn.Close())
			})
		})
	}
}

// No client is evicted for the time that GetCertificate takes, and that time
// does not protect other clients.
func TestListenerMakesNoRoomInACallbackOfTLS(t *testing.T) {
	server, client := testkit.PipeTLS(t)
	for _, callback := range []string{"GetCertificate", "GetConfigForClient"} {
		for _, tcps := range []bool{false, true} {
			name := callback
			if tcps {
				name += " in the tunnel"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := testkit.NewNetwork()
					config := server.Clone()
					takes := func(in string) {
						if in == callback {
							time.Sleep(time.Minute)
						}
					}
					config.Certificates = nil
					config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
						takes("GetCertificate")
						return &server.Certificates[0], nil
					}
					config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
						takes("GetConfigForClient")
						return nil, nil
					}
					l := testkit.Listen(t, &preflight.PreflightListener{
						Listener: n, TLSConfig: config, MaxPending: 3, HandshakeTimeout: time.Hour,
					})
					accepted := testkit.AcceptAll(t, l)
					start := time.Now()
					good := n.Dial(t)
					if tcps {
						require.Equal(t, 101, (<-good.Ask(testkit.RequestTLS)).StatusCode)
					}
					tc := tls.Client(good.Conn, client)
					shaken := make(chan error, 1)
					go func() { shaken <- tc.Handshake() }()
					synctest.Wait()
					stuck := make([]*testkit.Client, 3)
					for i := range 2 { // two more clients stall; the second one came later
						stuck[i] = n.Dial(t)
						stuck[i].Send(t, "GET / HTTP/1.1\r\n")
						synctest.Wait()
					}
					for i := range 2 {
						next := n.Dial(t)
						require.Equal(t, 101, (<-next.Ask(testkit.Request())).StatusCode)
						require.Equal(t, time.Second, time.Since(start))
						stuck[i].Ended(t)
						require.False(t, stuck[i+1] != nil && stuck[i+1].Server.Closed.Load(), "one new client evicts one old client")
						testkit.Talk(t, next, <-accepted)
						stuck[2] = n.Dial(t)
						stuck[2].Send(t, "GET / HTTP/1.1\r\n")
					}
					require.Empty(t, shaken)

					require.NoError(t, <-shaken)
					require.Equal(t, time.Minute, time.Since(start))
					over := &testkit.Client{Conn: tc, R: bufio.NewReader(tc)}
					if !tcps {
						require.Equal(t, 101, (<-over.Ask(testkit.Request())).StatusCode)
					}
					conn := <-accepted
					time.Sleep(2 * time.Hour)
					testkit.Talk(t, over, conn)
					go io.Copy(io.Discard, tc) // the end of TLS is a message too
					require.NoError(t, conn.Close())
				})
			})
		}
	}
}
