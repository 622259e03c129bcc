package broken

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A kit has all that the paths lead through: certificates, servers, and each program once,
// with the sites of all paths.
type kit struct {
	dir     string            // of the certificates
	roots   *x509.CertPool    // of the authority that issued most of them
	servers map[string]string // the address of each server, by its name
	sites   map[string]string // the address of each site, by the name of its path
}

// startKit starts the servers, and the programs that paths need. Other servers, by name, may
// run already.
func startKit(t *testing.T, paths []brokenPath, others ...map[string]string) *kit {
	k := &kit{dir: t.TempDir(), servers: map[string]string{}, sites: map[string]string{}}
	k.roots = writeCertificates(t, k.dir)
	startServers(t, k)
	for _, other := range others {
		maps.Copy(k.servers, other)
	}
	for _, program := range programs {
		var named []site
		for _, p := range paths {
			if p.program == program.name {
				named = append(named, site{path: p.name, name: fmt.Sprintf("s%d", len(named)), text: p.site})
			}
		}
		if len(named) > 0 {
			program.start(t, k, named)
		}
	}
	return k
}

// A site is the part of a program's configuration that belongs to one path.
type site struct {
	path    string // its name
	name    string // in the configuration
	text    string
	address string
}

// place gives the sites their addresses.
func (k *kit) place(sites []site, addresses []string) {
	for i := range sites {
		sites[i].address = addresses[i]
		k.sites[sites[i].path] = addresses[i]
	}
}

// fill replaces {addr}, {port} and {name} by those of s, {dir} by the folder of the
// certificates, and the name of a server in braces by its address. {port of X} is its port, and {at PATH} the
// address of the site of a path.
func (k *kit) fill(s site, text string) string {
	old := []string{"{addr}", s.address, "{port}", lab.Port(s.address), "{name}", s.name, "{dir}", k.dir}
	for name, address := range k.servers {
		old = append(old, "{"+name+"}", address, "{port of "+name+"}", lab.Port(address))
	}
	for path, address := range k.sites {
		old = append(old, "{at "+path+"}", address)
	}
	return strings.NewReplacer(old...).Replace(text)
}

// join fills a text for each site, and joins them.
func (k *kit) join(sites []site, text func(site) string) string {
	var b strings.Builder
	for _, s := range sites {
		b.WriteString(k.fill(s, text(s)) + "\n")
	}
	return b.String()
}

// addresses returns the address that p dials, and that of the forward proxy, if there is one.
func (k *kit) addresses(t *testing.T, p brokenPath) (address, proxy string) {
	t.Helper()
	address = k.sites[p.name]
	if p.direct != "" {
		address = k.servers[p.direct]
	}
	if p.forward != "" {
		proxy = address
		if address = k.servers[cmp.Or(p.edge, "good")]; address == "" {
			address = k.sites[p.edge]
		}
		require.NotEmpty(t, proxy)
	}
	require.NotEmpty(t, address)
	return address, proxy
}

var (
	anyAddress = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	anyBanner  = regexp.MustCompile(`it begins with "(\\.|[^"\\])*"`)
	anyEnd     = regexp.MustCompile(`the connection (ended before the answer: unexpected EOF|was reset before the answer: (\S+ \S+ \S+: )?read: connection reset by peer)`)
	anyTime    = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)`)
)

// anonymous replaces the addresses.
func (k *kit) anonymous(text, address string) string {
	text = strings.ReplaceAll(text, address, "edge")
	for name, address := range k.servers {
		text = strings.ReplaceAll(text, address, name)
	}
	for _, address := range k.sites {
		text = strings.ReplaceAll(text, address, "proxy")
	}
	return anyAddress.ReplaceAllString(text, "client")
}

// stable replaces what else differs in each run.
func stable(text string) string {
	text = anyBanner.ReplaceAllString(text, `it begins with "…"`)
	text = anyEnd.ReplaceAllString(text, "the connection ended before the answer") // EOF or reset: that depends on time
	return anyTime.ReplaceAllString(text, "…")
}

// trusted sets TLS with the authority of the kit.
func trusted(k *kit, d *preflight.PreflightDialer) {
	d.TLSConfig = &tls.Config{RootCAs: k.roots}
}

// only sets the carriers.
func only(c ...preflight.Carrier) func(*kit, *preflight.PreflightDialer) {
	return func(_ *kit, d *preflight.PreflightDialer) { d.Carriers = c }
}

// with sets fields of the request.
func with(name, value string) func(*kit, *preflight.PreflightDialer) {
	return func(_ *kit, d *preflight.PreflightDialer) { d.Header.Set(name, value) }
}

// all joins dial functions.
func all(f ...func(*kit, *preflight.PreflightDialer)) func(*kit, *preflight.PreflightDialer) {
	return func(k *kit, d *preflight.PreflightDialer) {
		for _, one := range f {
			one(k, d)
		}
	}
}

func (k *kit) file(name string) string { return filepath.Join(k.dir, name) }
