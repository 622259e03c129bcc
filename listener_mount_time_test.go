package preflight_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// The deadline is of the whole: Authorize, and the client that does not read its
// answer. The deadlines of the server end with the hijack.
func TestMountTimes(t *testing.T) {
	for _, timeout := range []time.Duration{0, 3 * time.Second} {
		want := timeout
		if want == 0 {
			want = 10 * time.Second
		}
		t.Run(want.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := lisNewNet()
				l := &preflight.PreflightListener{HandshakeTimeout: timeout, Authorize: func(r *http.Request) (http.Header, error) {
					if r.URL.Path == "/blocked" {
						<-r.Context().Done()
						time.Sleep(time.Nanosecond) // what it answers then is too late
					}
					return nil, nil
				}}
				accepted := lisServe(t, l)
				hndServe(t, n, l)

				start := time.Now()
				blocked := n.dial(t)
				blocked.send(t, "GET /blocked"+lisRequest()[len("GET /t"):])
				blocked.ended(t)
				require.Equal(t, want+1, time.Since(start))

				start = time.Now()
				deaf := n.dial(t)
				deaf.send(t, lisRequest())
				time.Sleep(want - 1)
				require.False(t, deaf.server.closed.Load())
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.True(t, deaf.server.closed.Load())
				require.Equal(t, want, time.Since(start))

				c := n.dial(t)
				require.Equal(t, 101, (<-c.ask(lisRequest())).StatusCode)
				conn := <-accepted
				time.Sleep(time.Hour)
				lisTalk(t, c, conn)
				require.Empty(t, accepted)
			})
		})
	}
}

// Authorize is told when the listener is closed, and its connection ends at once.
func TestMountAuthorizeEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, entered := lisNewNet(), make(chan struct{})
		l := &preflight.PreflightListener{Authorize: func(r *http.Request) (http.Header, error) {
			close(entered)
			<-r.Context().Done()
			return nil, nil
		}}
		accepted := lisServe(t, l)
		hndServe(t, n, l)
		start := time.Now()
		c := n.dial(t)
		c.send(t, lisRequest())
		<-entered
		require.NoError(t, l.Close())
		c.ended(t)
		require.Zero(t, time.Since(start))
		require.Empty(t, accepted)
	})
}

// The time that a request has waited for a place is a part of its handshake.
func TestMountTimesIncludeWaiting(t *testing.T) {
	for _, kind := range []string{"deaf", "blocked"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := lisNewNet()
				l := &preflight.PreflightListener{MaxPending: 1, Authorize: func(r *http.Request) (http.Header, error) {
					if r.Header.Get("Block") != "" {
						<-r.Context().Done()
						time.Sleep(time.Nanosecond)
					}
					return nil, nil
				}}
				t.Cleanup(func() { l.Close() })
				hndServe(t, n, l)
				require.Equal(t, 101, (<-n.dial(t).ask(lisRequest())).StatusCode)
				start := time.Now()
				c := n.dial(t)
				want := 10 * time.Second
				if kind == "blocked" {
					c.send(t, lisRequest("Block: yes"))
					go c.r.Peek(1) // it would read a 101
					want++
				} else {
					c.send(t, lisRequest())
				}
				time.Sleep(4 * time.Second)
				hndAccept(t, l)
				time.Sleep(want - 4*time.Second - 1)
				require.False(t, c.server.closed.Load())
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.True(t, c.server.closed.Load())
				require.Equal(t, want, time.Since(start))
			})
		})
	}
}
