package room_test

import (
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// handshakeOutcomes are the ways in which a handshake can end. A client may leave at
// every step, every kind may be delivered, and Authorize may fail in several
// ways.
func handshakeOutcomes() []testkit.Stage {
	outcomes := append([]testkit.Stage(nil), testkit.Stages...)
	for _, k := range testkit.Kinds {
		outcomes = append(outcomes, testkit.Stage{Name: "delivered: " + k.Name, Is: testkit.StageFinished, Mounted: k.Mounted, Bring: func(t testing.TB, s *testkit.Scene, c *testkit.Client) {
			k.Talk(t, s, c)
		}})
	}
	for name, do := range map[string]string{
		"a refusal": "refuse", "a panic": "panic", "its goroutine ends": "exit", "an answer that cannot be sent": "nonsense",
	} {
		request := testkit.Request("Do: " + do)
		outcomes = append(outcomes,
			testkit.Stage{Name: "Authorize: " + name, Is: testkit.StageRefused, Mounted: false, Bring: testkit.AskStep(request)},
			testkit.Stage{Name: "Authorize: " + name + ", over TLS", Is: testkit.StageRefused, Mounted: false, Bring: testkit.OverTLS(testkit.AskStep(request))},
			testkit.Stage{Name: "Authorize: " + name + ", in ServeHTTP", Is: testkit.StageRefused, Mounted: true, Bring: testkit.AskStep(request)},
			testkit.Stage{Name: "Authorize: " + name + ", behind a request to Handler", Is: testkit.StageRefused, Mounted: false, Bring: func(t testing.TB, _ *testkit.Scene, c *testkit.Client) {
				c.Asked(t, testkit.Ordinary).Ask(request)
			}},
		)
	}
	garbage := func(_ testing.TB, _ *testkit.Scene, c *testkit.Client) {
		c.Ask("\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03")
	}
	return append(outcomes,
		testkit.Stage{Name: "a broken hello", Is: testkit.StageWaits, Mounted: false, Bring: garbage},
		testkit.Stage{Name: "a broken hello inside the tunnel", Is: testkit.StageWaits, Mounted: false, Bring: func(t testing.TB, s *testkit.Scene, c *testkit.Client) {
			garbage(t, s, c.Upgraded(t, testkit.TunnelTLSRequest))
		}},
		testkit.Stage{Name: "a broken PROXY header", Is: testkit.StageWaits, Mounted: false, Bring: testkit.SendStep("PROXY nonsense\r\n")},
	)
}

// However a handshake ends, it frees its place exactly once: after ten of them
// there is room for two more, and not for three.
func TestListenerFreesEveryPlaceOnce(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, tt := range handshakeOutcomes() {
		for _, leaves := range []bool{true, false} { // the client leaves, or its time expires
			name := tt.Name
			if leaves {
				name += ", and it leaves"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					testkit.CaptureLog(t)
					var authorizing atomic.Int64
					s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) {
						l.MaxPending = 2
						l.Authorize = func(r *http.Request) (http.Header, error) {
							authorizing.Add(1)
							defer authorizing.Add(-1)
							return authorizeByField(r)
						}
					})
					accepted := testkit.AcceptAll(t, s)
					for range 10 {
						c := s.Dial(t, tt.Mounted)
						tt.Bring(t, s, c)
						synctest.Wait()
						if leaves {
							c.Close()
						}
						time.Sleep(12 * time.Second)
						synctest.Wait()
						c.Close()
						synctest.Wait()
						for range len(accepted) {
							(<-accepted).Close()
						}
					}

					require.Zero(t, authorizing.Load())
					for i, now := range []int64{1, 2, 2} {
						s.Direct.Dial(t).Ask(testkit.Request("Wait: yes"))
						synctest.Wait()
						require.Equal(t, now, authorizing.Load(), "client %d", i)
					}
					time.Sleep(11 * time.Second)
					synctest.Wait()
					require.EqualValues(t, 1, authorizing.Load(), "the third is served")
				})
			})
		}
	}
}

func authorizeByField(r *http.Request) (http.Header, error) {
	switch r.Header.Get("Do") {
	case "refuse":
		return nil, testkit.ErrOther
	case "panic":
		panic("on request")
	case "exit":
		runtime.Goexit()
	case "nonsense":
		return http.Header{"Connection": {"close"}}, nil
	}
	return testkit.SceneAuthorize(r)
}
