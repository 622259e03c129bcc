package fall_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// TestPool: if the edge accepts only WebSocket, a pool needs only one additional request.
func TestPool(t *testing.T) {
	e := passing(t, 403, webSocket)
	d := new(preflight.PreflightDialer)
	c, err := d.Dial("tcp", e.address())
	ping(t, c, err, webSocket)
	require.Equal(t, []preflight.Carrier{upgradeOnly, webSocket}, e.take())
	const pool = 100
	var group sync.WaitGroup
	for range pool {
		group.Go(func() {
			c, err := d.Dial("tcp", e.address())
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
		})
	}
	group.Wait()
	asked := e.take()
	require.Len(t, asked, pool)
	require.NotContains(t, asked, upgradeOnly)
}

// TestCopies: copies of a dialer that has been used share its memory of carriers, and so does
// DialURL. Another dialer does not share it. Another path, Host or list of carriers has a
// separate record.
func TestCopies(t *testing.T) {
	e := passing(t, 403, webSocket)
	base := &preflight.PreflightDialer{Path: "/other"}
	dial := func(d preflight.PreflightDialer) []preflight.Carrier {
		t.Helper()
		c, err := d.Dial("tcp", e.address())
		ping(t, c, err, webSocket)
		return e.take()
	}
	walk, straight := []preflight.Carrier{upgradeOnly, webSocket}, []preflight.Carrier{webSocket}
	require.Equal(t, walk, dial(*base), "a copy of an unused dialer has its own memory")
	require.Equal(t, walk, dial(*base))
	c, err := base.Dial("tcp", e.address())
	ping(t, c, err, webSocket)
	require.Equal(t, walk, e.take())
	require.Equal(t, straight, dial(*base))

	d := *base
	d.Path = "/p"
	require.Equal(t, walk, dial(d))
	require.Equal(t, straight, dial(d))
	other := *base
	other.Path, other.Header = "/p?token=1", http.Header{"A": {"b"}}
	require.Equal(t, straight, dial(other), "the query and the fields do not matter")
	other.Host = "another.example"
	require.Equal(t, walk, dial(other))
	other = d
	other.Carriers = []preflight.Carrier{upgradeOnly, framed, webSocket}
	require.Equal(t, all, dial(other))
	require.Equal(t, straight, dial(other))

	byURL := *base
	byURL.Path = ""
	c, err = byURL.DialURL(t.Context(), "tcp://"+e.address()+"/p?http_preflight=true")
	ping(t, c, err, webSocket)
	require.Equal(t, straight, e.take())
	fresh := new(preflight.PreflightDialer)
	for _, want := range [][]preflight.Carrier{walk, straight} {
		c, err = fresh.DialURL(t.Context(), "tcp://"+e.address()+"/p?http_preflight=true")
		ping(t, c, err, webSocket)
		require.Equal(t, want, e.take())
	}
}

// TestForgotten: if a remembered carrier is refused, it is forgotten, and this dial tries the
// other carriers once.
func TestForgotten(t *testing.T) {
	var passes atomic.Value
	passes.Store(webSocket)
	e := newEdge(t, func(carrier preflight.Carrier, head string) string {
		if carrier == passes.Load() {
			return switched(carrier, head, "")
		}
		return refusal(404, "")
	})
	d := &preflight.PreflightDialer{Carriers: all}
	dial := func(want preflight.Carrier, asked ...preflight.Carrier) {
		t.Helper()
		c, err := d.Dial("tcp", e.address())
		ping(t, c, err, want)
		require.Equal(t, asked, e.take())
	}
	dial(webSocket, upgradeOnly, framed, webSocket)
	dial(webSocket, webSocket)
	passes.Store(framed)
	c, err := d.Dial("tcp", e.address())
	ping(t, c, err, framed)
	require.Equal(t, "websocket, upgrade, framed", field(e.head(0), "Preflight-Carriers"), "all carriers that can still be tried")
	require.Equal(t, "framed", field(e.head(2), "Preflight-Carriers"))
	require.Equal(t, []preflight.Carrier{webSocket, upgradeOnly, framed}, e.take())
	dial(framed, framed)
	passes.Store(upgradeOnly)
	dial(upgradeOnly, framed, upgradeOnly)
	dial(upgradeOnly, upgradeOnly)
}

// TestOutage: an outage does not change the memory of a dialer.
func TestOutage(t *testing.T) {
	var status atomic.Int64
	status.Store(503)
	e := newEdge(t, func(carrier preflight.Carrier, head string) string {
		switch s := int(status.Load()); {
		case s > 0:
			return refusal(s, "")
		case carrier == webSocket:
			return switched(carrier, head, "")
		}
		return refusal(426, "")
	})
	d := new(preflight.PreflightDialer)
	for _, s := range []int{502, 503, 504, 429} {
		status.Store(int64(s))
		_, err := d.Dial("tcp", e.address())
		require.Equal(t, s, testkit.StatusError(t, err).StatusCode)
		require.Equal(t, []preflight.Carrier{upgradeOnly}, e.take())
	}
	status.Store(0)
	c, err := d.Dial("tcp", e.address())
	ping(t, c, err, webSocket)
	e.take()
	status.Store(503)
	_, err = d.Dial("tcp", e.address())
	require.Equal(t, 503, testkit.StatusError(t, err).StatusCode)
	require.Equal(t, []preflight.Carrier{webSocket}, e.take())
	status.Store(0)
	c, err = d.Dial("tcp", e.address())
	ping(t, c, err, webSocket)
	require.Equal(t, []preflight.Carrier{webSocket}, e.take())
}

// TestAllRefused: the error of the first carrier comes first, followed by those of the others.
func TestAllRefused(t *testing.T) {
	e := newEdge(t, func(carrier preflight.Carrier, _ string) string {
		return refusal(map[preflight.Carrier]int{upgradeOnly: 403, framed: 404, webSocket: 503}[carrier], "Retry-After: 1\r\n")
	})
	d := preflight.PreflightDialer{Carriers: all, HandshakeTimeout: -1}
	_, err := d.Dial("tcp", e.address())
	require.Error(t, err)
	require.Equal(t, all, e.take())
	_, err = d.Dial("tcp", e.address()) // does not wait for a walk of the first dial
	require.Equal(t, all, e.take())
	require.Equal(t, 403, testkit.StatusError(t, err).StatusCode)
	require.Regexp(t, `^preflight: 127\.0\.0\.1:\d+ answered 403 No: .+; and by carrier framed: 127\.0\.0\.1:\d+ answered 404 No: .+; and by carrier websocket: 127\.0\.0\.1:\d+ answered 503 No: `, err.Error())
	var joined interface{ Unwrap() []error }
	require.ErrorAs(t, err, &joined)
	var statuses []int
	for _, one := range joined.Unwrap() {
		statuses = append(statuses, testkit.StatusError(t, one).StatusCode)
	}
	require.Equal(t, []int{403, 404, 503}, statuses)
	var netErr net.Error
	require.ErrorAs(t, err, &netErr)
	require.False(t, netErr.Timeout())
	var temporary interface{ Temporary() bool } // gRPC calls this method
	require.ErrorAs(t, err, &temporary)
	require.True(t, temporary.Temporary())

	// With a single carrier, its error is returned unchanged.
	_, err = (&preflight.PreflightDialer{Carriers: []preflight.Carrier{webSocket}}).Dial("tcp", e.address())
	require.IsType(t, new(preflight.StatusError), err)
}

// TestErrorOfTheSecond: the error of the second carrier can be found with errors.Is, whatever
// it is.
func TestErrorOfTheSecond(t *testing.T) {
	e := passing(t, 403)
	gone := errors.New("gone")
	dials := 0
	d := preflight.PreflightDialer{NetDialer: testkit.DialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials++; dials == 2 {
			return nil, gone
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	})}
	_, err := d.Dial("tcp", e.address())
	require.ErrorIs(t, err, gone)
	require.Equal(t, 403, testkit.StatusError(t, err).StatusCode)
	require.ErrorContains(t, err, "; and by carrier websocket: gone")
	require.Len(t, e.take(), 1)

	// A StatusError of NetDialer is not an answer to this dial, so no other carrier is tried.
	dials = 0
	d.NetDialer = testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) {
		dials++
		return nil, &preflight.StatusError{StatusCode: 404}
	})
	_, err = d.Dial("tcp", e.address())
	require.Equal(t, 404, testkit.StatusError(t, err).StatusCode)
	require.Equal(t, 1, dials)
}

// TestContext: when its context has ended, a dial tries no other carrier. The error contains the
// cause.
func TestContext(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	e := newEdge(t, func(preflight.Carrier, string) string { return refusal(403, "") })
	dials := 0
	d := preflight.PreflightDialer{NetDialer: testkit.DialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		dials++
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return &closeConn{c, func() { cancel(cause) }}, err
	})}
	_, err := d.DialContext(ctx, "tcp", e.address())
	require.Error(t, err)
	require.Equal(t, 1, dials)
	require.Equal(t, 403, testkit.StatusError(t, err).StatusCode)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, cause)
	require.ErrorContains(t, err, "; and by carrier websocket: dial tcp: context canceled: enough")
}

// A closeConn calls closed before it closes. A refused dial closes its connection before it
// tries the next carrier.
type closeConn struct {
	net.Conn
	closed func()
}

func (c *closeConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// TestTimeouts: HandshakeTimeout limits each attempt. After a timeout, the dialer does not try
// another carrier.
func TestTimeouts(t *testing.T) {
	silent := make(chan struct{})
	e := newEdge(t, func(carrier preflight.Carrier, _ string) string {
		if carrier == webSocket {
			<-silent
		}
		return refusal(403, "")
	})
	defer close(silent)
	d := preflight.PreflightDialer{HandshakeTimeout: 50 * time.Millisecond, Carriers: []preflight.Carrier{upgradeOnly, webSocket, framed}}
	_, err := d.Dial("tcp", e.address())
	require.Equal(t, 403, testkit.StatusError(t, err).StatusCode)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var netErr net.Error
	require.ErrorAs(t, err, &netErr)
	require.True(t, netErr.Timeout())
	require.Equal(t, []preflight.Carrier{upgradeOnly, webSocket}, e.take())
}

// TestGetHeader: the dialer may try each carrier again with fresh fields. A dial sends at most
// four requests.
func TestGetHeader(t *testing.T) {
	const token = "Authorization"
	for name, test := range map[string]struct {
		answer   func(carrier preflight.Carrier, fresh bool) int // 101: the tunnel
		carriers []preflight.Carrier
		refused  []int // the statuses that GetHeader receives; 0: nil
		asked    []preflight.Carrier
		status   int // the status of the error; 0: no error
	}{
		"for the second carrier": {
			func(c preflight.Carrier, fresh bool) int {
				switch {
				case c == upgradeOnly:
					return 426
				case fresh:
					return 101
				}
				return 401
			}, nil, []int{0, 0, 401}, []preflight.Carrier{upgradeOnly, webSocket, webSocket}, 0,
		},
		"on both": {
			func(c preflight.Carrier, fresh bool) int {
				switch {
				case !fresh:
					return 401
				case c == upgradeOnly:
					return 426
				}
				return 101
			}, nil, []int{0, 401, 0, 401}, []preflight.Carrier{upgradeOnly, upgradeOnly, webSocket, webSocket}, 0,
		},
		"once": {
			func(preflight.Carrier, bool) int { return 401 },
			nil, []int{0, 401}, []preflight.Carrier{upgradeOnly, upgradeOnly}, 401,
		},
		"never after 403": {
			func(preflight.Carrier, bool) int { return 403 },
			nil, []int{0, 0}, []preflight.Carrier{upgradeOnly, webSocket}, 403,
		},
		"at most four": {
			func(c preflight.Carrier, fresh bool) int {
				if fresh {
					return 404
				}
				return 401
			}, all, []int{0, 401, 0, 401}, []preflight.Carrier{upgradeOnly, upgradeOnly, framed, framed}, 404,
		},
		"no fifth": {
			func(c preflight.Carrier, fresh bool) int {
				if fresh || c == framed {
					return 404
				}
				return 401
			}, all, []int{0, 401, 0, 0}, []preflight.Carrier{upgradeOnly, upgradeOnly, framed, webSocket}, 404,
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t, func(carrier preflight.Carrier, head string) string {
				if status := test.answer(carrier, field(head, token) == "fresh"); status != 101 {
					return refusal(status, "")
				}
				return switched(carrier, head, "")
			})
			var refused []int
			d := preflight.PreflightDialer{Carriers: test.carriers, GetHeader: func(_ context.Context, r *preflight.StatusError) (http.Header, error) {
				if r == nil {
					refused = append(refused, 0)
					return http.Header{token: {"stale"}}, nil
				}
				refused = append(refused, r.StatusCode)
				return http.Header{token: {"fresh"}}, nil
			}}
			c, err := d.Dial("tcp", e.address())
			if test.status == 0 {
				ping(t, c, err, test.asked[len(test.asked)-1])
			} else {
				require.Equal(t, test.status, testkit.StatusError(t, err).StatusCode)
			}
			require.Equal(t, test.refused, refused)
			require.Equal(t, test.asked, e.take())
		})
	}
}

// TestTelemetry: each attempt has a span with its carrier, and a counter counts how often the
// dialer falls back.
func TestTelemetry(t *testing.T) {
	e := newEdge(t, func(carrier preflight.Carrier, head string) string {
		switch carrier {
		case upgradeOnly:
			return refusal(403, "")
		case framed:
			return refusal(426, "Preflight-Refusal: carrier\r\n")
		}
		return switched(carrier, head, "")
	})
	recorder := testkit.NewRecorder()
	d := preflight.PreflightDialer{Carriers: all, Telemetry: recorder.Watch()}
	for range 2 {
		c, err := d.Dial("tcp", e.address())
		ping(t, c, err, webSocket)
	}
	require.Equal(t, 4, recorder.Started())
	for of, want := range map[string]int64{
		"client.falls preflight.carrier=upgrade,preflight.reason=403":                                                                                        1,
		"client.falls preflight.carrier=framed,preflight.reason=carrier":                                                                                     1,
		"client.handshake.duration error.type=403,http.response.status_code=403,preflight.carrier=upgrade,preflight.kind=refused,preflight.reason=forbidden": 1,
		"client.handshake.duration error.type=426,http.response.status_code=426,preflight.carrier=framed,preflight.kind=refused,preflight.reason=carrier":    1,
		"client.handshake.duration http.response.status_code=101,preflight.carrier=websocket,preflight.kind=upgraded":                                        2,
		"client.connection.active preflight.carrier=websocket,preflight.kind=upgraded":                                                                       0,
		"client.connection.io network.io.direction=transmit,preflight.carrier=websocket,preflight.kind=upgraded":                                             8,
		"client.connection.io network.io.direction=receive,preflight.carrier=websocket,preflight.kind=upgraded":                                              8,
	} {
		require.Equal(t, want, recorder.Sum(of), of)
	}
}

// TestConfiguration: the dialer returns an error for an invalid configuration before it dials.
func TestConfiguration(t *testing.T) {
	for text, d := range map[string]preflight.PreflightDialer{
		"Carriers is empty":                 {Carriers: []preflight.Carrier{}},
		`Carriers holds "WebSocket"`:        {Carriers: []preflight.Carrier{"WebSocket"}},
		`Carriers holds ""`:                 {Carriers: []preflight.Carrier{webSocket, ""}},
		`Carriers holds "framed" more than`: {Carriers: []preflight.Carrier{framed, upgradeOnly, framed}},
		"KeepAlivePeriod is":                {KeepAlivePeriod: 366 * 24 * time.Hour},
		"KeepAlivePeriod is 20ns":           {KeepAlivePeriod: 20}, // without its unit
		"MaxIdleTimeout is 60ns":            {KeepAlivePeriod: -1, MaxIdleTimeout: 60},
		"MaxIdleTimeout is negative":        {MaxIdleTimeout: -1},
		"MaxIdleTimeout is 8784h0m0s":       {MaxIdleTimeout: 366 * 24 * time.Hour},
		"less than twice KeepAlivePeriod":   {MaxIdleTimeout: 39 * time.Second},
		"which is less than twice":          {KeepAlivePeriod: time.Second, MaxIdleTimeout: time.Second},
		"is that of WebSocket":              {Protocol: "websocket"},
		"Preflight-Carriers may not be":     {Header: http.Header{"Preflight-Carriers": {"upgrade"}}},
		"sec-websocket-key may not be":      {Header: http.Header{"sec-websocket-key": {"x"}}},
		"Preflight-Framing may not be":      {Proxy: testkit.Via("http://127.0.0.1:1"), ProxyHeader: http.Header{"Preflight-Framing": {"capsule"}}},
	} {
		d.NetDialer = testkit.DialNever(t)
		_, err := d.Dial("tcp", "edge.example:80")
		require.ErrorContains(t, err, text)
		if d.Header == nil && d.ProxyHeader == nil {
			_, err = d.DialURL(t.Context(), "tcp://edge.example:80/?http_preflight=true")
			require.ErrorContains(t, err, text)
		}
	}
	e := passing(t, 404, all...)
	for _, d := range []preflight.PreflightDialer{
		{KeepAlivePeriod: -1, MaxIdleTimeout: time.Minute},
		{MaxIdleTimeout: 40 * time.Second},
		{KeepAlivePeriod: 365 * 24 * time.Hour},
		{KeepAlivePeriod: time.Millisecond},
		{GetHeader: func(context.Context, *preflight.StatusError) (http.Header, error) { return nil, nil }},
	} {
		for _, carrier := range all {
			d.Carriers = []preflight.Carrier{carrier}
			c, err := d.Dial("tcp", e.address())
			ping(t, c, err, carrier)
		}
	}
	_, err := (&preflight.PreflightDialer{GetHeader: func(context.Context, *preflight.StatusError) (http.Header, error) {
		return http.Header{"Preflight-Tunnel": {"tls"}}, nil
	}}).Dial("tcp", e.address())
	require.ErrorContains(t, err, "Preflight-Tunnel may not be set")
}

// TestDefault: the first carrier is the plain upgrade. If it works, the dialer does not change
// to another.
func TestDefault(t *testing.T) {
	e := passing(t, 404, all...)
	d := new(preflight.PreflightDialer)
	for range 3 {
		c, err := d.Dial("tcp", e.address())
		ping(t, c, err, upgradeOnly)
		require.Equal(t, "upgrade, websocket", field(e.head(0), "Preflight-Carriers"))
		require.Equal(t, []preflight.Carrier{upgradeOnly}, e.take(), fmt.Sprint(d))
	}
}
