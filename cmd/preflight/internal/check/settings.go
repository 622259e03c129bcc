package check

import "slices"

// A setting has the words of a product: where it says what a rule talks about.
type setting struct {
	strips   bool     // it passes no upgrade unless it is told to
	upgrade  []string // the lines that pass one
	site     []string // the lines that lead a path to the server, if those of upgrade do not
	passes   string   // how it passes one, where no line is needed
	connects string   // how it passes Connection, if it passes Upgrade; "": as upgrade
	widens   string   // how it passes one, if it passes another; "": as upgrade
	some     string   // what in it may pass one upgrade and not another
	route    string   // where a path and a Host lead
	upstream string   // where the address of the server is
	secure   string   // how it speaks TLS to the server
	insecure string   // how it does not
	deny     string   // what forbids a request
	auth     string   // what wants credentials
	off      string   // how a path is exempt from that
	limit    string   // what limits the rate
	timeout  string   // how long it waits for an answer
	idle     string   // how long a tunnel may be silent
	head     string   // how large a head may be
	sni      string   // which name it asks for in TLS to the server
	group    string   // where it names the servers that share its requests
	match    string   // what leads some requests elsewhere by their Upgrade
	keep     string   // how it keeps the path
	strip    string   // how it removes a part of it
	hostPort string   // how it knows a Host with a port
	where    string   // to which part of the configuration the lines of upgrade belong
	config   string   // the name for "preflight config"; "": there is none
}

// nginxFields are the lines with which a location passes an upgrade, the Host and the client's
// address. "preflight config nginx" prints the same.
var nginxFields = []string{
	"proxy_http_version 1.1;",
	"proxy_set_header Host $host;",
	"proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
	"proxy_set_header Upgrade $http_upgrade;",
	"proxy_set_header Connection upgrade;",
}

func indent(lines []string) (indented []string) {
	for _, line := range lines {
		indented = append(indented, "    "+line)
	}
	return indented
}

var settings = map[product]setting{
	nginx: {
		strips: true,
		// A location with one proxy_set_header of its own inherits none. So these lines are all
		// that a tunnel needs: without the line for X-Forwarded-For, a client could write the
		// address that the listener takes for its own.
		upgrade: append(slices.Clone(nginxFields), "# Replace lines of the same names. Copy each other proxy_set_header of the outer block here: with these, the location inherits none."),
		site: slices.Concat(
			[]string{"location {path} {", "    proxy_pass http://HOST:PORT;"},
			indent(nginxFields),
			[]string{"}"},
		),
		connects: "where it sets Connection, write `proxy_set_header Connection upgrade;`. If its value is a variable of a `map`, correct that `map` instead: `default upgrade;` and `\"\" close;`",
		widens:   "correct the `map` of `$http_upgrade` that passes websocket alone: for Connection, write `default upgrade;` and `\"\" close;` into it. Or replace its variables by the values of these lines",
		some:     "nginx sets Connection from a `map` of `$http_upgrade` that passes only another upgrade: write `default upgrade;` and `\"\" close;` into that `map`",
		route:    "`server_name`, `location` and `proxy_pass`", upstream: "`proxy_pass`",
		secure: "`proxy_pass https://…`", insecure: "`proxy_pass http://…`",
		deny: "`allow`/`deny`, `auth_request` or `limit_except`", auth: "`auth_basic` or `auth_request`",
		off:   "`auth_basic off;` or `auth_request off;` in its `location`",
		limit: "`limit_req` or `limit_conn`", timeout: "`proxy_read_timeout`", config: "nginx",
		idle: "`proxy_read_timeout` and `proxy_send_timeout`",
		head: "`large_client_header_buffers`", sni: "`proxy_ssl_server_name on;` and `proxy_ssl_name`", group: "the `upstream` block",
		match: "the `if` or the `map` of `$http_upgrade`",
		where: "to the `location` of {path} itself, and copy there each other `proxy_set_header` of the outer block, because a `location` with one of its own inherits none",
		keep:  "no slash after `proxy_pass http://NAME`", strip: "`location /PART/` with `proxy_pass http://NAME/`", hostPort: "compare `$host` in place of `$http_host`",
	},
	haproxy: {
		passes: "remove `http-request del-header Upgrade` and `http-request del-header Connection`: without them it passes the upgrade",
		route:  "`use_backend` and `default_backend`", upstream: "the `server` line",
		secure: "`ssl` in the `server` line", insecure: "no `ssl` in the `server` line",
		deny: "`http-request deny`", auth: "`http-request auth`", off: "`unless { path_beg {path} }`", limit: "`http-request deny deny_status 429`",
		timeout: "`timeout server`", config: "haproxy",
		idle: "`timeout tunnel`",
		head: "`tune.bufsize`", sni: "`sni str(NAME)` in the `server` line", group: "the `server` lines of the backend",
		match: "the condition of `use_backend` (`hdr(Upgrade)`)",
		keep:  "no `http-request replace-path` or `set-path`", strip: "`http-request replace-path /PART(/.*) \\1`", hostPort: "write `hdr(host),field(1,:)` in place of `hdr(host)`",
	},
	apache: {
		strips: true,
		upgrade: []string{
			// Both have a slash at their end, or none of them.
			`ProxyPass "{path}" "http://BACKEND{slash}" upgrade=tcp`,
			"# upgrade=ANY passes WebSocket too",
		},
		route: "`ProxyPass`, and `ServerName` of its `<VirtualHost>`", upstream: "`ProxyPass`",
		secure: "`ProxyPass … https://…` with `SSLProxyEngine on`", insecure: "`ProxyPass … http://…`",
		deny: "`Require`", auth: "`AuthType` and `Require`", limit: "`mod_ratelimit` or `mod_qos`", timeout: "`ProxyTimeout`", config: "apache",
		idle: "`ProxyTimeout`, or `timeout=` of ProxyPass",
		head: "`LimitRequestFieldSize`", group: "the `BalancerMember` lines", match: "the `RewriteCond` of `%{HTTP:Upgrade}`",
		keep: "the same path in both words of `ProxyPass`", strip: "`ProxyPass /PART/ http://NAME/`",
	},
	envoy: {
		strips: true,
		upgrade: []string{
			"upgrade_configs:",
			"- upgrade_type: tcp",
			"- upgrade_type: websocket",
		},
		route: "`domains` and `routes`", upstream: "the endpoints of the cluster",
		secure: "`transport_socket` of the cluster", insecure: "no `transport_socket` in the cluster",
		deny: "the RBAC filter, or in Istio an AuthorizationPolicy", auth: "`ext_authz` or `jwt_authn`", limit: "the `ratelimit` filter",
		timeout: "`timeout` and `idle_timeout` of the route", config: "envoy",
		idle: "`idle_timeout` of the route and `stream_idle_timeout`",
		head: "`max_request_headers_kb`", sni: "`sni` in the `transport_socket` of the cluster", match: "`headers` in the `match` of the route",
		keep: "no `prefix_rewrite`", strip: "`prefix_rewrite: /` in the route", hostPort: "write `ignore_port_in_host_matching: true` into the `route_config`, or NAME:* into `domains`",
	},
	traefik: {
		passes: "remove what takes Upgrade from the request (`headers` middleware): without it, it passes the upgrade",
		route:  "the rule of the router (`Host`, `PathPrefix`)", upstream: "the URL of the service",
		secure: "`https://` in the URL of the service", insecure: "`http://` in the URL of the service",
		deny: "its middlewares (`ipAllowList`)", auth: "its middlewares (`basicAuth`, `forwardAuth`)", off: "a router of its own without them", limit: "its middlewares (`rateLimit`)",
		timeout: "`responseHeaderTimeout` of the `serversTransport`", config: "traefik",
		idle: "`idleTimeout`",
		sni:  "`serverName` of the `serversTransport`", group: "the `servers` of the service", match: "``Header(`Upgrade`, …)`` in the rule of the router",
		keep: "no `stripPrefix`", strip: "the middleware `stripPrefix`",
	},
	caddy: {
		passes: "remove `header_up -Upgrade` and `header_up -Connection`: without them it passes the upgrade",
		route:  "the address of the site, and `reverse_proxy` or `handle` in the Caddyfile", upstream: "`reverse_proxy`",
		secure: "`reverse_proxy https://…`", insecure: "`reverse_proxy http://…`",
		deny: "`respond` or `abort` in the Caddyfile", auth: "`basic_auth` or `forward_auth`", limit: "`rate_limit`",
		timeout: "`response_header_timeout` of the transport", config: "caddy",
		idle: "`stream_timeout`",
		sni:  "`tls_server_name` of the transport", match: "the matcher of the field Upgrade",
		keep: "`handle` in place of `handle_path`, and no `uri strip_prefix`", strip: "`handle_path /PART/*`",
	},
	varnish: {
		strips: true,
		upgrade: []string{
			"# at the end of vcl_recv, behind your rules, because (pipe) skips what follows it:",
			"if (req.http.Upgrade && req.method == \"GET\" && req.proto == \"HTTP/1.1\") { return (pipe); }",
			"# in vcl_pipe:",
			"set bereq.http.Upgrade = req.http.Upgrade;",
			"set bereq.http.Connection = req.http.Connection;",
		},
		connects: "add `set bereq.http.Connection = req.http.Connection;` to vcl_pipe",
		route:    "`req.backend_hint` in vcl_recv", upstream: "the `backend`",
		secure: "a backend by way of a TLS proxy", insecure: "a plain backend", deny: "`return (synth(403))`", auth: "`return (synth(401))`",
		limit: "`vsthrottle`", timeout: "`first_byte_timeout`", config: "varnish",
		idle: "`pipe_timeout`", keep: "no `set req.url`", strip: "`set req.url = regsub(req.url, \"^/PART\", \"\");` in vcl_recv", hostPort: "compare `regsub(req.http.host, \":.*\", \"\")`",
	},
	lighttpd: {
		strips: true,
		upgrade: []string{
			`proxy.header = ( "upgrade" => "enable" )`,
			"# if there is a proxy.header for this path, add the pair to it: a second one replaces the first",
		},
		route: "`$HTTP[\"url\"]`, `$HTTP[\"host\"]` and `proxy.server`", upstream: "`proxy.server`",
		secure: "a TLS proxy in front of the server, because lighttpd speaks no TLS to it", insecure: "`proxy.server`",
		deny: "`url.access-deny`", auth: "`auth.require`", limit: "`evasive.max-conns-per-ip`", timeout: "`read-timeout` of the host", config: "lighttpd",
		idle: "`read-timeout` of the host",
	},
	squid: {
		strips: true,
		upgrade: []string{
			"http_upgrade_request_protocols tcp allow all",
			"http_upgrade_request_protocols websocket allow all",
		},
		route: "`cache_peer` and `cache_peer_access`", upstream: "`cache_peer`",
		secure: "`tls` in the line of `cache_peer`", insecure: "no `tls` in the line of `cache_peer`",
		deny: "`http_access`", auth: "`auth_param` and `http_access`", limit: "`http_access`", timeout: "`read_timeout`", config: "squid",
		idle: "`read_timeout` and `client_lifetime`",
	},
	h2o: {
		strips: true,
		upgrade: []string{
			"# websocket alone passes: use --carrier websocket",
			"proxy.websocket: ON",
		},
		route: "`hosts` and `paths`", upstream: "`proxy.reverse.url`", secure: "`https://` in `proxy.reverse.url`", insecure: "`http://` in `proxy.reverse.url`",
		deny: "a handler of the path", auth: "a handler of the path", limit: "`max-connections`", timeout: "`proxy.timeout.io`", config: "h2o",
		idle: "`proxy.timeout.io`",
	},
	ats: {
		strips: true,
		upgrade: []string{
			"# websocket alone passes: use --carrier websocket",
			"map ws://HOST{path} ws://BACKEND/",
			"# repeat each @action and @plugin of the rule for http:// behind it, because this rule has none",
		},
		route: "a `map` rule in remap.config", upstream: "the target of its `map` rule", secure: "`https://` in the target of its `map` rule",
		insecure: "`http://` in the target of its `map` rule", deny: "ip_allow.yaml", auth: "its plugins", limit: "its plugins", timeout: "`transaction_no_activity_timeout_out`", config: "ats",
		idle: "`proxy.config.http.transaction_no_activity_timeout_in` and `_out`",
	},
	awsELB:     {strips: true, idle: "`idle_timeout.timeout_seconds`", upgrade: []string{"# websocket alone passes: use --carrier websocket"}, route: "the rules of its listener", upstream: "its target group", deny: "AWS WAF", auth: "an `authenticate-` action", limit: "AWS WAF", config: "alb"},
	cloudflare: {strips: true, upgrade: []string{"# websocket alone passes: use --carrier websocket, and turn on WebSockets under Network"}, route: "its DNS records", upstream: "its origin", deny: "its WAF rules", auth: "Cloudflare Access", limit: "its rate limiting rules"},
	cloudfront: {strips: true, upgrade: []string{"# websocket alone passes: use --carrier websocket, and forward the Sec-WebSocket- fields"}, route: "its behaviors", upstream: "its origin", deny: "AWS WAF", auth: "its functions", limit: "AWS WAF"},
	google:     {strips: true, upgrade: []string{"# websocket alone passes: use --carrier websocket"}, route: "its URL map", upstream: "its backend service", deny: "Cloud Armor", auth: "IAP", limit: "Cloud Armor"},
	azure:      {strips: true, upgrade: []string{"# websocket alone passes: use --carrier websocket"}, route: "its path rules", upstream: "its backend pool", deny: "its WAF", auth: "its rules", limit: "its WAF"},
}

// unnamed are the words for a proxy that is not known.
var unnamed = setting{
	upgrade: []string{"# each proxy on the way needs its lines: see docs/proxies.md"},
	route:   "the route for this path and Host", upstream: "the address of the server behind it", secure: "TLS to the server", insecure: "no TLS to the server",
	deny: "its rules", auth: "its rules", limit: "its limits", timeout: "how long it waits for an answer", idle: "its timeout for silence",
	head:     "nginx `large_client_header_buffers`, Apache `LimitRequestFieldSize`, HAProxy `tune.bufsize`, Envoy `max_request_headers_kb`",
	hostPort: "let it compare the Host without its port, or know it with the port",
	sni:      "the name (SNI) that it sends", match: "the rule about the field Upgrade",
}
