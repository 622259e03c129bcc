package room_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// blockedAuthorize is an Authorize that takes as long as the field Block says.
func blockedAuthorize(r *http.Request) (http.Header, error) {
	d, _ := time.ParseDuration(r.Header.Get("Block"))
	time.Sleep(d)
	return nil, nil
}

// At MaxPending, a new client takes the place of the oldest client that keeps
// the listener waiting, after that client has had one second, and never
// earlier.
func TestListenerMakesRoom(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		refuse     bool
		delivered  bool
	}{
		{"silent", "", false, true},
		{"silent where plain is refused", "", true, false},
		{"in the first line", "GET /t", false, false},
		{"in the first line, not HTTP", "EHLO", false, false},
		{"in the head", "GET /t HTTP/1.1\r\nHost: h", false, false},
		{"in the head where plain is refused", "GET /t HTTP/1.1\r\nHost: h", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1, RequireUpgrade: tt.refuse})
				accepted := testkit.AcceptAll(t, l)
				old := n.Dial(t)
				old.Send(t, tt.sent)
				time.Sleep(time.Second - 1)

				first, second := n.Dial(t), n.Dial(t)
				firstAnswer, secondAnswer := first.Ask(testkit.Request()), second.Ask(testkit.Request())
				synctest.Wait()
				require.Empty(t, accepted)
				require.Empty(t, firstAnswer)
				require.False(t, old.Server.Closed.Load(), "its second is not over")
				require.EqualValues(t, 2, n.Calls.Load(), "the second waits in the backlog")

				time.Sleep(time.Nanosecond)
				synctest.Wait()
				if tt.delivered {
					require.Len(t, accepted, 3)
					conn := <-accepted
					require.Nil(t, conn.Request())
					time.Sleep(time.Hour)
					testkit.Talk(t, old, conn)
				} else {
					require.Len(t, accepted, 2)
					old.Ended(t)
				}
				require.Equal(t, 101, (<-firstAnswer).StatusCode)
				require.Equal(t, 101, (<-secondAnswer).StatusCode)
				testkit.Talk(t, first, <-accepted)
				testkit.Talk(t, second, <-accepted)
			})
		})
	}
}

// One new client evicts one old client. The other old clients continue.
func TestListenerMakesRoomForOne(t *testing.T) {
	for _, tt := range []struct{ sent, then string }{
		{"GET /t HTTP/1.1\r\n", testkit.Request()[len("GET /t HTTP/1.1\r\n"):]},
		{"", testkit.Request()},
	} {
		for news := 1; news <= 3; news++ {
			t.Run(fmt.Sprintf("%d clients after %q", news, tt.sent), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := testkit.NewNetwork()
					l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 4, HandshakeTimeout: time.Hour})
					accepted := testkit.AcceptAll(t, l)
					// Handshakes that have ended make no room.
					for range 5 {
						connectAndLeave(t, n, accepted)
					}
					old := make([]*testkit.Client, 4)
					for i := range old {
						old[i] = n.Dial(t)
						old[i].Send(t, tt.sent)
						time.Sleep(time.Minute)
					}
					for range news {
						n.Dial(t).Send(t, "GET /stalled HTTP/1.1\r\n")
						time.Sleep(time.Minute)
					}
					delivered := 0
					if tt.sent == "" {
						delivered = news
					}
					require.Len(t, accepted, delivered)
					for _, c := range old[:news] {
						if tt.sent == "" {
							conn := <-accepted
							require.Nil(t, conn.Request())
							testkit.Talk(t, c, conn)
						} else {
							c.Ended(t)
						}
					}
					for i, c := range old[news:] {
						require.False(t, c.Server.Closed.Load(), "client %d", news+i)
						require.Equal(t, 101, (<-c.Ask(tt.then)).StatusCode)
						testkit.Talk(t, c, <-accepted)
					}
				})
			})
		}
	}
}

// A client that was delivered to make room holds its place until Accept returns
// it. Until then no second client may be evicted for the same new client: a
// connection of a proxy, taken for plain, would carry its HTTP to the
// application.
func TestListenerMakesRoomOnlyOnceUntilAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 3, HandshakeTimeout: time.Hour})
		testkit.CloseOnce(t, n, l)
		old := make([]*testkit.Client, 3)
		for i := range old {
			old[i] = n.Dial(t)
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		answers := []<-chan testkit.Answer{n.Dial(t).Ask(testkit.Request())}
		time.Sleep(time.Minute)
		for _, c := range old[1:] {
			answers = append(answers, c.Ask(testkit.Request()))
		}
		for i := range 4 {
			c, err := l.Accept()
			require.NoError(t, err)
			plain := c.(*preflight.Conn).Request() == nil
			require.Equal(t, c.(*preflight.Conn).NetConn() == net.Conn(old[0].Server), plain, "connection %d", i)
			defer c.Close()
		}
		for _, a := range answers {
			require.Equal(t, 101, (<-a).StatusCode)
		}
	})
}

// connectAndLeave is a client that connects and leaves.
func connectAndLeave(t testing.TB, n *testkit.Network, accepted <-chan *preflight.Conn) {
	t.Helper()
	c := n.Dial(t)
	require.Equal(t, 101, (<-c.Ask(testkit.Request())).StatusCode)
	(<-accepted).Close()
	c.Ended(t)
}

// Without a new client, no client is evicted.
func TestListenerMakesNoRoomWithoutANewClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 3})
		accepted := testkit.AcceptAll(t, l)
		silent, line, head := n.Dial(t), n.Dial(t), n.Dial(t)
		line.Send(t, "GET ")
		head.Send(t, "GET /t HTTP/1.1\r\n")
		time.Sleep(9 * time.Second)
		require.Empty(t, accepted)
		for _, c := range []struct {
			*testkit.Client
			rest string
		}{
			{silent, testkit.Request()},
			{line, testkit.Request()[len("GET "):]},
			{head, testkit.Request()[len("GET /t HTTP/1.1\r\n"):]},
		} {
			require.Equal(t, 101, (<-c.Ask(c.rest)).StatusCode)
			testkit.Talk(t, c.Client, <-accepted)
		}
	})
}

// The oldest client is evicted, not the one that was silent the longest. Each
// has its own second.
func TestListenerMakesRoomInOrderOfAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 3, HandshakeTimeout: time.Hour})
		accepted := testkit.AcceptAll(t, l)
		start := time.Now()
		var clients []*testkit.Client
		for range 3 {
			c := n.Dial(t)
			c.Send(t, "GET /t")
			clients = append(clients, c)
			time.Sleep(400 * time.Millisecond)
		}
		clients[0].Send(t, " HTTP/1.1\r\n") // this does not make it younger
		for i, at := range []time.Duration{1200, 1400, 1800, 2200, 2400} {
			c := n.Dial(t)
			c.Send(t, "GET /t")
			clients = append(clients, c)
			clients[i].Ended(t)
			require.Equal(t, at*time.Millisecond, time.Since(start))
			for _, younger := range clients[i+1:] {
				require.False(t, younger.Server.Closed.Load())
			}
		}
		require.Empty(t, accepted)
	})
}

// While Authorize runs, and while the answer is written to a client that reads
// it, the client does not keep the listener waiting. It is not evicted for that
// time.
func TestListenerMakesNoRoomDuringItsOwnWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 2, Authorize: blockedAuthorize})
		accepted := testkit.AcceptAll(t, l)
		start := time.Now()
		a, b := n.Dial(t), n.Dial(t)
		aAnswer, bAnswer := a.Ask(testkit.Request("Block: 5s")), b.Ask(testkit.Request("Block: 6s"))
		time.Sleep(time.Second)
		waiting := n.Dial(t)
		n.Dial(t)
		answer := waiting.Ask(testkit.Request())
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 3, n.Calls.Load(), "the acceptor waits")
		require.Empty(t, answer)

		require.Equal(t, 101, (<-aAnswer).StatusCode)
		testkit.Talk(t, a, <-accepted)
		require.Equal(t, 101, (<-answer).StatusCode)
		require.Equal(t, 5*time.Second, time.Since(start), "its place is free at once")
		testkit.Talk(t, waiting, <-accepted)
		require.Equal(t, 101, (<-bAnswer).StatusCode)
		testkit.Talk(t, b, <-accepted)

		// The oldest waits for the server, the next one does not.
		a, b = n.Dial(t), n.Dial(t)
		aAnswer = a.Ask(testkit.Request("Block: 5s"))
		b.Send(t, "GET")
		time.Sleep(time.Second)
		waiting = n.Dial(t)
		require.Equal(t, 101, (<-waiting.Ask(testkit.Request())).StatusCode)
		b.Ended(t)
		testkit.Talk(t, waiting, <-accepted)
		require.Equal(t, 101, (<-aAnswer).StatusCode)
		testkit.Talk(t, a, <-accepted)
	})
}

// A finished connection waits for Accept without a limit. It is counted, is
// never evicted, and its handshake's timeout has stopped.
func TestListenerFinishedConnectionsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 3
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: most})
		testkit.CloseOnce(t, n, l)
		before := n.Calls.Load() - 1 // one call of Accept already waits

		clients := make([]*testkit.Client, most+2)
		answers := make([]<-chan testkit.Answer, len(clients))
		for i := range clients {
			clients[i] = n.Dial(t)
			answers[i] = clients[i].Ask(testkit.Request())
			synctest.Wait()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		require.EqualValues(t, most+1, n.Calls.Load()-before, "the rest waits in the backlog")
		conns := map[*testkit.NetworkConn]*preflight.Conn{}
		for i := range clients {
			if i < most {
				require.Equal(t, 101, (<-answers[i]).StatusCode, "client %d is finished", i)
			} else {
				require.Empty(t, answers[i], "client %d waits for a place", i)
			}
			require.False(t, clients[i].Server.Closed.Load())
		}
		for i := range clients {
			c, err := l.Accept()
			require.NoError(t, err)
			conn := c.(*preflight.Conn)
			conns[conn.NetConn().(*testkit.NetworkConn)] = conn
			synctest.Wait()
			if next := i + most; next < len(clients) {
				require.Equal(t, 101, (<-answers[next]).StatusCode, "Accept frees one place")
			}
			for _, later := range answers[min(i+most+1, len(clients)):] {
				require.Empty(t, later, "and no more")
			}
		}
		for _, c := range clients {
			require.NotNil(t, conns[c.Server])
			testkit.Talk(t, c, conns[c.Server])
		}
	})
}

// By default a listener has up to 4096 pending handshakes.
func TestListenerDefaultMaxPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
		accepted := testkit.AcceptAll(t, l)
		for range 4096 {
			n.Dial(t)
			if len(n.Backlog) == cap(n.Backlog) {
				synctest.Wait()
			}
		}
		synctest.Wait()
		require.EqualValues(t, 4097, n.Calls.Load())
		for range 2 {
			n.Dial(t)
		}
		synctest.Wait()
		require.EqualValues(t, 4097, n.Calls.Load(), "one waits for a place, one in the backlog")
		require.Empty(t, accepted)
	})
}

// A refusal holds its place until the client has read it, for one second at
// most.
func TestListenerRefusalsArePending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1})
		accepted := testkit.AcceptAll(t, l)
		refused := n.Dial(t)
		time.Sleep(5 * time.Second)
		start := time.Now()
		require.Equal(t, 426, (<-refused.Ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n")).StatusCode)
		c := n.Dial(t)
		answer := c.Ask(testkit.Request())
		time.Sleep(time.Second - 1)
		require.Empty(t, answer)
		require.False(t, refused.Server.Closed.Load(), "it is not evicted: the listener does not wait for its bytes")
		require.Equal(t, 101, (<-answer).StatusCode)
		require.Equal(t, time.Second, time.Since(start))
		testkit.Talk(t, c, <-accepted)
		refused.Ended(t)
	})
}

// However a handshake ends, its place becomes free exactly once.
func TestListenerCountsEveryHandshakeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		testkit.CaptureLog(t)
		const most = 4
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{
			Listener: n, MaxPending: most, AllowPlain: true, HandshakeTimeout: time.Minute,
			Authorize: func(r *http.Request) (http.Header, error) {
				switch r.Header.Get("Do") {
				case "panic":
					panic("on request")
				case "exit":
					runtime.Goexit()
				case "refuse":
					return nil, testkit.ErrOther
				}
				return nil, nil
			},
		})
		accepted := testkit.AcceptAll(t, l)
		var clients []*testkit.Client
		for range 3 {
			for _, sent := range []string{
				testkit.Request(), testkit.Request("Do: panic"), testkit.Request("Do: exit"), testkit.Request("Do: refuse"), "plain\n",
				"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.1\r\nstalled", "stalled", "",
			} {
				c := n.Dial(t)
				clients = append(clients, c)
				go func() {
					io.WriteString(c, sent)
					io.Copy(io.Discard, c.R)
				}()
				time.Sleep(100 * time.Millisecond) // so that some have to be evicted
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		delivered := map[*testkit.NetworkConn]bool{}
		for range len(accepted) {
			c := (<-accepted).NetConn().(*testkit.NetworkConn)
			require.False(t, delivered[c])
			delivered[c] = true
		}
		for i, c := range clients {
			require.NotEqual(t, delivered[c.Server], c.Server.Closed.Load(), "client %d is either delivered or closed", i)
		}
		before := n.Calls.Load() - 1
		for range most + 5 {
			n.Dial(t)
		}
		synctest.Wait()
		require.EqualValues(t, most+1, n.Calls.Load()-before)
	})
}
