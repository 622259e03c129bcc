package proxies

import "github.com/preflight-go/preflight/interop/internal/lab"

var nginx = proxy{
	name:  "nginx",
	file:  lab.NginxFile,
	start: lab.StartNginx,
	idle:  []string{nginxIdle, "proxy_read_timeout 1s;"},
	mistakes: []mistake{
		{[]string{nginxVersion, "", nginxUpgrade, "", nginxConnection, ""}, []string{nginxAdvice, "proxy_http_version 1.1", "[http10]"}},
		{[]string{nginxVersion, ""}, []string{nginxAdvice, "`proxy_http_version 1.1`", "[http10]", "HTTP/1.0 has no upgrade"}},
		{[]string{nginxUpgrade, ""}, []string{nginxAdvice, "proxy_set_header Upgrade $http_upgrade", "[no-upgrade]"}},
		{[]string{nginxConnection, ""}, []string{nginxAdvice, "`proxy_set_header Connection upgrade`", "[no-connection]", "Upgrade without `Connection: Upgrade`"}},
	},
	outcomes: map[string]string{"Front": withH2},
}

const (
	nginxVersion    = "proxy_http_version 1.1;"
	nginxUpgrade    = "proxy_set_header Upgrade $http_upgrade;"
	nginxConnection = "proxy_set_header Connection $connection_upgrade;"
	nginxIdle       = "proxy_read_timeout 1h;"
	nginxAdvice     = "nginx is on the way; if it is that proxy, its location needs `"
)
