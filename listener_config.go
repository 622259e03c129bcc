package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/preflight-go/preflight/internal/clientaddr"
	"github.com/preflight-go/preflight/internal/origin"
)

// prepare resolves the configuration once. It does not modify the caller's fields.
func (l *PreflightListener) prepare() {
	l.init.Do(func() {
		l.ctx, l.cancel = context.WithCancel(context.Background())
		l.delivered = make(chan delivery)
		l.room = make(chan struct{}, 1)
		l.gone, l.drained, l.idle = make(chan struct{}), make(chan struct{}), make(chan struct{})
		l.onClose = l.closed
		l.pending.prepare()
		l.policy = policy{
			authorize:   l.Authorize,
			refusePlain: l.RequireUpgrade || l.Authorize != nil && !l.AllowPlain,
			plainAfter:  l.PlainAfter,
			maxHeader:   l.MaxHeaderBytes,
			tls:         l.TLSConfig,
			handler:     l.Handler != nil,
			draining:    &l.draining,
			keeper:      l,
			role:        l.Telemetry.serverSide(),
			logger:      l.Logger,
		}
		protocols, carriers := l.Protocols, l.Carriers
		if protocols == nil {
			protocols = defaultProtocols
		}
		if carriers == nil {
			carriers = allCarriers
		}
		l.policy.serve(slices.Clone(protocols), carriers)
		if l.MaxHeaderBytes == 0 {
			l.policy.maxHeader = defaultMaxHeader
		}
		var err error
		if l.policy.proxies, err = clientaddr.New(l.TrustedProxies, l.ClientAddrHeader); err == nil {
			l.policy.periods, err = newPeriods(l.KeepAlivePeriod, l.MaxIdleTimeout)
		}
		if err != nil {
			l.err = fmt.Errorf("preflight: PreflightListener.%w", err)
		} else {
			l.err = l.check()
		}
		if l.Handler != nil {
			l.server = l.newServer()
			l.feed = &feed{conns: make(chan net.Conn), done: make(chan struct{}), addr: l.Addr()}
		}
	})
}

// A larger value is a mistake or an attempt to set no limit, which is not allowed.
// With smaller values no sum overflows: neither a deadline, nor what net/http adds to
// MaxHeaderBytes.
const (
	maxTimeout = 365 * 24 * time.Hour
	maxLimit   = 1 << 30
)

// lacksUnit reports whether a time is below a millisecond, which is far below any useful one.
// It is usually a number without its unit. As a PlainAfter or a KeepAlivePeriod it would
// silently do harm.
func lacksUnit(d time.Duration) bool { return d > 0 && d < time.Millisecond }

// writeUnit ends the error about such a time.
const writeUnit = "and must be 1ms at least: a number alone counts nanoseconds, so write its unit, such as 20*time.Second"

func (l *PreflightListener) check() error {
	switch {
	case lacksUnit(l.HandshakeTimeout):
		return fmt.Errorf("preflight: PreflightListener.HandshakeTimeout is %v, %s", l.HandshakeTimeout, writeUnit)
	case lacksUnit(l.IdleTimeout):
		return fmt.Errorf("preflight: PreflightListener.IdleTimeout is %v, %s", l.IdleTimeout, writeUnit)
	case lacksUnit(l.PlainAfter):
		return fmt.Errorf("preflight: PreflightListener.PlainAfter is %v, %s", l.PlainAfter, writeUnit)
	case l.HandshakeTimeout < 0:
		return errors.New("preflight: PreflightListener.HandshakeTimeout is negative; a listener has no handshakes without an end")
	case l.PlainAfter < 0:
		return errors.New("preflight: PreflightListener.PlainAfter is negative")
	case l.RequireUpgrade && l.AllowPlain:
		return errors.New("preflight: PreflightListener.RequireUpgrade refuses plain connections and AllowPlain lets them in; set one of them")
	case l.RequireUpgrade && l.PlainAfter > 0:
		return errors.New("preflight: PreflightListener.PlainAfter is for plain connections, which RequireUpgrade refuses; set one of them")
	case l.MaxHeaderBytes < 0:
		return errors.New("preflight: PreflightListener.MaxHeaderBytes is negative")
	case l.MaxPending < 0:
		return errors.New("preflight: PreflightListener.MaxPending is negative")
	case l.HandshakeTimeout > maxTimeout:
		return fmt.Errorf("preflight: PreflightListener.HandshakeTimeout is %v, and may be %v at most", l.HandshakeTimeout, maxTimeout)
	case l.IdleTimeout > maxTimeout:
		return fmt.Errorf("preflight: PreflightListener.IdleTimeout is %v, and may be %v at most; negative means no limit", l.IdleTimeout, maxTimeout)
	case l.PlainAfter > maxTimeout:
		return fmt.Errorf("preflight: PreflightListener.PlainAfter is %v, and may be %v at most", l.PlainAfter, maxTimeout)
	case l.MaxHeaderBytes > maxLimit:
		return fmt.Errorf("preflight: PreflightListener.MaxHeaderBytes is %d, and may be %d (1 GiB) at most", l.MaxHeaderBytes, maxLimit)
	case l.MaxPending > maxLimit:
		return fmt.Errorf("preflight: PreflightListener.MaxPending is %d, and may be %d at most", l.MaxPending, maxLimit)
	case len(l.policy.offer.Protocols) == 0 && l.Handler == nil:
		return errors.New("preflight: PreflightListener.Protocols is empty, which leaves every request to Handler, and there is none; nil means tcp and tcps")
	case l.TLSConfig != nil && len(l.TLSConfig.Certificates) == 0 && l.TLSConfig.GetCertificate == nil && l.TLSConfig.GetConfigForClient == nil:
		return errors.New("preflight: PreflightListener.TLSConfig has neither Certificates nor GetCertificate nor GetConfigForClient")
	}
	for _, p := range l.policy.offer.Protocols {
		if err := checkProtocol(p); err != nil {
			return fmt.Errorf("preflight: PreflightListener.Protocols: %w", err)
		}
	}
	if err := checkCarriers(l.Carriers); err != nil {
		return fmt.Errorf("preflight: PreflightListener.Carriers %w", err)
	}
	var err error
	if l.policy.origins, err = origin.New(l.AllowedOrigins); err != nil {
		return fmt.Errorf("preflight: PreflightListener.AllowedOrigins: %w", err)
	}
	return nil
}

func (l *PreflightListener) handshakeTimeout() time.Duration {
	if l.HandshakeTimeout == 0 {
		return defaultTimeout
	}
	return l.HandshakeTimeout
}

func (l *PreflightListener) idleTimeout() time.Duration {
	if l.IdleTimeout == 0 {
		return defaultIdleTimeout
	}
	return l.IdleTimeout
}

func (l *PreflightListener) maxPending() int {
	if l.MaxPending == 0 {
		return defaultMaxPending
	}
	return l.MaxPending
}
