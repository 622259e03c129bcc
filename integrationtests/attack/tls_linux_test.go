package attack_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// This is a variable, because it must be set before the init function of the
// server runs.
var _ = attackOfferTLS()

func attackOfferTLS() bool {
	attackTune["tls"] = func(l *preflight.PreflightListener) {
		s := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
		defer s.Close()
		l.TLSConfig = &tls.Config{Certificates: s.TLS.Certificates}
	}
	attackTune["every kind"] = func(l *preflight.PreflightListener) {
		attackTune["tls"](l)
		l.Handler = http.NotFoundHandler()
		l.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		l.PlainAfter = time.Second
	}
	return true
}

// attackHalfHello is the beginning of a ClientHello.
func attackHalfHello(t testing.TB) string {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- tls.Client(theirs, &tls.Config{ServerName: "h.example"}).Handshake() }()
	hello := make([]byte, 60)
	_, err := io.ReadFull(ours, hello)
	require.NoError(t, err)
	ours.Close()
	require.Error(t, <-done)
	theirs.Close()
	return string(hello)
}

// Ten thousand clients that stall in their ClientHello delay no other client,
// with or without TLS. After HandshakeTimeout they are closed without an
// answer.
func TestAttackHalfHellos(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"held": attackLong, "timed out": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			s := attackStart(t, attackConfig{Tune: "tls", MaxPending: 2 * attackers, HandshakeTimeout: timeout})
			half := s.flood(t, attackers, attackHalfHello(t))
			if timeout == attackLong {
				s.holds(t, attackers)
			}
			attackEach(t, 20, 4, func(int) error { return s.good() })
			attackEach(t, 20, 4, func(int) error {
				c, err := s.tunnel(&preflight.PreflightDialer{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
				if err != nil {
					return err
				}
				defer c.Close()
				return s.talk(c)
			})
			if timeout == attackLong {
				s.holds(t, attackers)
				attackClose(half)
			} else {
				attackEnds(t, half, "")
			}
			s.waitReleased(t)
		})
	}
}
