package attack_test

import (
	"errors"
	"net/http"
	"net/netip"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

var _ = attackEverything()

// attackEverything registers a listener on which everything is set that keeps something for
// a handshake.
func attackEverything() bool {
	attackTune["everything"] = func(l *preflight.PreflightListener) {
		l.Authorize = func(r *http.Request) (http.Header, error) {
			if r.Header.Get("Authorization") == "" {
				return nil, errors.New("no credentials")
			}
			return http.Header{"X-Granted": {"yes"}}, nil
		}
		l.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		l.Telemetry = &preflight.Telemetry{
			TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: metricnoop.NewMeterProvider(), Propagator: propagation.TraceContext{},
		}
	}
	return true
}

// TestAttackManyShortConnections: the server keeps nothing of the connections that have
// ended, however they were carried, or refused.
func TestAttackManyShortConnections(t *testing.T) {
	const first, more, atATime = 1000, 4000, 16
	s := attackStart(t, attackConfig{Tune: "everything", Collect: true})
	credentials := http.Header{"Authorization": {"Bearer 0123456789abcdef"}, "X-Forwarded-For": {"192.0.2.1"}}
	carriers := []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierFramed, preflight.CarrierWebSocket}
	connect := func(i int) error {
		d := &preflight.PreflightDialer{Header: credentials}
		if i %= len(carriers) + 1; i < len(carriers) {
			d.Carriers = carriers[i : i+1]
		} else {
			d.Header = nil
		}
		c, err := s.tunnel(d)
		if d.Header == nil {
			var refused *preflight.StatusError
			if !errors.As(err, &refused) || refused.StatusCode != http.StatusForbidden {
				return errors.Join(err, errors.New("this client must be refused"))
			}
			return nil
		}
		if err != nil {
			return err
		}
		defer c.Close()
		return s.talk(c)
	}
	attackEach(t, first, atATime, connect)
	s.waitReleased(t) // goroutines too
	before := s.stats(t, "memory")
	attackEach(t, more, atATime, connect)
	s.waitReleased(t)
	after := s.stats(t, "memory")
	grown := float64(after.Heap-before.Heap) / more
	t.Logf("the heap has grown by %.1f bytes for each connection", grown)
	require.Less(t, grown, 32.0, "something of each connection stays in memory")
}
