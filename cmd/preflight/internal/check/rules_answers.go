package check

import (
	"net/http"
	"regexp"
	"strings"
)

// apart says how to tell what is behind a proxy.
const apart = "run `preflight check --listen ADDR` at the far end, in place of the server, and check again: the output of that command shows what arrives there"

const sniFails = "TLS between them fails: the server wants a name that it knows ({sni}), or has a certificate that is not trusted"

// answerRules are about answers that no listener gave.
var answerRules = []rule{
	// The Host has a port, and the proxy knows the name alone.
	{code: "host-port", when: knowsBareHost,
		hop: "{who}", cause: "it knows the Host without its port, and not with the port that the URL has", change: "{hostPort}; or use the usual port in the URL"},

	// The listener refuses, and a proxy hides what it says.
	{code: "receipt-hidden", of: "forbidden no-route bad-gateway", when: all(by(nginx), admits), sure: likely,
		hop: "the listener", cause: "it refuses the upgrade with {status}, and the error page of nginx hides its answer (`proxy_intercept_errors`): an ordinary request reaches it", change: "remove `proxy_intercept_errors on`, so that the answer of the listener arrives: 404 is a path without --route, 502 a server that is down",
		others: []string{"a rule of nginx about the upgrade answers so ({match})"}},

	// Another program, or the proxy itself.
	{code: "error-page", of: "no-listener", when: all(by(nginx), nginxFile, status("post", http.StatusOK)), sure: likely,
		hop: "the server behind nginx", cause: "it is down or answers an error, and `error_page` of nginx turns that into a file with {status}", change: "start the server, or correct {upstream}; and remove `=200` from `error_page` for {path}, so that clients see the error",
		others: []string{"no location leads this path and Host to the listener, and `error_page 405` answers every method"}},
	{code: "no-listener", of: "no-listener", when: all(by(nginx), nginxFile),
		hop: "nginx", cause: "it answers with a file (`root`, `try_files`, the default server): no location leads this path and Host to the listener", change: "add {path} to the `server` with this `server_name`, as a `location` with `proxy_pass`", paste: true},
	{code: "no-listener", of: "no-listener", when: all(envoyIs, func(e *evidence) bool { return e.of("get").header.Get(envoyTime) == "" }), sure: likely,
		hop: "Envoy", cause: "it answers by itself (`direct_response`), and leads this path to no server", change: "write a `route` with a `cluster` for {path}",
		others: []string{"a server behind it answers, and `suppress_envoy_headers` hides that"}},
	{code: "other-server", of: "no-listener other-tokens", when: all(onTheWay, alike("get", "other-host")), sure: likely,
		hop: "the server behind {who}", cause: "{who} leads the path to another web server than the listener", change: "correct {upstream} for {path}",
		others: []string{"the Host is wrong, and this is the default site", "{who} answers by itself (nginx `return 200`)"}},
	{code: "no-listener", of: "no-listener other-tokens", when: onTheWay, sure: likely,
		hop: "{who}", cause: "the path or the Host leads to another web server than the listener", change: "correct the path in the URL, or {route}"},
	{code: "other-server", of: "no-listener other-tokens",
		hop: "{edge}", cause: "a web server listens there that is no preflight listener, and knows no tunnel", change: "correct the host, the port or the path in the URL; if a proxy is meant, correct the route for {path}"},
	{code: "other-server", of: "no-site", when: passedOn,
		hop: "the server behind {who}", cause: "{who} leads the path to another web server than the listener, which answers {status} with nothing", change: "correct {upstream} for {path}"},
	{code: "no-site", of: "no-site", hop: "Caddy", cause: "it has no site or route for this Host and path, and answers 200 with nothing", change: "add the Host as the address of a site, and `reverse_proxy` for {path}, to the Caddyfile; or correct the URL", paste: true},
	{code: "other-server", of: "ssh redis mail-or-ftp", hop: "the server behind {who}", cause: "{who} leads the path to a program that is no web server", change: inFront},

	// Where a path leads.
	{code: "websocket-only", of: "no-route", when: all(by(ats), admits),
		hop: "Traffic Server", cause: "it passes websocket alone, and has no `map ws://` rule for this path: its rule is for ordinary requests", change: "{passes}, and use --carrier websocket", paste: true},
	{code: "no-route", of: "no-route other-route", when: all(goAnswer, asked("HTTP/2", "http2")), sure: likely,
		hop: "Traefik", cause: "no router matches this Host and path", change: "correct the Host or the path in the URL, or the rule of the router: `Host(…)` and `PathPrefix(…)`",
		others: []string{"a Go server has no handler for this path"}},
	{code: "no-route", of: "no-route", when: all(goAnswer, firstIs(golang, listener), not(overTLS)),
		hop: "the Go server at {edge}", cause: "it has no handler for this path: the listener is mounted at another path", change: "correct the path in the URL, or the pattern at which the listener is mounted"},
	{code: "other-route", of: "other-route no-route", when: goBehind, sure: likely, hop: "the server behind {behind}", cause: "{behind} changes the path, and the Go server behind it has no handler for what arrives", change: "correct the slash after `proxy_pass` (nginx), `http-request set-path` (HAProxy) or another rewrite; or mount the listener at the path that arrives",
		others: []string{"{behind} leads to another Go program", "Traefik is behind it, and has no router for the Host or the path that arrives"}, next: apart},
	{code: "other-route", of: "other-route", sure: likely, hop: "the server behind {behind}", cause: "{behind} changes the path, and the Go server behind it has no handler for what arrives", change: "correct the slash after `proxy_pass` (nginx), `http-request set-path` (HAProxy) or another rewrite; or mount the listener at the path that arrives",
		others: []string{"{behind} leads to another Go program", "Traefik is behind it, and has no router for the Host or the path that arrives"}, next: apart},
	{code: "no-route", of: "no-route", when: all(wrote(nginx), alike(mainCarrier, "other-host")), sure: likely,
		hop: "nginx", cause: "no location leads this path to the listener, in the `server` that has this Host or is the default for it", change: "add {path} as a `location` with `proxy_pass` to the `server` with this `server_name`; or correct the path in the URL", paste: true,
		others: []string{"no `server_name` is this Host, and the default `server` answers: correct `server_name`, or the host in the URL"}},
	{code: "no-route", of: "no-route", when: wrote(nginx),
		hop: "nginx", cause: "no location leads this path to the listener", change: "add {path} as a `location` with `proxy_pass` to the `server` with this `server_name`; or correct the path in the URL", paste: true},
	{code: "other-server", of: "no-route", when: all(envoyIs, passedOn), sure: likely, hop: "the server behind Envoy", cause: "Envoy leads the path to another server than the listener, which answers {status}", change: "correct {upstream}, or the `cluster` in the route for {path}"},
	{code: "no-route", of: "no-route", when: notByProxy, sure: likely, hop: "{way}", cause: "it leads this path and Host to another server than the listener: that server answers {status}", change: "correct {route}: the first that matches counts in Apache and HAProxy; or correct the path and the host in the URL",
		others: []string{"it has no route for this path and Host at all, and an error page of its own"}},
	{code: "no-route", of: "no-route", hop: "{who}", cause: "it has no route for this path and Host to the listener", change: "correct the path and the host in the URL, or {route}"},

	// Redirects.
	{code: "redirect-https", of: "redirect-https", hop: "{edge}", cause: "it redirects from http to https", change: "write https:// (or wss://, tcps://) in the URL{redirectPort}"},
	{code: "redirect-slash", of: "redirect-slash", hop: "the path in the URL", cause: "the edge wants a slash at its end", change: "write that slash in the URL: {path}/"},
	{code: "redirect-host", of: "redirect-host", hop: "the host in the URL", cause: "the edge leads to the same path on another host", change: "write the host to which it redirects into the URL: `curl -I` shows it as Location"},
	{code: "captive-portal", of: "captive-portal", sure: likely, hop: "the network of this machine", cause: "it leads to a sign-in page (captive portal)", change: "sign in with a browser, then try again"},
	{code: "redirect-login", of: "redirect-login", hop: "{who}", cause: "it leads to a sign-in page on another host", change: "exempt {path} from the sign-in{off}, or by `skip_auth_routes` of oauth2-proxy; or send the credentials that it wants by --header-file"},
	{code: "redirect-loop", of: "redirect-loop", when: func(e *evidence) bool { return len(e.way()) > 1 && e.author() != "" }, sure: likely, hop: "{who}", cause: "it redirects to the same https URL again: it takes the request for plain http, because {before} ends TLS", change: behindTLS, others: []string{"another rule leads to the same URL, such as one that sets a cookie first"}},
	{code: "redirect-loop", of: "redirect-loop", sure: likely, hop: "the server behind {first}, or {first} itself", cause: "it redirects to the same https URL again: it takes the request for plain http, because TLS ends in front of it", change: behindTLS, others: []string{"another rule leads to the same URL, such as one that sets a cookie first"}},
	{code: "redirect", of: "redirect", sure: likely, hop: "{who}", cause: "it leads to another path of the same host", change: "correct the path in the URL; it may be a sign-in page"},

	// The head.
	{code: "upstream-tls", of: "upstream-tls", when: status(mainCarrier, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable), sure: likely,
		hop: "{who}", cause: "its TLS with the server behind it fails, because that server is plain", change: "use no TLS to the server ({insecure})",
		others: []string{"one of the two does not accept the certificate of the other"}},
	{code: "upstream-tls", of: "upstream-tls", hop: "{before}", cause: "it sends plain HTTP to a port that speaks TLS", change: "{behindSecure}, or lead it to the plain port"},
	{code: "head-size", of: "head-size", hop: "{who}", cause: "the head of the request is too large for it", change: "send fewer or shorter fields, or raise its limit: {head}"},

	// Credentials and rules.
	{code: "receipt-hidden", of: "credentials-missing credentials-refused", when: admits,
		hop: "the listener", cause: "its Authorize refuses the request, and the error page of {first} hides its answer (`proxy_intercept_errors`): an ordinary request passes without credentials", change: "send the credentials by --header-file; remove `proxy_intercept_errors on`, so that the answer of the listener arrives"},
	{code: "other-server", of: "credentials-missing credentials-refused", when: passedOn, sure: likely,
		hop: "the server behind {who}", cause: "{who} passes the request on, and a program behind it, which is no preflight listener, wants credentials", change: "correct {upstream} for {path}, so that it leads to the listener",
		others: []string{"{who} wants them: its service answers so, or a page of its own ({auth})"}},
	{code: "credentials-missing", of: "credentials-missing", hop: "{who}", cause: "it wants credentials itself, and none were sent ({auth})", change: "send them by --header-file, or exempt {path} from {auth}{off}"},
	{code: "credentials-scheme", of: "credentials-refused", when: all(otherScheme, func(e *evidence) bool { return e.scheme == "" }), hop: "{who}", cause: "it wants credentials itself ({challenge}, by {auth}), and the Authorization that was sent does not begin with that word", change: "write `Authorization: {wanted} …` in --header-file, --header-command or --header; or exempt {path} from {auth}{off}, if what was sent is for the server behind"},
	{code: "credentials-scheme", of: "credentials-refused", when: otherScheme, hop: "{who}", cause: "it wants credentials of its own ({challenge}, by {auth}), and the Authorization that was sent is {scheme}, which may be right for the server behind", change: "exempt {path} from {auth}{off}, or send the credentials that it wants: a request has only one Authorization"},
	{code: "credentials-refused", of: "credentials-refused", hop: "{who}", cause: "it refuses the Authorization that was sent ({auth})", change: "renew or correct it in --header-file, --header-command or --header"},
	{code: "rbac", of: "rbac", hop: "Envoy", cause: "an RBAC rule, or an AuthorizationPolicy of Istio, denies the request", change: "allow {path} and this client in the RBAC filter, or in the AuthorizationPolicy"},
	{code: "squid-denied", of: "squid-denied", hop: "Squid", cause: "its rules deny the request", change: "allow it by `http_access`, for this Host and path"},
	{code: "no-upgrades", of: "no-upgrades", when: envoyIs, sure: likely, hop: "Envoy", cause: "it passes no upgrade to tcp", change: "add `upgrade_configs: [{upgrade_type: tcp}]` to the HTTP connection manager, or to the route", paste: true,
		others: []string{"its `ext_authz` denies the request, or cannot reach its service"}},
	{code: "no-upgrades", of: "no-upgrades", hop: "{who}", cause: "it does not support upgrades", change: "{passes}; or correct {route}", paste: true},
	{code: "other-server", of: "forbidden", when: all(passedOn, not(envoyIs)), sure: likely,
		hop: "the server behind {who}", cause: "{who} passes the request on, and a program behind it, which is no preflight listener, refuses it with {status}", change: "correct {upstream} for {path}, so that it leads to the listener",
		others: []string{"a rule of {who} denies the request, with a page of its own ({deny})"}},
	{code: "forbidden", of: "forbidden", when: alike(mainCarrier, "other-path"), hop: "{who}", cause: "a rule denies the request, whatever its path ({deny})", change: "allow {path} and this client in {deny}"},
	{code: "forbidden", of: "forbidden", hop: "{who}", cause: "a rule denies the request ({deny})", change: "allow {path} and this client in {deny}", sure: likely, others: []string{"the path leads to files"}},
	{code: "websocket-only", of: "websocket-only bad-request", when: websocketPasses, hop: "{who}", cause: "it refuses every upgrade but that to websocket", change: "leave it and use --carrier websocket, or let it pass the upgrade to tcp too: {passes}", paste: true},

	{code: "websocket-only", of: "websocket-only", hop: "{who}", cause: "it refuses every upgrade but that to websocket", change: "use --carrier websocket, or let it pass the upgrade to tcp too: {passes}", paste: true},

	// Limits and outages.
	{code: "apache-target", of: "bad-gateway server-fault", when: all(wrote(apache), portInName),
		hop: "Apache", cause: "its `ProxyPass` has a slash at the end of the path and none at the end of the target, so the rest of the path becomes a part of the port", change: "write the slash at the end of the target too: `ProxyPass /PATH/ http://HOST:PORT/`"},
	{code: "apache-name", of: "bad-gateway server-fault", when: all(wrote(apache), unresolved),
		hop: "Apache", cause: "it cannot resolve the name of the server in `ProxyPass`", change: "correct that name in `ProxyPass`, or in DNS or /etc/hosts of its machine"},
	{code: "upgrade-fails", of: "bad-gateway server-down upstream-closed server-fault server-slow proxy-failed", when: admits, sure: likely,
		hop: "{who}", cause: "an ordinary request reaches the listener and gets 426, so the server is up. Only the upgrade fails: {who} cannot pass on the 101", change: "in a Go proxy put nothing around httputil.ReverseProxy that hides http.Hijacker for {path}, such as http.TimeoutHandler; otherwise turn on upgrades there, and see its log",
		others: []string{"the server behind it ends the connection when it is asked for an upgrade"}, next: apart},
	{code: "rate-limit", of: "rate-limit", when: status(mainCarrier, http.StatusTooManyRequests), hop: "{who}", cause: "it limits the rate of requests", change: "try again later, or raise its limit: {limit}"},
	{code: "maintenance", of: "rate-limit", when: field("Retry-After"), sure: likely, hop: "{who}", cause: "it closes the path temporarily (`return 503` with Retry-After, for maintenance)", change: "try again later, or remove `return 503`",
		others: []string{"it limits the rate or the connections ({limit})"}},
	{code: "rate-limit", of: "rate-limit", sure: likely, hop: "{who}", cause: "it limits the rate of requests or the number of connections", change: "try again later, or raise its limit: {limit}",
		others: []string{"`return 503` closes the path"}},
	{code: "no-backend", of: "no-server", when: all(not(slow), not(alike(mainCarrier, "other-path"))), sure: likely, hop: "HAProxy", cause: "the backend of this path has no server that is up", change: "start the server, or correct its health check (`check`, `option httpchk`); see the stats page"},
	{code: "queue-full", of: "no-server", when: all(not(slow), func(e *evidence) bool { return e.took() > 50 }), sure: likely, hop: "HAProxy", cause: "the servers are full: the request waited in the queue ({took}, `timeout queue`)", change: "raise `maxconn` of the `server` line",
		others: []string{"every server is down"}},
	{code: "no-server", of: "no-server", when: not(slow), sure: likely, hop: "HAProxy", cause: "it has no server that is up for this Host and path: its health check found the servers down, or no backend matches", change: "start the servers; or correct their health check: `preflight serve` answers `option httpchk GET /healthz` with 200, and `option httpchk` alone with 426; or add `use_backend` or `default_backend` for this Host and {path}",
		others: []string{"the servers are full (`maxconn`)"}, next: apart},
	{code: "server-down", of: "no-server", sure: likely, hop: "the server behind HAProxy", cause: "HAProxy got no connection to it within {took}: it is down, or its address is wrong", change: "start it, or correct the `server` line",
		others: []string{"it is full: open tunnels count for `maxconn` of the `server` line, and the request waited for `timeout queue`", "`ssl` in the `server` line, and the server is plain", "`proto h2` in the `server` line"}, next: apart},
	{code: "server-slow", of: "upstream-closed bad-gateway", when: slow, sure: likely, hop: "the server behind {who}", cause: "it did not answer within {took}", change: "see whether it hangs, or is no web server; or raise {timeout}",
		others: []string{"it closed the connection"}, next: apart},
	{code: "upstream-plain", of: "upstream-closed", when: by(envoy), sure: likely, hop: "the server behind Envoy", cause: "Envoy reached it, and it closed the connection: it wants TLS, and Envoy speaks plain HTTP to it", change: "use TLS to the server ({secure}), or lead to its plain port",
		others: []string{"Envoy speaks HTTP/2 to it: remove `http2_protocol_options` from the cluster", "it wants no PROXY header (`upstream_proxy_protocol` in the cluster)", "it is no web server", "it has crashed"}, next: apart},
	{code: "upstream-plain", of: "upstream-closed", when: by(haproxy), sure: likely, hop: "the server behind HAProxy", cause: "HAProxy reached it, and it closed the connection: the server wants TLS, and HAProxy speaks plain HTTP to it", change: "use TLS to the server ({secure}), or lead to its plain port",
		others: []string{"it is no web server", "it wants no PROXY header (`send-proxy` in the `server` line)", "`proto h2` in the `server` line", "it has crashed"}, next: apart},
	{code: "upstream-plain", of: "upstream-closed", sure: likely, hop: "the server behind {who}", cause: "{who} reached it, and it closed the connection: the server wants TLS, and {who} speaks plain HTTP to it", change: "use TLS to the server ({secure}), or lead to its plain port",
		others: []string{"it is no web server", "it has crashed"}, next: apart},
	{code: "server-down", of: "bad-gateway", when: all(by(caddy), passedOn), sure: likely, hop: "the server behind Caddy", cause: "Caddy reaches it, and it answers {status} itself, as a proxy whose own server is down does", change: "correct {upstream} for {path}, or start the server behind that proxy", next: apart},
	{code: "server-down", of: "bad-gateway", when: by(caddy), sure: likely, hop: "the server behind Caddy", cause: "Caddy cannot reach it: it is down, or its address is wrong", change: "start it, or correct {upstream}",
		others: []string{"TLS is on one side alone: {secure}, or {insecure}", sniFails, "`h2c://` in `reverse_proxy`, and the server speaks no HTTP/2", "it is no web server"}, next: apart},
	{code: "server-down", of: "bad-gateway", when: by(nginx), sure: likely, hop: "the server behind nginx", cause: "nginx cannot reach it: it is down, or its address is wrong", change: "start it, or correct {upstream}; if that has a variable, `resolver` must resolve the name",
		others: []string{"TLS is on one side alone: {secure}, or {insecure}", sniFails, "it is no web server"}, next: apart},
	{code: "server-down", of: "server-down squid-down bad-gateway", sure: likely, hop: "the server behind {who}", cause: "{who} cannot reach it: it is down, or its address is wrong", change: "start it, or correct {upstream}",
		others: []string{"TLS is on one side alone: {secure}, or {insecure}", sniFails, "it is no web server"}, next: apart},
	{code: "server-slow", of: "server-slow", sure: likely, hop: "the server behind {who}", cause: "it did not answer in the time of {who}, {took}: it hangs, or {who} does not reach it", change: "see whether it hangs, or is no web server; whether {upstream} has its address, and a firewall lets {who} through; or raise {timeout}",
		next: apart},
	{code: "upstream-other", of: "upstream-not-http", when: envoyIs, sure: likely, hop: "the server behind Envoy", cause: "Envoy reached it, and it does not answer in HTTP/1.1: another program listens there", change: "correct {upstream}",
		others: []string{"Envoy speaks HTTP/2 to it: remove `http2_protocol_options` from the cluster", "it wants TLS"}, next: apart},
	{code: "upstream-other", of: "upstream-not-http", when: by(traefik), sure: likely, hop: "the server behind Traefik", cause: "Traefik reached it, and gets no HTTP/1.1 from it: TLS is on one side alone (https:// to a plain server), its certificate is not accepted, or another program listens there", change: "with https:// in the URL of the service: give its `serversTransport` the `rootCAs` and the `serverName` of the server, or write http:// if it is plain; with http://: correct the URL of the service", next: apart},
	{code: "upstream-other", of: "upstream-not-http", hop: "the server behind {who}", cause: "{who} reached it, and it does not answer in HTTP/1.1: another program listens there", change: "correct {upstream}"},
	{code: "rule-drops", of: "server-fault", when: all(by(haproxy), slow), sure: likely, hop: "HAProxy", cause: "a rule holds the request back, and then refuses it (`http-request tarpit`)", change: "remove that rule for {path} and this Host"},
	{code: "apache-ssl", of: "server-fault", when: by(apache), sure: likely, hop: "Apache", cause: "it fails by itself: `ProxyPass … https://…` without `SSLProxyEngine on`, or a module of mod_proxy is not loaded", change: "add `SSLProxyEngine on`, or load `proxy_http_module`; its error log has the reason"},
	{code: "server-fault", of: "server-fault", when: wrote(nginx), sure: likely, hop: "nginx", cause: "it fails by itself: the service of its `auth_request` is down, or answers neither 2xx nor 401 or 403", change: "start that service, or correct the `location` of `auth_request` and its `proxy_pass`; the error log of nginx has the reason",
		others: []string{"a loop of `rewrite`, `try_files` or `error_page` (rewrite or internal redirection cycle)", "another nginx behind this one, because two look like one"}},
	{code: "server-fault", of: "server-fault proxy-failed", sure: likely, hop: "{who}", cause: "it fails by itself, or the program behind it does", change: "read its log"},
	{code: "captive-portal", of: "captive-portal", hop: "the network of this machine", cause: "it wants a sign-in", change: "sign in with a browser, then try again"},
	{code: "http-version", of: "http-version", hop: "{edge}", cause: "it speaks another version of HTTP than 1.1", change: "let it speak HTTP/1.1, or correct the port in the URL"},
	{code: "wrong-host", of: "wrong-host", hop: "{edge}", cause: "it serves another host on this connection", change: "correct the host in the URL or --server-name"},
	{code: "proxy-header", of: "bad-request", when: all(alike(mainCarrier, "get"), func(e *evidence) bool { return len(e.way()) > 1 && e.author() != "" && e.author() != e.first() }), sure: likely,
		hop: "{who}", cause: "it refuses every request, also one without an upgrade: {first} sends it a PROXY header, which it does not expect", change: "remove the PROXY header of {first} (HAProxy `send-proxy`, Envoy `upstream_proxy_protocol`), or let {who} expect it (nginx `listen … proxy_protocol`, Apache `RemoteIPProxyProtocol On`)",
		others: []string{"it refuses a field or the Host of every request: its log has the reason"}},
	{code: "bad-request", of: "bad-request", when: all(wrote(nginx), alike(mainCarrier, "get")), sure: likely, hop: "nginx", cause: "it refuses every request for this Host and path, also one without an upgrade: no `server` has this Host, and the default one refuses it (`return 400`)", change: "correct the host in the URL, or add it to `server_name` of the `server` with this path",
		others: []string{"a `location` has `return 400`", "it refuses a field of the request, or wants a PROXY header: its log has the reason"}},
	{code: "bad-request", of: "bad-request", when: alike(mainCarrier, "get"), sure: possible, hop: "{who}", cause: "it takes the request for bad, also without an upgrade", change: "its log has the reason"},
	{code: "bad-request", of: "bad-request", sure: possible, hop: "{who}", cause: "it takes the request for bad", change: "its log has the reason; some products answer so to every upgrade but websocket: try --carrier websocket"},
	{code: "other-tokens", of: "too-early proxy-auth-at-edge refused", sure: possible, hop: "{who}", cause: "it refuses the request with {status}", change: "its log has the reason"},
}

// lastRules fit where nothing else does.
var lastRules = []rule{
	{code: "unknown", when: func(e *evidence) bool { return e.main() != "" }, sure: possible,
		hop: "{edge}", cause: "the tunnel does not open, and the evidence fits no known fault", change: "see the steps above, and the logs of the proxy and of the server", next: apart},
}

const behindTLS = "let it look at X-Forwarded-Proto in place of its own scheme (nginx `$http_x_forwarded_proto` in place of `$scheme`), and let the proxy that ends TLS send that field; or exempt {path} from the redirect"

// knowsBareHost holds if the listener is reached as soon as the Host has no port, and not before.
func knowsBareHost(e *evidence) bool {
	bare := e.of("bare-host")
	return (bare.Reason != "" || bare.is(http.StatusSwitchingProtocols)) && e.answer().Outcome == answered && e.answer().Reason == "" &&
		bare.Status != e.answer().Status
}

// unresolved holds if Apache says that it cannot resolve the server behind it.
func unresolved(e *evidence) bool {
	return strings.Contains(strings.ToLower(string(e.answer().body)), "dns lookup failure for: ")
}

// portWithPath is how Apache names a server when the path runs into its port.
var portWithPath = regexp.MustCompile(`(?i)dns lookup failure for: [^<\s]+:[0-9]+[^<\s:0-9]`)

// portInName holds if a part of the path stands behind the port in that name.
func portInName(e *evidence) bool { return portWithPath.Match(e.answer().body) }

func envoyIs(e *evidence) bool { return e.author() == envoy }

func onTheWay(e *evidence) bool { return len(e.way()) > 0 }

// goAnswer holds if a program in Go wrote the answer, or nobody that is known.
func goAnswer(e *evidence) bool { return product(e.answer().Author) == golang && len(e.way()) == 0 }

// goBehind holds if a program in Go wrote the answer, behind a proxy.
func goBehind(e *evidence) bool { return product(e.answer().Author) == golang && onTheWay(e) }

// websocketPasses holds if the edge treats an upgrade to websocket in another way.
func websocketPasses(e *evidence) bool {
	return e.opens("websocket") || !alike(mainCarrier, "websocket")(e) && e.of("websocket").Reason != ""
}
