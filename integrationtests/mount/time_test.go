package mount_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// One deadline applies to the whole handshake, including Authorize and a client
// that does not read its answer. The deadlines of the server end with the
// hijack.
func TestMountTimes(t *testing.T) {
	for _, timeout := range []time.Duration{0, 3 * time.Second} {
		want := timeout
		if want == 0 {
			want = 10 * time.Second
		}
		t.Run(want.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := &preflight.PreflightListener{HandshakeTimeout: timeout, Authorize: func(r *http.Request) (http.Header, error) {
					if r.URL.Path == "/blocked" {
						<-r.Context().Done()
						time.Sleep(time.Nanosecond) // a result after that is too late
					}
					return nil, nil
				}}
				accepted := testkit.AcceptAll(t, l)
				testkit.ServeHTTP(t, n, l)

				start := time.Now()
				blocked := n.Dial(t)
				blocked.Send(t, "GET /blocked"+testkit.Request()[len("GET /t"):])
				blocked.Ended(t)
				require.Equal(t, want+1, time.Since(start))

				start = time.Now()
				deaf := n.Dial(t)
				deaf.Send(t, testkit.Request())
				time.Sleep(want - 1)
				require.False(t, deaf.Server.Closed.Load())
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.True(t, deaf.Server.Closed.Load())
				require.Equal(t, want, time.Since(start))

				c := n.Dial(t)
				require.Equal(t, 101, (<-c.Ask(testkit.Request())).StatusCode)
				conn := <-accepted
				time.Sleep(time.Hour)
				testkit.Talk(t, c, conn)
				require.Empty(t, accepted)
			})
		})
	}
}

// When the listener is closed, the context of Authorize ends and the connection
// is closed at once.
func TestMountAuthorizeEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, entered := testkit.NewNetwork(), make(chan struct{})
		l := &preflight.PreflightListener{Authorize: func(r *http.Request) (http.Header, error) {
			close(entered)
			<-r.Context().Done()
			return nil, nil
		}}
		accepted := testkit.AcceptAll(t, l)
		testkit.ServeHTTP(t, n, l)
		start := time.Now()
		c := n.Dial(t)
		c.Send(t, testkit.Request())
		<-entered
		require.NoError(t, l.Close())
		c.Ended(t)
		require.Zero(t, time.Since(start))
		require.Empty(t, accepted)
	})
}

// The time that a request waits for a place is part of its handshake.
func TestMountTimesIncludeWaiting(t *testing.T) {
	for _, kind := range []string{"deaf", "blocked"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				l := &preflight.PreflightListener{MaxPending: 1, Authorize: func(r *http.Request) (http.Header, error) {
					if r.Header.Get("Block") != "" {
						<-r.Context().Done()
						time.Sleep(time.Nanosecond)
					}
					return nil, nil
				}}
				t.Cleanup(func() { l.Close() })
				testkit.ServeHTTP(t, n, l)
				require.Equal(t, 101, (<-n.Dial(t).Ask(testkit.Request())).StatusCode)
				start := time.Now()
				c := n.Dial(t)
				want := 10 * time.Second
				if kind == "blocked" {
					c.Send(t, testkit.Request("Block: yes"))
					go c.R.Peek(1) // it would read a 101
					want++
				} else {
					c.Send(t, testkit.Request())
				}
				time.Sleep(4 * time.Second)
				acceptOne(t, l)
				time.Sleep(want - 4*time.Second - 1)
				require.False(t, c.Server.Closed.Load())
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.True(t, c.Server.Closed.Load())
				require.Equal(t, want, time.Since(start))
			})
		})
	}
}

// If a middleware gives the request an earlier deadline, that one applies: to
// Authorize, which sees it, and to the wait for a place.
func TestMountTimesOfTheRequest(t *testing.T) {
	for _, tt := range []struct {
		name            string
		own, ours, want time.Duration
		taken           bool // all places are taken
		status          int
	}{
		{name: "it is earlier", own: 2 * time.Second, ours: time.Minute, want: 2 * time.Second, status: 403},
		{name: "it is later", own: time.Minute, ours: 2 * time.Second, want: 2 * time.Second, status: 403},
		{name: "there is no place", own: 2 * time.Second, ours: time.Minute, want: 2 * time.Second, taken: true, status: 503},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				hold := make(chan struct{})
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: testkit.NewNetwork(), MaxPending: 1, HandshakeTimeout: tt.ours, Authorize: func(r *http.Request) (http.Header, error) {
					if r.Header.Get("Hold") != "" {
						<-hold
						return nil, nil
					}
					deadline, ok := r.Context().Deadline()
					require.True(t, ok)
					require.Equal(t, tt.want, deadline.Sub(start))
					<-r.Context().Done()
					return nil, r.Context().Err()
				}})
				testkit.AcceptAll(t, l)
				n := testkit.NewNetwork()
				testkit.ServeHTTP(t, n, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					ctx, cancel := context.WithTimeout(r.Context(), tt.own)
					defer cancel()
					l.ServeHTTP(w, r.WithContext(ctx))
				}))
				if tt.taken {
					l.Listener.(*testkit.Network).Dial(t).Ask(testkit.Request("Hold: yes"))
					synctest.Wait()
				}
				c := n.Dial(t)
				a := <-c.Ask(testkit.Request())
				require.NoError(t, a.Err)
				require.Equal(t, tt.status, a.StatusCode)
				require.Equal(t, tt.want, time.Since(start))
				close(hold)
			})
		})
	}
}
