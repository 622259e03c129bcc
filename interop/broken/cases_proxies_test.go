package broken

import "github.com/preflight-go/preflight"

var haproxyPaths = []brokenPath{
	{
		name: "HAProxy, the server is down", usual: true,
		program: "HAProxy", site: "server s {down}",
		code: "no-server",
		hop:  "HAProxy", cause: "the servers are down", line: "servers",
		beside: []string{"no backend matches", "`ssl` is set for a plain one"},
		waits:  true,
	},
	{
		name:    "HAProxy, the health check has found the server down",
		program: "HAProxy", site: "option httpchk GET /healthz\nhttp-check expect status 200\nserver s {good} check inter 50ms fall 1",
		settle: true,
		code:   "no-server",
		hop:    "HAProxy", cause: "the servers are down", line: "servers",
		beside: []string{"no backend matches", "`ssl` is set for a plain one"},
		waits:  true,
	},
	{
		name: "HAProxy sends a PROXY header to a listener without TrustedProxies", usual: true,
		program: "HAProxy", site: "server s {good} send-proxy",
		code: "proxy-header",
		hop:  "the listener", cause: "got a PROXY header", line: "TrustedProxies",
	},
	{
		name:    "HAProxy sends a PROXY header in version 2 to a listener with RequireUpgrade",
		program: "HAProxy", site: "server s {strict} send-proxy-v2",
		code: "proxy-header",
		hop:  "the listener", cause: "got a PROXY header", line: "TrustedProxies",
	},
	{
		name:    "HAProxy has no backend for this Host",
		program: "HAProxy", site: "use-server s if { hdr(host) edge.example }\nserver s {good} weight 0",
		code: "no-server",
		hop:  "HAProxy", cause: "no backend matches", line: "use_backend",
		beside: []string{"the servers are down", "`ssl` is set for a plain one"},
		waits:  true,
	},
	{
		name:    "HAProxy with ssl to a plain listener",
		program: "HAProxy", site: "server s {strict} ssl verify none",
		code: "no-server",
		hop:  "HAProxy", cause: "`ssl` is set for a plain one", line: "`ssl`",
		beside: []string{"no backend matches", "the servers are down"},
		waits:  true,
	},
	{
		name:    "HAProxy speaks plain HTTP to a listener above TLS",
		program: "HAProxy", site: "server s {tls}",
		code: "upstream-closed",
		hop:  "HAProxy", cause: "wants TLS", line: "`ssl` in its line",
		beside: []string{"is no PreflightListener", "has crashed"},
		waits:  true,
	},
	{
		name:    "HAProxy removes Upgrade",
		program: "HAProxy", site: "http-request del-header Upgrade\nserver s {good}",
		code: "no-upgrade",
		hop:  "a proxy on the way", cause: "removes it", line: "the table has the line",
		lacks: "HAProxy, which adds no name to an answer",
	},
	{
		name:    "HAProxy with a deny rule",
		program: "HAProxy", site: "http-request deny\nserver s {good}",
		code: "forbidden",
		hop:  "HAProxy denies", cause: "by a rule", line: "http-request deny",
	},
	{
		name:    "HAProxy limits the rate",
		program: "HAProxy", site: "http-request deny deny_status 429\nserver s {good}",
		code: "rate-limit",
		hop:  "a proxy or program in front", cause: "limits the rate", line: "raise its limit",
		waits: true,
	},
	{
		name:    "HAProxy redirects to https",
		program: "HAProxy", site: "http-request redirect scheme https\nserver s {good}",
		code: "redirect-https",
		hop:  "on the same host", cause: "leads to https", line: "set TLSConfig",
	},
	{
		name:    "HAProxy, plain HTTP to a TLS bind",
		program: "HAProxy", site: "bind {addr} ssl crt {dir}/good.pem\nserver s {good}",
		code: "ended",
		hop:  "the port|a rule|it waits|the server behind", cause: "the port speaks TLS", line: "set TLSConfig",
		beside: []string{"it waits for a PROXY header", "return 444", "the server behind is down"},
		waits:  true,
		long:   true,
	},
	{
		name:    "HAProxy with TLS, and a client certificate that is missing",
		program: "HAProxy", site: "bind {addr} ssl crt {dir}/good.pem ca-file {dir}/root.crt verify required\nserver s {good}",
		dial: trusted,
		code: "client-cert",
		hop:  "the peer", cause: "none was sent", line: "Certificates of TLSConfig",
	},
	{
		name:    "HAProxy with strict-sni, and a name that it does not serve",
		program: "HAProxy", site: "bind {addr} ssl crt {dir}/named.pem strict-sni\nserver s {good}",
		dial: all(trusted, serverName("edge.example")),
		code: "tls-name",
		hop:  "the peer", cause: "no such name", line: "ServerName of TLSConfig",
	},
	{
		name:    "HAProxy in TCP mode, the server is down",
		program: "HAProxy", site: "mode tcp\nserver s {down}",
		code:   "ended",
		cause:  "the server behind is down",
		beside: []string{"the port speaks TLS", "it waits for a PROXY header", "return 444"},
		lacks:  "what to change: HAProxy passes bytes and says nothing itself",
		waits:  true,
		long:   true,
	},
	{
		name:    "HAProxy leads the path to SSH",
		program: "HAProxy", site: "server s {ssh}",
		code: "upstream-closed",
		hop:  "HAProxy reached", cause: "is no PreflightListener",
		beside: []string{"wants TLS", "has crashed"},
		waits:  true,
	},
	{
		name:    "HAProxy, the server never answers",
		program: "HAProxy", site: "timeout server 1s\nserver s {silent}",
		code: "server-slow",
		hop:  "the server behind", cause: "did not answer",
		beside: []string{"cannot be reached", "it waits for another protocol", "Authorize is slow"},
		waits:  true,
	},
	{
		name:    "HAProxy waits for a PROXY header",
		program: "HAProxy", site: "bind {addr} accept-proxy\nserver s {good}",
		code: "ended",
		hop:  "the port|a rule|it waits|the server behind", cause: "it waits for a PROXY header", line: "PROXY header",
		beside: []string{"the port speaks TLS", "return 444", "the server behind is down"},
		waits:  true,
		long:   true,
	},
}

var apachePaths = []brokenPath{
	{
		name: "Apache without upgrade=", usual: true,
		program: "Apache", site: "ProxyPass / http://{good}/",
		code: "no-upgrade",
		hop:  "Apache is on the way", cause: "without Upgrade", line: "upgrade=tcp",
	},
	{
		name:    "Apache with ws:// alone, and CarrierUpgrade",
		program: "Apache", site: "ProxyPass / ws://{good}/",
		dial: only(preflight.CarrierUpgrade),
		code: "no-upgrade",
		hop:  "Apache is on the way", cause: "without Upgrade", line: "upgrade=tcp",
	},
	{
		name:    "Apache with ws://, the server is down",
		program: "Apache", site: "ProxyPass / ws://{down}/",
		dial: only(preflight.CarrierWebSocket),
		code: "server-down",
		hop:  "Apache", cause: "cannot reach the server behind it", line: "ProxyPass",
		waits: true,
	},
	{
		name:    "Apache, the server is down",
		program: "Apache", site: "ProxyPass / http://{down}/ upgrade=tcp",
		code: "server-down",
		hop:  "Apache", cause: "cannot reach the server behind it", line: "ProxyPass",
		waits: true,
	},
	{
		name:    "Apache, plain HTTP to a TLS port",
		program: "Apache", site: "SSLEngine on\nSSLCertificateFile {dir}/good.crt\nSSLCertificateKeyFile {dir}/good.key\nProxyPass / http://{good}/ upgrade=tcp",
		code: "tls-port",
		hop:  "the port", cause: "speaks TLS", line: "set TLSConfig",
	},
	{
		name:    "Apache has no ProxyPass for the path",
		program: "Apache", site: "DocumentRoot /nonexistent\n<Location /client>\nRequire all granted\n</Location>\nProxyPass /other/ http://{good}/ upgrade=tcp",
		code: "no-route",
		hop:  "Apache", cause: "no ProxyPass for this path", line: "`ProxyPass`",
	},
	{
		name:    "Apache with Require all denied",
		program: "Apache", site: "<Location />\nRequire all denied\n</Location>\nProxyPass / http://{good}/ upgrade=tcp",
		code: "forbidden",
		hop:  "Apache denies", cause: "by a rule", line: "`Require`",
	},
	{
		name:    "Apache speaks HTTP/1.0 to the server",
		program: "Apache", site: "SetEnv force-proxy-request-1.0 1\nProxyPass / http://{good}/ upgrade=tcp",
		code: "http10",
		hop:  "Apache is on the way", cause: "HTTP/1.0", line: "force-proxy-request-1.0",
	},
	{
		name:    "Apache speaks plain HTTP to a Go server with TLS",
		program: "Apache", site: "ProxyPass / http://{https}/ upgrade=tcp",
		code: "upstream-tls",
		hop:  "Apache sends plain HTTP", cause: "a port that speaks TLS", line: "use TLS to its upstream",
	},
	{
		name:    "Apache speaks plain HTTP to a listener above TLS",
		program: "Apache", site: "ProxyPass / http://{tls}/ upgrade=tcp",
		code: "upstream-closed",
		hop:  "Apache reached", cause: "wants TLS", line: "ProxyPass … https://",
		beside: []string{"is no PreflightListener", "has crashed"},
		waits:  true,
	},
}

// Parts of a site of Envoy.
const (
	envoyUpgrade = "upgrade_configs: [{upgrade_type: tcp}]\n"
	envoyRouter  = `http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]` + "\n"
	envoyRBAC    = `http_filters: [{name: rbac, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {action: ALLOW}}}, ` +
		`{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]` + "\n"
)

// envoyRoute is a route to a cluster, which has the name of a server.
func envoyRoute(prefix, cluster, more string) string {
	return `route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: "` + prefix + `"}, route: {cluster: "` + cluster + `"` + more + `}}]}]}` + "\n"
}

var envoyPaths = []brokenPath{
	{
		name: "Envoy without upgrade_configs", usual: true,
		program: "Envoy", site: envoyRouter + envoyRoute("/", "good", ""),
		code: "no-upgrades",
		hop:  "Envoy", cause: "passes no upgrade to tcp", line: "upgrade_configs",
	},
	{
		name:    "Envoy with upgrade_configs for websocket alone, and CarrierUpgrade",
		program: "Envoy", site: "upgrade_configs: [{upgrade_type: websocket}]\n" + envoyRouter + envoyRoute("/", "good", ""),
		dial: only(preflight.CarrierUpgrade),
		code: "no-upgrades",
		hop:  "Envoy", cause: "passes no upgrade to tcp", line: "upgrade_type: tcp",
	},
	{
		name:    "Envoy has no route for the path",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/other", "good", ""),
		code: "no-route",
		hop:  "Envoy", cause: "no route for this Host and path", line: "`routes`",
	},
	{
		name:    "Envoy with a rule of RBAC",
		program: "Envoy", site: envoyUpgrade + envoyRBAC + envoyRoute("/", "good", ""),
		code: "rbac",
		hop:  "Envoy", cause: "an RBAC rule", line: "Allow this path and client",
		beside: []string{"by carrier websocket: edge answered 403"},
	},
	{
		name:    "Envoy, the server is down",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "down", ""),
		code: "server-down",
		hop:  "Envoy", cause: "cannot reach the server behind it", line: "endpoint of the cluster",
		waits: true,
	},
	{
		name:    "Envoy speaks plain HTTP to a listener above TLS",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "tls", ""),
		code: "upstream-closed",
		hop:  "Envoy reached", cause: "wants TLS",
		beside: []string{"no HTTP server", "has crashed"},
		waits:  true,
	},
	{
		name:    "Envoy speaks TLS to a plain listener",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "good over TLS", ""),
		code:     "server-down",
		misleads: "the server is up: the TLS of the cluster fails",
		waits:    true,
	},
	{
		name:    "Envoy leads the path to SSH",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "ssh", ""),
		code: "upstream-not-http",
		hop:  "Envoy reached", cause: "does not answer in HTTP/1.1", line: "Correct the cluster",
	},
	{
		name:    "Envoy leads the path to another web server",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "page", ""),
		code: "no-listener",
		hop:  "no PreflightListener answered", cause: "its upstream is wrong", line: "where the proxy leads",
		beside: []string{"by carrier websocket: edge answered 403"},
	},
	{
		name:    "Envoy, the server never answers",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "silent", ", timeout: 1s, idle_timeout: 1s"),
		code:     "too-slow",
		misleads: "the request was whole: the server behind Envoy does not answer",
		waits:    true,
	},
}

var traefikPaths = []brokenPath{
	{
		name:    "Traefik does not know the Host",
		program: "Traefik", site: "Host(`edge.example`)\nservers: [{url: 'http://{good}'}]",
		code: "no-route",
		hop:  "Traefik", cause: "no router for this Host and path", line: "`Host`",
		beside: []string{"or a Go server"},
	},
	{
		name:    "Traefik, the server is down",
		program: "Traefik", site: "PathPrefix(`/`)\nservers: [{url: 'http://{down}'}]",
		code: "bad-gateway",
		hop:  "Traefik", cause: "it is down", line: "the URL of the service",
		beside: []string{"or got no valid answer", "wrong port or scheme"},
		waits:  true,
	},
	{
		name:    "Traefik has no healthy server",
		program: "Traefik", site: "PathPrefix(`/`)\nservers: [{url: 'http://{down}'}], healthCheck: {path: /, interval: 50ms, timeout: 50ms}",
		settle: true,
		code:   "server-down",
		hop:    "Traefik", cause: "no healthy server", line: "its health check",
		waits: true,
	},
	{
		name:    "Traefik leads the path to SSH",
		program: "Traefik", site: "PathPrefix(`/`)\nservers: [{url: 'http://{ssh}'}]",
		code: "upstream-not-http",
		hop:  "Traefik reached", cause: "does not answer in HTTP/1.1", line: "the URL of its service",
	},
}

var caddyPaths = []brokenPath{
	{
		name:    "Caddy does not know the Host",
		program: "Caddy", site: "edge.example\nreverse_proxy {good}",
		code: "no-site",
		hop:  "Caddy", cause: "no site or route for this Host", line: "its Caddyfile",
	},
	{
		name:    "Caddy, the server is down",
		program: "Caddy", site: "reverse_proxy {down}",
		code: "bad-gateway",
		hop:  "Caddy", cause: "it is down", line: "reverse_proxy",
		beside: []string{"or got no valid answer", "wrong port or scheme"},
		waits:  true,
	},
	{
		name:    "Caddy speaks plain HTTP to a listener above TLS",
		program: "Caddy", site: "reverse_proxy {tls}",
		code: "bad-gateway",
		hop:  "Caddy", cause: "wrong port or scheme", line: "reverse_proxy",
		beside: []string{"it is down"},
		waits:  true,
	},
	{
		name:    "Caddy serves files on the path",
		program: "Caddy", site: "\nroot * /nonexistent\nfile_server",
		code: "no-route",
		hop:  "no PreflightListener answered", cause: "no route leads this path", line: "add the route on the proxy",
	},
}

var otherPaths = []brokenPath{
	{
		name:    "Varnish with its built-in VCL",
		program: "Varnish", site: "good\n",
		code: "no-upgrade",
		hop:  "Varnish is on the way", cause: "without Upgrade", line: "return (pipe)",
	},
	{
		name:    "Varnish pipes, but does not pass the fields",
		program: "Varnish", site: "good\nreturn (pipe);",
		code: "no-upgrade",
		hop:  "a proxy on the way", cause: "without Upgrade", line: "the table has the line",
		lacks: "Varnish, which adds no name to what it pipes",
	},
	{
		name:    "Varnish does not pass Connection",
		program: "Varnish", site: "good\nreturn (pipe);---\nset bereq.http.Upgrade = req.http.Upgrade;",
		code: "no-connection",
		hop:  "a proxy on the way", cause: "removes upgrade from Connection", line: "the table has the line",
		lacks: "Varnish, which adds no name to what it pipes",
	},
	{
		name:    "Varnish, the server is down",
		program: "Varnish", site: "down\n",
		code: "bad-gateway",
		hop:  "Varnish", cause: "cannot reach the server behind it", line: "`backend`",
		beside: []string{"or got no valid answer"},
		waits:  true,
	},
	{
		name:    "Varnish pipes, and the server is down",
		program: "Varnish", site: "down\nreturn (pipe);",
		code:   "ended",
		cause:  "the server behind is down",
		beside: []string{"the port speaks TLS", "it waits for a PROXY header", "return 444"},
		lacks:  "what to change: Varnish says nothing in a pipe",
		waits:  true,
		long:   true,
	},
	{
		name:    "lighttpd without upgrade",
		program: "lighttpd", site: `proxy.server = ( "" => (( "host" => "127.0.0.1", "port" => {port of good} )) )`,
		code: "no-upgrade",
		hop:  "lighttpd is on the way", cause: "without Upgrade", line: "proxy.header",
	},
	{
		name:    "lighttpd, the server is down",
		program: "lighttpd", site: `proxy.header = ( "upgrade" => "enable" ) proxy.server = ( "" => (( "host" => "127.0.0.1", "port" => {port of down} )) )`,
		code: "server-down",
		hop:  "lighttpd", cause: "cannot reach the server behind it", line: "proxy.server",
		waits: true,
	},
	{
		name:    "lighttpd leads the path to SSH",
		program: "lighttpd", site: `proxy.header = ( "upgrade" => "enable" ) proxy.server = ( "" => (( "host" => "127.0.0.1", "port" => {port of ssh} )) )`,
		code: "upstream-not-http",
		hop:  "lighttpd reached", cause: "does not answer in HTTP/1.1", line: "proxy.server",
	},
	{
		name:    "lighttpd serves files on the path",
		program: "lighttpd", site: `server.name = "x"`,
		code: "no-route",
		hop:  "no PreflightListener answered", cause: "no route leads this path", line: "add the route on the proxy",
	},
	{
		name:    "Squid as a reverse proxy with its defaults",
		program: "Squid", site: reverseSquid("good", "http_access allow {name}"),
		code: "no-upgrade",
		hop:  "Squid is on the way", cause: "without Upgrade", line: "http_upgrade_request_protocols tcp",
	},
	{
		name:    "Squid as a reverse proxy denies the request",
		program: "Squid", site: reverseSquid("good", "http_access deny {name}"),
		code: "squid-denied",
		hop:  "Squid denies", cause: "by its rules", line: "http_access",
	},
	{
		name:    "Squid as a reverse proxy, the server is down",
		program: "Squid", site: reverseSquid("down", "http_access allow {name}"),
		code: "bad-gateway",
		hop:  "the server behind it", cause: "it is down", line: "its address is wrong",
		beside: []string{"TLS is on one side alone"},
		waits:  true,
	},
	{
		name:    "h2o as a reverse proxy, and CarrierUpgrade",
		program: "h2o", site: "proxy.reverse.url: http://{good}/\nproxy.websocket: ON",
		dial: only(preflight.CarrierUpgrade),
		code: "no-upgrade",
		hop:  "h2o is on the way", cause: "passes websocket alone", line: "CarrierWebSocket",
	},
	{
		name:    "h2o, the server is down",
		program: "h2o", site: "proxy.reverse.url: http://{down}/",
		code: "server-down",
		hop:  "h2o", cause: "cannot reach the server behind it", line: "proxy.reverse.url",
		waits: true,
	},
	{
		name:    "h2o serves files on the path",
		program: "h2o", site: "file.dir: /nonexistent",
		code: "no-route",
		hop:  "no PreflightListener answered", cause: "no route leads this path", line: "add the route on the proxy",
	},
	{
		name:    "Traffic Server, and CarrierUpgrade",
		program: "Traffic Server", site: "map http://{from} http://{good}/",
		dial: only(preflight.CarrierUpgrade),
		code: "websocket-only",
		hop:  "Traffic Server", cause: "passes websocket alone", line: "ws://",
	},
	{
		name:    "Traffic Server, the server is down",
		program: "Traffic Server", site: "map http://{from} http://{down}/\nmap ws://{from} ws://{down}/",
		code: "websocket-only",
		hop:  "Traffic Server", cause: "cannot reach the server behind it",
		beside: []string{"add CarrierWebSocket"},
		waits:  true,
	},
	{
		name:    "Traffic Server has no rule for the Host",
		program: "Traffic Server", site: "map http://edge.example/ http://{good}/",
		code: "websocket-only",
		hop:  "Traffic Server", cause: "no route leads this path and Host", line: "add the route on the proxy",
		beside: []string{"add CarrierWebSocket"},
	},
}

func reverseSquid(server, access string) string {
	return "http_port {addr} accel vhost name={name}\ncache_peer 127.0.0.1 parent {port of " + server + "} 0 no-query no-digest originserver name={name}\n" +
		"cache_peer_access {name} allow {name}\ncache_peer_access {name} deny all\nnever_direct allow {name}\n" + access
}
