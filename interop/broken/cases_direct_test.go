package broken

import (
	"strings"

	"github.com/preflight-go/preflight"
)

// forwarding is a forward proxy of Squid.
const forwarding = "http_port {addr} name={name}\nnever_direct deny {name}\nalways_direct allow {name}\n"

var forwardPaths = []brokenPath{
	{
		name:    "Squid as a forward proxy does not allow the port",
		program: "Squid", site: forwarding + "acl ports_{name} port 443\nhttp_access deny {name} !ports_{name}\nhttp_access allow {name}",
		forward: "http://",
		code:    "connect-forbidden",
		hop:     "the forward proxy", cause: "does not allow CONNECT", line: "SSL_ports",
	},
	{
		name:    "Squid as a forward proxy, the credentials are missing",
		program: "Squid", site: forwarding + "http_access deny {name} !known\nhttp_access allow {name}",
		forward: "http://",
		code:    "proxy-auth-missing",
		hop:     "the forward proxy", cause: "none were sent", line: "the URL that Proxy returns",
	},
	{
		name:    "Squid as a forward proxy, the credentials are wrong",
		program: "Squid", site: forwarding + "http_access deny {name} !known\nhttp_access allow {name}",
		forward: "http://jane:" + secretHeader + "@",
		code:    "proxy-auth-refused",
		hop:     "the forward proxy", cause: "does not accept the credentials", line: "the URL that Proxy returns",
	},
	{
		name:    "Squid as a forward proxy, and an edge that is down",
		program: "Squid", site: forwarding + "http_access allow {name}",
		forward: "http://", edge: "down",
		code: "connect-unreachable",
		hop:  "the forward proxy", cause: "cannot resolve or reach the host", line: "Check that address",
		waits: true,
	},
	{
		name:    "Squid as a forward proxy, and an edge that speaks HTTP/1.0",
		program: "Squid", site: forwarding + "http_access allow {name}",
		forward: "http://", edge: "nginx without proxy_http_version",
		code: "http10",
		hop:  "through the forward proxy|nginx is on the way", cause: "HTTP/1.0", line: "proxy_http_version 1.1",
		long: true,
	},
	{
		name:    "an https URL for the http port of Squid",
		program: "Squid", site: forwarding + "http_access allow {name}",
		dial: trusted, forward: "https://",
		code: "not-tls",
		hop:  "the forward proxy", cause: "does not speak TLS", line: "write http://",
	},
	{
		name:    "a socks5 URL for the http port of Squid",
		program: "Squid", site: forwarding + "http_access allow {name}",
		dial: impatient, forward: "socks5://",
		code: "socks-timeout",
		hop:  "the forward proxy", cause: "which an HTTP proxy does not know", line: "write http://",
		waits: true,
	},
	{
		name:    "an http URL for the TLS port of Squid",
		program: "Squid", site: "https_port {addr} name={name} tls-cert={dir}/good.crt tls-key={dir}/good.key\nhttp_access allow {name}",
		forward: "http://",
		code:    "tls-port",
		hop:     "the forward proxy", cause: "speaks TLS", line: "write https://",
	},
	{
		name:    "tinyproxy does not allow the port",
		program: "tinyproxy", site: "ConnectPort 443",
		forward: "http://",
		code:    "connect-forbidden",
		hop:     "the forward proxy", cause: "does not allow CONNECT", line: "ConnectPort",
	},
	{
		name:    "tinyproxy, the credentials are missing",
		program: "tinyproxy", site: "BasicAuth jane secret",
		forward: "http://",
		code:    "proxy-auth-missing",
		hop:     "the forward proxy", cause: "none were sent", line: "the URL that Proxy returns",
	},
	{
		name:    "tinyproxy, and an edge that is down",
		program: "tinyproxy", site: "",
		forward: "http://", edge: "down",
		code: "connect-unreachable",
		hop:  "the forward proxy", cause: "cannot resolve or reach the host", line: "Check that address",
		waits: true,
	},
	{
		name:    "an http URL for OpenSSH's SOCKS5 port",
		program: "OpenSSH", site: "",
		forward: "http://",
		code:    "proxy-ended",
		hop:     "the forward proxy", cause: "it is a SOCKS5 proxy", line: "write socks5://",
		beside: []string{"its port speaks TLS", "it does not admit this client"},
		waits:  true,
	},
	{
		name:    "an http URL for the TLS port of HAProxy",
		program: "HAProxy", site: "bind {addr} ssl crt {dir}/good.pem\nserver s {good}",
		forward: "http://",
		code:    "proxy-ended",
		hop:     "the forward proxy", cause: "its port speaks TLS", line: "https://",
		beside: []string{"it is a SOCKS5 proxy", "it does not admit this client"},
		waits:  true,
	},
	{
		name:    "OpenSSH's SOCKS5 proxy, and an edge that is down",
		program: "OpenSSH", site: "",
		forward: "socks5://", edge: "down",
		code: "socks-ended",
		hop:  "the forward proxy", cause: "cannot connect", line: "the host that was dialed",
		waits: true,
	},
	{
		name:    "nginx as the forward proxy, which it is not",
		program: "nginx", site: "location / { proxy_pass http://{good}; " + upgrades + "}",
		forward: "http://",
		code:    "not-a-proxy",
		hop:     "the forward proxy", cause: "no forward proxy", line: "the URL that Proxy returns",
	},
	{
		name:    "the forward proxy is down",
		forward: "http://", direct: "down",
		hop: "proxyconnect", cause: "connection refused",
		lacks: "what to change: it is the error of package net",
	},
}

var listenerPaths = []brokenPath{
	{
		name: "Authorize refuses with 401", direct: "401",
		code: "authorize",
		hop:  "Authorize of the listener", cause: "without Authorization", line: "Header or GetHeader",
	},
	{
		name: "Authorize refuses the Authorization that was sent", direct: "401", dial: with("Authorization", "Bearer "+secretHeader),
		code: "authorize",
		hop:  "Authorize of the listener", cause: "arrived with an Authorization", line: "Renew or correct",
	},
	{
		name: "Authorize refuses with 403", direct: "403",
		code: "authorize",
		hop:  "Authorize of the listener", cause: "without Authorization", line: "Header or GetHeader",
	},
	{
		name: "Authorize refuses with 429", direct: "429",
		code: "authorize",
		hop:  "Authorize of the listener", cause: "temporarily", line: "try again in 7s",
		waits: true,
	},
	{
		name: "a Go proxy with http.TimeoutHandler", direct: "timeout",
		code: "bad-gateway",
		hop:  "the proxy", cause: "passes no upgrade", line: "log",
		beside: []string{"cannot reach the server behind it", "it is down", "its address is wrong"},
		waits:  true,
	},
	{
		name: "a Go proxy whose server is down", direct: "lonely",
		code: "bad-gateway",
		hop:  "the proxy", cause: "it is down", line: "its address",
		beside: []string{"passes no upgrade", "got no valid answer", "TLS is on one side alone"},
		waits:  true,
	},
	{
		name: "Authorize refuses, behind nginx", program: "nginx", site: "location / { proxy_pass http://{401}; " + upgrades + "}",
		code: "authorize",
		hop:  "Authorize of the listener", cause: "without Authorization", line: "Header or GetHeader",
	},
	{
		name: "Authorize panics", direct: "panics",
		code: "internal",
		hop:  "the listener", cause: "Authorize failed", line: "The log of the server",
	},
	{
		name: "Authorize panics, behind nginx", program: "nginx", site: "location / { proxy_pass http://{panics}; " + upgrades + "}",
		code: "internal",
		hop:  "the listener", cause: "Authorize failed", line: "The log of the server",
	},
	{
		name: "the listener serves another protocol", direct: "other",
		code: "protocol",
		hop:  "the listener", cause: "does not serve this protocol", line: "PreflightListener.Protocols",
	},
	{
		name: "the listener has no TLSConfig", direct: "good", dial: inside,
		code: "tunnel-tls",
		hop:  "the listener", cause: "offers no TLS inside", line: "PreflightListener.TLSConfig",
	},
	{
		name: "the listener does not serve CarrierFramed", direct: "unframed", dial: only(preflight.CarrierFramed),
		code: "carrier",
		hop:  "the listener", cause: "does not serve this carrier", line: "PreflightListener.Carriers",
	},
	{
		name: "the head is larger than MaxHeaderBytes", direct: "narrow", dial: with("X-Large", strings.Repeat("x", 1024)),
		code: "too-large",
		hop:  "the listener", cause: "too large", line: "MaxHeaderBytes",
	},
	{
		name: "the listener is shutting down", direct: "draining",
		code: "draining",
		hop:  "the listener", cause: "shutting down", line: "try again",
		waits: true,
	},
	{
		name: "a middleware hides Hijack", direct: "hidden",
		code: "no-hijack",
		hop:  "a middleware in front of it", cause: "hides http.Hijacker", line: "Unwrap",
	},
	{
		name: "the listener is mounted at another path", direct: "mux",
		code: "no-route",
		hop:  "a Go server", cause: "no route for this Host and path", line: "a handler",
	},
	{
		name: "an Origin that is not allowed", direct: "good", dial: with("Origin", "https://evil.example"),
		code: "origin",
		hop:  "PreflightListener", cause: "has an Origin", line: "AllowedOrigins",
	},
	{
		name: "the edge does not send the client's address", program: "nginx", site: "location / { proxy_pass http://{trusting}; " + upgrades + "proxy_set_header X-Forwarded-For nonsense; }",
		code: "request",
		hop:  "the listener", cause: "cannot read the client's address", line: "ClientAddrHeader",
	},
	{
		name: "plain HTTP to a listener above TLS", direct: "tls",
		code: "tls-port",
		hop:  "the port", cause: "speaks TLS", line: "set TLSConfig",
	},
	{
		name: "TLS to a plain listener", direct: "strict", dial: trusted,
		code: "not-tls",
		hop:  "the peer", cause: "does not speak TLS", line: "leave TLSConfig nil",
	},
	{
		name: "TLS to a zero listener", direct: "good", dial: trusted,
		code: "echo",
		hop:  "the peer", cause: "sends back what it gets, so it is plain", line: "leave TLSConfig nil",
	},
}

var peerPaths = []brokenPath{
	{
		name: "SSH is dialed", direct: "ssh",
		code: "ssh",
		hop:  "edge", cause: "an SSH server answered", line: "the address that was dialed",
	},
	{
		name: "Redis is dialed", direct: "redis",
		code:   "ended",
		cause:  "no HTTP",
		beside: []string{"the port speaks TLS", "waits for a PROXY header", "return 444", "the server behind is down"},
		waits:  true,
		long:   true,
		lacks:  "Redis, which closes the connection without a word",
	},
	{
		name: "MariaDB is dialed", direct: "mariadb",
		code: "mysql",
		hop:  "edge", cause: "MySQL or MariaDB answered", line: "Correct the address",
	},
	{
		name: "NATS is dialed", direct: "nats",
		code: "nats",
		hop:  "edge", cause: "NATS answered", line: "Correct the address",
	},
	{
		name: "gRPC is dialed", direct: "grpc",
		code: "http2-port",
		hop:  "edge", cause: "an HTTP/2 server, such as gRPC", line: "Let that server accept through a PreflightListener",
		long: true,
	},
	{
		name: "an ordinary web server is dialed", direct: "page",
		code: "no-listener",
		hop:  "at the address that was dialed", cause: "lead to something else", line: "Correct that address",
	},
	{
		name: "a Go server with TLS is dialed in plain", direct: "https",
		code: "tls-port",
		hop:  "a Go server", cause: "its port speaks TLS", line: "set TLSConfig",
		beside: []string{"if a proxy is in front of it that shows no name, such as HAProxy, let that speak TLS to it (`ssl`)"},
	},
	{
		name: "connection refused", usual: true, direct: "down",
		hop: "edge", cause: "connection refused",
		lacks: "what to change: it is the error of package net",
	},
	{
		name: "a black hole", direct: "hole", dial: impatient,
		hop: "edge", cause: "i/o timeout",
		lacks: "what to change: it is the error of package net",
		waits: true,
	},
	{
		name: "an edge that says nothing", direct: "silent", dial: impatient,
		code: "silent",
		hop:  "the server behind", cause: "hangs",
		beside: []string{"another protocol", "PROXY header"},
		waits:  true,
	},
	{
		name: "an edge that says nothing to TLS", direct: "silent", dial: all(trusted, impatient),
		code: "tls-timeout",
		hop:  "the peer", cause: "did not answer the TLS handshake",
		beside: []string{"the port is plain", "PROXY header"},
		waits:  true,
	},
	{
		name: "an edge whose server is down, and that closes the connection", direct: "ending",
		code:   "ended",
		cause:  "the server behind is down",
		beside: []string{"the port speaks TLS", "waits for a PROXY header", "return 444"},
		lacks:  "what to change: there is no answer",
		waits:  true,
		long:   true,
	},
}
