package proxies

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// websocketOnly are the columns of the second table of MATRIX.md: edges that forward
// WebSocket, and no other upgrade. A cloud load balancer cannot run here, so that programs
// of this package do what is known of one.
var websocketOnly = []proxy{
	{
		// The map that closes nginx for h2c and any other upgrade.
		name: "nginx-websocket", file: lab.NginxFile,
		start: startWithEdits(lab.StartNginx, "    default upgrade;\n    \"\"      close;", "    default   close;\n    websocket upgrade;"),
		idle:  []string{nginxIdle, "proxy_read_timeout 1s;"},
		outcomes: map[string]string{
			"Fall": "426, then websocket", // of the listener: Connection is missing
		},
	},
	{
		name: "envoy-websocket", file: lab.EnvoyFile,
		start: startWithEdits(lab.StartEnvoy, envoyToken, "", "- upgrade_type: tcps\n                  ", ""),
		idle:  []string{"idle_timeout: 3600s", "idle_timeout: 1s"},
		outcomes: map[string]string{
			"Fall": "403, then websocket",
		},
	},
	{
		name: "apache-websocket", file: apacheFile,
		start: startWithEdits(startApache, "ProxyPass /client/ http://", "ProxyPass /client/ ws://", " upgrade=ANY", ""),
		idle:  []string{"ProxyTimeout 3600", "ProxyTimeout 1\nTimeout 1"},
		outcomes: map[string]string{
			"Fall": "426, then websocket",
		},
	},
	h2o,
	trafficServer,
	goALB,
	goMerges, goSplits, goPings, goLimits,
}

// fallBehaviour is the behaviour that only these edges show.
var fallBehaviour = behaviour{"Fall", "a dialer without Carriers: the answer to its first request, and its tunnel", "", testFall}

// websocketBehaviours are the rows of the second table.
var websocketBehaviours = slices.Concat([]behaviour{fallBehaviour}, slices.DeleteFunc(slices.Concat(tunnelBehaviours, proxyBehaviours), func(b behaviour) bool {
	return usualFramed[b.name] == notApplicable || b.name == "Reload"
}))

var byWebSocket = carriers[slices.IndexFunc(carriers, func(c carrier) bool { return c.name == preflight.CarrierWebSocket })]

// startWithEdits is start with edits that are always made.
func startWithEdits(start lab.StartFunc, always ...string) lab.StartFunc {
	return func(t *testing.T, backend string, edits ...string) *lab.Edge {
		t.Helper()
		return start(t, backend, slices.Concat(always, edits)...)
	}
}

func TestWebSocketOnly(t *testing.T) {
	for _, p := range websocketOnly {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := scenario{proxy: p, server: startBackend(t)}
			s.Edge = p.start(t, s.server.address)
			s.frontend, s.variant = s.Plain, variant{byWebSocket, false}
			s.test(t, websocketBehaviours...)
			if s.TLS.Address != "" {
				t.Run("tls", func(t *testing.T) {
					s := s
					s.frontend, s.variant = s.TLS, variant{byWebSocket, true}
					s.test(t, fallBehaviour)
					s.test(t, tunnelBehaviours[0])
				})
			}
		})
	}
}

// testFall dials as a user does who knows nothing of carriers. The first dial makes one
// request in vain. The next ones make none, also those of a copy of the dialer.
func testFall(t *testing.T, s scenario) string {
	upgrade := s.dialer()
	upgrade.Carriers = []preflight.Carrier{preflight.CarrierUpgrade}
	_, err := s.tryDial(t, upgrade)
	require.Error(t, err)

	var requests requestRecorder
	d := s.frontend.Dialer()
	d.NetDialer = &requests
	dial := func(d *preflight.PreflightDialer) {
		c := s.frontend.DialWith(t, d)
		require.Equal(t, preflight.CarrierWebSocket, c.Carrier())
		require.NoError(t, lab.Echo(c, []byte("hello")))
	}
	dial(d)
	tokens := []string{"tcp", "websocket"}
	if s.frontend.Roots != nil {
		tokens = []string{"", ""} // encrypted
	}
	require.Equal(t, tokens, requests.seen())
	dial(d)
	again := *d
	dial(&again)
	require.Equal(t, slices.Concat(tokens, tokens[1:], tokens[1:]), requests.seen())
	return outcomeOf(err) + ", then websocket"
}

// A requestRecorder dials, and records what each connection asks the edge for.
type requestRecorder struct {
	mu    sync.Mutex
	conns []*recordedConn
}

func (r *requestRecorder) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	recorded := &recordedConn{TCPConn: c.(*net.TCPConn)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, recorded)
	return recorded, nil
}

// seen returns the token of the Upgrade field of each connection.
func (r *requestRecorder) seen() (tokens []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.mu.Lock()
		_, token, _ := strings.Cut(c.first, "\r\nUpgrade: ")
		token, _, _ = strings.Cut(token, "\r\n")
		tokens = append(tokens, token)
		c.mu.Unlock()
	}
	return tokens
}

type recordedConn struct {
	*net.TCPConn
	mu    sync.Mutex
	first string // of the writes
}

func (c *recordedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.first == "" {
		c.first = string(b)
	}
	c.mu.Unlock()
	return c.TCPConn.Write(b)
}
