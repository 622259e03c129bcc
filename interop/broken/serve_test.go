package broken

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// servePaths lead to `preflight serve`, or through two proxies, or to a proxy that compares the
// Host. Those without an expectation are there for others to lead to.
var servePaths = []brokenPath{
	{name: "nginx removes a part of the path that serve has in --route", program: "nginx", site: "location /client/ { proxy_pass http://{routes}/; " + upgrades + "}"},
	{name: "Caddy removes a part of the path that serve has in --route", program: "Caddy", site: "\nhandle_path /client/* {\nreverse_proxy {routes}\n}"},
	{name: "nginx keeps the path, and serve has no --route for it", program: "nginx", site: "location / { proxy_pass http://{elsewhere}; " + upgrades + "}"},
	{name: "nginx, and serve has as many tunnels as --max-conns allows", program: "nginx", site: "location / { proxy_pass http://{full}; " + upgrades + "}", keep: true},
	{name: "nginx hides what serve answers by proxy_intercept_errors", program: "nginx", site: "location / { proxy_pass http://{tokens}; proxy_intercept_errors on; error_page 401 /401.html; " + upgrades + "} location = /401.html { return 401; }"},
	{name: "nginx ends TLS in front of serve with --client-ca", program: "nginx", site: "location / { proxy_pass http://{certificates}; " + upgrades + "}"},
	{name: "Caddy, and credentials without a scheme", program: "Caddy", site: "reverse_proxy {tokens}", dial: with("Authorization", secretHeader)},
	{name: "HAProxy knows the Host without its port", program: "HAProxy", site: "http-request return status 404 unless { hdr(host) -i 127.0.0.1 }\nserver s {good}"},
	{name: "Envoy knows the Host without its port", program: "Envoy", site: envoyUpgrade + envoyRouter + `route_config: {virtual_hosts: [{name: edge, domains: ["127.0.0.1"], routes: [{match: {prefix: "/"}, route: {cluster: good}}]}]}`},
	{name: "nginx with TLS", program: "nginx", site: "listen {addr} ssl; location / { proxy_pass http://{good}; " + upgrades + "}"},
	{name: "HAProxy sends plain HTTP to nginx with TLS", program: "HAProxy", site: "server s {at nginx with TLS}"},
	{name: "nginx that redirects to https", program: "nginx", site: "if ($scheme = http) { return 301 https://$http_host$request_uri; } location / { proxy_pass http://{good}; " + upgrades + "}"},
	{name: "nginx redirects to the same path on another host", program: "nginx", site: "return 301 https://www.example.test$request_uri;"},
	{name: "nginx leads the path to SSH, which nginx passes on now and then", program: "nginx", site: "location / { proxy_pass http://{ssh}; " + upgrades + "}"},
	{name: "nginx behind HAProxy with TLS redirects to https", program: "HAProxy", site: "bind {addr} ssl crt {dir}/good.pem\nserver s {at nginx that redirects to https}", dial: trusted},
}

var serveExpectations = map[string]expectation{
	"nginx removes a part of the path that serve has in --route":      {"other-route", "nginx", "no slash after `proxy_pass", ""},
	"Caddy removes a part of the path that serve has in --route":      {"other-route", "Caddy", "`handle` in place of `handle_path`", ""},
	"nginx keeps the path, and serve has no --route for it":           {"no-route", "listener", "add the whole path by --route", ""},
	"nginx, and serve has as many tunnels as --max-conns allows":      {"full", "listener", "--max-conns", ""},
	"nginx hides what serve answers by proxy_intercept_errors":        {"receipt-hidden", "listener", "--header-file", ""},
	"nginx ends TLS in front of serve with --client-ca":               {"client-cert", "nginx", "proxy_ssl_certificate", ""},
	"Caddy, and credentials without a scheme":                         {"credentials-scheme", "listener", "`Authorization: Bearer …`", ""},
	"HAProxy knows the Host without its port":                         {"host-port", "HAProxy", "field(1,:)", ""},
	"Envoy knows the Host without its port":                           {"host-port", "Envoy", "ignore_port_in_host_matching", ""},
	"HAProxy sends plain HTTP to nginx with TLS":                      {"upstream-tls", "HAProxy", "`ssl` in the `server` line", ""},
	"nginx redirects to the same path on another host":                {"redirect-host", "the host in the URL", "the host to which it redirects", ""},
	"nginx leads the path to SSH, which nginx passes on now and then": {"upstream-other", "behind nginx", "put `preflight serve --to` in front", ""},
	"nginx behind HAProxy with TLS redirects to https":                {"redirect-loop", "nginx", "X-Forwarded-Proto", ""},
}

// TestDoctorServe requires the right verdict where `preflight serve` itself refuses, and on paths
// that only the questions of a check tell from others.
func TestDoctorServe(t *testing.T) {
	program := lab.BuildCommand(t)
	k := startKit(t, servePaths, startServes(t, program))
	for _, p := range servePaths {
		want, ok := serveExpectations[p.name]
		if !ok {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			d, text := p.runCheck(t, k, program)
			t.Log(text)
			require.NotNil(t, d.Verdict)
			require.Equal(t, "right", want.grade(d))
		})
	}
}

// startServes runs `preflight serve` with settings that refuse a request.
func startServes(t *testing.T, program string) map[string]string {
	dir := t.TempDir()
	writeCertificates(t, dir)
	tokens := filepath.Join(dir, "tokens")
	require.NoError(t, os.WriteFile(tokens, []byte("jane abcdefghijklmnop\n"), 0o600))
	to := serveRaw(t, func(c net.Conn) { io.Copy(c, c) })
	serves := make(map[string]string)
	for name, flags := range map[string][]string{
		"routes":       {"--allow-all", "--route", "/client=" + to},
		"elsewhere":    {"--allow-all", "--route", "/elsewhere=" + to},
		"full":         {"--allow-all", "--to", to, "--max-conns", "1"},
		"tokens":       {"--token-file", tokens, "--to", to},
		"certificates": {"--client-ca", filepath.Join(dir, "root.crt"), "--allow-cn", "*", "--tls-cert", filepath.Join(dir, "good.crt"), "--tls-key", filepath.Join(dir, "good.key"), "--to", to},
	} {
		flags = append([]string{"serve", "--listen", "127.0.0.1:0", "--require-upgrade", "--trusted-proxy", "127.0.0.1"}, flags...)
		serves[name] = startListening(t, program, flags...)
	}
	return serves
}
