package proxies

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
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A healthCheck is a health check that a file of deploy/ has, or has as a comment.
type healthCheck struct {
	name          string
	start         lab.StartFunc
	edits         []string
	handler       bool   // it requests a page of Handler
	failedOutcome string // of a dial after the check of the page has failed
}

var healthChecks = slices.Concat(
	haproxyHealth("haproxy", lab.HAProxyFile),
	haproxyHealth("haproxy-proxy-v2", haproxyV2File),
	[]healthCheck{
		{"caddy/answer", lab.StartCaddy, uncomment("\t#health_uri /\n\t\t\t#health_status 426\n", "health_uri", "health_interval 100ms\nhealth_uri"), false, ""},
		{"caddy/page", lab.StartCaddy, uncomment("\t#health_uri /healthz\n", "health_uri", "health_interval 100ms\nhealth_uri"), true, "503"},
		{"traefik/answer", startTraefik, uncomment("#healthCheck: { path: /, status: 426 }", "426", "426, interval: 100ms"), false, ""},
		{"traefik/page", startTraefik, uncomment("#healthCheck: { path: /healthz }", "/healthz", "/healthz, interval: 100ms"), true, "503"},
		{"varnish/answer", startVarnish, uncomment(`#.probe = { .url = "/"; .expected_response = 426; }`, ".url", ".interval = 0.1s; .url"), false, ""},
		{"varnish/page", startVarnish, uncomment(`#.probe = { .url = "/healthz"; }`, ".url", ".interval = 0.1s; .url"), true, "EOF"},
		{"envoy/connect", lab.StartEnvoy, uncomment(envoyHealth, envoyFrequent...), false, ""},
		{"envoy/page", lab.StartEnvoy, append(envoyNoPanic, uncomment(envoyHealth, append(envoyFrequent, "tcp_health_check: {}", "http_health_check: { path: /healthz }")...)...), true, "503"},
		{"apache/connect", startApache, append(apacheBalancer, "hcmethod=TCP hcinterval=5", "hcmethod=TCP hcinterval=100ms"), false, ""},
		{"apache/page", startApache, append(apacheBalancer, "hcmethod=TCP hcinterval=5", "hcmethod=GET hcuri=/healthz hcinterval=100ms"), true, "503"},
	},
)

// haproxyHealth returns the health checks of a file for HAProxy.
func haproxyHealth(name, file string) []healthCheck {
	start, often := lab.StartHAProxy(file), []string{" check\n", " check inter 50ms\n"}
	return []healthCheck{
		{name + "/connect", start, often, false, ""},
		{name + "/answer", start, append(often, uncomment("#option httpchk GET /\n    #http-check expect status 426")...), false, ""},
		{name + "/page", start, append(often, uncomment("#option httpchk GET /healthz")...), true, "503"},
	}
}

const envoyHealth = `      #health_checks:
      #  - { timeout: 1s, interval: 5s, unhealthy_threshold: 3, healthy_threshold: 2, tcp_health_check: {} }`

var (
	envoyFrequent  = []string{"interval: 5s", "interval: 0.1s, no_traffic_interval: 0.1s"}
	envoyNoPanic   = []string{"      connect_timeout: 5s", "      connect_timeout: 5s\n      common_lb_config: { healthy_panic_threshold: { value: 0 } }"}
	apacheBalancer = []string{"#<Proxy", "<Proxy", "#    BalancerMember", "BalancerMember", "#</Proxy>", "</Proxy>", "ProxyPass /client/ http://127.0.0.1:9007/ upgrade=ANY", "ProxyPass /client/ balancer://preflight_client/"}
)

// uncomment returns an edit that removes the # from lines and makes changes to them.
func uncomment(lines string, changes ...string) []string {
	return []string{lines, strings.NewReplacer(changes...).Replace(strings.ReplaceAll(lines, "#", ""))}
}

// TestHealthCheck requires that a health check keeps a server that can be reached. If the
// check requests a page, it must remove a server whose page reports a failure.
func TestHealthCheck(t *testing.T) {
	for _, check := range healthChecks {
		t.Run(check.name, func(t *testing.T) {
			t.Parallel()
			connections := &countingListener{Listener: lab.Listen(t)}
			l := &preflight.PreflightListener{
				Listener:       connections,
				RequireUpgrade: true,
				TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
			}
			var page healthPage
			if check.handler {
				l.Handler = &page
			}
			address := lab.Serve(t, l, func(c *preflight.Conn) { io.Copy(c, c) })
			edge := check.start(t, address, check.edits...)

			const several = 5
			lab.WaitUntil(t, "the proxy has made several checks", func() bool {
				switch {
				case check.handler:
					return page.answers.Load() >= several
				case edge.Stats != nil: // HAProxy closes its connections before they are accepted
					return strings.Contains(edge.Stats(), ",L4OK,") || strings.Contains(edge.Stats(), ",L7OK,426,")
				}
				return connections.n.Load() >= several
			})
			for range 3 {
				require.NoError(t, lab.Echo(edge.Plain.Dial(t, "/client/"), []byte("hello")))
			}
			if check.handler {
				page.unhealthy.Store(true)
				lab.WaitUntil(t, "the proxy has removed the server", func() bool {
					c, err := edge.Plain.Dialer().DialContext(t.Context(), "tcp", edge.Plain.Address)
					if err == nil {
						c.Close()
						return false
					}
					require.Equal(t, check.failedOutcome, outcomeOf(err))
					return true
				})
			}
		})
	}
}

// TestHealthCheckOfNoHandler shows that a check which expects a page removes a listener
// without a Handler, although the listener works.
func TestHealthCheckOfNoHandler(t *testing.T) {
	address := lab.Serve(t, &preflight.PreflightListener{RequireUpgrade: true}, func(*preflight.Conn) {})
	edge := lab.StartHAProxy(lab.HAProxyFile)(t, address, "#option httpchk GET /\n", "option httpchk GET /\n", " check\n", " check inter 50ms\n")
	lab.WaitUntil(t, "HAProxy has removed the server", func() bool {
		c, err := edge.Plain.Dialer().DialContext(t.Context(), "tcp", edge.Plain.Address)
		if err == nil {
			c.Close()
			return false
		}
		return outcomeOf(err) == "503"
	})
	require.Contains(t, edge.Stats(), ",L7STS,426,")
}

// TestHealthByItself has proxies without health checks. They must notice that a server
// does not accept connections, and use another one.
func TestHealthByItself(t *testing.T) {
	for name, proxy := range map[string]struct {
		start lab.StartFunc
		edit  []string // adds a server that is down, before the other one
	}{
		"nginx":    {lab.StartNginx, []string{"upstream preflight_client {", "upstream preflight_client {\nserver 127.0.0.1:1;"}},
		"lighttpd": {startLighttpd, []string{`( "" => ((`, `( "" => (( "host" => "127.0.0.1", "port" => 1 ), (`}},
		"squid": {startSquid, []string{"# Squid makes no health checks.",
			"cache_peer 127.0.0.2 parent 1 0 no-query no-digest originserver name=down\n# Squid makes no health checks."}},
	} {
		t.Run(name, func(t *testing.T) {
			edge := proxy.start(t, lab.ServeEcho(t), proxy.edit...)
			for range 10 {
				require.NoError(t, lab.Echo(edge.Plain.Dial(t, "/client/"), []byte("hello")))
			}
		})
	}
}

// A countingListener counts the connections that it accepts.
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
	answers   atomic.Int64
	unhealthy atomic.Bool
}

func (p *healthPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != "/healthz":
		http.NotFound(w, r)
	case p.unhealthy.Load():
		http.Error(w, "unhealthy", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ok")
		p.answers.Add(1)
	}
}
