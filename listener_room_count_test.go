package preflight_test

import (
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// shdOutcomes are the ends of a handshake: at every stage a client may leave,
// every kind may be delivered, and Authorize may do what it likes.
func shdOutcomes() []shdStage {
	outcomes := append([]shdStage(nil), shdStages...)
	for _, k := range shdKinds {
		outcomes = append(outcomes, shdStage{"delivered: " + k.name, shdFinished, k.mounted, func(t testing.TB, s *shdScene, c *lisClient) {
			k.talk(t, s, c)
		}})
	}
	for name, do := range map[string]string{
		"a refusal": "refuse", "a panic": "panic", "its goroutine ends": "exit", "an answer that cannot be sent": "nonsense",
	} {
		request := lisRequest("Do: " + do)
		outcomes = append(outcomes,
			shdStage{"Authorize: " + name, shdRefused, false, shdAsk(request)},
			shdStage{"Authorize: " + name + ", over TLS", shdRefused, false, shdTLS(shdAsk(request))},
			shdStage{"Authorize: " + name + ", in ServeHTTP", shdRefused, true, shdAsk(request)},
			shdStage{"Authorize: " + name + ", behind a request to Handler", shdRefused, false, func(t testing.TB, _ *shdScene, c *lisClient) {
				c.asked(t, shdOrdinary).ask(request)
			}},
		)
	}
	garbage := func(_ testing.TB, _ *shdScene, c *lisClient) {
		c.ask("\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03")
	}
	return append(outcomes,
		shdStage{"a broken hello", shdWaits, false, garbage},
		shdStage{"a broken hello inside the tunnel", shdWaits, false, func(t testing.TB, s *shdScene, c *lisClient) {
			garbage(t, s, c.upgraded(t, shdTunnels))
		}},
		shdStage{"a broken PROXY header", shdWaits, false, shdSend("PROXY nonsense\r\n")},
	)
}

// However a handshake ends, it frees its place, and frees it once: ten times
// later there is room for two, and not for three.
func TestListenerFreesEveryPlaceOnce(t *testing.T) {
	certs := shdNewCerts(t)
	for _, tt := range shdOutcomes() {
		for _, leaves := range []bool{true, false} { // the client, or its time is over
			name := tt.name
			if leaves {
				name += ", and it leaves"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					lisLog(t)
					var vetting atomic.Int64
					s := shdNew(t, certs, func(l *preflight.PreflightListener) {
						l.MaxPending = 2
						l.Authorize = func(r *http.Request) (http.Header, error) {
							vetting.Add(1)
							defer vetting.Add(-1)
							return shdDo(r)
						}
					})
					accepted := lisServe(t, s)
					for range 10 {
						c := s.dial(t, tt.mounted)
						tt.bring(t, s, c)
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

					require.Zero(t, vetting.Load())
					for i, now := range []int64{1, 2, 2} {
						s.direct.dial(t).ask(lisRequest("Wait: yes"))
						synctest.Wait()
						require.Equal(t, now, vetting.Load(), "client %d", i)
					}
					time.Sleep(11 * time.Second)
					synctest.Wait()
					require.EqualValues(t, 1, vetting.Load(), "the third has its turn")
				})
			})
		}
	}
}

func shdDo(r *http.Request) (http.Header, error) {
	switch r.Header.Get("Do") {
	case "refuse":
		return nil, errLisOther
	case "panic":
		panic("on request")
	case "exit":
		runtime.Goexit()
	case "nonsense":
		return http.Header{"Connection": {"close"}}, nil
	}
	return shdAuthorize(r)
}
