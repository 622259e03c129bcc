package interop

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A healthCheck is one that a file of deploy/ makes, or tells to write.
type healthCheck struct {
	name    string
	start   func(t *testing.T, backend string, edits ...string) *running
	edits   []string
	handler bool   // it asks for a page of Handler
	out     string // how a dial ends once the check has failed; "": see there
}

var healthChecks = slices.Concat(
	haproxyHealth("haproxy", haproxyFile),
	haproxyHealth("haproxy-proxy-v2", haproxyV2File),
	[]healthCheck{
		{"caddy/answer", startCaddy, uncommented("\t#health_uri /\n\t\t\t#health_status 426\n", "health_uri", "health_interval 100ms\nhealth_uri"), false, ""},
		{"caddy/page", startCaddy, uncommented("\t#health_uri /healthz\n", "health_uri", "health_interval 100ms\nhealth_uri"), true, "503"},
		{"traefik/answer", startTraefik, uncommented("#healthCheck: { path: /, status: 426 }", "426", "426, interval: 100ms"), false, ""},
		{"traefik/page", startTraefik, uncommented("#healthCheck: { path: /healthz }", "/healthz", "/healthz, interval: 100ms"), true, "503"},
		{"varnish/answer", startVarnish, uncommented(`#.probe = { .url = "/"; .expected_response = 426; }`, ".url", ".interval = 0.1s; .url"), false, ""},
		{"varnish/page", startVarnish, uncommented(`#.probe = { .url = "/healthz"; }`, ".url", ".interval = 0.1s; .url"), true, "EOF"},
		{"envoy/connect", startEnvoy, uncommented(envoyHealth, envoyOften...), false, ""},
		{"envoy/page", startEnvoy, append(envoyNoPanic, uncommented(envoyHealth, append(envoyOften, "tcp_health_check: {}", "http_health_check: { path: /healthz }")...)...), true, "503"},
		{"apache/connect", startApache, append(apacheBalancer, "hcmethod=TCP hcinterval=5", "hcmethod=TCP hcinterval=100ms"), false, ""},
		{"apache/page", startApache, append(apacheBalancer, "hcmethod=TCP hcinterval=5", "hcmethod=GET hcuri=/healthz hcinterval=100ms"), true, "503"},
	},
)

func haproxyHealth(name, file string) []healthCheck {
	start, often := startHAProxy(file), []string{" check\n", " check inter 50ms\n"}
	return []healthCheck{
		{name + "/connect", start, often, false, ""},
		{name + "/answer", start, append(often, uncommented("#option httpchk GET /\n    #http-check expect status 426")...), false, ""},
		{name + "/page", start, append(often, uncommented("#option httpchk GET /healthz")...), true, "503"},
	}
}

const envoyHealth = `      #health_checks:
      #  - { timeout: 1s, interval: 5s, unhealthy_threshold: 3, healthy_threshold: 2, tcp_health_check: {} }`

var (
	envoyOften     = []string{"interval: 5s", "interval: 0.1s, no_traffic_interval: 0.1s"}
	envoyNoPanic   = []string{"      connect_timeout: 5s", "      connect_timeout: 5s\n      common_lb_config: { healthy_panic_threshold: { value: 0 } }"}
	apacheBalancer = []string{"#<Proxy", "<Proxy", "#    BalancerMember", "BalancerMember", "#</Proxy>", "</Proxy>", "ProxyPass /client/ http://127.0.0.1:9007/ upgrade=tcp", "ProxyPass /client/ balancer://preflight/"}
)

// uncommented is an edit of a file of deploy/: lines that are a comment there, and
// changes of them.
func uncommented(lines string, changes ...string) []string {
	return []string{lines, strings.NewReplacer(changes...).Replace(strings.ReplaceAll(lines, "#", ""))}
}

// A health check leaves a server in that can be reached, and takes one out whose
// page says that it is ill.
func TestHealthCheck(t *testing.T) {
	for _, check := range healthChecks {
		t.Run(check.name, func(t *testing.T) {
			t.Parallel()
			connections := &countingListener{Listener: listenTCP(t)}
			l := &preflight.PreflightListener{
				Listener:       connections,
				RequireUpgrade: true,
				TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
			}
			var page healthPage
			if check.handler {
				l.Handler = &page
			}
			address := serve(t, l, func(c *preflight.Conn) { io.Copy(c, c) })
			r := check.start(t, address, check.edits...)

			const several = 5
			until(t, "the proxy has made several checks", func() bool {
				switch {
				case check.handler:
					return page.n.Load() >= several
				case r.stats != nil: // HAProxy's connections end before they are accepted
					return strings.Contains(r.stats(), ",L4OK,") || strings.Contains(r.stats(), ",L7OK,426,")
				}
				return connections.n.Load() >= several
			})
			for range 3 {
				require.NoError(t, echo(r.plain.dial(t, "/client/"), []byte("hello")))
			}
			if check.handler {
				page.ill.Store(true)
				until(t, "the proxy has taken the server out", func() bool {
					c, err := r.plain.dialer().DialContext(t.Context(), "tcp", r.plain.address)
					if err == nil {
						c.Close()
						return false
					}
					require.Equal(t, check.out, ending(err))
					return true
				})
			}
		})
	}
}

// A check that expects a page takes a listener without a Handler out, which works.
func TestHealthCheckOfNoHandler(t *testing.T) {
	address := serve(t, &preflight.PreflightListener{RequireUpgrade: true}, func(*preflight.Conn) {})
	r := startHAProxy(haproxyFile)(t, address, "#option httpchk GET /\n", "option httpchk GET /\n", " check\n", " check inter 50ms\n")
	until(t, "HAProxy has taken the server out", func() bool {
		c, err := r.plain.dialer().DialContext(t.Context(), "tcp", r.plain.address)
		if err == nil {
			c.Close()
			return false
		}
		return ending(err) == "503"
	})
	require.Contains(t, r.stats(), ",L7STS,426,")
}

// Where the proxy makes no checks, it finds out by itself that a server does not
// accept, and takes another.
func TestHealthByItself(t *testing.T) {
	for name, proxy := range map[string]struct {
		start func(t *testing.T, backend string, edits ...string) *running
		edit  []string // that adds a server which is down, and before the other
	}{
		"nginx":    {startNginx, []string{"upstream preflight {", "upstream preflight {\nserver 127.0.0.1:1;"}},
		"lighttpd": {startLighttpd, []string{`( "" => ((`, `( "" => (( "host" => "127.0.0.1", "port" => 1 ), (`}},
		"squid": {startSquid, []string{"# Squid makes no health checks.",
			"cache_peer 127.0.0.2 parent 1 0 no-query no-digest originserver name=down\n# Squid makes no health checks."}},
	} {
		t.Run(name, func(t *testing.T) {
			r := proxy.start(t, serveEcho(t), proxy.edit...)
			for range 10 {
				require.NoError(t, echo(r.plain.dial(t, "/client/"), []byte("hello")))
			}
		})
	}
}

// A countingListener counts what it accepts.
type countingListener struct {
	net.Listener
	n atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

// A healthPage is a Handler with a page for health checks.
type healthPage struct {
	n   atomic.Int64 // answers
	ill atomic.Bool
}

func (p *healthPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != "/healthz":
		http.NotFound(w, r)
	case p.ill.Load():
		http.Error(w, "ill", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ok")
		p.n.Add(1)
	}
}
