package check

import (
	"net/http"

	"github.com/preflight-go/preflight"
)

// unseen is a cause that no question of check can rule out.
var unseen = []string{"a second proxy, behind the one named above"}

// unseenOrMap is unseen, and a setting that passes some upgrades only.
var unseenOrMap = append([]string{"{some}"}, unseen...)

// listenerRules are about what the listener says itself. The request reached it.
var listenerRules = []rule{
	{code: "http10", of: "http10", when: func(e *evidence) bool { return len(e.way()) < 2 }, sure: likely, others: unseen,
		hop: "{way}", cause: "it speaks HTTP/1.0 to the listener, and 1.0 has no upgrade", change: "{http10}", paste: true},
	{code: "http10", of: "http10", sure: likely,
		hop: "{old}", cause: "it speaks HTTP/1.0 to the listener, and 1.0 has no upgrade", change: "{http10}", paste: true},
	{code: "tcp-only", of: "no-upgrade no-connection bad-request forbidden no-upgrades refused", when: tcpAlone,
		hop: "{strips}", cause: "it passes the upgrade to tcp, and removes or refuses that to websocket", change: "nothing, because the client uses the carrier that opens. To pass WebSocket too: nginx `default upgrade;` in its `map` of `$http_upgrade`, Apache `upgrade=ANY`, Envoy `upgrade_type: websocket`, Squid `http_upgrade_request_protocols websocket allow all`"},
	{code: "websocket-only", of: "no-route no-listener other-tokens", when: all(notByProxy, func(e *evidence) bool { return e.opens(preflight.CarrierWebSocket) }), sure: likely,
		hop: "{strips}", cause: "it leads only the upgrade to websocket to the listener, and that to tcp to another server, which answers {status}", change: "leave it and use --carrier websocket, or let {match} lead tcp to the listener too"},
	{code: "websocket-only", of: "no-upgrade no-connection bad-request forbidden no-route no-upgrades bad-gateway upstream-closed server-fault refused ended silent", when: func(e *evidence) bool { return e.opens(preflight.CarrierWebSocket) }, sure: likely, others: unseen,
		hop: "{strips}", cause: "it passes the upgrade to websocket alone, and removes or refuses that to tcp", change: "leave it and use --carrier websocket, or let it pass the upgrade to tcp too: {widens}", paste: true},
	{code: "no-upgrade", of: "no-upgrade", sure: likely, others: unseenOrMap,
		hop: "{strips}", cause: "it removes Upgrade: the listener got the request without it", change: "{passes}", paste: true},
	{code: "no-connection", of: "no-connection", sure: likely, others: unseenOrMap,
		hop: "{strips}", cause: "it removes upgrade from Connection: the listener got Upgrade, and Connection without it", change: "{connects}", paste: true},
	{code: "http2", of: "http2", hop: "the last proxy before the listener", cause: "it speaks HTTP/2, or another version, to the listener", change: "let it speak HTTP/1.1 there (Envoy: no `http2_protocol_options`; HAProxy: no `proto h2`; Caddy: no h2c://)"},
	{code: "proxy-header", of: "proxy-header", hop: "the listener", cause: "a proxy sends it a PROXY header, and it does not trust that proxy", change: trustProxy},
	{code: "carrier", of: "carrier", hop: "the listener", cause: "it does not serve this carrier", change: "add it to --carrier of `preflight serve` (PreflightListener.Carriers), or use another by --carrier here"},
	{code: "protocol", of: "protocol", hop: "the listener", cause: "it does not serve the protocol that was asked for (Upgrade)", change: "let PreflightListener.Protocols have tcp, or leave it nil"},
	{code: "tunnel-tls", of: "tunnel-tls", hop: "the listener", cause: "it offers no TLS inside the tunnel", change: "set PreflightListener.TLSConfig, or --tls-cert of `preflight serve`"},
	{code: "too-large", of: "too-large", hop: "the listener", cause: "the head of the request is too large for it", change: "raise PreflightListener.MaxHeaderBytes, or send fewer or shorter fields (--header, --header-file)"},
	{code: "too-slow", of: "too-slow", hop: "a proxy on the way, {way}", cause: "the listener did not get the whole head in time", change: "look for a proxy that holds requests back", sure: likely, others: []string{"the network is slow"}},
	{code: "draining", of: "draining", hop: "the listener", cause: "it is shutting down", change: "try again when the server has started anew"},
	{code: "full", of: "full", hop: "the listener", cause: "it takes no more handshakes for the moment", change: "try again later, or raise PreflightListener.MaxPending"},
	{code: "origin", of: "origin", hop: "the request", cause: "it has an Origin that the listener does not allow", change: "do not send Origin (--header), or add it to --allow-origin of `preflight serve` (PreflightListener.AllowedOrigins)"},
	{code: "request", of: "request", hop: "a trusted proxy, {way}", cause: "it sends a malformed field for the client's address", change: "correct the field there that --client-addr-header of `preflight serve` (PreflightListener.ClientAddrHeader) names: nginx `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for`"},
	{code: "authorize", of: "authorize", when: status(mainCarrier, http.StatusTooManyRequests, http.StatusServiceUnavailable), hop: "the listener", cause: "its Authorize refuses for the moment", change: "try again later; the log of the server has the reason"},
	{code: "server-down", of: "authorize", when: status(mainCarrier, http.StatusBadGateway, http.StatusGatewayTimeout), hop: "the server behind `preflight serve`", cause: "`preflight serve` cannot reach its server", change: "start that server, or correct --to or --route"},
	{code: "other-route", of: "authorize", when: all(refusesForm, onTheWay, func(e *evidence) bool { return isClean(e.path()) }),
		hop: "{way}", cause: "it changes the path: `preflight serve` gets one with {unclean}, and refuses that", change: cleanPath},
	{code: "path-form", of: "authorize", when: refusesForm,
		hop: "the path in the URL", cause: "it has {unclean}, and `preflight serve` refuses that", change: "write it without"},
	{code: "no-route", of: "authorize", when: status(mainCarrier, http.StatusNotFound), hop: "the listener", cause: "`preflight serve` has no server for this path", change: "correct the path in the URL, or add it by --route; a proxy may change the path (nginx: the slash after `proxy_pass`)"},
	{code: "authorization-lost", of: "authorize", when: all(sentAuthorization, either(lost("Authorization"), all(status("authorization", http.StatusUnauthorized, http.StatusForbidden), tooLarge("other-field")))),
		hop: "{way}", cause: "a proxy on the way removes Authorization or writes its own, so the listener does not see the credentials", change: "let it pass the field: nginx no `proxy_set_header Authorization …`; Squid `login=PASSTHRU`; HAProxy no `del-header Authorization`"},
	{code: "credentials-scheme", of: "authorize", when: otherScheme,
		hop: "the listener", cause: "it wants {challenge}, and the Authorization that was sent does not begin with that word", change: "write `Authorization: {wanted} …` in --header-file, --header-command or --header"},
	{code: "credentials-refused", of: "authorize", when: all(sentAuthorization, tooLarge("authorization")),
		hop: "the listener", cause: "its Authorize refuses the credentials that were sent, which reach it", change: "renew or correct the Authorization in --header-file, --header-command or --header"},
	{code: "credentials-refused", of: "authorize", when: sentAuthorization, sure: likely,
		hop: "the listener", cause: "its Authorize refuses the credentials that were sent", change: "renew or correct the Authorization in --header-file, --header-command or --header",
		others: []string{"a proxy on the way removes Authorization (nginx `proxy_set_header Authorization \"\"`)"}},
	{code: "credentials-missing", of: "authorize", hop: "the listener", cause: "its Authorize refuses the request, which was sent without credentials", change: "send them: --header-file with `Authorization: Bearer …`"},
	{code: "no-hijack", of: "no-hijack", hop: "the program of the listener", cause: "a middleware in front of the listener hides http.Hijacker", change: "give its ResponseWriter an Unwrap method, or mount the listener outside of it"},
	{code: "misconfigured", of: "misconfigured", hop: "the listener", cause: "a field of it is invalid", change: "Accept returns which: see the log of the server"},
	{code: "internal", of: "internal", hop: "the listener", cause: "its Authorize panicked, or returned what cannot be sent", change: "read the log of the server"},
	{code: "fixed-upgrade", of: "websocket", when: func(e *evidence) bool { return e.main() != webSocket },
		hop: "{strips}", cause: "it writes `websocket` into Upgrade, whatever was asked for: the listener got a WebSocket without its key", change: "let it pass Upgrade as it comes: nginx `proxy_set_header Upgrade $http_upgrade;`, HAProxy no `set-header Upgrade`", paste: true},
	{code: "head", of: "head method body expect websocket subprotocol", hop: "{way}", cause: "a proxy on the way changes the request, and the listener refuses it", change: "let it pass the request as it is; for CloudFront forward the Sec-WebSocket- fields"},
	{code: "refused-by-listener", of: "refused-by-listener", hop: "the listener", cause: "it refuses the request", change: "read the log of the server"},
	{code: "switched", of: "switch-token switch-connection switch-tunnel switch-framing switch-websocket switch-protocol", sure: likely,
		hop: "the server behind {way}", cause: "another program than a preflight listener accepts the upgrade", change: "correct the path or the Host in the URL, or {upstream}",
		others: []string{"a proxy on the way changes the fields of the answer"}},
}

const trustProxy = "add the proxy to --trusted-proxy of `preflight serve` (PreflightListener.TrustedProxies), or remove `send-proxy` from the `server` line (HAProxy), `proxy_protocol on` (nginx stream)"

// tcpAlone holds if a carrier that the client tries first opens, and WebSocket does not.
func tcpAlone(e *evidence) bool { return e.works() && e.main() == webSocket }

func sentAuthorization(e *evidence) bool { return e.sentAuthorization }

// tooLarge holds if the listener found the head of a question too large, so that it saw all
// of it.
func tooLarge(question string) func(*evidence) bool {
	return func(e *evidence) bool { return e.of(question).Reason == "too-large" }
}
