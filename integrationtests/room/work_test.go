package room_test

import (
	"bufio"
	"crypto/tls"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// slowTLSConfig is a TLS server whose callback takes some time.
func slowTLSConfig(server *tls.Config, callback string, takes time.Duration) *tls.Config {
	config := server.Clone()
	config.Certificates = nil
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if callback == "GetCertificate" {
			time.Sleep(takes)
		}
		return &server.Certificates[0], nil
	}
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if callback == "GetConfigForClient" {
			time.Sleep(takes)
		}
		return nil, nil
	}
	config.VerifyConnection = func(tls.ConnectionState) error {
		if callback == "VerifyConnection" {
			time.Sleep(takes)
		}
		return nil
	}
	return config
}

// Every place is taken, and the listener is working for each client. A new
// client then waits for the work and one more second. A client that has kept
// the listener waiting for one second in all, before and after the work, is
// evicted. In an earlier version the end of the work was not noticed, so the
// new client waited for HandshakeTimeout.
func TestListenerMakesRoomWhenItsWorkEnds(t *testing.T) {
	certs := testkit.NewCerts(t)
	const takes = 3 * time.Second
	for _, callback := range []string{"GetCertificate", "GetConfigForClient", "VerifyConnection"} {
		for _, tt := range []struct {
			name   string
			inside bool // the handshake is the one inside a tunnel
			whole  bool // the client completes it, and is silent after it
			late   time.Duration
		}{
			{name: "it stalls in the handshake"},
			{name: "it stalls in the handshake, whose hello came in two parts", late: 600 * time.Millisecond},
			{name: "it stalls in the handshake inside the tunnel", inside: true},
			{name: "it stalls behind the handshake", whole: true},
		} {
			if callback == "VerifyConnection" && !tt.whole {
				continue // it is the last callback of a handshake
			}
			for _, mounted := range []bool{false, true} { // how the waiting client comes
				t.Run(callback+", "+tt.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) {
							l.MaxPending, l.RequireUpgrade, l.AllowPlain = 3, true, false
							l.TLSConfig = slowTLSConfig(certs.Server, callback, takes)
						})
						accepted := testkit.AcceptAll(t, s)
						start := time.Now()
						var old []*testkit.Client
						for range 3 {
							c := s.Direct.Dial(t)
							if tt.inside {
								c.Upgraded(t, testkit.TunnelTLSRequest)
							}
							halves := &halvesConn{Conn: c.Conn, rest: make(chan struct{})}
							time.AfterFunc(tt.late, func() { close(halves.rest) })
							if tt.whole {
								go tls.Client(halves, certs.Client).Handshake()
							} else {
								go tls.Client(&testkit.Mute{Conn: halves, Left: 1}, certs.Client).Handshake()
							}
							old = append(old, c)
						}
						time.Sleep(tt.late + time.Second)
						synctest.Wait()
						c := s.Dial(t, mounted)
						answer := c.Ask(testkit.Request())
						time.Sleep(takes - time.Second - time.Nanosecond)
						synctest.Wait()
						require.Empty(t, answer)
						for _, c := range old {
							require.False(t, c.Server.Closed.Load(), "the listener is working")
						}
						require.Equal(t, http.StatusSwitchingProtocols, (<-answer).StatusCode)
						require.Equal(t, takes+time.Second, time.Since(start), "the listener waited for one second in all")
						synctest.Wait()
						closed := 0
						for _, c := range old {
							if c.Server.Closed.Load() {
								closed++
							}
						}
						require.Equal(t, 1, closed, "one new client evicts one old client")
						testkit.Talk(t, c, <-accepted)
						s.Close()
					})
				})
			}
		}
	}
}

// A client was to be evicted, but its ClientHello has arrived. Its handshake
// completes, on either layer, and nothing of the eviction remains.
func TestListenerEvictionIsTakenBack(t *testing.T) {
	certs := testkit.NewCerts(t)
	certs.Client.CurvePreferences = []tls.CurveID{tls.X25519} // for a hello that fits into one Read
	for _, tt := range []struct {
		name   string
		inside bool
	}{{"TLS", false}, {"TLS inside the tunnel", true}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
				accepted := testkit.AcceptAll(t, s)
				ours, server, next := dialRacing(s, t)
				defer ours.Close()
				old := testkit.Raw(ours, server.NetworkConn)
				if tt.inside {
					old.Upgraded(t, testkit.TunnelTLSRequest)
				}
				halves := &halvesConn{Conn: old.Conn, rest: make(chan struct{})}
				secure := tls.Client(halves, certs.Client)
				shaken := make(chan error, 1)
				go func() { shaken <- secure.Handshake() }()
				synctest.Wait()
				time.Sleep(2 * time.Second)
				server.armed.Store(true)
				close(halves.rest)
				require.NoError(t, <-shaken)
				<-server.evicted
				up := &testkit.Client{Conn: secure, R: bufio.NewReader(secure), Server: server.NetworkConn}
				if !tt.inside {
					up.Upgraded(t, testkit.Request())
				}
				p := testkit.Pair{Client: up, Conn: <-accepted}
				time.Sleep(time.Hour)
				p.Talks(t)
				p.Close()
				ours.Close()
				c := <-next
				testkit.Talk(t, c, <-accepted) // it was silent for an hour
			})
		})
	}
}
