package check

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// TestUnsteady checks an edge that leads every second request to another server. A limit of the
// rate is not taken for that.
func TestUnsteady(t *testing.T) {
	check := func(t *testing.T, other func(n int64) int) *Report {
		t.Helper()
		var count atomic.Int64
		l := &preflight.PreflightListener{}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if status := other(count.Add(1)); status != 0 {
				http.Error(w, "another server", status)
				return
			}
			l.ServeHTTP(w, r)
		}))
		accepted := make(chan struct{})
		go func() {
			defer close(accepted)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		t.Cleanup(func() {
			l.Close()
			server.Close()
			<-accepted
		})
		return Run(t.Context(), &Target{
			Address: server.Listener.Addr().String(),
			Dialer:  &preflight.PreflightDialer{Path: "/", HandshakeTimeout: 10 * time.Second},
			Fields:  func(context.Context) (http.Header, error) { return nil, nil },
			Wanted:  []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierWebSocket},
		}, func(string) {})
	}
	for _, turn := range []int64{0, 1} { // the first request gets the right server, or the other one
		r := check(t, func(n int64) int {
			if n%2 == turn {
				return http.StatusNotFound
			}
			return 0
		})
		require.True(t, r.Unsteady)
		require.NotNil(t, r.Verdict)
		require.Equal(t, "unsteady", r.Verdict.Code)
		require.Contains(t, r.Verdict.Cause, "404 Not Found")
		require.Empty(t, r.Findings, "no limit can be found where the answers differ")
	}
	r := check(t, func(int64) int { return 0 })
	require.False(t, r.Unsteady)
	require.Nil(t, r.Verdict)
	r = check(t, func(n int64) int {
		if n > 4 {
			return http.StatusTooManyRequests
		}
		return 0
	})
	require.True(t, r.Works)
	require.False(t, r.Unsteady)
	require.NotContains(t, r.Findings[0].Detail, "KiB")
}
