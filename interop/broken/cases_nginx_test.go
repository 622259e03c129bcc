package broken

import (
	"github.com/preflight-go/preflight"
)

// upgrades are the lines that pass an upgrade.
const upgrades = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; "

var nginxPaths = []brokenPath{
	{
		name: "nginx without proxy_http_version", usual: true,
		program: "nginx", site: "location / { proxy_pass http://{good}; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }",
		code: "http10",
		hop:  "nginx is on the way", cause: "HTTP/1.0", line: "proxy_http_version 1.1",
		not: []string{"removes Upgrade"},
	},
	{
		name: "nginx without the lines for Upgrade and Connection", usual: true,
		program: "nginx", site: "location / { proxy_pass http://{good}; proxy_http_version 1.1; }",
		code: "no-upgrade",
		hop:  "nginx is on the way", cause: "without Upgrade", line: "proxy_set_header Upgrade $http_upgrade",
		not: []string{"HTTP/1.0"},
	},
	{
		name:    "nginx with none of the three lines",
		program: "nginx", site: "location / { proxy_pass http://{good}; }",
		code: "http10",
		hop:  "nginx is on the way", cause: "HTTP/1.0", line: "proxy_http_version 1.1",
	},
	{
		name:    "nginx with Connection \"\"",
		program: "nginx", site: "location / { proxy_pass http://{good}; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"\"; }",
		code: "no-connection",
		hop:  "nginx is on the way", cause: "removes upgrade from Connection", line: "proxy_set_header Connection upgrade",
		not: []string{"HTTP/1.0", "proxy_set_header Upgrade"},
	},
	{
		name: "nginx with a map that passes websocket alone, and CarrierUpgrade", usual: true,
		program: "nginx", site: "location / { proxy_pass http://{good}; proxy_http_version 1.1; proxy_set_header Upgrade $websocket_alone; proxy_set_header Connection upgrade; }",
		dial: only(preflight.CarrierUpgrade),
		code: "no-upgrade",
		hop:  "nginx is on the way", cause: "without Upgrade", line: "proxy_set_header Upgrade $http_upgrade",
	},
	{
		name:    "nginx whose location loses the lines of its server by one of its own",
		program: "nginx", site: upgrades + "location / { proxy_pass http://{good}; proxy_set_header X-Own yes; }",
		code: "no-upgrade",
		hop:  "nginx is on the way", cause: "without Upgrade", line: "its location needs",
	},
	{
		name:    "nginx with a slash after proxy_pass that cuts the path",
		program: "nginx", site: "location /client/ { proxy_pass http://{mux}/; " + upgrades + "}",
		code: "other-route",
		hop:  "behind nginx", cause: "no route for the path that arrived", line: "a slash after proxy_pass",
	},
	{
		name: "nginx, the server is down", usual: true,
		program: "nginx", site: "location / { proxy_pass http://{down}; " + upgrades + "}",
		code: "bad-gateway",
		hop:  "the server that `proxy_pass` names", cause: "no valid answer", line: "Correct `proxy_pass`",
		waits: true,
	},
	{
		name: "nginx speaks plain HTTP to a Go server with TLS", usual: true,
		program: "nginx", site: "location / { proxy_pass http://{https}; " + upgrades + "}",
		code: "upstream-tls",
		hop:  "nginx sends plain HTTP", cause: "a port that speaks TLS", line: "proxy_pass https://",
	},
	{
		name:    "nginx speaks plain HTTP to a listener above TLS",
		program: "nginx", site: "location / { proxy_pass http://{tls}; " + upgrades + "}",
		code: "upstream-tls",
		hop:  "nginx sends plain HTTP", cause: "a port that speaks TLS", line: "proxy_pass https://",
	},
	{
		name:    "nginx speaks TLS to a plain listener",
		program: "nginx", site: "location / { proxy_pass https://{strict}; " + upgrades + "}",
		code: "bad-gateway",
		hop:  "the server that `proxy_pass` names", cause: "no valid answer", line: "Correct `proxy_pass`",
		waits: true,
	},
	{
		name:    "nginx leads the path to SSH",
		program: "nginx", site: "location / { proxy_pass http://{ssh}; " + upgrades + "}",
		code:  "ssh|ended",
		cause: "SSH server|no HTTP", line: "upstream|the port",
		varies: true,
		lacks:  "nginx; and what is in its log, where the connection ends first",
	},
	{
		name:    "nginx leads the path to Redis",
		program: "nginx", site: "location / { proxy_pass http://{redis}; " + upgrades + "}",
		code: "bad-gateway",
		hop:  "the server that `proxy_pass` names", cause: "no valid answer", line: "Correct `proxy_pass`",
		waits: true,
	},
	{
		name:    "nginx leads the path to MariaDB",
		program: "nginx", site: "location / { proxy_pass http://{mariadb}; " + upgrades + "}",
		code:  "mysql|ended",
		cause: "MySQL or MariaDB|no HTTP", line: "upstream|the port",
		varies: true,
		lacks:  "nginx, as above",
	},
	{
		name:    "nginx leads the path to gRPC",
		program: "nginx", site: "location / { proxy_pass http://{grpc}; " + upgrades + "}",
		dial:  impatient,
		code:  "http2-port|silent|ended",
		cause: "HTTP/2 server|another protocol|no HTTP", line: "upstream|the port",
		varies: true,
		lacks:  "nginx, as above",
	},
	{
		name:    "nginx leads the path to another web server",
		program: "nginx", site: "location / { proxy_pass http://{page}; " + upgrades + "}",
		code: "no-listener",
		hop:  "nginx leads", cause: "this Host and path to something else", line: "`proxy_pass`",
	},
}
