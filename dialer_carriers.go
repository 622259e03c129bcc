package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/preflight-go/preflight/internal/memory"
	"github.com/preflight-go/preflight/internal/wire"
)

// maxRequests is the most requests that a dial sends. Two carriers, each of which is tried
// again with fresh fields of GetHeader, need as many.
const maxRequests = 4

// carrierMemory holds which carrier has worked on which way, after another was refused.
type carrierMemory = memory.Table[way, Carrier]

// A way is what decides which carriers pass.
type way struct {
	proxy, address, name, host, path string
	tls                              bool
	carriers                         [3]Carrier
}

// creating guards the memory of every dialer. A lock in the dialer itself would forbid to copy
// it.
var creating sync.Mutex

// remembered returns the memory of d, which copies of d share from then on.
func (d *PreflightDialer) remembered() *carrierMemory {
	creating.Lock()
	defer creating.Unlock()
	if d.memory == nil {
		d.memory = new(carrierMemory)
	}
	return d.memory
}

// checkCarriers resolves Carriers, and what belongs to all of them but CarrierUpgrade.
func (d *PreflightDialer) checkCarriers() (carriers []Carrier, p periods, err error) {
	if err := checkCarriers(d.Carriers); err != nil {
		return nil, p, fmt.Errorf("the field Carriers %w", err)
	}
	carriers = d.Carriers
	if carriers == nil {
		carriers = dialCarriers
	}
	p, err = newPeriods(d.KeepAlivePeriod, d.MaxIdleTimeout)
	return carriers, p, err
}

// client returns the client's end of a tunnel above c, and what of rest, which was read behind
// the handshake, is not in it.
func (p periods) client(c net.Conn, carrier Carrier, rest []byte) (tunnel net.Conn, leftover []byte) {
	if carrier == CarrierUpgrade {
		return c, rest
	}
	return p.frame(c, carrier, true, rest, nil), nil
}

// A descent is a dial over the carriers, from one to the next.
type descent struct {
	table  *carrierMemory
	visit  memory.Visit[way, Carrier]
	begun  bool
	first  Carrier   // of the dialer's
	left   []Carrier // the one that is tried, and those after it
	sent   int       // requests
	missed []missed
}

// A missed is a carrier that did not lead to a tunnel.
type missed struct {
	Carrier
	err error
}

// attempts dials, with one carrier after the other, and with each once more if GetHeader may
// have better credentials.
func (d *PreflightDialer) attempts(ctx context.Context, r route) (net.Conn, error) {
	t := descent{table: d.remembered(), first: r.upgrade.carriers[0], left: r.upgrade.carriers}
	defer func() { t.visit.End() }()
	var refused *StatusError // for GetHeader
	for {
		conn, answer, err := d.dial(ctx, r, &t, refused)
		if err == nil {
			t.visit.Worked(t.left[0], t.left[0] == t.first)
			return conn, nil
		}
		t.sent++
		switch {
		case t.sent < maxRequests && refused == nil && d.wantsFields(answer):
			refused = answer
			continue
		case answer == nil || !answer.falls():
			return nil, t.failure(err)
		}
		refused = nil
		if err := t.fall(ctx, answer, d); err != nil {
			return nil, err
		}
	}
}

// begin chooses the carrier to begin with, when the way is known.
func (t *descent) begin(r *route, proxy *forwardProxy) {
	t.begun = true
	if len(t.left) == 1 {
		return // there is nothing to remember
	}
	w := way{address: r.address, host: r.upgrade.host}
	w.path, _, _ = strings.Cut(r.upgrade.target, "?") // a query may differ each time, and be secret
	copy(w.carriers[:], t.left)
	if proxy != nil {
		w.proxy = proxy.address
	}
	if r.tls != nil {
		w.tls, w.name = true, r.tls.ServerName
	}
	visit, carrier, ok := t.table.Visit(w)
	if t.visit = visit; ok {
		t.prefer(carrier)
	}
}

// prefer makes carrier the next to try, if it is left.
func (t *descent) prefer(carrier Carrier) {
	if i := slices.Index(t.left, carrier); i > 0 {
		t.left = slices.Concat(t.left[i:i+1], t.left[:i], t.left[i+1:])
	}
}

// fall moves to the next carrier, because the one before was answered with refused. It
// returns the error of the dial if there is none, or if the dial has to end.
func (t *descent) fall(ctx context.Context, refused *StatusError, d *PreflightDialer) error {
	t.visit.Refused(t.left[0])
	if len(t.left) == 1 || t.sent == maxRequests {
		return t.failure(refused)
	}
	t.missed = append(t.missed, missed{t.left[0], refused})
	t.left = t.left[1:]
	if len(t.left) > 1 { // otherwise the result of another dial would change nothing
		if carrier, ok := t.visit.Next(ctx, d.handshakeTimeout()); ok {
			t.prefer(carrier)
		}
	}
	if ctx.Err() != nil {
		return t.failure(&net.OpError{Op: "dial", Net: "tcp", Err: contextCause(ctx)})
	}
	d.Telemetry.clientSide().fell(t.missed[len(t.missed)-1].Carrier, refused)
	return nil
}

// failure is the error of a dial whose last carrier ended with err.
func (t *descent) failure(err error) error {
	if len(t.missed) == 0 {
		return err
	}
	return &fallError{append(t.missed, missed{t.left[0], err})}
}

// A fallError is the end of a dial that has tried more than one carrier. The first refusal is
// what was asked for, so it comes first. If it shows a fault that every carrier meets, what the
// others show beside it would mislead: only their status is in the text.
type fallError struct{ missed []missed }

func (e *fallError) Error() string {
	before := e.missed[0].err
	text := before.Error()
	first, _ := before.(*StatusError)
	for _, m := range e.missed[1:] {
		text += "; and by carrier " + string(m.Carrier)
		own, _ := m.err.(*StatusError)
		switch {
		case sameRefusal(m.err, before):
			text += " the same"
			continue
		case own != nil && first != nil && first.found.Common:
			text += ": " + statusText(own.StatusCode, http.StatusText(own.StatusCode))
		default:
			text += ": " + strings.TrimPrefix(m.err.Error(), "preflight: ")
		}
		before = m.err
	}
	return text
}

// sameRefusal reports whether two errors say the same. The texts of one code can differ in what
// differs between the requests, such as their size.
func sameRefusal(a, b error) bool {
	x, _ := a.(*StatusError)
	y, _ := b.(*StatusError)
	if x != nil && y != nil && x.found.Code != "" {
		return x.StatusCode == y.StatusCode && x.found.Code == y.found.Code
	}
	return a.Error() == b.Error()
}

// Unwrap returns the error of each carrier, in the order in which they were tried.
func (e *fallError) Unwrap() []error {
	all := make([]error, len(e.missed))
	for i, m := range e.missed {
		all[i] = m.err
	}
	return all
}

// Timeout reports whether time ran out for one of the carriers.
func (e *fallError) Timeout() bool {
	return slices.ContainsFunc(e.missed, func(m missed) bool { return isTimeout(m.err) })
}

// Temporary reports whether one of the carriers may work later.
func (e *fallError) Temporary() bool {
	return slices.ContainsFunc(e.missed, func(m missed) bool {
		var t interface{ Temporary() bool }
		return errors.As(m.err, &t) && t.Temporary()
	})
}

// falls reports whether e shows that something on the way does not pass the carrier. A receipt
// says that a listener was reached, so only its own word counts then. The others are the
// answers of proxies and programs that do not know the upgrade. Those by which they report an
// outage are not among them.
func (e *StatusError) falls() bool {
	status := e.StatusCode
	switch {
	case e.ForwardProxy:
		return false
	case len(e.Header[wire.RefusalField]) > 0: // also with a value that cannot be read
		return slices.Contains(fallReasons, e.Reason) && (status == http.StatusBadRequest ||
			status == http.StatusMethodNotAllowed || status == http.StatusUpgradeRequired)
	case status == http.StatusSwitchingProtocols:
		return e.otherToken
	case status >= 300 && status < 400:
		return true
	}
	switch status {
	case http.StatusOK, http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound,
		http.StatusMethodNotAllowed, http.StatusUpgradeRequired,
		http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return true
	}
	return false
}

// fallReasons are the codes of a receipt that lead to another carrier.
var fallReasons = []string{wire.CodeNoUpgrade, wire.CodeNoConnection, wire.CodeCarrier}
