package broken

import "github.com/preflight-go/preflight"

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
		hop:  "Apache itself", cause: "what it has for this Host and path does not admit it", line: "`Require`",
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
		code: "upstream-tls",
		hop:  "Apache sends plain HTTP", cause: "a port that speaks TLS", line: "`ProxyPass … https://`",
	},
	{
		name:    "Apache with https:// and no SSLProxyEngine",
		program: "Apache", site: "ProxyPass / https://{tls}/ upgrade=tcp",
		code: "server-fault",
		hop:  "Apache failed", cause: "failed", line: "Its log has the fault",
		lacks: "that Apache lacks SSLProxyEngine, which only its log has",
	},
	{
		name:    "Apache with a scheme whose module is not loaded",
		program: "Apache", site: "ProxyPass / h2c://{good}/",
		code: "server-fault",
		hop:  "Apache failed", cause: "failed", line: "Its log has the fault",
		lacks: "that a module is missing, which only its log has",
	},
	{
		name:    "Apache with a target that lacks the slash of its path",
		program: "Apache", site: "ProxyPass /client/ http://{good} upgrade=tcp",
		code: "bad-gateway",
		hop:  "Apache", cause: "a part of the path for the port", line: "`http://HOST:PORT/`",
	},
	{
		name:    "Apache with a name that does not resolve",
		program: "Apache", site: "ProxyPass / http://no-such-host.invalid/ upgrade=tcp",
		code: "bad-gateway",
		hop:  "Apache", cause: "cannot resolve the host", line: "in DNS",
	},
	{
		name:    "Apache speaks TLS to a plain listener",
		program: "Apache", site: "SSLProxyEngine on\nProxyPass / https://{strict}/ upgrade=tcp",
		code: "upstream-tls",
		hop:  "Apache's TLS", cause: "with the server behind it fails", line: "`ProxyPass`",
	},
	{
		name:    "Apache, a head of 10 KB",
		program: "Apache", site: "ProxyPass / http://{good}/ upgrade=tcp",
		dial: large,
		code: "head-size",
		hop:  "Apache", cause: "too large", line: "LimitRequestFieldSize",
	},
	{
		name:    "Apache redirects to https",
		program: "Apache", site: "Redirect / https://127.0.0.1:{port}/",
		code: "redirect-https",
		hop:  "on the same host", cause: "leads to https", line: "set TLSConfig",
	},
	{
		name:    "Apache, the server never answers",
		program: "Apache", site: "ProxyTimeout 1\nProxyPass / http://{silent}/ upgrade=tcp",
		code: "upstream-closed",
		hop:  "the server that `ProxyPass` names", cause: "no valid answer within `ProxyTimeout`", line: "why that server does not answer",
		waits: true,
	},
	{
		name:    "Apache with a ProxyPass for all paths before that of the path",
		program: "Apache", site: "ProxyPass / http://{page}/\nProxyPass /client/ http://{good}/client/ upgrade=tcp",
		code: "no-listener",
		hop:  "Apache leads", cause: "this Host and path to something else", line: "`ProxyPass`",
	},
}
