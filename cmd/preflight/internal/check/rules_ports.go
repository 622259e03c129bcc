package check

import "net/http"

// noAnswer are the codes of dials that ended without an answer in HTTP.
const noAnswer = "ended silent malformed not-http too-much bare-page"

// inFront is what to change where a proxy leads to a server that does not speak HTTP.
const inFront = "put `preflight serve --to` in front of that server, and let {upstream} lead {path} to `preflight serve`; or correct {upstream}, if another server is meant"

// portRules are about what does not speak HTTP/1.
var portRules = []rule{
	{code: "tls-port", of: "tls-port " + noAnswer, when: asked("TLS", "client-hello"),
		hop: "{edge}", cause: "the port speaks TLS, and the URL says that it does not", change: "write https:// (or wss://, tcps://) in the URL"},
	{code: "upstream-tls", of: "tls-port", when: came("client-hello", answered),
		hop: "{before}", cause: "it sends plain HTTP to a port that speaks TLS", change: "{behindSecure}, or lead it to the plain port"},
	{code: "tls-port", of: "tls-port",
		hop: "{edge}", cause: "the port speaks TLS, and the URL says that it does not", change: "write https:// (or wss://, tcps://) in the URL"},
	{code: "proxy-protocol", of: noAnswer, when: all(came("proxy-header", answered), not(came("get", answered)), not(came("malformed", answered))),
		hop: "{edge}", cause: "the port waits for a PROXY header, which a balancer in front of it should send", change: "remove `proxy_protocol` from `listen` (nginx) or `accept-proxy` from `bind` (HAProxy), or go through that balancer"},

	{code: "proxy-header", of: noAnswer + " upstream-closed bad-gateway", when: anyReason("proxy-header"),
		hop: "the listener", cause: "a proxy sends it a PROXY header, and it does not trust that proxy", change: trustProxy},

	// A proxy is there, and what it leads the path to is no web server.
	{code: "upstream-other", of: "ssh", when: someHTTP, hop: "the server behind {first}", cause: "{first} leads the path to an SSH server", change: inFront},
	{code: "upstream-other", of: "mysql", when: someHTTP, hop: "the server behind {first}", cause: "{first} leads the path to MySQL or MariaDB", change: inFront},
	{code: "upstream-other", of: "redis", when: someHTTP, hop: "the server behind {first}", cause: "{first} leads the path to Redis", change: inFront},
	{code: "upstream-other", of: "nats", when: someHTTP, hop: "the server behind {first}", cause: "{first} leads the path to NATS", change: inFront},
	{code: "upstream-other", of: "postgresql", when: someHTTP, hop: "the server behind {first}", cause: "{first} leads the path to PostgreSQL", change: inFront},
	{code: "upstream-other", of: "mail-or-ftp", when: someHTTP, hop: "the server behind {first}", cause: "{first} leads the path to a mail or FTP server", change: "correct {upstream} for {path}"},
	{code: "upstream-http2", of: "http2-port", when: someHTTP, hop: "the server behind {first}", cause: "{first} leads the path to a server that speaks HTTP/2 alone, such as gRPC", change: "give that server a preflight listener, or correct {upstream} for {path}"},
	{code: "upstream-other", of: noAnswer, when: all(someHTTP, behindSpeaks("SSH")), hop: "the server behind {first}", cause: "{first} leads the path to an SSH server", change: inFront},
	{code: "upstream-other", of: noAnswer, when: all(someHTTP, behindSpeaks("MySQL")), hop: "the server behind {first}", cause: "{first} leads the path to MySQL or MariaDB", change: inFront},
	{code: "upstream-http2", of: noAnswer, when: all(someHTTP, behindSpeaks("HTTP/2")), hop: "the server behind {first}", cause: "{first} leads the path to a server that speaks HTTP/2 alone, such as gRPC", change: "give that server a preflight listener, or correct {upstream} for {path}"},

	// There is no proxy: the port is that of another program.
	{code: "not-web", of: "ssh", hop: "{edge}", cause: "an SSH server listens there", change: "correct the host or the port in the URL; put `preflight serve --to` in front of that server"},
	{code: "not-web", of: "mysql", hop: "{edge}", cause: "MySQL or MariaDB listens there", change: "correct the host or the port in the URL; put `preflight serve --to` in front of that server"},
	{code: "not-web", of: "nats", hop: "{edge}", cause: "NATS listens there", change: "correct the host or the port in the URL; put `preflight serve --to` in front of that server"},
	{code: "not-web", of: "postgresql", hop: "{edge}", cause: "PostgreSQL listens there", change: "correct the host or the port in the URL; put `preflight serve --to` in front of that server"},
	{code: "not-web", of: "redis " + noAnswer, when: asked("Redis", "redis"), hop: "{edge}", cause: "Redis listens there", change: "correct the host or the port in the URL; put `preflight serve --to` in front of that server"},
	{code: "not-web", of: "redis", hop: "{edge}", cause: "Redis, or another server of a line protocol, listens there", change: "correct the host or the port in the URL; put `preflight serve --to` in front of that server"},
	{code: "not-web", of: "mail-or-ftp", hop: "{edge}", cause: "a mail or FTP server listens there", change: "correct the host or the port in the URL"},
	{code: "not-web", of: "http2-port " + noAnswer, when: all(asked("HTTP/2", "http2"), not(someHTTP)), hop: "{edge}", cause: "a server that speaks HTTP/2 alone, such as gRPC, listens there", change: "give that server a preflight listener, or correct the host or the port in the URL"},
	{code: "not-web", of: "http2-port", hop: "{edge}", cause: "a server that speaks HTTP/2 alone, such as gRPC, listens there", change: "give that server a preflight listener, or correct the host or the port in the URL"},
	{code: "not-web", of: "socks-port", hop: "{edge}", cause: "a SOCKS5 proxy listens there", change: "put it into HTTPS_PROXY as socks5://, and the edge into the URL"},
	{code: "not-web", of: "echo", hop: "{edge}", cause: "an echo server listens there", change: "correct the host or the port in the URL"},
	{code: "bare-page", of: "bare-page", hop: "Apache", cause: "its `ProxyPass ws://` sends a page without a status line while the server behind it is down", change: "start the server behind it, and write `ProxyPass … http://… upgrade=tcp` instead of ws://", paste: true},

	{code: "not-web", of: "not-http", when: not(someHTTP), hop: "{edge}", cause: "a program that is no web server listens there: it answers in a protocol of its own", change: "correct the host or the port in the URL; put `preflight serve --to` in front of that program"},
	{code: "upstream-other", of: "not-http malformed too-much", sure: likely, hop: "the server behind {first}", cause: "{first} leads the path to a program that does not speak HTTP as it must", change: "correct {upstream} for {path}",
		others: []string{"{first} itself sends this"}},

	// A proxy is there, and ends this request, or says nothing.
	{code: "upstream-other", of: "ended", when: all(firstIs(nginx), status("body", http.StatusContinue)), sure: likely,
		hop: "the server behind nginx", cause: "nginx leads the path to a server that is not HTTP: it says something, and ends the connection", change: inFront,
		others: []string{"the server ended the connection in the middle of its answer"}},
	{code: "rule-closes", of: "ended", when: firstIs(nginx), sure: likely,
		hop: "nginx", cause: "a rule of nginx closes the connection for this path and Host (`return 444`)", change: "remove `return 444` from the `location`, or the default `server`, that {path} and this Host reach",
		others: []string{"nginx leads the path to a server that is not HTTP", "the server ended the connection"}},
	{code: "server-down", of: "ended", when: firstIs(varnish), sure: likely,
		hop: "the server behind Varnish", cause: "Varnish pipes the request, and cannot reach the server behind it", change: "start that server, or correct the `backend`",
		others: []string{"that server closes the connection"}},
	{code: "rule-closes", of: "ended", when: firstIs(haproxy), sure: likely,
		hop: "HAProxy", cause: "a rule of HAProxy closes the connection (`http-request reject`)", change: "remove that rule for {path} and this Host",
		others: []string{"the server behind it ended the connection"}},
	{code: "rule-drops", of: "silent", when: firstIs(haproxy), sure: likely,
		hop: "HAProxy", cause: "HAProxy takes the request and never answers: a rule drops it (`http-request silent-drop`, `tarpit`)", change: "remove that rule for {path} and this Host",
		others: []string{"the server behind HAProxy hangs, and `timeout server` is long", "`proto h2` in the `server` line, and the server does not speak it"}},
	{code: "server-slow", of: "silent", when: all(someHTTP, either(firstIs(nginx, apache, envoy, varnish, lighttpd, squid, h2o, ats, traefik, golang))), sure: likely,
		hop: "the server behind {first}", cause: "{first} waits for the server behind it, which does not answer", change: "see whether that server hangs, or whether {upstream} leads to a program that is no web server",
		others: []string{"it waits for another protocol"}},

	{code: "rule-closes", of: "ended", when: someHTTP, sure: likely,
		hop: "{first}", cause: "it answers other requests, and closes the connection for this one: a rule does it (Caddy `abort`), or the server behind it ended the connection", change: "remove that rule for {path} and this Host, or see the log of the server"},

	// The port closes whatever comes.
	{code: "rule-closes", when: all(not(someHTTP), came("silence", wasReset)), sure: likely,
		hop: "{edge}", cause: "every connection is reset as soon as it is open: a rule rejects this client (HAProxy `tcp-request connection reject`, a firewall, a list of allowed addresses)", change: "allow the address of this machine there",
		others: []string{"a TCP proxy whose server is down", "a limit of connections"}},
	{code: "server-down", when: all(not(someHTTP), came("silence", ended)), sure: likely,
		hop: "the server behind {edge}", cause: "every connection ends as soon as it is open: a TCP proxy or balancer listens there, and its server is down", change: "start the server behind it, or correct its address (HAProxy `server`, nginx stream `proxy_pass`)",
		others: []string{"a rule rejects this client"}},
	{code: "server-down", of: "ended", when: all(not(someHTTP), slow), sure: likely,
		hop: "the server behind {edge}", cause: "a TCP proxy or balancer listens there (HAProxy `mode tcp`, nginx stream), and cannot reach its server", change: "start the server behind it, or correct its address (HAProxy `server`, nginx stream `proxy_pass`)",
		others: []string{"that proxy speaks TLS to its server (HAProxy `ssl` in the `server` line), and the server is plain", "a program that is no web server closes the connection"}},
	{code: "not-web", of: "ended", when: not(someHTTP), sure: possible,
		hop: "{edge}", cause: "whatever listens there closes the connection when it gets HTTP, TLS or HTTP/2: it is no web server, or a TCP proxy whose server is down", change: "correct the host or the port in the URL, or start the server behind it",
		others: []string{"a rule rejects this client (HAProxy `tcp-request connection reject`, a list of allowed addresses): allow the address of this machine there"}},
	{code: "silent", of: "silent", when: not(someHTTP), sure: likely,
		hop: "{edge}", cause: "the port accepts connections and answers nothing, neither HTTP nor TLS: the program behind it hangs", change: "see the log of what listens there; restart it, or correct the port in the URL",
		others: []string{"it waits for a protocol of its own", "a firewall swallows what is sent"}},
}

// behindSpeaks holds if the answer to a request for the path speaks a protocol that is not
// HTTP/1. A proxy that leads to such a server passes on its first bytes only now and then.
func behindSpeaks(protocol string) func(*evidence) bool {
	return asked(protocol, "get", "again", "other-host", "bare-host", "other-token", "fields", "expect")
}
