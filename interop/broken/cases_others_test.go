package broken

import "github.com/preflight-go/preflight"

var traefikPaths = []brokenPath{
	{
		name:    "Traefik does not know the Host",
		program: "Traefik", site: "Host(`edge.example`)\nservers: [{url: 'http://{good}'}]",
		code: "no-route",
		hop:  "Traefik", cause: "no route for this Host and path", line: "the `rule` of a router",
	},
	{
		name:    "Traefik, the server is down",
		program: "Traefik", site: "PathPrefix(`/`)\nservers: [{url: 'http://{down}'}]",
		code: "bad-gateway",
		hop:  "the server that the URL of its service names", cause: "cannot connect", line: "Correct that URL",
		waits: true,
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
		hop:  "Traefik reached", cause: "gets no HTTP/1.1 from it", line: "Correct that URL",
	},
	{
		name:    "Traefik speaks TLS to a plain listener",
		program: "Traefik", site: "PathPrefix(`/`)\nservers: [{url: 'https://{strict}'}]",
		code: "upstream-not-http",
		hop:  "Traefik reached", cause: "gets no HTTP/1.1 from it", line: "Correct that URL (address, scheme)",
	},
	{
		name:    "Traefik speaks plain HTTP to a listener above TLS",
		program: "Traefik", site: "PathPrefix(`/`)\nservers: [{url: 'http://{tls}'}]",
		code: "upstream-tls",
		hop:  "the proxy sends plain HTTP", cause: "a port that speaks TLS", line: "use TLS to its upstream",
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
		hop:  "the server that `reverse_proxy` names", cause: "no valid answer", line: "Correct `reverse_proxy`",
		waits: true,
	},
	{
		name:    "Caddy speaks plain HTTP to a listener above TLS",
		program: "Caddy", site: "reverse_proxy {tls}",
		code: "upstream-tls",
		hop:  "Caddy sends plain HTTP", cause: "a port that speaks TLS", line: "`reverse_proxy https://`",
	},
	{
		name:    "Caddy serves files on the path",
		program: "Caddy", site: "\nroot * /nonexistent\nfile_server",
		code: "no-route",
		hop:  "Caddy leads", cause: "to something else, such as files", line: "`reverse_proxy`",
	},
	{
		name:    "Caddy with basic_auth",
		program: "Caddy", site: "\nbasic_auth {\njane $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}\nreverse_proxy {good}",
		code: "credentials-missing",
		hop:  "Caddy's route", cause: "wants credentials", line: "`basic_auth`",
	},
	{
		name:    "Caddy has no route for the path",
		program: "Caddy", site: "\nreverse_proxy /other/* {good}",
		code: "no-site",
		hop:  "Caddy", cause: "no site or route for this Host and path", line: "its Caddyfile",
	},
	{
		name:    "Caddy speaks HTTP/2 to the listener",
		program: "Caddy", site: "\nreverse_proxy h2c://{strict}",
		code: "bad-gateway",
		hop:  "the server that `reverse_proxy` names", cause: "no valid answer", line: "h2c://",
		waits: true,
	},
	{
		name:    "Caddy redirects to https",
		program: "Caddy", site: "\nredir https://{host}:{port}{uri}",
		code: "redirect-https",
		hop:  "on the same host", cause: "leads to https", line: "set TLSConfig",
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
		hop:  "Varnish", cause: "without Upgrade", line: "set bereq.http.Upgrade",
	},
	{
		name:    "Varnish does not pass Connection",
		program: "Varnish", site: "good\nreturn (pipe);---\nset bereq.http.Upgrade = req.http.Upgrade;",
		code: "no-connection",
		hop:  "Varnish", cause: "removes upgrade from Connection", line: "set bereq.http.Connection",
	},
	{
		name:    "Varnish, the server is down",
		program: "Varnish", site: "down\n",
		code: "bad-gateway",
		hop:  "the server that `backend` names", cause: "no valid answer in time", line: "Correct `backend`",
		waits: true,
	},
	{
		name:    "Varnish, TLS to a plain port",
		program: "Varnish", site: "good\nreturn (pipe);",
		dial: all(trusted, impatient),
		code: "tls-timeout",
		hop:  "the peer", cause: "the port is plain", line: "leave TLSConfig nil",
		beside: []string{"it waits for a PROXY header", "the network drops large packets"},
		waits:  true,
	},
	{
		name:    "Varnish pipes, and the server is down",
		program: "Varnish", site: "down\nreturn (pipe);",
		code:   "ended",
		cause:  "the server behind is down",
		beside: []string{"the port speaks TLS", "waits for a PROXY header", "return 444"},
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
		hop:  "lighttpd", cause: "no `proxy.server` for this path and Host", line: "`proxy.server`",
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
		hop:  "the server that `cache_peer` names", cause: "no valid answer", line: "Correct `cache_peer`",
		waits: true,
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
		hop:  "h2o", cause: "no `proxy.reverse.url` for this path and Host", line: "`proxy.reverse.url`",
	},
	{
		name:    "Traffic Server, and CarrierUpgrade",
		program: "Traffic Server", site: "map http://{from} http://{good}/",
		dial: only(preflight.CarrierUpgrade),
		code: "websocket-only",
		hop:  "Traffic Server", cause: "passes no upgrade but websocket", line: "ws://",
	},
	{
		name:    "Traffic Server, the server is down",
		program: "Traffic Server", site: "map http://{from} http://{down}/\nmap ws://{from} ws://{down}/",
		code: "websocket-only",
		hop:  "Traffic Server cannot", cause: "connect to the server behind it", line: "`map` rule",
		waits: true,
	},
	{
		name:    "Traffic Server has no rule for the Host",
		program: "Traffic Server", site: "map http://edge.example/ http://{good}/",
		code: "websocket-only",
		hop:  "Traffic Server", cause: "no remap rule for this Host and path", line: "add a `map` rule",
	},
	{
		name:    "Varnish with synth 403",
		program: "Varnish", site: "good\nreturn (synth(403));",
		code: "forbidden",
		hop:  "Varnish denies", cause: "by a rule of its VCL", line: "synth(403)",
	},
	{
		name:    "Varnish, the server never answers",
		program: "Varnish", site: "silent\n",
		code: "bad-gateway",
		hop:  "the server that `backend` names", cause: "no valid answer in time", line: "`first_byte_timeout`",
		waits: true,
	},
	{
		name:    "lighttpd redirects to https",
		program: "lighttpd", site: `url.redirect = ( "" => "https://127.0.0.1:{port}" )`,
		code: "redirect-https",
		hop:  "on the same host", cause: "leads to https", line: "set TLSConfig",
	},
	{
		name:    "lighttpd speaks plain HTTP to a listener above TLS",
		program: "lighttpd", site: `proxy.header = ( "upgrade" => "enable" ) proxy.server = ( "" => (( "host" => "127.0.0.1", "port" => {port of tls} )) )`,
		code: "upstream-tls",
		hop:  "lighttpd sends plain HTTP", cause: "a port that speaks TLS", line: "use TLS to its upstream",
	},
	{
		name:    "h2o leads the path to SSH",
		program: "h2o", site: "proxy.reverse.url: http://{ssh}/",
		code: "upstream-not-http",
		hop:  "h2o reached", cause: "does not answer in HTTP/1.1", line: "proxy.reverse.url",
	},
}

func reverseSquid(server, access string) string {
	return "http_port {addr} accel vhost name={name}\ncache_peer 127.0.0.1 parent {port of " + server + "} 0 no-query no-digest originserver name={name}\n" +
		"cache_peer_access {name} allow {name}\ncache_peer_access {name} deny all\nnever_direct allow {name}\n" + access
}
