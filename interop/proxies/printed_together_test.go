package proxies

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// TestPrintedTogether gives a proxy two files that "preflight config" prints for two paths. Each
// must go on to do what its flags say.
func TestPrintedTogether(t *testing.T) {
	program := lab.BuildCommand(t)
	backend := lab.ServeEcho(t)
	// start runs a proxy with the two files, and returns its addresses.
	start := func(t *testing.T, product string, run func(files [2]printing) *lab.Daemon, first, second string) (addresses []string) {
		var files [2]printing
		proxy := printedProxies[slices.IndexFunc(printedProxies, func(p printedProxy) bool { return p.product == product })]
		dir, roots := lab.SquidDir(t)
		for i, flags := range []string{first, second} {
			files[i] = printing{t: t, proxy: proxy, program: program, dir: dir, roots: roots, backend: backend, printCase: printCase{flags: strings.Fields(flags)}}
		}
		return run(files).Addresses
	}
	opens := func(t *testing.T, address, path string, carrier preflight.Carrier) bool {
		d := lab.Frontend{Address: address}.Dialer()
		d.Path, d.Carriers = path, []preflight.Carrier{carrier}
		c, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			return false
		}
		defer c.Close()
		return lab.Echo(lab.WithDeadline(t, c), []byte("hello")) == nil
	}

	t.Run("nginx", func(t *testing.T) {
		at := start(t, "nginx", func(files [2]printing) *lab.Daemon {
			return lab.StartNginxDaemon(t, files[0].dir, 4, func(addresses []string) (config string) {
				text := files[0].print(addresses[:2], "preflight.conf") + files[1].print(addresses[2:], "preflight.conf")
				lab.WriteFile(t, files[0].dir, "preflight.conf", text)
				return lab.Render(t, lab.Templates, files[0].dir, "nginx.conf", map[string]any{"Root": os.Geteuid() == 0})
			})
		}, "--path /pg --carrier websocket", "--path /redis --carrier upgrade")
		require.True(t, opens(t, at[0], "/pg", preflight.CarrierWebSocket))
		require.False(t, opens(t, at[0], "/pg", preflight.CarrierUpgrade), "the map of the other file counts")
		require.True(t, opens(t, at[2], "/redis", preflight.CarrierUpgrade))
		require.False(t, opens(t, at[2], "/redis", preflight.CarrierWebSocket), "the map of the other file counts")
	})
	t.Run("nginx with two hosts", func(t *testing.T) {
		at := start(t, "nginx", func(files [2]printing) *lab.Daemon {
			return lab.StartNginxDaemon(t, files[0].dir, 2, func(addresses []string) (config string) {
				text := files[0].print(addresses, "preflight.conf") + files[1].print(addresses, "preflight.conf")
				lab.WriteFile(t, files[0].dir, "preflight.conf", text)
				return lab.Render(t, lab.Templates, files[0].dir, "nginx.conf", map[string]any{"Root": os.Geteuid() == 0})
			})
		}, "--path / --host one.example", "--path / --host two.example")
		require.True(t, opens(t, at[0], "/", preflight.CarrierUpgrade))
	})
	t.Run("haproxy", func(t *testing.T) {
		at := start(t, "haproxy", func(files [2]printing) *lab.Daemon {
			dir := files[0].dir
			require.NoError(t, os.Rename(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "tls.crt")))
			require.NoError(t, os.Rename(filepath.Join(dir, "key.pem"), filepath.Join(dir, "tls.key")))
			return lab.StartDaemon(t, dir, 4, func(addresses []string) (command []string) {
				one := lab.WriteFile(t, dir, "one.cfg", files[0].print(addresses[:2], "haproxy.cfg"))
				two := lab.WriteFile(t, dir, "two.cfg", files[1].print(addresses[2:], "haproxy.cfg"))
				return []string{"haproxy", "-W", "-db", "-f", one, "-f", two}
			}, func() bool { return lab.HasLogged(t, dir, "Loading success") })
		}, "--path /pg", "--path /redis")
		for i, path := range []string{"/pg", "/redis"} {
			require.True(t, opens(t, at[2*i], path, preflight.CarrierUpgrade))
			require.False(t, opens(t, at[2-2*i], path, preflight.CarrierUpgrade))
		}
	})
	t.Run("traefik", func(t *testing.T) {
		at := start(t, "traefik", func(files [2]printing) *lab.Daemon {
			dir := files[0].dir
			var own []string
			return startTraefikDaemon(t, dir, func(addresses []string) {
				own = addresses
				files[0].write(addresses, "traefik.yml", `filename: "/etc/traefik/dynamic.yml"`, "directory: "+filepath.Join(dir, "dynamic"))
				require.NoError(t, os.MkdirAll(filepath.Join(dir, "dynamic"), 0o700))
				for i, name := range []string{"one.yml", "two.yml"} {
					lab.WriteFile(t, filepath.Join(dir, "dynamic"), name, files[i].print(addresses, "dynamic.yml"))
				}
			}, func() bool { return opens(t, own[0], "/redis", preflight.CarrierUpgrade) })
		}, "--path /pg", "--path /redis")
		require.True(t, opens(t, at[0], "/pg", preflight.CarrierUpgrade))
		require.True(t, opens(t, at[0], "/redis", preflight.CarrierUpgrade))
	})
}
