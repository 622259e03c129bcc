package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/check"
	"github.com/preflight-go/preflight/cmd/preflight/internal/relay"
)

// dialTimeout bounds the dial of a server. It leaves time for an answer within the timeout of
// the handshake, which is 10 seconds.
const dialTimeout = 5 * time.Second

// A session is a tunnel, from the moment when its request is allowed.
type session struct {
	set   *settings
	route route
	who   string // "" if nobody had to say

	server relay.Conn
	once   sync.Once
	claim  *time.Timer
	leave  func() // gives the place back
}

type sessionKey struct{}

// authorize allows a request, and dials the server, so that a client learns at once if that
// does not answer.
func (s *server) authorize(r *http.Request) (http.Header, error) {
	set := s.current.Load()
	if err := set.slow(r.RemoteAddr); err != nil {
		s.refused(r, "", err)
		return nil, err
	}
	who, err := set.rules.Check(r)
	if err != nil {
		s.refused(r, who, err)
		return nil, err
	}
	if set.Echo {
		s.arrivals.Add(r)
	}
	to, ok := set.find(r.URL.Path)
	// RawPath is set if the path is encoded in another way than net/url would do it, such as
	// %2F for a slash. A proxy that does not decode it has checked another path.
	if !ok || strings.Contains(r.URL.RawPath, "%") {
		err := &preflight.StatusError{StatusCode: http.StatusNotFound, Body: []byte(check.NoServerFor(r.URL.EscapedPath()))}
		if !isClean(r.URL.Path) || strings.Contains(r.URL.RawPath, "%") {
			err.Body = []byte(check.NotClean(r.URL))
		}
		s.refused(r, who, err)
		return nil, err
	}
	x, err := s.open(r.Context(), set, to)
	if err != nil {
		s.refused(r, who, err)
		return nil, err
	}
	x.who = who
	// The library does not say when a handshake fails behind Authorize. It has ended by
	// this deadline, and Accept has returned its connection, or there is none.
	deadline, _ := r.Context().Deadline()
	x.claim = time.AfterFunc(time.Until(deadline)+claimDelay, x.close)
	*r = *r.WithContext(context.WithValue(r.Context(), sessionKey{}, x))
	return nil, nil
}

// slow refuses a client that asks for tunnels too often. It comes before the credentials, so that
// they cannot be guessed faster.
func (s *settings) slow(client string) error {
	a, err := netip.ParseAddrPort(client)
	if s.rates == nil || err != nil { // the client of a Unix socket has no address
		return nil
	}
	wait, ok := s.rates.Allow(a.Addr(), time.Now())
	if ok {
		return nil
	}
	after := strconv.Itoa(int(math.Ceil(wait.Seconds())))
	return &preflight.StatusError{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {after}}, Body: []byte(check.TooOften)}
}

// claimDelay is how long acceptAll may take to come to a connection.
const claimDelay = 5 * time.Second

// refused logs why a request was refused. What anybody can cause is for debugging, as in the
// records of the library.
func (s *server) refused(r *http.Request, who string, err error) {
	s.counts.refused.Add(1)
	level := slog.LevelDebug
	if who != "" {
		level = slog.LevelInfo
	}
	// Only the refusals of this program come here. Their bodies are fixed texts, but for a
	// path, which is not for the log.
	var answer *preflight.StatusError
	errors.As(err, &answer)
	if answer.StatusCode == http.StatusServiceUnavailable { // the program is full
		level = slog.LevelWarn
	}
	reason, _, _ := strings.Cut(string(answer.Body), check.ArrivedAs)
	s.log.Log(r.Context(), level, "refused", "client", r.RemoteAddr, "user", who, "status", answer.StatusCode, "reason", strings.TrimSpace(reason))
}

// find returns the route for a path: the longest that is the path or a folder above it. A path
// that the proxy may have understood in another way has none.
func (s *settings) find(p string) (found route, ok bool) {
	if !isClean(p) {
		return route{}, false
	}
	for _, r := range s.routes {
		if (p == r.path || strings.HasPrefix(p, r.path+"/")) && (!ok || len(r.path) > len(found.path)) {
			found, ok = r, true
		}
	}
	return found, ok
}

// isClean reports whether a path has neither empty nor relative segments. It may end with a
// slash. The target http://host has no path, which means / (RFC 9110 §4.2.3).
func isClean(p string) bool {
	if p == "" || p == "/" {
		return true
	}
	return strings.HasPrefix(p, "/") && p != "//" && path.Clean(p) == strings.TrimSuffix(p, "/")
}

// open dials the server of a route.
func (s *server) open(ctx context.Context, set *settings, to route) (*session, error) {
	x := &session{set: set, route: to, leave: func() { s.places.Add(-1) }}
	if n := s.places.Add(1); set.MaxConns > 0 && n > int64(set.MaxConns) {
		x.leave()
		return nil, &preflight.StatusError{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"1"}}, Body: []byte(check.TooManyTunnels)}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := to.dial(ctx)
	if err != nil {
		x.leave()
		if errors.Is(ctx.Err(), context.Canceled) {
			s.log.Debug("the client has left before its server answered", "route", to.path+"/", "error", context.Cause(ctx))
		} else {
			s.log.Warn("the server does not answer", "route", to.path+"/", "server", to.to.String(), "error", err)
		}
		return nil, gatewayError(err)
	}
	x.server = c
	return x, nil
}

// gatewayError is the answer to a client whose server does not answer. It tells strangers no
// address.
func gatewayError(err error) *preflight.StatusError {
	e := &preflight.StatusError{StatusCode: http.StatusBadGateway}
	why := "cannot be reached"
	var name *net.DNSError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		e.StatusCode, why = http.StatusGatewayTimeout, "does not answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "refuses connections"
	case errors.As(err, &name):
		why = "has a name that does not resolve"
	}
	e.Body = fmt.Appendf(nil, "the server behind preflight %s\n", why)
	return e
}

// close gives up what the session holds. It may be called again.
func (x *session) close() {
	x.once.Do(func() {
		x.server.Close()
		x.leave()
	})
}

// serve runs the tunnel or the plain connection c.
func (s *server) serve(c *preflight.Conn) {
	x, err := s.sessionOf(c)
	if err != nil {
		s.log.Info("refused", "client", c.RemoteAddr().String(), "error", err)
		relay.Reset(c)
		return
	}
	defer x.close()
	log := s.log.With("client", c.RemoteAddr().String(), "user", x.who, "route", x.route.path+"/", "carrier", carrierName(c))
	if x.set.SendProxy {
		if _, err := proxyHeader(c).WriteTo(x.server); err != nil {
			log.Warn("the server does not take the PROXY header", "error", err)
			relay.Reset(c)
			return
		}
	}
	begin := time.Now()
	aged, stop := x.limitAge(c)
	s.counts.opened(x.route.path)
	result := s.tunnels.run(c, x.server, x.set.HalfCloseTimeout, func() { log.Debug("opened") })
	s.counts.closed(x.route.path, result)
	stop()
	if aged.Load() && result.Err != nil {
		result.Err = errAge
	}
	closed(log, result, time.Since(begin))
}

var errAge = errors.New("the tunnel was reset at the age of --max-age")

// limitAge resets the tunnel when it is old. aged is true then.
func (x *session) limitAge(c relay.Conn) (aged *atomic.Bool, stop func()) {
	aged = new(atomic.Bool)
	age := x.set.MaxAge
	if age == 0 {
		return aged, func() {}
	}
	timer := time.AfterFunc(age-rand.N(age/10+1), func() {
		aged.Store(true)
		relay.Reset(c)
		relay.Reset(x.server)
	})
	return aged, func() { timer.Stop() }
}

// proxyHeader returns the header that tells the server the client's address. A trusted proxy may
// have reported it, while the connection itself is a Unix socket. The header needs both
// addresses, and then has no other for this end.
func proxyHeader(c net.Conn) *proxyproto.Header {
	local := c.LocalAddr()
	if client, ok := c.RemoteAddr().(*net.TCPAddr); ok && local.Network() != client.Network() {
		local = &net.TCPAddr{IP: net.IPv6zero}
		if client.IP.To4() != nil {
			local = &net.TCPAddr{IP: net.IPv4zero}
		}
	}
	return proxyproto.HeaderProxyFromAddrs(2, c.RemoteAddr(), local)
}

// sessionOf returns the session that authorize has begun. A plain connection had no request,
// and gets one of --to.
func (s *server) sessionOf(c *preflight.Conn) (*session, error) {
	r := c.Request()
	if r == nil {
		set := s.current.Load()
		if err := set.slow(c.RemoteAddr().String()); err != nil {
			return nil, err
		}
		to, _ := set.find("/")
		return s.open(context.Background(), set, to)
	}
	x := r.Context().Value(sessionKey{}).(*session)
	if !x.claim.Stop() {
		return nil, errors.New("the connection came too late for its server")
	}
	return x, nil
}

func carrierName(c *preflight.Conn) string {
	if c.Carrier() == "" {
		return "plain"
	}
	return string(c.Carrier())
}

// closed logs the end of a tunnel, between the client a and the server b of its relay.
func closed(log *slog.Logger, r relay.Result, took time.Duration) {
	log = log.With("sent", r.Up, "received", r.Down, "duration", took.Round(time.Millisecond))
	if r.Err != nil {
		log.Info("closed early", "error", r.Err)
		return
	}
	if r.Gone != nil {
		// That is in order, so there is no error here.
		unread := "server"
		if r.GoneA {
			unread = "client"
		}
		log = log.With("unread", unread)
	}
	log.Info("closed")
}
