package broken

import (
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A program runs the sites of all its paths in one process.
type program struct {
	name  string
	start func(t *testing.T, k *kit, sites []site)
}

// programs are in the order of their start: a site of a later one may be in front of a site
// of an earlier one, as {at PATH}.
var programs = []program{
	{"Apache", startApache},
	{"nginx", startNginx},
	{"HAProxy", startHAProxy},
	{"Envoy", startEnvoy},
	{"Traefik", startTraefik},
	{"Caddy", startCaddy},
	{"Varnish", startVarnish},
	{"lighttpd", startLighttpd},
	{"Squid", startSquid},
	{"tinyproxy", startTinyproxy},
	{"OpenSSH", startSSHForward},
	{"h2o", startH2O},
	{"Traffic Server", startTrafficServer},
}

// A site of nginx is a server block without its listen, unless it has one.
func startNginx(t *testing.T, k *kit, sites []site) {
	dir := t.TempDir()
	lab.StartNginxDaemon(t, dir, len(sites), func(addresses []string) string {
		k.place(sites, addresses)
		lab.WriteFile(t, dir, "users", "jane:$apr1$saltsalt$LrttParrLPdxvgutaSXWJ0\n")
		lab.WriteFile(t, dir, "index.html", "<html>Welcome</html>\n")
		lab.WriteFile(t, dir, "preflight.conf", `
limit_req_zone $server_port zone=limited:64k rate=1r/m;
limit_conn_zone $server_port zone=open:64k;
map $http_upgrade $websocket_alone { default ""; websocket websocket; }
ssl_certificate {dir}/good.crt;
ssl_certificate_key {dir}/good.key;
`+k.join(sites, func(s site) string {
			if strings.Contains(s.text, "listen ") {
				return "server { " + s.text + " }"
			}
			return "server { listen {addr}; " + s.text + " }"
		}))
		rewriteFile(t, k, dir, "preflight.conf")
		return lab.Render(t, lab.Templates, dir, "nginx.conf", map[string]any{"Root": os.Geteuid() == 0})
	})
}

// rewriteFile fills what is outside of the sites.
func rewriteFile(t *testing.T, k *kit, dir, file string) {
	text, err := os.ReadFile(filepath.Join(dir, file))
	require.NoError(t, err)
	lab.WriteFile(t, dir, file, k.fill(site{}, string(text)))
}

// A site of HAProxy is the content of a listen section without its bind, unless it has one.
func startHAProxy(t *testing.T, k *kit, sites []site) {
	dir := t.TempDir()
	lab.StartDaemon(t, dir, len(sites), func(addresses []string) []string {
		k.place(sites, addresses)
		config := lab.WriteFile(t, dir, "haproxy.cfg", `
global
  stats socket `+filepath.Join(dir, "s")+`
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  retries 1
`+k.join(sites, func(s site) string {
			if !strings.Contains(s.text, "bind ") {
				s.text = "bind {addr}\n" + s.text
			}
			return "listen {name}\n  " + strings.ReplaceAll(s.text, "\n", "\n  ")
		}))
		return []string{"haproxy", "-db", "-f", config}
	}, func() bool { return lab.AcceptUnix(filepath.Join(dir, "s")) })
}

// A site of Apache is the content of a virtual host.
func startApache(t *testing.T, k *kit, sites []site) {
	dir := t.TempDir()
	lab.OpenToUsers(t, dir)
	lab.StartDaemon(t, dir, len(sites), func(addresses []string) []string {
		k.place(sites, addresses)
		lab.WriteFile(t, dir, "preflight.conf", k.join(sites, func(s site) string {
			return "Listen {addr}\n<VirtualHost {addr}>\n" + s.text + "\n</VirtualHost>"
		}))
		config := lab.Render(t, lab.Templates, dir, "apache.conf", map[string]any{
			"Root": os.Geteuid() == 0, "Dir": dir,
			"Modules": []string{"mpm_event", "authz_core", "proxy", "proxy_http", "proxy_wstunnel", "slotmem_shm", "socache_shmcb", "ssl", "env", "alias"},
		})
		return []string{"apache2", "-D", "FOREGROUND", "-f", config}
	}, func() bool { return lab.HasLogged(t, dir, "resuming normal operations") })
}

// A site of Envoy is the content of its HTTP connection manager, as JSON members in lines.
// A line that begins with "tls" is the transport socket of the listener.
func startEnvoy(t *testing.T, k *kit, sites []site) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base-id")
	removeShared := func() { // Envoy does not
		if id, err := os.ReadFile(base); err == nil {
			os.Remove("/dev/shm/envoy_shared_memory_" + string(id) + "0")
		}
	}
	t.Cleanup(removeShared)
	lab.StartDaemon(t, dir, len(sites), func(addresses []string) []string {
		removeShared()
		k.place(sites, addresses)
		var clusters strings.Builder
		cluster := func(name, address, more string) {
			fmt.Fprintf(&clusters, "  - {name: %q, connect_timeout: 2s, %s load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}}\n",
				name, more, lab.Port(address))
		}
		for _, name := range slices.Sorted(maps.Keys(k.servers)) {
			cluster(name, k.servers[name], "")
		}
		cluster("good over TLS", k.servers["good"],
			`transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}},`)
		cluster("good over HTTP/2", k.servers["good"],
			`typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}},`)
		config := lab.WriteFile(t, dir, "envoy.yaml", "static_resources:\n  listeners:\n"+k.join(sites, func(s site) string {
			return `  - name: {name}
    enable_reuse_port: false
    address: {socket_address: {address: 127.0.0.1, port_value: {port}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          codec_type: HTTP1
          ` + strings.ReplaceAll(s.text, "\n", "\n          ")
		})+"  clusters:\n"+clusters.String())
		return []string{"envoy", "-c", config, "--base-id-path", base, "--use-dynamic-base-id", "--concurrency", "1"}
	}, func() bool { return lab.HasLogged(t, dir, "starting main dispatch loop") })
}

// A site of Traefik is the rule of a router, and behind it the URL of its service.
func startTraefik(t *testing.T, k *kit, sites []site) {
	dir := t.TempDir()
	lab.StartDaemon(t, dir, len(sites), func(addresses []string) []string {
		k.place(sites, addresses)
		entries := k.join(sites, func(s site) string { return "  {name}: {address: \"{addr}\"}" })
		routers := k.join(sites, func(s site) string {
			rule, _, _ := strings.Cut(s.text, "\n")
			return "    {name}: {entryPoints: [{name}], service: {name}, rule: \"" + rule + "\"}"
		})
		services := k.join(sites, func(s site) string {
			_, url, _ := strings.Cut(s.text, "\n")
			return "    {name}: {loadBalancer: {" + url + "}}"
		})
		dynamic := lab.WriteFile(t, dir, "dynamic.yml", "http:\n  routers:\n"+routers+"  services:\n"+services)
		config := lab.WriteFile(t, dir, "traefik.yml", "entryPoints:\n"+entries+"providers:\n  file: {filename: "+dynamic+"}\nlog: {level: DEBUG}\n")
		return []string{"traefik", "--configFile=" + config}
	}, func() bool {
		return lab.HasLogged(t, dir, "Configuration received") && lab.Accept(k.sites[sites[0].path])
	})
}

// A site of Caddy is the content of a site block, for all hosts. It may begin with another
// name than * in a line of its own.
func startCaddy(t *testing.T, k *kit, sites []site) {
	dir, binary := t.TempDir(), lab.FindBinary(t, "caddy")
	lab.StartDaemon(t, dir, len(sites), func(addresses []string) []string {
		k.place(sites, addresses)
		config := lab.WriteFile(t, dir, "Caddyfile", "{\nadmin off\nauto_https off\ndefault_bind 127.0.0.1\n}\n"+k.join(sites, func(s site) string {
			host, text, ok := strings.Cut(s.text, "\n")
			if !ok {
				host, text = "", s.text
			}
			return "http://" + host + ":{port} {\n" + text + "\n}"
		}))
		return []string{"env", "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, binary, "run", "--config", config}
	}, func() bool { return lab.HasLogged(t, dir, "serving initial configuration") })
}

// A site of Varnish is the name of a server, and behind it VCL for vcl_recv and, after a
// line ---, for vcl_pipe.
func startVarnish(t *testing.T, k *kit, sites []site) {
	dir := t.TempDir()
	lab.StartDaemon(t, dir, len(sites), func(addresses []string) []string {
		k.place(sites, addresses)
		var backends, recv, pipe strings.Builder
		command := []string{"varnishd", "-j", "none", "-F", "-n", dir, "-s", "malloc,16m"}
		for _, s := range sites {
			server, text, _ := strings.Cut(s.text, "\n")
			text, piped, _ := strings.Cut(text, "---\n")
			command = append(command, "-a", s.name+"="+s.address)
			fmt.Fprintf(&backends, "backend b%s { .host = \"127.0.0.1\"; .port = \"%s\"; }\n", s.name, lab.Port(k.servers[server]))
			fmt.Fprintf(&recv, "if (local.socket == %q) { set req.backend_hint = b%s; %s }\n", s.name, s.name, text)
			fmt.Fprintf(&pipe, "if (local.socket == %q) { %s }\n", s.name, piped)
		}
		vcl := "vcl 4.1;\n" + backends.String() + "sub vcl_recv {\n" + recv.String() + "}\nsub vcl_pipe {\n" + pipe.String() + "}\n"
		command = append(command, "-p", "first_byte_timeout=1")
		return append(command, "-f", lab.WriteFile(t, dir, "x.vcl", vcl))
	}, func() bool { return lab.HasLogged(t, dir, "said Child starts") && lab.Accept(k.sites[sites[0].path]) })
}

// A site of lighttpd is the content of a socket condition.
func startLighttpd(t *testing.T, k *kit, sites []site) {
	dir := t.TempDir()
	lab.StartDaemon(t, dir, len(sites), func(addresses []string) []string {
		k.place(sites, addresses)
		config := lab.WriteFile(t, dir, "lighttpd.conf", k.fill(sites[0], `
server.modules = ( "mod_proxy", "mod_redirect" )
server.document-root = "`+dir+`"
server.bind = "127.0.0.1"
server.port = {port}
`)+k.join(sites, func(s site) string { return `$SERVER["socket"] == "{addr}" { ` + s.text + " }" }))
		return []string{"lighttpd", "-D", "-f", config}
	}, func() bool { return lab.HasLogged(t, dir, "server started") })
}

// A site of Squid is what belongs to its port, whose name is {name}.
func startSquid(t *testing.T, k *kit, sites []site) {
	dir, _ := lab.SquidDir(t)
	users := lab.WriteFile(t, dir, "users", "jane:$apr1$saltsalt$LrttParrLPdxvgutaSXWJ0\n") // the password is "secret"
	lab.StartSquid(t, dir, len(sites), func(addresses []string) {
		k.place(sites, addresses)
		lab.WriteFile(t, dir, "preflight.conf", `
auth_param basic program /usr/lib/squid/basic_ncsa_auth `+users+`
auth_param basic children 1
auth_param basic realm squid
acl known proxy_auth REQUIRED
`+k.join(sites, func(s site) string { return "acl {name} myportname {name}\n" + s.text })+"http_access deny all\ncache deny all\n")
	})
}

// A site of tinyproxy is what its file has beside its address.
func startTinyproxy(t *testing.T, k *kit, sites []site) {
	for i := range sites {
		one := sites[i : i+1]
		dir := t.TempDir()
		lab.OpenToUsers(t, dir)
		lab.StartDaemon(t, dir, 1, func(addresses []string) []string {
			k.place(one, addresses)
			config := lab.WriteFile(t, dir, "tinyproxy.conf", k.join(one, func(s site) string {
				return "Listen 127.0.0.1\nPort {port}\nTimeout 60\nMaxClients 10\nAllow 127.0.0.1\n" + s.text
			}))
			return []string{"tinyproxy", "-d", "-c", config}
		}, func() bool { return lab.Accept(one[0].address) })
	}
}

// A site of OpenSSH is a SOCKS5 proxy, and has no text.
func startSSHForward(t *testing.T, k *kit, sites []site) {
	who, err := user.Current()
	require.NoError(t, err)
	lab.StartDaemon(t, t.TempDir(), len(sites), func(addresses []string) []string {
		k.place(sites, addresses)
		command := []string{
			"ssh", "-F", "none", "-N", "-i", k.file("ssh-user"), "-l", who.Username, "-p", lab.Port(k.servers["ssh"]),
			"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes",
		}
		for _, address := range addresses {
			command = append(command, "-D", address)
		}
		return append(command, "127.0.0.1")
	}, func() bool { return lab.Accept(k.sites[sites[0].path]) })
}

// A site of h2o is the content of its path /, as lines of YAML.
func startH2O(t *testing.T, k *kit, sites []site) {
	dir := t.TempDir()
	lab.OpenToUsers(t, dir)
	pid := filepath.Join(dir, "pid")
	lab.StartDaemon(t, dir, len(sites), func(addresses []string) []string {
		k.place(sites, addresses)
		config := lab.WriteFile(t, dir, "h2o.conf", "pid-file: "+pid+"\nnum-threads: 1\nhosts:\n"+k.join(sites, func(s site) string {
			return "  \"{addr}\":\n    listen: {host: 127.0.0.1, port: {port}}\n    paths:\n      /:\n        " + strings.ReplaceAll(s.text, "\n", "\n        ")
		}))
		return []string{"h2o", "-m", "worker", "-c", config}
	}, func() bool {
		text, _ := os.ReadFile(pid)
		return len(text) > 0
	})
}

// A site of Traffic Server is the target of its remap rule, with {from} for its own.
func startTrafficServer(t *testing.T, k *kit, sites []site) {
	dir := t.TempDir()
	lab.OpenToUsers(t, dir)
	for _, folder := range []string{"config", "log", "run", "cache", "snapshots"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, folder), 0o777))
		require.NoError(t, os.Chmod(filepath.Join(dir, folder), 0o777))
	}
	var own []string
	lab.StartDaemon(t, dir, len(sites), func(addresses []string) []string {
		own = addresses
		k.place(sites, addresses)
		var ports []string
		for _, address := range addresses {
			ports = append(ports, lab.Port(address)+":ip-in=127.0.0.1")
		}
		config := filepath.Join(dir, "config")
		lab.WriteFile(t, config, "records.config", "CONFIG proxy.config.http.server_ports STRING "+strings.Join(ports, " ")+`
CONFIG proxy.config.diags.output.diag STRING E
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT 1
CONFIG proxy.config.cache.ram_cache.size INT 1048576
CONFIG proxy.config.http.connect_attempts_max_retries INT 0
CONFIG proxy.config.proxy_name STRING ats
CONFIG proxy.config.admin.user_id STRING nobody
`)
		lab.WriteFile(t, config, "remap.config", k.join(sites, func(s site) string { return strings.ReplaceAll(s.text, "{from}", "{addr}/") }))
		lab.WriteFile(t, config, "ip_allow.yaml", "ip_allow: [{apply: in, ip_addrs: 0/0, action: allow, methods: ALL}]\n")
		lab.WriteFile(t, config, "storage.config", dir+"/cache 16M\n")
		root := lab.WriteFile(t, dir, "runroot.yaml", "prefix: "+dir+"\nsysconfdir: "+config+"\nruntimedir: "+dir+"/run\nlocalstatedir: "+dir+"/run\nlogdir: "+dir+"/log\ncachedir: "+dir+"/cache\nbindir: /usr/bin\nsbindir: /usr/bin\nlibdir: /usr/lib/trafficserver\nlibexecdir: /usr/lib/trafficserver/modules\ndatadir: "+dir+"/cache\nexec_prefix: /usr\n")
		return []string{"traffic_server", "--run-root=" + root}
	}, func() bool { return lab.Accept(own...) })
}
