package roundtrips_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

const (
	tls12 = tls.VersionTLS12
	tls13 = tls.VersionTLS13
)

// A way is how a client reaches the server.
type way struct {
	name            string
	bare            bool   // without preflight
	outside, inside uint16 // the version of TLS; 0: none
	before          bool   // the same dial has been made before: sessions are resumed, a carrier is remembered
	onlyP256        bool   // the server takes no other curve; then it asks for another ClientHello
	prefersP256     bool   // so that the client's first ClientHello suits such a server
	edge            bool   // there is a reverse proxy, which terminates TLS outside
	proxy           string // the URL of a forward proxy
	refused         int    // the status that asks for credentials
	fall            bool   // the listener serves WebSocket alone
	want            counts
}

// counts are round trips from the beginning of a dial.
type counts struct {
	dial     trips // until Dial has returned
	answer   trips // until the answer to the client's first byte
	greeting trips // until the first byte of a server that speaks first
}

// to returns the counts of a way without a second hop.
func to(dial, answer, greeting int) counts {
	return counts{trips{near: dial}, trips{near: answer}, trips{near: greeting}}
}

// through adds the round trips of the second hop.
func (n counts) through(dial, answer, greeting int) counts {
	n.dial.far, n.answer.far, n.greeting.far = dial, answer, greeting
	return n
}

var ways = []way{
	{name: "TCP, without preflight", bare: true, want: to(1, 2, 2)},
	{name: "TLS 1.3, without preflight", bare: true, outside: tls13, want: to(2, 3, 3)},
	{name: "TLS 1.2, without preflight", bare: true, outside: tls12, want: to(3, 4, 3)},
	{name: "TLS 1.2 resumed, without preflight", bare: true, outside: tls12, before: true, want: to(2, 3, 3)},
	{name: "no TLS", want: to(2, 3, 2)},
	{name: "TLS 1.3 outside", outside: tls13, want: to(3, 4, 3)},
	{name: "TLS 1.3 outside, resumed", outside: tls13, before: true, want: to(3, 4, 3)},
	{name: "TLS 1.3 outside, the edge takes P-256 only", outside: tls13, onlyP256: true, want: to(4, 5, 4)},
	{name: "TLS 1.3 outside, the edge takes P-256 only, `CurvePreferences` set", outside: tls13, onlyP256: true, prefersP256: true, want: to(3, 4, 3)},
	{name: "TLS 1.2 outside", outside: tls12, want: to(4, 5, 4)},
	{name: "TLS 1.2 outside, resumed", outside: tls12, before: true, want: to(3, 4, 3)},
	{name: "TLS 1.3 inside", inside: tls13, want: to(3, 4, 4)},
	{name: "TLS 1.3 inside, resumed", inside: tls13, before: true, want: to(3, 4, 4)},
	{name: "TLS 1.2 inside", inside: tls12, want: to(4, 5, 4)},
	{name: "TLS 1.2 inside, resumed", inside: tls12, before: true, want: to(3, 4, 4)},
	{name: "TLS 1.3 outside and inside", outside: tls13, inside: tls13, want: to(4, 5, 5)},
	{name: "TLS 1.3 outside and inside, resumed", outside: tls13, inside: tls13, before: true, want: to(4, 5, 5)},
	{name: "TLS 1.2 outside and inside", outside: tls12, inside: tls12, want: to(6, 7, 6)},
	{name: "TLS 1.2 outside and inside, resumed", outside: tls12, inside: tls12, before: true, want: to(4, 5, 5)},
	{name: "no TLS, credentials asked for with 401", refused: 401, want: to(4, 5, 4)},
	{name: "no TLS, a fall to WebSocket", fall: true, want: to(4, 5, 4)},
	{name: "no TLS, the next dial after a fall", fall: true, before: true, want: to(2, 3, 2)},
	{name: "no TLS, a reverse proxy", edge: true, want: to(2, 3, 2).through(2, 3, 2)},
	{name: "a reverse proxy, TLS 1.3 to it and inside", edge: true, outside: tls13, inside: tls13, want: to(4, 5, 5).through(3, 4, 4)},
	{name: "no TLS, forward proxy `http`", proxy: "http://proxy.example:3128", want: to(3, 4, 3).through(2, 3, 2)},
	{name: "no TLS, forward proxy `http`, credentials asked for with 407", proxy: "http://proxy.example:3128", refused: 407, want: to(5, 6, 5).through(2, 3, 2)},
	{name: "TLS 1.3 outside, forward proxy `https`", proxy: "https://edge.example:3128", outside: tls13, want: to(5, 6, 5).through(3, 4, 3)},
	{name: "no TLS, forward proxy `socks5`", proxy: "socks5://proxy.example:1080", want: to(4, 5, 4).through(2, 3, 2)},
	{name: "no TLS, forward proxy `socks5` with credentials", proxy: "socks5://" + userinfo + "proxy.example:1080", want: to(5, 6, 5).through(2, 3, 2)},
}

// TestRoundTrips requires the exact number of round trips, the same with each carrier, and the
// table of them in the documentation.
func TestRoundTrips(t *testing.T) {
	for _, w := range ways {
		carriers := []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierFramed, preflight.CarrierWebSocket}
		if w.bare || w.fall {
			carriers = carriers[:1]
		}
		for _, carrier := range carriers {
			t.Run(w.name+"/"+string(carrier), func(t *testing.T) {
				identity := testkit.NewIdentity(t)
				synctest.Test(t, func(t *testing.T) {
					w.testFrom(t, identity.Config, identity.Client(), carrier)
				})
			})
		}
	}
	page, err := os.ReadFile("../../docs/performance.md")
	require.NoError(t, err)
	require.True(t, strings.Contains(string(page), table()), "docs/performance.md must have this table:\n%s", table())
}

// table is that of the documentation.
func table() string {
	var b strings.Builder
	b.WriteString("| round trips | Dial returns | first answer | first byte of the server |\n|---|---:|---:|---:|\n")
	for _, w := range ways {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", w.name, w.want.dial, w.want.answer, w.want.greeting)
	}
	return b.String()
}

func (n trips) String() string {
	if n.far == 0 {
		return fmt.Sprint(n.near)
	}
	return fmt.Sprintf("%d + %d", n.near, n.far)
}

// testFrom builds the way w, dials, and requires the counts.
func (w way) testFrom(t *testing.T, server, client *tls.Config, carrier preflight.Carrier) {
	t.Cleanup(func() { time.Sleep(time.Minute) }) // the clock stops with the test: first let all connections end
	front, behind := newHop(t, near), newHop(t, far)
	server, client = server.Clone(), client.Clone()
	if w.onlyP256 {
		server.CurvePreferences = []tls.CurveID{tls.CurveP256}
	}
	if w.prefersP256 {
		client.CurvePreferences = []tls.CurveID{tls.SecP256r1MLKEM768, tls.CurveP256}
	}
	secure := func(ln net.Listener) net.Listener {
		if w.outside == 0 {
			return ln
		}
		return tls.NewListener(ln, server)
	}
	l := &preflight.PreflightListener{TLSConfig: server}
	switch {
	case w.proxy != "":
		w.serveProxy(front, behind, server)
		l.Listener = secure(behind)
	case w.edge:
		serveEdge(t, secure(front), behind)
		l.Listener = behind
	default:
		l.Listener = secure(front)
	}
	if w.fall {
		l.Carriers = []preflight.Carrier{preflight.CarrierWebSocket}
	}
	if w.refused == http.StatusUnauthorized {
		l.Authorize = func(r *http.Request) (http.Header, error) {
			if r.Header.Get("Authorization") == "" {
				return nil, &preflight.StatusError{StatusCode: http.StatusUnauthorized}
			}
			return nil, nil
		}
	}
	dial := w.dialer(front, client, carrier)
	if w.bare {
		go serve(l.Listener, application)
	} else {
		t.Cleanup(func() { l.Close() })
		go serve(l, application)
	}
	if w.before {
		w.talk(t, dial, false)
		time.Sleep(time.Minute) // the tunnel has ended
	}
	require.Equal(t, w.want, w.talk(t, dial, w.before))
}

type dialFunc func(context.Context) (net.Conn, error)

func (w way) dialer(front hop, client *tls.Config, carrier preflight.Carrier) dialFunc {
	const address = "edge.example:443"
	secure := func(version uint16) *tls.Config {
		if version == 0 {
			return nil
		}
		c := client.Clone()
		c.MinVersion, c.MaxVersion = version, version
		if w.before {
			c.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		}
		return c
	}
	d := &preflight.PreflightDialer{
		NetDialer: front, TLSConfig: secure(w.outside), TunnelTLSConfig: secure(w.inside),
		Carriers: []preflight.Carrier{carrier},
	}
	switch {
	case w.bare && w.outside == 0:
		return func(ctx context.Context) (net.Conn, error) { return front.DialContext(ctx, "tcp", address) }
	case w.bare:
		config := d.TLSConfig
		config.ServerName = "edge.example"
		return func(ctx context.Context) (net.Conn, error) {
			c, err := front.DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			tc := tls.Client(c, config)
			return tc, tc.HandshakeContext(ctx)
		}
	case w.fall:
		d.Carriers = nil
	}
	if w.proxy != "" {
		d.Proxy = testkit.Via(w.proxy)
	}
	if w.refused != 0 {
		name := map[int]string{http.StatusUnauthorized: "Authorization", http.StatusProxyAuthRequired: "Proxy-Authorization"}[w.refused]
		d.GetHeader = func(_ context.Context, refused *preflight.StatusError) (http.Header, error) {
			if refused == nil {
				return nil, nil
			}
			return http.Header{name: {"Basic bWU6c2VjcmV0"}}, nil
		}
	}
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
}

// TestRoundTripsTogether requires that dials that fall at the same time do not wait for each other,
// if each has only one carrier left.
func TestRoundTripsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		front := newHop(t, near)
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: front, Carriers: []preflight.Carrier{preflight.CarrierWebSocket}})
		go serve(l, application)
		dial := way{fall: true}.dialer(front, nil, "")
		type dialed struct {
			net.Conn
			err  error
			took time.Duration
		}
		const n = 10
		ends := make(chan dialed, n)
		begun := time.Now()
		for range n {
			go func() {
				c, err := dial(t.Context())
				ends <- dialed{c, err, time.Since(begun)}
			}()
		}
		for range n {
			d := <-ends
			require.NoError(t, d.err)
			defer d.Close()
			require.Equal(t, trips{near: 4}, tripsIn(t, d.took))
		}
	})
}

// talk dials, sends a byte, and reads the greeting and the answer.
func (w way) talk(t *testing.T, dial dialFunc, resumed bool) (n counts) {
	begun := time.Now()
	c, err := dial(t.Context())
	require.NoError(t, err)
	defer c.Close()
	n.dial = tripsIn(t, time.Since(begun))
	for layer := c; layer != nil; {
		if tc, ok := layer.(*tls.Conn); ok {
			require.Equal(t, resumed, tc.ConnectionState().DidResume)
		}
		below, ok := layer.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		layer = below.NetConn()
	}
	_, err = io.WriteString(c, question)
	require.NoError(t, err)
	got := make([]byte, 1)
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, greeting, string(got))
	n.greeting = tripsIn(t, time.Since(begun))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, question, string(got))
	n.answer = tripsIn(t, time.Since(begun))
	return n
}

// serveProxy starts the forward proxy.
func (w way) serveProxy(front, behind hop, server *tls.Config) {
	credentials := strings.Contains(w.proxy, "@") || w.refused == http.StatusProxyAuthRequired
	switch scheme, _, _ := strings.Cut(w.proxy, ":"); scheme {
	case "http":
		go serve(front, connectProxy(behind, credentials))
	case "https":
		go serve(tls.NewListener(front, server), connectProxy(behind, credentials))
	default:
		go serve(front, socksProxy(behind, credentials))
	}
}
