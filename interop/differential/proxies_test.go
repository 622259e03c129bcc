package differential

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
)

// A proxy is a configuration of a reverse proxy, made from its file of deploy/.
type proxy struct {
	name     string
	deployed bool // the file of deploy/ without changes
	command  func(*testing.T, site) []string
	exempt   func(line string) bool // request lines that no server can tell from plain data
}

// anotherProtocol reports whether a line is a request for HAProxy with
// accept-invalid-http-request, although clients of other protocols send such lines too:
// `PUB /a 5`, `OPTIONS * RTSP/1.0`.
func anotherProtocol(line string) bool {
	words := strings.Split(strings.TrimSuffix(line, "\r"), " ")
	if len(words) != 3 || strings.HasPrefix(words[2], "HTTP/") {
		return false
	}
	target := strings.ToLower(words[1])
	path := strings.HasPrefix(target, "/") || strings.HasPrefix(target, "http://") || strings.HasPrefix(target, "https://")
	return !path || !strings.HasPrefix(words[2], "RTSP/")
}

// wellFormed matches the request lines that a file of deploy/ may pass on.
var wellFormed = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^\\x00-\\x20]+ HTTP/1[.][01]\r$")

const (
	haproxyV2File  = "haproxy/haproxy-proxy-protocol.cfg"
	haproxyVersion = "http-request return status 400 if !{ req.ver 1.0 1.1 2.0 }"
	haproxyPath    = "http-request return status 404 if !tunnel"
	haproxyMode    = "    mode http\n"
	varnishPath    = `req.url !~ "^/client/"`
	varnishLine    = `req.method !~ "^[A-Z]+$" || req.proto !~ "^HTTP/1[.][01]$"`
	varnishUpgrade = `req.method == "GET" && req.proto == "HTTP/1.1" && req.http.Upgrade`
	apachePass     = "ProxyPass /client/ http://127.0.0.1:9007/ upgrade=ANY"
)

var proxies = []proxy{
	{name: "haproxy", deployed: true, command: haproxy(lab.HAProxyFile)},
	{name: "haproxy-lax", command: haproxy(lab.HAProxyFile, haproxyVersion, "", haproxyPath, "")},
	{
		name:    "haproxy-invalid",
		command: haproxy(lab.HAProxyFile, haproxyVersion, "", haproxyPath, "", haproxyMode, haproxyMode+"    option accept-invalid-http-request\n"),
		exempt:  anotherProtocol,
	},
	{name: "haproxy-strip", command: haproxy(lab.HAProxyFile, haproxyVersion, "", haproxyPath, `http-request replace-path /client(.*) \1`)},
	{name: "haproxy-decode", command: haproxy(lab.HAProxyFile, haproxyVersion, "", haproxyPath, "http-request set-path %[path,url_dec]")},
	// Most of the listeners do not expect the PROXY header.
	{name: "haproxy-proxy-v2", command: haproxy(haproxyV2File, haproxyVersion, "", haproxyPath, "")},
	{name: "haproxy-proxy-v1", command: haproxy(haproxyV2File, haproxyVersion, "", haproxyPath, "", "send-proxy-v2", "send-proxy")},

	{name: "varnish", deployed: true, command: varnish()},
	{name: "varnish-pass", command: varnish(varnishPath, "false", varnishLine, "false", varnishUpgrade, "false")},
	{name: "varnish-pipe", command: varnish(varnishPath, "false", varnishLine, "false", varnishUpgrade, "true")},
	{name: "varnish-strip", command: varnish(varnishPath, `req.url !~ "^/client"`, varnishLine, "false", varnishUpgrade, "req.http.Upgrade")},

	{name: "apache", deployed: true, command: apache()},
	{name: "apache-lax", command: apache(
		"ProxyPreserveHost On", "ProxyPreserveHost On\nHttpProtocolOptions Unsafe LenientMethods Allow0.9\nAllowEncodedSlashes NoDecode",
		apachePass, "ProxyPass / http://127.0.0.1:9007/ upgrade=ANY nocanon")},
	{name: "apache-decode", command: apache(apachePass, "RewriteEngine On\nRewriteRule ^/client/(.*)$ http://127.0.0.1:9007/$1 [P,NE]")},

	{name: "nginx", deployed: true, command: nginx()},
	{name: "nginx-decode", command: nginx("location /client/", "location ~ .",
		"listen 80;", "listen 80;\n    ignore_invalid_headers off;\n    merge_slashes off;\n    underscores_in_headers on;",
		"proxy_pass http://preflight_client/;", "proxy_pass http://preflight_client$uri$is_args$args;")},
	{name: "nginx-strip", command: nginx("location /client/", "location /client")},

	{name: "squid", deployed: true, command: squid()},
	{name: "squid-lax", command: squid("http_access deny !tunnel", "", "relaxed_header_parser off", "uri_whitespace allow",
		"http_upgrade_request_protocols tcp allow all", "http_upgrade_request_protocols OTHER allow all",
		"http_upgrade_request_protocols tcps allow all", "")},

	{name: "lighttpd", deployed: true, command: lighttpd()},
	{name: "lighttpd-lax", command: lighttpd(`$HTTP["url"] =~ "^/client/"`, `server.http-parseopts = (
    "header-strict" => "disable", "host-strict" => "disable", "host-normalize" => "disable",
    "url-normalize" => "disable", "method-get-body" => "enable" )
$HTTP["url"] =~ ""`)},
	{name: "lighttpd-strip", command: lighttpd(`=~ "^/client/"`, `=~ "^/client"`,
		`"/client/" => "/"`, `"/client" => ""`)},

	{name: "envoy", deployed: true, command: envoy()},
	{name: "envoy-lax", command: envoy("prefix: /client/", "prefix: /", "- upgrade_type: tcps", "- upgrade_type: CONNECT",
		"use_remote_address: true", `use_remote_address: true
                http_protocol_options:
                  allow_absolute_url: true
                  accept_http_10: true
                  allow_chunked_length: true
                  allow_custom_methods: true
                  enable_trailers: true`)},
	{name: "envoy-strip", command: envoy("prefix: /client/", "prefix: /client", "prefix_rewrite: /", "",
		"idle_timeout: 3600s", `idle_timeout: 3600s
                            regex_rewrite: { pattern: { regex: "^/client(.*)$" }, substitution: "\\1" }`)},
}

// Each of these functions returns a function that writes the configuration of a proxy, without
// TLS, and returns its command line.

func haproxy(file string, edits ...string) func(*testing.T, site) []string {
	return func(t *testing.T, s site) []string {
		config := lab.WriteFile(t, s.dir, "haproxy.cfg", lab.DeployFile(t, file, slices.Concat(edits, []string{
			"bind :80", "bind " + s.address,
			"bind :443 ", "# ",
			"127.0.0.1:9007", s.backend,
		})...))
		return []string{"haproxy", "-db", "-f", config}
	}
}

func varnish(edits ...string) func(*testing.T, site) []string {
	return func(t *testing.T, s site) []string {
		config := lab.WriteFile(t, s.dir, "preflight.vcl", lab.DeployFile(t, "varnish/preflight.vcl", slices.Concat(edits, []string{
			`.host = "127.0.0.1"`, `.host = "` + s.host + `"`,
			`.port = "9007"`, `.port = "` + s.port + `"`,
		})...))
		return []string{"varnishd", "-j", "none", "-F", "-n", s.dir, "-a", s.address, "-f", config, "-s", "malloc,16m"}
	}
}

func apache(edits ...string) func(*testing.T, site) []string {
	return func(t *testing.T, s site) []string {
		text := lab.DeployFile(t, "apache/preflight.conf", slices.Concat(edits, []string{
			"Listen 80\n", "Listen " + s.address + "\n",
			"Listen 443\n", "",
			"<VirtualHost *:80>", "<VirtualHost " + s.address + ">",
			"<VirtualHost *:443>", "#secure",
		})...)
		text, _, _ = strings.Cut(text, "#secure")
		lab.WriteFile(t, s.dir, "preflight.conf", strings.ReplaceAll(text, "127.0.0.1:9007", s.backend))
		return []string{"apache2", "-D", "FOREGROUND", "-f", s.render(t, "apache.conf", "mpm_event", "authz_core", "proxy", "proxy_http", "rewrite")}
	}
}

func nginx(edits ...string) func(*testing.T, site) []string {
	return func(t *testing.T, s site) []string {
		text := lab.DeployFile(t, lab.NginxFile, edits...)
		lab.WriteFile(t, s.dir, "preflight.conf", strings.NewReplacer(
			"listen 80;", "listen "+s.address+";",
			"listen 443 ssl;", "",
			"ssl_certificate ", "# ",
			"ssl_certificate_key ", "# ",
			"127.0.0.1:9007", s.backend,
		).Replace(text))
		return []string{"nginx", "-p", s.dir, "-c", s.render(t, "nginx.conf"), "-e", "stderr"}
	}
}

func squid(edits ...string) func(*testing.T, site) []string {
	return func(t *testing.T, s site) []string {
		lab.WriteFile(t, s.dir, "preflight.conf", lab.DeployFile(t, "squid/reverse.conf", slices.Concat(edits, []string{
			"http_port 80 ", "http_port " + s.address + " ",
			"https_port 443 ", "# ",
			"cache_peer 127.0.0.1 parent 9007 ", "cache_peer " + s.host + " parent " + s.port + " ",
		})...))
		return []string{"squid", "-N", "-d1", "-f", s.render(t, "squid.conf")}
	}
}

func lighttpd(edits ...string) func(*testing.T, site) []string {
	return func(t *testing.T, s site) []string {
		text := lab.DeployFile(t, "lighttpd/lighttpd.conf", slices.Concat(edits, []string{
			"server.port = 80\n", "server.port = " + s.ownPort + "\nserver.bind = \"127.0.0.1\"\n",
			`"mod_proxy", "mod_openssl"`, `"mod_proxy"`,
			`"/var/www/html"`, `"` + s.dir + `"`,
			`"host" => "127.0.0.1", "port" => 9007`, `"host" => "` + s.host + `", "port" => ` + s.port,
		})...)
		return []string{"lighttpd", "-D", "-f", lab.WriteFile(t, s.dir, "lighttpd.conf", cut(t, text, `$SERVER["socket"] == ":443"`, "# Pass on at once what"))}
	}
}

func envoy(edits ...string) func(*testing.T, site) []string {
	return func(t *testing.T, s site) []string {
		text := lab.DeployFile(t, lab.EnvoyFile, slices.Concat(edits, []string{
			"{ address: 0.0.0.0, port_value: 80 }", "{ address: 127.0.0.1, port_value: " + s.ownPort + " }",
			"{ address: 127.0.0.1, port_value: 9007 }", "{ address: " + s.host + ", port_value: " + s.port + " }",
			"- name: plain\n", "- name: plain\n      enable_reuse_port: false\n", // two processes must never share a port
		})...)
		config := lab.WriteFile(t, s.dir, "envoy.yaml", cut(t, text, "    - name: secure\n", "  clusters:"))
		return []string{"envoy", "-c", config, "--disable-hot-restart", "--concurrency", "1", "-l", "error"}
	}
}
