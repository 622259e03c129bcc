package proxies

import (
	"bufio"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A printedProxy runs with what "preflight config" prints for flags of the test.
type printedProxy struct {
	product string
	run     func(t *testing.T, p printing) *lab.Daemon
	flags   []string // for the certificate
	// keepsPrefix says that the path arrives as it was sent.
	keepsPrefix bool
	// byPrefix says that /pgx passes too for --path /pg.
	byPrefix      bool
	noTLS         bool
	webSocketOnly bool
	// lists says that --carrier chooses what passes.
	lists bool
	// ownDNS says that it does not read /etc/hosts.
	ownDNS bool
	// anyHost says that other hosts than that of --host reach the server too.
	anyHost bool
}

var certFlags = []string{"--cert", "DIR/cert.pem", "--key", "DIR/key.pem"}

var printedProxies = []printedProxy{
	{product: "nginx", run: runNginx, flags: certFlags, lists: true, anyHost: true},
	{product: "haproxy", flags: []string{"--cert", "DIR/tls.crt"}, run: func(t *testing.T, p printing) *lab.Daemon {
		require.NoError(t, os.Rename(filepath.Join(p.dir, "cert.pem"), filepath.Join(p.dir, "tls.crt")))
		require.NoError(t, os.Rename(filepath.Join(p.dir, "key.pem"), filepath.Join(p.dir, "tls.key")))
		return lab.StartHAProxyDaemon(t, p.dir, func(addresses []string) { p.write(addresses, "haproxy.cfg") })
	}},
	{product: "apache", flags: certFlags, lists: true, anyHost: true, run: func(t *testing.T, p printing) *lab.Daemon {
		return startApacheDaemon(t, p.dir, func(addresses []string) { p.write(addresses, "preflight.conf") })
	}},
	{product: "caddy", flags: certFlags, run: func(t *testing.T, p printing) *lab.Daemon {
		return lab.StartCaddyDaemon(t, p.dir, func(addresses []string) { p.write(addresses, "Caddyfile") })
	}},
	{product: "envoy", flags: certFlags, lists: true, run: func(t *testing.T, p printing) *lab.Daemon {
		return lab.StartEnvoyDaemon(t, p.dir, func(addresses []string) { p.write(addresses, "envoy.yaml", lab.EnvoyPorts...) })
	}},
	{product: "traefik", flags: certFlags, run: func(t *testing.T, p printing) *lab.Daemon {
		var own []string
		return startTraefikDaemon(t, p.dir, func(addresses []string) {
			own = addresses
			p.write(addresses, "traefik.yml", "/etc/traefik", p.dir)
			p.write(addresses, "dynamic.yml")
		}, func() bool {
			path := slices.Sorted(maps.Keys(p.passes))[0]
			for _, f := range []lab.Frontend{{Address: own[0]}, {Address: own[1], Roots: p.roots}} {
				if _, err := p.tunnel(f, preflight.CarrierWebSocket, p.host, path); err != nil {
					return false
				}
			}
			return true
		})
	}},
	{product: "lighttpd", flags: certFlags, run: func(t *testing.T, p printing) *lab.Daemon {
		return startLighttpdDaemon(t, p.dir, func(addresses []string) {
			p.write(addresses, "lighttpd.conf", "/var/www/html", p.dir)
		})
	}},
	{product: "varnish", noTLS: true, lists: true, run: func(t *testing.T, p printing) *lab.Daemon {
		return startVarnishDaemon(t, p.dir, func(addresses []string) (vcl string) {
			return p.write(addresses, "preflight.vcl", "/etc/varnish", p.dir)
		})
	}},
	{product: "squid", flags: certFlags, keepsPrefix: true, lists: true, run: func(t *testing.T, p printing) *lab.Daemon {
		return lab.StartSquid(t, p.dir, 2, func(addresses []string) {
			lab.WriteFile(t, p.dir, "preflight.conf", p.print(addresses, "reverse.conf"))
		})
	}},
	{product: "h2o", flags: certFlags, webSocketOnly: true, anyHost: true, run: func(t *testing.T, p printing) *lab.Daemon {
		return startH2ODaemon(t, p.dir, func(addresses []string) string { return p.print(addresses, "h2o.conf") })
	}},
	{product: "ats", flags: certFlags, webSocketOnly: true, byPrefix: true, ownDNS: true, run: func(t *testing.T, p printing) *lab.Daemon {
		return startTrafficServerDaemon(t, p.dir, func(addresses []string) {
			p.write(addresses, "remap.config")
			p.write(addresses, "records.config")
		})
	}},
}

func runNginx(t *testing.T, p printing) *lab.Daemon {
	return lab.StartNginxDaemon(t, p.dir, 2, func(addresses []string) (config string) {
		p.write(addresses, "preflight.conf")
		return lab.Render(t, lab.Templates, p.dir, "nginx.conf", map[string]any{"Root": os.Geteuid() == 0})
	})
}

// A printing is a configuration that is printed for a folder.
type printing struct {
	t       *testing.T
	proxy   printedProxy
	program string
	dir     string
	roots   *x509.CertPool
	backend string
	printCase
}

// A printCase is a choice of flags, and what then passes.
type printCase struct {
	name    string
	flags   []string
	host    string            // of the tunnels; "": the address of the proxy
	byName  bool              // the server has a name, and no address
	passes  map[string]string // the paths, and how they arrive
	refused []string
}

// write writes a file for two addresses, of which the second one has TLS. It returns the text.
func (p printing) write(addresses []string, file string, edits ...string) (text string) {
	p.t.Helper()
	text = p.print(addresses, file, edits...)
	lab.WriteFile(p.t, p.dir, file, text)
	return text
}

// print returns the file.
func (p printing) print(addresses []string, file string, edits ...string) string {
	p.t.Helper()
	backend := p.backend
	if p.byName && !p.proxy.ownDNS {
		backend = "localhost:" + lab.Port(backend)
	}
	args := []string{"config", p.proxy.product, "--file", file, "--backend", backend, "--listen", addresses[0]}
	if !p.proxy.noTLS {
		args = append(args, "--tls-listen", addresses[1])
	}
	for _, flag := range slices.Concat(p.proxy.flags, p.flags) {
		args = append(args, strings.ReplaceAll(flag, "DIR", p.dir))
	}
	text, err := exec.CommandContext(p.t.Context(), p.program, args...).Output()
	require.NoError(p.t, err, "%v", args)
	for i := 0; i < len(edits); i += 2 {
		require.Contains(p.t, string(text), edits[i])
	}
	return strings.NewReplacer(edits...).Replace(string(text))
}

// tunnel opens a tunnel, and returns the path that the server sees.
func (p printing) tunnel(f lab.Frontend, carrier preflight.Carrier, host, path string) (arrived string, err error) {
	d := f.Dialer()
	d.Carriers, d.Host, d.Path = []preflight.Carrier{carrier}, host, path
	c, err := d.DialContext(p.t.Context(), "tcp", f.Address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := errors.Join(c.SetDeadline(time.Now().Add(lab.Timeout)), lab.Echo(c, []byte("hello\n"))); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "info\n"); err != nil {
		return "", err
	}
	_, err = fmt.Fscanln(bufio.NewReader(c), &arrived)
	return arrived, err
}

var printCases = []printCase{
	{
		name: "path", flags: []string{"--path", "/pg"},
		passes:  map[string]string{"/pg": "/", "/pg/": "/", "/pg/x/y": "/x/y", "/pg?q=1": "/"},
		refused: []string{"/", "/pgx", "/x/pg/"},
	},
	{
		name: "below", flags: []string{"--path", "/pg.v1/"},
		passes:  map[string]string{"/pg.v1/": "/", "/pg.v1/x?q=1": "/x"},
		refused: []string{"/", "/pgxv1/x"},
	},
	{
		name: "all", flags: []string{"--path", "/", "--host", "localhost"}, host: "localhost", byName: true,
		passes: map[string]string{"/": "/", "/x/y": "/x/y"},
	},
}

// TestPrinted runs each proxy with what "preflight config" prints for other flags than the
// defaults, which the files of deploy/ have.
func TestPrinted(t *testing.T) {
	program := lab.BuildCommand(t)
	backend := lab.Serve(t, &preflight.PreflightListener{
		RequireUpgrade: true,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
	}, func(c *preflight.Conn) {
		for r := bufio.NewReader(c); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if line == "info\n" {
				line = c.Request().URL.Path + "\n"
			}
			io.WriteString(c, line)
		}
	})
	for _, proxy := range printedProxies {
		t.Run(proxy.product, func(t *testing.T) {
			t.Parallel()
			start := func(t *testing.T, c printCase) (p printing, plain, secure lab.Frontend) {
				t.Helper()
				p = printing{t: t, proxy: proxy, program: program, backend: backend, printCase: c}
				p.dir, p.roots = lab.SquidDir(t)
				d := proxy.run(t, p)
				plain = lab.Frontend{Address: d.Addresses[0]}
				if !proxy.noTLS {
					secure = lab.Frontend{Address: d.Addresses[1], Roots: p.roots}
				}
				return p, plain, secure
			}
			for _, c := range printCases {
				t.Run(c.name, func(t *testing.T) {
					p, plain, secure := start(t, c)
					p.test(t, plain)
					if !proxy.noTLS {
						p.test(t, secure)
					}
					if c.host != "" && !proxy.anyHost {
						_, err := p.tunnel(plain, preflight.CarrierWebSocket, "other.example", "/x")
						lab.StatusError(t, err)
					}
				})
			}
			if !proxy.lists {
				return
			}
			for carrier, refused := range map[preflight.Carrier]preflight.Carrier{
				preflight.CarrierWebSocket: preflight.CarrierUpgrade,
				preflight.CarrierUpgrade:   preflight.CarrierWebSocket,
			} {
				t.Run(string(carrier)+" alone", func(t *testing.T) {
					p, plain, _ := start(t, printCase{flags: []string{"--carrier", string(carrier)}})
					_, err := p.tunnel(plain, carrier, "", "/client/x")
					require.NoError(t, err)
					_, err = p.tunnel(plain, refused, "", "/client/x")
					lab.StatusError(t, err)
				})
			}
		})
	}
}

// TestPrintedSendProxy requires that a HAProxy with --send-proxy reports the client's address
// and port.
func TestPrintedSendProxy(t *testing.T) {
	l := &preflight.PreflightListener{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	proxy := printedProxies[slices.IndexFunc(printedProxies, func(p printedProxy) bool { return p.product == "haproxy" })]
	p := printing{t: t, proxy: proxy, program: lab.BuildCommand(t), dir: t.TempDir()}
	p.flags = []string{"--path", "/pg", "--send-proxy"}
	p.roots = lab.WriteCertificate(t, p.dir)
	p.backend = lab.Serve(t, l, func(c *preflight.Conn) { fmt.Fprintln(c, c.RemoteAddr()) })
	d := proxy.run(t, p)
	for _, f := range []lab.Frontend{{Address: d.Addresses[0]}, {Address: d.Addresses[1], Roots: p.roots}} {
		c := f.Dial(t, "/pg")
		line, err := bufio.NewReader(c).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, c.LocalAddr().String()+"\n", line)
	}
}

// test requires that what passes does so with each carrier, and that the rest does not.
func (p printing) test(t *testing.T, f lab.Frontend) {
	t.Helper()
	carriers := []preflight.Carrier{preflight.CarrierWebSocket, preflight.CarrierUpgrade, preflight.CarrierFramed}
	if p.proxy.webSocketOnly {
		carriers = carriers[:1]
	}
	for path, want := range p.passes {
		if p.proxy.keepsPrefix {
			want, _, _ = strings.Cut(path, "?")
		}
		for _, carrier := range carriers {
			arrived, err := p.tunnel(f, carrier, p.host, path)
			require.NoError(t, err, "%s by %s", path, carrier)
			require.Equal(t, want, arrived, "%s by %s", path, carrier)
		}
		if p.host != "" {
			_, err := p.tunnel(f, carriers[0], p.host+":"+lab.Port(f.Address), path)
			require.NoError(t, err, "the port of the proxy in Host")
		}
	}
	for _, path := range p.refused {
		_, err := p.tunnel(f, preflight.CarrierWebSocket, p.host, path)
		if p.proxy.byPrefix && path == "/pgx" {
			require.NoError(t, err)
			continue
		}
		require.Contains(t, []int{403, 404}, lab.StatusError(t, err).StatusCode, path)
	}
}
