package dialer_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// familyNet is a NetDialer for two address families. Each family has a script.
// It counts the connections that were left open.
type familyNet struct {
	t         testing.TB
	six, four familyScript

	mu     sync.Mutex
	dialed []string
	spies  []*testkit.SpyConn
}

// A familyScript describes a dial: how long it takes, and the error it fails
// with, if any. A dial with a negative time lasts until the context ends.
type familyScript struct {
	takes  time.Duration
	err    error
	always bool // succeeds although the context has ended
}

func (n *familyNet) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, network)
	n.mu.Unlock()
	script := n.six
	if network == "tcp4" {
		script = n.four
	}
	never := make(<-chan time.Time)
	after := never
	if script.takes >= 0 {
		after = time.After(script.takes)
	}
	select {
	case <-after:
	case <-ctx.Done():
		if !script.always {
			return nil, fmt.Errorf("%s: %w", network, ctx.Err())
		}
		<-after
	}
	if script.err != nil {
		return nil, script.err
	}
	client, server := testkit.SpyPipe(n.t)
	go dialServe(server, make(chan *http.Request, 1))
	spy := &testkit.SpyConn{Conn: client}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.spies = append(n.spies, spy)
	return familyConn{spy, network}, nil
}

type familyConn struct {
	net.Conn
	network string
}

// TestDialURLPrefersInTime: if the packets of one family are lost, the other
// family still gets enough time. A slow family is not given up. Of two
// connections one is closed.
func TestDialURLPrefersInTime(t *testing.T) {
	errNo := errors.New("unreachable")
	const dead, head = -1, 300 * time.Millisecond
	for name, test := range map[string]struct {
		six, four familyScript // six is the preferred family
		timeout   time.Duration
		query     string
		deadline  time.Duration // of the context; 0: none

		dialed []string
		got    string // "" means an error
		after  time.Duration
	}{
		"both connect":           {dialed: []string{"tcp6"}, got: "tcp6"},
		"within its head start":  {six: familyScript{takes: head - 1}, dialed: []string{"tcp6"}, got: "tcp6", after: head - 1},
		"black hole":             {six: familyScript{takes: dead}, dialed: []string{"tcp6", "tcp4"}, got: "tcp4", after: head},
		"black hole, no bound":   {six: familyScript{takes: dead}, timeout: -1, dialed: []string{"tcp6", "tcp4"}, got: "tcp4", after: head},
		"black hole, deadline":   {six: familyScript{takes: dead}, deadline: time.Minute, dialed: []string{"tcp6", "tcp4"}, got: "tcp4", after: head},
		"black hole, short time": {six: familyScript{takes: dead}, deadline: 200 * time.Millisecond, dialed: []string{"tcp6", "tcp4"}, got: "tcp4", after: 100 * time.Millisecond},
		"black hole, tcp_connecttimeout": {six: familyScript{takes: dead}, query: "&tcp_connecttimeout=100",
			dialed: []string{"tcp6", "tcp4"}, got: "tcp4", after: 50 * time.Millisecond},
		"black hole, other is slow":  {six: familyScript{takes: dead}, four: familyScript{takes: 5 * time.Second}, dialed: []string{"tcp6", "tcp4"}, got: "tcp4", after: head + 5*time.Second},
		"refused":                    {six: familyScript{err: errNo}, dialed: []string{"tcp6", "tcp4"}, got: "tcp4"},
		"refused later":              {six: familyScript{takes: time.Second, err: errNo}, four: familyScript{takes: 2 * time.Second}, dialed: []string{"tcp6", "tcp4"}, got: "tcp4", after: head + 2*time.Second},
		"slow, other is refused":     {six: familyScript{takes: 8 * time.Second}, four: familyScript{err: errNo}, dialed: []string{"tcp6", "tcp4"}, got: "tcp6", after: 8 * time.Second},
		"slow, other is slower":      {six: familyScript{takes: 8 * time.Second}, four: familyScript{takes: 9 * time.Second}, dialed: []string{"tcp6", "tcp4"}, got: "tcp6", after: 8 * time.Second},
		"slow, other works too late": {six: familyScript{takes: 4 * time.Second}, four: familyScript{takes: 5 * time.Second, always: true}, dialed: []string{"tcp6", "tcp4"}, got: "tcp6", after: 5*time.Second + head},
		"both, other is first":       {six: familyScript{takes: time.Second, always: true}, dialed: []string{"tcp6", "tcp4"}, got: "tcp6", after: time.Second},
		"both refused":               {six: familyScript{err: errNo}, four: familyScript{err: errNo}, dialed: []string{"tcp6", "tcp4"}},
		"both refused later":         {six: familyScript{takes: time.Second, err: errNo}, four: familyScript{err: errNo}, dialed: []string{"tcp6", "tcp4"}, after: time.Second},
		"two black holes":            {six: familyScript{takes: dead}, four: familyScript{takes: dead}, dialed: []string{"tcp6", "tcp4"}, after: 10 * time.Second},
		"two black holes, deadline":  {six: familyScript{takes: dead}, four: familyScript{takes: dead}, deadline: time.Minute, dialed: []string{"tcp6", "tcp4"}, after: time.Minute},
	} {
		for _, upgraded := range []string{"0", "1"} {
			t.Run(name+"/upgraded="+upgraded, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx := context.Background()
					if test.deadline > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, test.deadline)
						defer cancel()
					}
					n := &familyNet{t: t, six: test.six, four: test.four}
					d := preflight.PreflightDialer{NetDialer: n, HandshakeTimeout: test.timeout}
					begun := time.Now()
					conn, err := d.DialURL(ctx, "tcp://edge.example:80/?ip_protocol_prefer=ipv6&http_preflight="+upgraded+test.query)
					require.Equal(t, test.after, time.Since(begun))
					require.Equal(t, test.dialed, n.dialed)
					if test.got == "" {
						require.Nil(t, conn)
						require.Error(t, err)
						if test.six.err != nil {
							require.ErrorIs(t, err, errNo)
						}
						require.Empty(t, n.spies)
						return
					}
					require.NoError(t, err)
					below := conn
					if c, ok := conn.(*preflight.Conn); ok {
						below = c.NetConn()
					}
					require.Equal(t, test.got, below.(familyConn).network)
					require.NoError(t, conn.Close())
					for _, spy := range n.spies {
						require.NotZero(t, spy.Closes.Load(), "a connection was left open")
					}
				})
			})
		}
	}
	t.Run("the caller cancels", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for _, after := range []time.Duration{100 * time.Millisecond, time.Second} {
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(after, cancel)
				n := &familyNet{t: t, six: familyScript{takes: dead}, four: familyScript{takes: dead}}
				begun := time.Now()
				conn, err := (&preflight.PreflightDialer{NetDialer: n}).DialURL(ctx, "tcp://edge.example:80/?ip_protocol_prefer=ipv6")
				require.Nil(t, conn)
				require.ErrorIs(t, err, context.Canceled)
				require.Equal(t, after, time.Since(begun))
				time.Sleep(time.Minute)
				require.Equal(t, after > head, len(n.dialed) == 2, "no dial starts afterwards")
			}
		})
	})
	t.Run("NetDialer panics", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			dials := 0
			d := preflight.PreflightDialer{NetDialer: testkit.DialFunc(func(context.Context, string, string) (net.Conn, error) {
				dials++
				panic("boom")
			})}
			require.PanicsWithValue(t, "boom", func() {
				d.DialURL(context.Background(), "tcp://edge.example:80/?ip_protocol_prefer=ipv6")
			})
			time.Sleep(time.Minute)
			require.Equal(t, 1, dials)
		})
	})
}
