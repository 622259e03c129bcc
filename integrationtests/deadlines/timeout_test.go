package deadlines_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A handshake has one deadline. A client that is too late with its head gets a
// 408. A client that has not begun a head speaks another protocol.
func TestListenerHandshakeTimeout(t *testing.T) {
	for _, timeout := range []time.Duration{0, 3 * time.Second} {
		want := timeout
		if want == 0 {
			want = 10 * time.Second
		}
		for _, tt := range []struct {
			name, sent string
			refuse     bool // delivered plain connections
			status     int  // 0: closed without an answer, or delivered
		}{
			{"silent", "", false, 0},
			{"silent, refused", "", true, 0},
			{"in the first line", "GET / HTTP", false, 0},
			{"in the first line, refused", "GET / HTTP", true, 0},
			{"in the version", "GET / HTTP/1.", false, 408},
			{"in the version, refused", "GET / HTTP/1.", true, 408},
			{"in the head", "GET / HTTP/1.1\r\nHost: h", false, 408},
			{"before the empty line", testkit.Request()[:len(testkit.Request())-1], true, 408},
		} {
			t.Run(tt.name+" "+want.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					n := testkit.NewNetwork()
					l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, HandshakeTimeout: timeout, RequireUpgrade: tt.refuse})
					accepted := testkit.AcceptAll(t, l)
					c := n.Dial(t)
					c.Send(t, tt.sent)
					switch {
					case tt.status != 0:
						a := c.Answer("GET")
						require.NoError(t, a.Err)
						require.Equal(t, tt.status, a.StatusCode)
						require.True(t, a.Close)
						require.Equal(t, want, time.Since(start))
						c.Ended(t) // at the latest when the time for reading the answer has passed
						require.Equal(t, want+time.Second, time.Since(start))
					case tt.refuse:
						c.Ended(t)
						require.Equal(t, want, time.Since(start))
					default:
						conn := <-accepted
						require.Equal(t, want, time.Since(start))
						testkit.Skip(t, conn, tt.sent)
						time.Sleep(time.Hour)
						testkit.Talk(t, c, conn)
						return
					}
					synctest.Wait()
					require.True(t, c.Server.Closed.Load())
					require.Empty(t, accepted)
				})
			})
		}
	}
}

// The deadline applies to the whole head, not to each Read.
func TestListenerSlowDrip(t *testing.T) {
	head := testkit.Request()
	for _, tt := range []struct {
		name  string
		pause time.Duration
		want  int
	}{
		{"in time", (10*time.Second - 1) / time.Duration(len(head)), 101},
		{"too slow", 10 * time.Second / time.Duration(len(head)-2), 408},
		{"much too slow", 9 * time.Second / 20, 408},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
				accepted := testkit.AcceptAll(t, l)
				c, dripped := n.Dial(t), make(chan struct{})
				defer func() { c.Close(); <-dripped }()
				go func() {
					defer close(dripped)
					for i := range head {
						time.Sleep(tt.pause)
						if _, err := io.WriteString(c, head[i:i+1]); err != nil {
							return
						}
					}
				}()
				a := c.Answer("GET")
				require.NoError(t, a.Err)
				require.Equal(t, tt.want, a.StatusCode)
				if tt.want == 101 {
					testkit.Talk(t, c, <-accepted)
					return
				}
				require.Equal(t, 10*time.Second, time.Since(start))
				require.Empty(t, accepted)
			})
		})
	}
}

// A peer that does not read cannot occupy the listener. Writing the 101 is part
// of the handshake, and writing a refusal may take one second.
func TestListenerPeerThatDoesNotRead(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		ends          time.Duration
	}{
		{"its 101", testkit.Request(), 10 * time.Second},
		{"its refusal", "GET / HTTP/1.1\r\n\r\n", time.Second + time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				time.Sleep(time.Second)
				c.Send(t, tt.request)
				time.Sleep(tt.ends - time.Second - 1)
				require.False(t, c.Server.Closed.Load())
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.True(t, c.Server.Closed.Load())
				require.Equal(t, tt.ends, time.Since(start))
				require.Empty(t, accepted)
				c.Ended(t)
			})
		})
	}
}

// The bytes after a refused head are discarded for one second, and up to 64
// KiB.
func TestListenerDrain(t *testing.T) {
	for _, tt := range []struct {
		name        string
		piece       int
		pause       time.Duration
		least, most int // discarded by the listener
		ends        time.Duration
	}{
		{"much", 1000, 0, 64 << 10, 64<<10 + 2000, 0},
		{"slowly", 1, 100 * time.Millisecond, 9, 10, time.Second},
		{"nothing", 0, time.Hour, 0, 0, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				require.Equal(t, 426, (<-c.Ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n")).StatusCode)
				start := time.Now()
				sent := make(chan int, 1)
				go func() {
					total := 0
					for {
						time.Sleep(tt.pause)
						m, err := io.WriteString(c, strings.Repeat("x", tt.piece))
						if total += m; err != nil {
							sent <- total
							return
						}
					}
				}()
				c.Ended(t)
				require.Equal(t, tt.ends, time.Since(start))
				taken := <-sent
				require.GreaterOrEqual(t, taken, tt.least)
				require.LessOrEqual(t, taken, tt.most)
				require.Empty(t, accepted)
			})
		})
	}
}

// halfCloseConn is a connection that can be half-closed.
type halfCloseConn struct {
	*testkit.NetworkConn
	ended chan struct{}
}

func (c halfCloseConn) CloseWrite() error {
	close(c.ended)
	return nil
}

// The client sees the end of the answer at once, not after the second that it
// has to read it. When the client leaves, the listener waits for nothing more.
func TestListenerRefusalHalfCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
		testkit.AcceptAll(t, l)
		ours, theirs := net.Pipe()
		server := halfCloseConn{&testkit.NetworkConn{Conn: theirs}, make(chan struct{})}
		n.Backlog <- server
		c := &testkit.Client{Conn: ours, R: bufio.NewReader(ours)}
		require.Equal(t, 426, (<-c.Ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n")).StatusCode)
		<-server.ended
		c.Send(t, "a body that is not read")
		require.False(t, server.Closed.Load())
		require.NoError(t, c.Close())
		synctest.Wait()
		require.True(t, server.Closed.Load())
		require.Zero(t, time.Since(start))
	})
}

// A client that sends its whole body before it reads still finds the answer. If
// the server closed with unread bytes, the kernel would send a reset and
// discard the answer.
func TestListenerRefusalSurvivesTheBody(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{})
	accepted := testkit.AcceptAll(t, l)
	for range 20 {
		c := testkit.DialClient(t, l)
		body := strings.Repeat("x", 60<<10)
		request := "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 61440\r\n\r\n" + body
		c.Send(t, request[:100])
		c.Send(t, request[100:])
		require.Equal(t, http.StatusUpgradeRequired, c.Refused(t, request).StatusCode)
	}
	require.Empty(t, accepted)
}
