package room_test

import (
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
	"golang.org/x/net/netutil"
)

// With a LimitListener the application accepts only as many connections as it
// has room for. Finished tunnels wait for that. They are counted and are not
// evicted. However many clients arrive, none of them is closed, and none gets
// another answer.
func TestListenerUnderLimitListener(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, mounted := range []bool{false, true} { // the number of clients
		synctest.Test(t, func(t *testing.T) {
			const most, crowd = 4, 30
			s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = most })
			limited := netutil.LimitListener(s, 2)
			accepted := make(chan net.Conn, 100)
			go func() {
				for {
					c, err := limited.Accept()
					if err != nil {
						return
					}
					accepted <- c
					go testkit.WaitForPeer(c)
				}
			}()
			for range 2 {
				testkit.Alive(t, s.Direct.Dial(t).Upgraded(t, testkit.Request()))
			}
			finished := make([]*testkit.Client, most)
			for i := range finished {
				finished[i] = s.Direct.Dial(t).Upgraded(t, testkit.Request())
			}
			synctest.Wait()
			for i := range crowd {
				s.Dial(t, mounted).Ask([]string{"", testkit.Request()[:50], testkit.Request(), "\x00"}[i%4])
			}
			read := make(chan error, most)
			for _, c := range finished {
				c.SetReadDeadline(time.Now().Add(time.Hour))
				go func() {
					_, err := c.R.ReadByte()
					read <- err
				}()
			}
			for range finished {
				require.ErrorIs(t, <-read, os.ErrDeadlineExceeded, "no answer and no end")
			}
			require.Len(t, accepted, 2)
			if !mounted {
				require.Len(t, s.Direct.Backlog, crowd-1, "one waits for a place, the others in the backlog")
			}
			alive := make(chan bool, most)
			for _, c := range finished {
				c.SetReadDeadline(time.Time{})
				go func() {
					b := []byte{'a'}
					c.Write(b)
					_, err := io.ReadFull(c.R, b)
					alive <- err == nil && b[0] == 'b'
				}()
			}
			for i := range finished {
				synctest.Wait()
				require.Empty(t, alive, "%d have been delivered", i)
				require.NoError(t, (<-accepted).Close())
				require.True(t, <-alive)
			}
			s.Close()
			for range len(accepted) {
				(<-accepted).Close()
			}
		})
	}
}

// A client that keeps the listener waiting for bytes is evicted for a new
// client after one second. This holds at every step, including TLS. If the
// listener works or has finished, the client is not evicted.
func TestListenerMakesRoomAtEveryStage(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, stage := range testkit.Stages {
		t.Run(stage.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
				s.Start(t)
				old := s.Dial(t, stage.Mounted)
				stage.Bring(t, s, old)
				start := time.Now()
				time.Sleep(time.Second / 2)
				c := s.Direct.Dial(t)
				answer := c.Ask(testkit.Request())
				time.Sleep(time.Second/2 - 1)
				require.False(t, old.Server.Closed.Load(), "its second is not over")
				if stage.Is == testkit.StageServed {
					require.Len(t, answer, 1, "it does not count as pending")
				} else {
					require.Empty(t, answer)
				}

				time.Sleep(time.Nanosecond)
				synctest.Wait()
				switch stage.Is {
				case testkit.StageWaits, testkit.StageRefused:
					require.True(t, old.Server.Closed.Load())
					require.Len(t, answer, 1)
				case testkit.StageBusy:
					require.Empty(t, answer)
					require.False(t, old.Server.Closed.Load())
					time.Sleep(10 * time.Second) // its time ends with this
				case testkit.StageSilent, testkit.StageFinished:
					conn, err := s.Accept()
					require.NoError(t, err)
					require.Equal(t, old.Server, testkit.BaseConn(conn))
					defer conn.Close()
					go io.Copy(io.Discard, old) // the last message of TLS
				}
				require.Equal(t, http.StatusSwitchingProtocols, (<-answer).StatusCode)
				if stage.Is != testkit.StageBusy {
					require.Equal(t, time.Second, time.Since(start))
				}
				conn, err := s.Accept()
				require.NoError(t, err)
				require.Equal(t, c.Server, testkit.BaseConn(conn))
				p := testkit.Pair{Client: c, Conn: conn.(*preflight.Conn)}
				p.Talks(t)
				p.Close()
				open := stage.Is == testkit.StageSilent || stage.Is == testkit.StageFinished || stage.Is == testkit.StageServed
				require.NotEqual(t, open, old.Server.Closed.Load())
			})
		})
	}
}

// A refusal counts as work of the listener from its start, also if the head
// never ends. Its client has one second, however long it kept the listener
// waiting before.
func TestListenerMakesNoRoomInARefusal(t *testing.T) {
	for _, sent := range []string{"GET / HTTP/1.1\r\n\x00", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("GET / HTTP/1.1\r\n", 10)} {
		synctest.Test(t, func(t *testing.T) {
			n := testkit.NewNetwork()
			l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, MaxPending: 1, MaxHeaderBytes: 160})
			accepted := testkit.AcceptAll(t, l)
			old := n.Dial(t)
			time.Sleep(5 * time.Second)
			old.Ask(sent)
			synctest.Wait()
			c, start := n.Dial(t), time.Now()
			answer := c.Ask(testkit.Request())
			time.Sleep(time.Second - 1)
			require.False(t, old.Server.Closed.Load())
			require.Empty(t, answer)
			require.Equal(t, http.StatusSwitchingProtocols, (<-answer).StatusCode)
			require.Equal(t, time.Second, time.Since(start))
			testkit.Talk(t, c, <-accepted)
		})
	}
}

// A client that is delivered after its TLS handshake speaks TLS with the
// application.
func TestListenerMakesRoomByDeliveringTLS(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
		s.Start(t)
		old := testkit.Secure(t, s.Direct.Dial(t), certs.Client)
		time.Sleep(time.Second)
		s.Direct.Dial(t)
		conn, err := s.Accept()
		require.NoError(t, err)
		p := testkit.Pair{Client: old, Conn: conn.(*preflight.Conn)}
		require.Nil(t, p.Conn.Request())
		for range 2 {
			p.Talks(t)
			time.Sleep(time.Hour)
		}
		p.Close()
	})
}

// blockedUntilTheEnd is an Authorize that takes as long as the field Block says, or
// until the handshake ends.
func blockedUntilTheEnd(r *http.Request) (http.Header, error) {
	d, _ := time.ParseDuration(r.Header.Get("Block"))
	select {
	case <-time.After(d):
	case <-r.Context().Done():
	}
	return nil, r.Context().Err()
}

// The oldest client is evicted first, at any mix of steps. For a client inside
// its tunnel, its age begins when the listener began to wait for it, because
// the listener worked before that.
func TestListenerMakesRoomInOrderOfAgeAtEveryStage(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) {
			l.MaxPending, l.HandshakeTimeout = 5, time.Hour
			l.Authorize = blockedUntilTheEnd
		})
		s.Start(t)
		start := time.Now()
		var clients []*testkit.Client
		for _, bring := range []func(testing.TB, *testkit.Scene, *testkit.Client){
			testkit.AskStep(testkit.Request("Block: 20m")),
			testkit.AskStep(testkit.TunnelTLSRequest[:len(testkit.TunnelTLSRequest)-2] + "Block: 450ms\r\n\r\n"),
			testkit.SendStep(testkit.SceneHello),
			func(t testing.TB, s *testkit.Scene, c *testkit.Client) { s.HalfTLS(t, c) },
			testkit.SendStep("PROXY TCP4"),
		} {
			c := s.Direct.Dial(t)
			bring(t, s, c)
			clients = append(clients, c)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		order := []int{2, 3, 4, 1}
		for i, at := range []time.Duration{1200, 1300, 1400, 1550} {
			c := s.Direct.Dial(t)
			answer := c.Ask(testkit.Request())
			require.Equal(t, http.StatusSwitchingProtocols, (<-answer).StatusCode)
			require.Equal(t, at*time.Millisecond, time.Since(start), "client %d", order[i])
			require.True(t, clients[order[i]].Server.Closed.Load())
			for _, younger := range append([]int{0}, order[i+1:]...) {
				require.False(t, clients[younger].Server.Closed.Load(), "client %d", younger)
			}
		}
		s.Close()
	})
}

// A client begins to keep the listener waiting while a new client already waits
// for a place. From then on it has one second.
func TestListenerMakesRoomWhenAWaitBegins(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, mounted := range []bool{false, true} { // how the waiting client comes
		synctest.Test(t, func(t *testing.T) {
			s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending, l.Authorize = 1, blockedUntilTheEnd })
			accepted := testkit.AcceptAll(t, s)
			start := time.Now()
			old := s.Direct.Dial(t)
			answer := old.Ask(testkit.TunnelTLSRequest[:len(testkit.TunnelTLSRequest)-2] + "Block: 3s\r\n\r\n")
			time.Sleep(2 * time.Second)
			c := s.Dial(t, mounted)
			second := c.Ask(testkit.Request())
			require.Equal(t, http.StatusSwitchingProtocols, (<-answer).StatusCode)
			require.Equal(t, 3*time.Second, time.Since(start))
			require.Equal(t, http.StatusSwitchingProtocols, (<-second).StatusCode)
			require.Equal(t, 4*time.Second, time.Since(start))
			old.Ended(t)
			testkit.Talk(t, c, <-accepted)
		})
	}
}
