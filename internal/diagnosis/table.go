package diagnosis

import (
	"slices"
	"strings"

	"github.com/preflight-go/preflight/internal/wire"
)

// table has every conclusion. The first row that fits is taken, so a row with more evidence
// stands before one with less. To add a case, add a row, a case for it in table_test.go, and
// a row in docs/troubleshooting.md.
var table = slices.Concat(refusals, switches, answers, connects, openings, handshakes, ends)

// refusals are what a listener says itself, by the code of its receipt. They say exactly
// what it saw.
var refusals = []row{
	{code: "http10", receipt: "http10",
		text: "the listener got HTTP/1.0, which has no upgrade, from the last proxy. {http10}"},
	{code: "no-upgrade", receipt: "no-upgrade", also: unchanged,
		text: "the listener got the request without Upgrade, so a proxy on the way removes it. The answer came back unchanged, as Varnish pipes it. If it is Varnish, vcl_pipe needs `set bereq.http.Upgrade = req.http.Upgrade`, and Connection likewise"},
	{code: "no-upgrade", receipt: "no-upgrade",
		text: "the listener got the request without Upgrade, so a proxy on the way removes it. {upgrade}"},
	{code: "no-connection", receipt: "no-connection", also: unchanged,
		text: "the listener got Upgrade, but a proxy on the way removes upgrade from Connection. The answer came back unchanged, as Varnish pipes it. If it is Varnish, vcl_pipe needs `set bereq.http.Connection = req.http.Connection`"},
	{code: "no-connection", receipt: "no-connection",
		text: "the listener got Upgrade, but a proxy on the way removes upgrade from Connection. {connection}"},
	{code: "http2", receipt: "http2",
		text: "the last proxy speaks another version of HTTP than 1.1 to the listener. HTTP/2 has no upgrade: let that proxy speak HTTP/1.1 to it"},
	{code: "method", receipt: "method",
		text: "the listener got another method than GET, so a proxy on the way changes it"},
	{code: "body", receipt: "body",
		text: "the listener got a body with the request, so a proxy on the way adds one, or a Content-Length or Transfer-Encoding"},
	{code: "expect", receipt: "expect",
		text: "the listener got an Expect that it cannot meet, so a proxy on the way adds one"},
	{code: "head", receipt: "head",
		text: "the listener takes the head of the request for malformed. A proxy on the way made it so; StatusError.Body has the rule"},
	{code: "too-large", receipt: "too-large",
		text: "the head is too large for the listener. It was sent with {size} bytes, and proxies add more. Raise PreflightListener.MaxHeaderBytes, or shorten Header or Path"},
	{code: "too-slow", receipt: "too-slow", waits: true,
		text: "the listener did not get the whole head in its HandshakeTimeout, so a proxy on the way holds it back, or the way is slow; {later}"},
	{code: "websocket", receipt: "websocket",
		text: "the listener got a malformed Sec-WebSocket-Key or -Version, so a proxy on the way changes or removes it. Let it pass these fields"},
	{code: "subprotocol", receipt: "subprotocol",
		text: "the request reached the listener, but a proxy on the way removes Sec-WebSocket-Protocol. Let it pass this field (CloudFront: forward the Sec-WebSocket- fields)"},
	{code: "carrier", receipt: "carrier",
		text: "the listener does not serve this carrier. Add it to PreflightListener.Carriers, or another to PreflightDialer.Carriers"},
	{code: "protocol", receipt: "protocol",
		text: "the listener does not serve this protocol. Change PreflightDialer.Protocol or PreflightListener.Protocols"},
	{code: "tunnel-tls", receipt: "tunnel-tls",
		text: "the listener offers no TLS inside the tunnel, which TunnelTLSConfig asks for. Set PreflightListener.TLSConfig, or leave TunnelTLSConfig nil"},
	{code: "draining", receipt: "unavailable", body: "shutting down", waits: true,
		text: "the listener is shutting down; {later}"},
	{code: "full", receipt: "unavailable", waits: true,
		text: "the listener takes no more handshakes for the moment (PreflightListener.MaxPending); {later}"},
	{code: "proxy-header", receipt: "proxy-header",
		text: "the listener got a PROXY header and does not trust the peer that sent it. Add that proxy to PreflightListener.TrustedProxies, or let it send none (HAProxy `send-proxy`, nginx `proxy_protocol on`)"},
	{code: "origin", receipt: "origin",
		text: "the request has an Origin that PreflightListener.AllowedOrigins does not list. Add it, or do not send Origin"},
	{code: "request", receipt: "request",
		text: "the listener cannot read the client's address from a trusted proxy. Correct the field that PreflightListener.ClientAddrHeader names there; StatusError.Body has the rule"},
	{code: "authorize", receipt: "authorize", status: "408 425 429 503", waits: true,
		text: "Authorize of the listener refused the request temporarily; {later}"},
	{code: "authorize", receipt: "authorize", status: "502 504", waits: true,
		text: "the request reached the listener, whose Authorize says that something behind it does not answer, such as its server. StatusError.Body can have the reason; {later}"},
	{code: "authorize", receipt: "authorize", status: "5xx",
		text: "the request reached the listener, whose Authorize says that the server is at fault. StatusError.Body and the log of the server can have the reason"},
	{code: "authorize", receipt: "authorize", body: "ended its direction",
		text: "the listener saw the client end its direction before the 101, so a proxy on the way passes a half-close, or gave up. Keep the direction open, and look at the time that Authorize takes"},
	{code: "authorize", receipt: "authorize", status: "401 403 407", body: strings.ToLower(wire.NoAuthorization), also: sentAuthorization,
		text: "Authorize of the listener refused the request, which arrived without the Authorization that was sent: a proxy on the way removes it. {authorization}"},
	{code: "authorize", receipt: "authorize", status: "401 403 407", body: "; " + strings.ToLower(wire.WithAuthorization), also: sentAuthorization,
		text: "Authorize of the listener refused the request, which arrived with an Authorization. Renew or correct the one that is sent, in Header or GetHeader"},
	{code: "authorize", receipt: "authorize", status: "401 403 407", also: sentAuthorization,
		text: "Authorize of the listener refused the request. Authorization was sent: renew or correct it, unless a proxy on the way removes it (possible)"},
	{code: "authorize", receipt: "authorize", status: "401 403 407",
		text: "Authorize of the listener refused the request, which was sent without Authorization. Put the credentials that it wants into Header or GetHeader"},
	{code: "authorize", receipt: "authorize",
		text: "the request reached the listener, whose Authorize refused it by a status that is not about credentials. StatusError.Body can have the reason"},
	{code: "no-hijack", receipt: "internal", body: "http.hijacker",
		text: "the request reached the listener, but a middleware in front of it hides http.Hijacker. Give its ResponseWriter an Unwrap method, or mount the listener outside of it"},
	{code: "misconfigured", receipt: "internal", body: "misconfigured",
		text: "the request reached the listener, whose configuration is invalid. Accept returns which field"},
	{code: "internal", receipt: "internal",
		text: "the request reached the listener, whose Authorize failed and did not decide. The log of the server has the panic, or what it returned that cannot be sent"},
	{code: "refused-by-listener", receipt: anyReceipt, also: func(f *facts) bool { return f.Receipt != "" },
		text: "the listener refused the request for a reason that this version does not know; StatusError.Reason has its code"},
}

// switches are a 101 that does not agree to what was asked for. Broken says what it lacks.
var switches = []row{
	{code: "switch-token", status: "101", also: broken("upgrade"),
		text: "another program answered with an upgrade of its own, or a proxy on the way changes Upgrade in the answer. Check Path and Host, and the upstream that they lead to"},
	{code: "switch-connection", status: "101", also: broken("connection"),
		text: "a proxy on the way changes Connection in the answer, or the server is no PreflightListener"},
	{code: "switch-tunnel", status: "101", also: broken("tunnel"),
		text: "the server is no PreflightListener with TLSConfig, or a proxy on the way changes Preflight-Tunnel. Let it pass the field; or end TLS above the listener and leave TunnelTLSConfig nil"},
	{code: "switch-framing", status: "101", also: broken("framing"),
		text: "the server does not frame, or a proxy on the way changes Preflight-Framing. Let it pass the field, or use another carrier"},
	{code: "switch-websocket", status: "101", also: broken("websocket"),
		text: "a WebSocket server that is no PreflightListener answered, or a proxy on the way changes the Sec-WebSocket- fields. Check Path and Host, or let it pass the fields"},
	{code: "switch-protocol", status: "101", also: broken("protocol"),
		text: "a proxy on the way changes Preflight-Protocol, or the server is no PreflightListener. Let it pass the field"},
}

func broken(code string) func(*facts) bool { return func(f *facts) bool { return f.Broken == code } }

// openings are the first bytes of what is not HTTP/1.x. A proxy may have passed them on: nginx
// takes what is not HTTP for the body of an HTTP/0.9 answer.
var openings = []row{
	{code: "tls-port", at: Connect | Upgrade, first: "\x15\x03",
		text: "the port speaks TLS; {tls}"},
	{code: "ssh", at: Connect | Upgrade, first: "SSH-",
		text: "an SSH server answered. Correct the address that was dialed, or the upstream to which a proxy on the way leads this path" + nginx09},
	{code: "mail-or-ftp", at: Connect | Upgrade, first: "220",
		text: "a mail or FTP server answered. Correct the address that was dialed, or the upstream to which a proxy on the way leads this path" + nginx09},
	{code: "redis", at: Connect | Upgrade, first: "-ERR",
		text: "Redis, or another server of a line protocol, answered instead of a PreflightListener. Correct the address, or the upstream of a proxy on the way" + nginx09},
	{code: "redis", at: Connect | Upgrade, first: "-DENIED",
		text: "Redis answered instead of a PreflightListener. Correct the address, or the upstream of a proxy on the way" + nginx09},
	{code: "http2-port", at: Connect | Upgrade, also: settingsFrame,
		text: "an HTTP/2 server, such as gRPC, answered instead of a PreflightListener. Let that server accept through a PreflightListener; or correct the address, or the upstream of a proxy on the way"},
	{code: "mysql", at: Connect | Upgrade, also: mysqlGreeting,
		text: "MySQL or MariaDB answered instead of a PreflightListener. Correct the address, or the upstream of a proxy on the way"},
	{code: "nats", at: Connect | Upgrade, first: "INFO {",
		text: "NATS answered instead of a PreflightListener. Correct the address, or the upstream of a proxy on the way"},
	{code: "postgresql", at: Connect | Upgrade, first: "E\x00\x00\x00",
		text: "PostgreSQL answered instead of a PreflightListener. Correct the address, or the upstream of a proxy on the way"},
	{code: "socks-port", at: Connect, also: socksReply,
		text: "it is a SOCKS proxy; write socks5:// in the URL that Proxy returns"},
	{code: "socks-port", also: socksReply,
		text: "a SOCKS proxy answered; dial the edge, and set Proxy with a socks5:// URL"},
	{code: "echo", at: Connect | Upgrade, first: "GET ",
		text: "an echo server answered. Correct the address, or the upstream of a proxy on the way"},
	{code: "echo", at: Connect | Upgrade, first: "CONNECT ",
		text: "an echo server answered; correct the URL that Proxy returns"},
	{code: "http-version", at: Connect | Upgrade, first: "HTTP/",
		text: "it is another version of HTTP, which has no upgrade; correct the address"},
	{code: "bare-page", at: Connect | Upgrade, also: page,
		text: "a page without a status line, as Apache's mod_proxy_wstunnel sends it while the server behind it is down. Use `ProxyPass … http://… upgrade={token}` instead of ws://, and start the server"},
	{code: "not-http", at: Connect | Upgrade, also: func(f *facts) bool { return f.first != "" },
		text: "something else answered: another program at the address that was dialed or at the upstream of a proxy on the way, or a proxy that failed"},
}

const nginx09 = " (nginx: proxy_pass)"
