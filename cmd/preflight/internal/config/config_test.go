package config

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the files of deploy")

// deploy is the folder of the files that are printed with the default flags.
var deploy = filepath.Join("..", "..", "..", "..", "deploy")

// written are the files of deploy that no template prints, and why.
var written = map[string]string{
	"README.md":                       "the index",
	"docker/Dockerfile":               "for the command",
	"docker/Dockerfile.dockerignore":  "for the command",
	"go-reverseproxy/main.go":         "a program",
	"kubernetes/operation.yaml":       "for every gateway",
	"kubernetes/sidecar-forward.yaml": "for the command",
	"kubernetes/sidecar-serve.yaml":   "for the command",
	"squid/forward.conf":              "a forward proxy, which has no path and no server",
	"systemd/preflight.service":       "for the command",
	"systemd/preflight.socket":        "for the command",
	"tinyproxy/tinyproxy.conf":        "a forward proxy",
}

// printed returns the files that deploy must have, by name.
func printed(t *testing.T) map[string]string {
	t.Helper()
	files := make(map[string]string)
	add := func(product string, o Options, rename func(string) string) {
		printed, err := Print(product, o)
		require.NoError(t, err)
		for _, f := range printed {
			files[products[product].folder+"/"+rename(f.Name)] = f.Text
		}
	}
	for _, name := range Products() {
		add(name, Options{}, func(file string) string { return file })
	}
	add("haproxy", Options{SendProxy: true}, func(string) string { return "haproxy-proxy-protocol.cfg" })
	return files
}

// TestDeploy requires that deploy has exactly what the command prints with its default flags.
//
//	go test -run TestDeploy ./internal/config -update
func TestDeploy(t *testing.T) {
	files := printed(t)
	for name, text := range files {
		path := filepath.Join(deploy, filepath.FromSlash(name))
		if *update {
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), text, "%s: go test -run TestDeploy ./internal/config -update", name)
	}
	require.NoError(t, fs.WalkDir(os.DirFS(deploy), ".", func(name string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		if _, ok := files[name]; !ok && !d.IsDir() {
			require.Contains(t, written, name)
		}
		return nil
	}))
}

// all are options that differ from the defaults in everything that a product can follow.
func all(name string, path string) Options {
	o := Options{Path: path, Backend: "10.1.2.3:7000", Listen: "127.0.0.9:8080", TLSListen: "[::1]:8443",
		Host: "feeds.example", Cert: "/tmp/a.crt", Key: "/tmp/a.key", Carriers: []string{"websocket"}, SendProxy: true}
	if name == "kubernetes" {
		o.Backend = "feeds:7000"
	}
	for flag := range products[name].refuses {
		switch flag {
		case flagListen:
			o.Listen = ""
		case flagTLSListen:
			o.TLSListen = ""
		case flagHost:
			o.Host = ""
		case flagCert:
			o.Cert = ""
		case flagKey:
			o.Key = ""
		case flagCarrier:
			o.Carriers = nil
		case flagSendProxy:
			o.SendProxy = false
		}
	}
	return o
}

// TestValues requires that nothing of a default is left when every flag has another value.
func TestValues(t *testing.T) {
	for _, name := range Products() {
		for _, path := range []string{"/feeds/v1.0", "/feeds/v1.0/", "/"} {
			files, err := Print(name, all(name, path))
			require.NoError(t, err, name)
			text := ""
			for _, f := range files {
				text += f.Text
				require.Regexp(t, `[^\n]\n$`, f.Text, f.Name)
			}
			for _, value := range []string{"client/", "/client", "9007", "/etc/ssl", "<no value>", "edge.example", "\n\n\n", " \n"} {
				require.NotContains(t, text, value, "%s %s", name, path)
			}
			require.Contains(t, text, "7000", name)
		}
	}
}

// TestNames requires that the files for two paths, hosts or carriers share no name that means
// something else in each of them.
func TestNames(t *testing.T) {
	pattern := map[string]*regexp.Regexp{
		"nginx":   regexp.MustCompile(`(?m)^upstream (\S+)`),
		"haproxy": regexp.MustCompile(`(?m)^(?:frontend|backend) (\S+)`),
		"apache":  regexp.MustCompile(`<Proxy (\S+)>`),
		"traefik": regexp.MustCompile(`(?m)^    (\S+):$`),
	}
	for product, names := range pattern {
		seen := make(map[string]Options)
		for _, o := range []Options{{Path: "/"}, {Path: "/pg"}, {Path: "/pg/x"}, {Path: "/", Host: "one.example"}, {Path: "/pg", Host: "one.example"}} {
			files, err := Print(product, o)
			require.NoError(t, err)
			found := names.FindAllStringSubmatch(files[len(files)-1].Text, -1)
			require.NotEmpty(t, found, product)
			for _, match := range found {
				if match[1] == "default" { // the only store for certificates that Traefik has
					continue
				}
				other, twice := seen[match[1]]
				require.False(t, twice, "%s: %s is a name of %+v and %+v", product, match[1], other, o)
				seen[match[1]] = o
			}
		}
	}
	maps := make(map[string]bool)
	for _, carriers := range [][]string{nil, {"upgrade"}, {"websocket"}} {
		files, err := Print("nginx", Options{Carriers: carriers})
		require.NoError(t, err)
		name := regexp.MustCompile(`map \$http_upgrade (\S+) `).FindStringSubmatch(files[0].Text)[1]
		require.Contains(t, files[0].Text, "proxy_set_header Connection "+name+";")
		maps[name] = true
	}
	require.Len(t, maps, 3)
}
