package broken

import "github.com/preflight-go/preflight"

// Parts of a site of Envoy.
const (
	envoyUpgrade = "upgrade_configs: [{upgrade_type: tcp}]\n"
	envoyRouter  = `http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]` + "\n"
	envoyRBAC    = `http_filters: [{name: rbac, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {action: ALLOW}}}, ` +
		`{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]` + "\n"
)

// envoyAuthz asks a service before the route.
func envoyAuthz(service string) string {
	return `http_filters: [{name: authz, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, ` + service + `}}, ` +
		`{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]` + "\n"
}

// envoyRoute is a route to a cluster, which has the name of a server.
func envoyRoute(prefix, cluster, more string) string {
	return `route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: "` + prefix + `"}, route: {cluster: "` + cluster + `"` + more + `}}]}]}` + "\n"
}

var envoyPaths = []brokenPath{
	{
		name: "Envoy without upgrade_configs", usual: true,
		program: "Envoy", site: envoyRouter + envoyRoute("/", "good", ""),
		code: "no-upgrades",
		hop:  "Envoy", cause: "an upgrade that it does not pass", line: "upgrade_configs",
	},
	{
		name:    "Envoy with upgrade_configs for websocket alone, and CarrierUpgrade",
		program: "Envoy", site: "upgrade_configs: [{upgrade_type: websocket}]\n" + envoyRouter + envoyRoute("/", "good", ""),
		dial: only(preflight.CarrierUpgrade),
		code: "no-upgrades",
		hop:  "Envoy", cause: "an upgrade that it does not pass", line: "upgrade_type: tcp",
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
	},
	{
		name:    "Envoy whose ext_authz denies the request",
		program: "Envoy", site: envoyUpgrade + envoyAuthz("http_service: {server_uri: {uri: http://x, cluster: denying, timeout: 1s}}") + envoyRoute("/", "good", ""),
		code: "forbidden",
		hop:  "a server behind Envoy", cause: "forbids the request", line: "`ext_authz`",
	},
	{
		name:    "Envoy whose ext_authz cannot reach its service",
		program: "Envoy", site: envoyUpgrade + envoyAuthz("grpc_service: {envoy_grpc: {cluster_name: down}}") + envoyRoute("/", "good", ""),
		code: "no-upgrades",
		hop:  "Envoy", cause: "denies the request", line: "`ext_authz`",
	},
	{
		name:    "Envoy, the server is down",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "down", ""),
		code: "server-down",
		hop:  "the server behind it", cause: "cannot open a connection", line: "start that server",
		waits: true,
	},
	{
		name:    "Envoy speaks plain HTTP to a listener above TLS",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "tls", ""),
		code: "upstream-tls",
		hop:  "Envoy sends plain HTTP", cause: "a port that speaks TLS", line: "`transport_socket`",
	},
	{
		name:    "Envoy speaks TLS to a plain listener",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "good over TLS", ""),
		code: "server-down",
		hop:  "Envoy", cause: "in the TLS that `transport_socket` asks for", line: "`transport_socket`",
		waits: true,
	},
	{
		name:    "Envoy leads the path to SSH",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "ssh", ""),
		code: "upstream-not-http",
		hop:  "the server behind it", cause: "speaks another protocol", line: "its endpoint",
	},
	{
		name:    "Envoy leads the path to another web server",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "page", ""),
		code: "no-listener",
		hop:  "Envoy leads", cause: "this Host and path to something else", line: "`routes`",
	},
	{
		name:    "Envoy, the server never answers",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "silent", ", timeout: 1s, idle_timeout: 1s"),
		code: "server-slow",
		hop:  "the server behind Envoy", cause: "did not answer in Envoy's time", line: "what that server waits for",
		waits: true,
	},
	{
		name:    "Envoy speaks HTTP/2 to the listener",
		program: "Envoy", site: envoyUpgrade + envoyRouter + envoyRoute("/", "good over HTTP/2", ""),
		code: "upstream-not-http",
		hop:  "Envoy reached", cause: "another protocol than its cluster is set to", line: "`http2_protocol_options`",
	},
	{
		name:    "Envoy answers directly",
		program: "Envoy", site: envoyUpgrade + envoyRouter + `route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: "/"}, direct_response: {status: 200, body: {inline_string: ok}}}]}]}`,
		code: "no-listener",
		hop:  "Envoy leads", cause: "this Host and path to something else", line: "`routes`",
	},
	{
		name:    "Envoy redirects to https",
		program: "Envoy", site: envoyUpgrade + envoyRouter + `route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: "/"}, redirect: {https_redirect: true}}]}]}`,
		code: "redirect-https",
		hop:  "on the same host", cause: "leads to https", line: "set TLSConfig",
	},
	{
		name:    "Envoy does not know the Host",
		program: "Envoy", site: envoyUpgrade + envoyRouter + `route_config: {virtual_hosts: [{name: edge, domains: ["edge.example"], routes: [{match: {prefix: "/"}, route: {cluster: good}}]}]}`,
		code: "no-route",
		hop:  "Envoy", cause: "no route for this Host and path", line: "`domains`",
	},
}
