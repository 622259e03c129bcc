package mount_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// fullListener is a mounted listener whose places are all taken by finished tunnels
// that have not been accepted.
func fullListener(t testing.TB, n *testkit.Network, most int) *preflight.PreflightListener {
	t.Helper()
	l := &preflight.PreflightListener{MaxPending: most}
	t.Cleanup(func() { l.Close() })
	testkit.ServeHTTP(t, n, l)
	for range most {
		require.Equal(t, 101, (<-n.Dial(t).Ask(testkit.Request())).StatusCode)
	}
	return l
}

// acceptOne accepts one tunnel.
func acceptOne(t testing.TB, l *preflight.PreflightListener) *preflight.Conn {
	t.Helper()
	c, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(*preflight.Conn)
}

// A request without a free place waits as long as a handshake may take. Then it
// is told to try again later.
func TestMountWaitsForAPlace(t *testing.T) {
	for _, tt := range []struct {
		name  string
		do    func(t *testing.T, l *preflight.PreflightListener) // after 4 s
		want  int
		text  string // in the body
		after time.Duration
	}{
		{"no place becomes free", func(*testing.T, *preflight.PreflightListener) {}, 503, "too many handshakes", 10 * time.Second},
		{"until Accept makes room", func(t *testing.T, l *preflight.PreflightListener) { acceptOne(t, l) }, 101, "", 4 * time.Second},
		{"until Close", func(t *testing.T, l *preflight.PreflightListener) { require.NoError(t, l.Close()) }, 503, "shutting down", 4 * time.Second},
		{"until Shutdown", func(t *testing.T, l *preflight.PreflightListener) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			require.ErrorIs(t, l.Shutdown(ctx), context.Canceled)
		}, 503, "shutting down", 4 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := fullListener(t, n, 1)
				time.Sleep(time.Hour) // this costs the finished tunnel nothing
				start := time.Now()
				clients := []*testkit.Client{n.Dial(t), n.Dial(t), n.Dial(t)}
				if tt.want == 101 {
					clients = clients[:1]
				}
				var answers []<-chan testkit.Answer
				for _, c := range clients {
					answers = append(answers, c.Ask(testkit.Request()+testkit.Get))
				}
				time.Sleep(4*time.Second - 1)
				for _, answer := range answers {
					require.Empty(t, answer)
				}
				time.Sleep(time.Nanosecond)
				tt.do(t, l)
				for i, answer := range answers {
					a := <-answer
					require.NoError(t, a.Err)
					require.Equal(t, tt.want, a.StatusCode)
					require.Equal(t, tt.after, time.Since(start))
					if tt.want == 101 {
						conn := acceptOne(t, l)
						testkit.Skip(t, conn, testkit.Get)
						testkit.Talk(t, clients[i], conn)
					} else {
						require.Equal(t, "1", a.Header.Get("Retry-After"))
						require.Contains(t, a.Text, tt.text)
					}
				}
				if tt.want != 101 {
					for _, c := range clients {
						c.Ended(t)
						require.True(t, c.Server.Closed.Load())
					}
				}
			})
		})
	}
}

// If several places become free at once, the same number of requests get one,
// also if the requests arrive at the same moment.
func TestMountUsesEveryPlace(t *testing.T) {
	for range 30 {
		synctest.Test(t, func(t *testing.T) {
			const most = 8
			n := testkit.NewNetwork()
			l := fullListener(t, n, most)
			answers := make(chan testkit.Answer, 2*most)
			for range most {
				for range 2 {
					answer := n.Dial(t).Ask(testkit.Request())
					go func() { answers <- <-answer }()
				}
				go func() {
					if c, err := l.Accept(); err == nil {
						t.Cleanup(func() { c.Close() })
					}
				}()
			}
			synctest.Wait()
			require.Len(t, answers, most)
			for range most {
				require.Equal(t, 101, (<-answers).StatusCode)
			}
		})
	}
}

// A request that was refused takes no place: there are as many places as
// before.
func TestMountForgetsRefusedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := fullListener(t, n, 2)
		for range 3 {
			a := n.Dial(t).Ask(testkit.Request())
			b := n.Dial(t).Ask(testkit.Request())
			require.Equal(t, 503, (<-a).StatusCode)
			require.Equal(t, 503, (<-b).StatusCode)
		}
		for range 2 {
			acceptOne(t, l)
		}
		for range 2 {
			require.Equal(t, 101, (<-n.Dial(t).Ask(testkit.Request())).StatusCode)
		}
		start := time.Now()
		require.Equal(t, 503, (<-n.Dial(t).Ask(testkit.Request())).StatusCode)
		require.Equal(t, 10*time.Second, time.Since(start))
		for range 2 {
			acceptOne(t, l)
		}
	})
}

// However many clients wait, through ServeHTTP and in the backlog of the
// listener's own port, each free place is given to one of them. No client waits
// while a place is free.
func TestMountManyWait(t *testing.T) {
	for _, most := range []int{1, 2, 5} {
		for _, both := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d places, with a wrapped listener %t", most, both), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const many = 60
					n, own := testkit.NewNetwork(), testkit.NewNetwork()
					l := &preflight.PreflightListener{MaxPending: most}
					if both {
						l.Listener = own
						testkit.CloseOnce(t, own, l) // so that the acceptor runs
					}
					t.Cleanup(func() { l.Close() })
					testkit.ServeHTTP(t, n, l)
					var clients []*testkit.Client
					var answers []<-chan testkit.Answer
					for i := range many {
						at := n
						if both && i%2 == 0 {
							at = own
						}
						c := at.Dial(t)
						clients = append(clients, c)
						answers = append(answers, c.Ask(testkit.Request()))
					}
					synctest.Wait()
					start := time.Now()
					conns := map[*testkit.NetworkConn]*preflight.Conn{}
					for range many {
						conn := acceptOne(t, l)
						conns[conn.NetConn().(*testkit.NetworkConn)] = conn
					}
					require.Zero(t, time.Since(start))
					for i, c := range clients {
						require.Equal(t, 101, (<-answers[i]).StatusCode)
						testkit.Talk(t, c, conns[c.Server])
					}
				})
			})
		}
	}
}

// Some of the waiting requests give up at the moment when places become free.
// No place may be lost with a request that gives up.
func TestMountManyWaitAndSomeGiveUp(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			const each = 10
			n := testkit.NewNetwork()
			l := fullListener(t, n, 3)
			var early, late []<-chan testkit.Answer
			for range each {
				early = append(early, n.Dial(t).Ask(testkit.Request()))
			}
			time.Sleep(5 * time.Second)
			for range each {
				late = append(late, n.Dial(t).Ask(testkit.Request()))
			}
			time.Sleep(5 * time.Second) // now the early requests have reached their timeout
			accepted := testkit.AcceptAll(t, l)
			synctest.Wait()
			served := 3
			for _, answer := range early {
				a := <-answer
				switch a.StatusCode {
				case 101:
					served++
				case 0: // it got its place when no time was left to answer
					require.ErrorIs(t, a.Err, io.ErrUnexpectedEOF)
				default:
					require.Equal(t, 503, a.StatusCode)
				}
			}
			for _, answer := range late {
				require.Equal(t, 101, (<-answer).StatusCode)
				served++
			}
			synctest.Wait()
			require.Len(t, accepted, served)
		})
	}
}

// A request through ServeHTTP is a new client like any other. A client that
// keeps the listener waiting for bytes is evicted for it.
func TestMountMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, own := testkit.NewNetwork(), testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: own, MaxPending: 1})
		accepted := testkit.AcceptAll(t, l)
		testkit.ServeHTTP(t, n, l)
		stuck := own.Dial(t)
		stuck.Send(t, "GET / HTTP/1.1\r\n")
		start := time.Now()
		c := n.Dial(t)
		require.Equal(t, 101, (<-c.Ask(testkit.Request())).StatusCode)
		require.Equal(t, time.Second, time.Since(start))
		stuck.Ended(t)
		testkit.Talk(t, c, <-accepted)
	})
}

// An upgrade request on a connection of Handler waits in the same way.
func TestHandlerWaitsForAPlace(t *testing.T) {
	for _, room := range []bool{false, true} {
		t.Run(fmt.Sprintf("room %t", room), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1, Handler: testkit.ReportHandler})
				testkit.CloseOnce(t, n, l)
				c := n.Dial(t)
				require.Equal(t, testkit.Got, (<-c.Ask(testkit.Get)).Text)
				require.Equal(t, 101, (<-n.Dial(t).Ask(testkit.Request())).StatusCode)
				start := time.Now()
				answer := c.Ask(testkit.Request())
				if room {
					time.Sleep(time.Second)
					acceptOne(t, l)
					require.Equal(t, 101, (<-answer).StatusCode)
					require.Equal(t, time.Second, time.Since(start))
					testkit.Talk(t, c, acceptOne(t, l))
					return
				}
				a := <-answer
				require.Equal(t, 503, a.StatusCode)
				require.Equal(t, "1", a.Header.Get("Retry-After"))
				require.Equal(t, 10*time.Second, time.Since(start))
				c.Ended(t)
			})
		})
	}
}
