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

// wrkTLS is a TLS server whose callback takes its time.
func wrkTLS(server *tls.Config, callback string, takes time.Duration) *tls.Config {
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

// A client that finds every place taken, and us at work in each, waits no longer
// than the work takes and a second: whoever has kept us waiting for a second in
// all, before the work and after it, makes room. Before, nobody was told that the
// work had ended, and the client waited for the end of a HandshakeTimeout.
func TestListenerMakesRoomWhenOurWorkEnds(t *testing.T) {
	certs := testkit.NewCerts(t)
	const takes = 3 * time.Second
	for _, callback := range []string{"GetCertificate", "GetConfigForClient", "VerifyConnection"} {
		for _, tt := range []struct {
			name   string
			inside bool // the handshake is that inside a tunnel
			whole  bool // the client goes through with it, and then is silent
			late   time.Duration
		}{
			{name: "it stalls in the handshake"},
			{name: "it stalls in the handshake, whose hello came in two parts", late: 600 * time.Millisecond},
			{name: "it stalls in the handshake inside the tunnel", inside: true},
			{name: "it stalls behind the handshake", whole: true},
		} {
			if callback == "VerifyConnection" && !tt.whole {
				continue // it is the last of a handshake
			}
			for _, mounted := range []bool{false, true} { // the one that waits
				t.Run(callback+", "+tt.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) {
							l.MaxPending, l.RequireUpgrade, l.AllowPlain = 3, true, false
							l.TLSConfig = wrkTLS(certs.Server, callback, takes)
						})
						accepted := testkit.AcceptAll(t, s)
						start := time.Now()
						var old []*testkit.Client
						for range 3 {
							c := s.Direct.Dial(t)
							if tt.inside {
								c.Upgraded(t, testkit.TunnelTLSRequest)
							}
							halves := &revHalves{Conn: c.Conn, rest: make(chan struct{})}
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
							require.False(t, c.Server.Closed.Load(), "the work is ours")
						}
						require.Equal(t, http.StatusSwitchingProtocols, (<-answer).StatusCode)
						require.Equal(t, takes+time.Second, time.Since(start), "it waited for a second in all")
						synctest.Wait()
						closed := 0
						for _, c := range old {
							if c.Server.Closed.Load() {
								closed++
							}
						}
						require.Equal(t, 1, closed, "one for one")
						testkit.Talk(t, c, <-accepted)
						s.Close()
					})
				})
			}
		}
	}
}

// A client that was to go, and whose ClientHello has come after all, goes on to
// the end, on whatever layer, and nothing of the eviction is left.
func TestListenerEvictionIsTakenBack(t *testing.T) {
	certs := testkit.NewCerts(t)
	certs.Client.CurvePreferences = []tls.CurveID{tls.X25519} // for a hello that one Read takes
	for _, tt := range []struct {
		name   string
		inside bool
	}{{"TLS", false}, {"TLS inside the tunnel", true}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testkit.NewScene(t, certs, func(l *preflight.PreflightListener) { l.MaxPending = 1 })
				accepted := testkit.AcceptAll(t, s)
				ours, server, next := shdRacing(s, t)
				defer ours.Close()
				old := testkit.Raw(ours, server.NetworkConn)
				if tt.inside {
					old.Upgraded(t, testkit.TunnelTLSRequest)
				}
				halves := &revHalves{Conn: old.Conn, rest: make(chan struct{})}
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
