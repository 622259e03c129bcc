// Package config prints configurations of reverse proxies that forward tunnels. The files of
// deploy/ are what it prints for the zero [Options].
package config

import (
	"bytes"
	"embed"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template"
)

// Options are the settings of a configuration. A zero field has the default of the product.
type Options struct {
	Path      string   // that the proxy forwards; see settings.Exact
	Backend   string   // HOST:PORT of the listener
	Listen    string   // [HOST]:PORT without TLS
	TLSListen string   // [HOST]:PORT with TLS
	Host      string   // the only host name that the proxy serves
	Cert, Key string   // absolute paths of PEM files
	Carriers  []string // that must pass: upgrade, framed, websocket
	SendProxy bool     // report the client's address by the PROXY protocol
	Folder    string   // absolute, of the files; "": they are copied to the usual folder of the product
}

// The defaults of the fields.
const (
	defaultPath      = "/client/"
	defaultBackend   = "127.0.0.1:9007"
	defaultListen    = ":80"
	defaultTLSListen = ":443"
	defaultCert      = "/etc/ssl/preflight/tls.crt"
	defaultKey       = "/etc/ssl/preflight/tls.key"
)

// A File is a part of a configuration.
type File struct {
	Name string // without a folder
	Text string
}

//go:embed templates
var templates embed.FS

// Products returns the names that Print knows.
func Products() []string { return slices.Sorted(maps.Keys(products)) }

// Print returns the configuration of a product. An error names the flag of the command that
// is wrong.
func Print(name string, o Options) ([]File, error) {
	p, ok := products[name]
	if !ok {
		return nil, fmt.Errorf("no product %q: there are %s", name, strings.Join(Products(), ", "))
	}
	if err := p.checkSupport(o); err != nil {
		return nil, err
	}
	s, err := p.settings(name, o)
	if err != nil {
		return nil, err
	}
	tmpl, err := template.ParseFS(templates, "templates/*.tmpl", "templates/"+p.folder+"/*.tmpl")
	if err != nil {
		return nil, err
	}
	var files []File
	for _, name := range p.files {
		var text bytes.Buffer
		if err := tmpl.ExecuteTemplate(&text, name+".tmpl", s); err != nil {
			return nil, err
		}
		files = append(files, File{name, text.String()})
	}
	return files, nil
}

// settings are the data of a template.
type settings struct {
	Product   string // the name for the command
	Title     string
	Path      string // without a slash at the end; "": every path
	Exact     bool   // also forward Path itself, and not only what is below it
	Backend   address
	Listen    address
	TLSListen address
	Host      string // "": every host
	Cert, Key string
	TCP       bool // forward the upgrade to tcp and tcps
	WebSocket bool
	SendProxy bool
	Folder    string
}

// Suffix returns the end of the names that a proxy gives to parts of its configuration. With it,
// a proxy can load the files for several paths and hosts together.
func (s settings) Suffix() string {
	suffix := strings.NewReplacer("/", "_", "~", "-").Replace(s.Path)
	if s.Host != "" {
		suffix = "_" + s.Host + suffix
	}
	return suffix
}

// Below returns the prefix of the paths that are forwarded. It ends in a slash.
func (s settings) Below() string { return s.Path + "/" }

// All reports whether every upgrade is to pass.
func (s settings) All() bool { return s.TCP && s.WebSocket }

// Pattern returns the path as a part of a regular expression of any syntax.
func (s settings) Pattern() string { return pattern(s.Path) }

// HostPattern does the same for the host.
func (s settings) HostPattern() string { return pattern(s.Host) }

// pattern quotes a dot without a backslash, which some of the syntaxes would consume. Values
// have no other special character.
func pattern(s string) string { return strings.ReplaceAll(s, ".", "[.]") }

// Trusted returns the address that the proxy connects from, if it is known.
func (s settings) Trusted() string {
	if s.Backend.isLoopback() {
		return s.Backend.Host
	}
	return ""
}

// KeyBeside returns the file beside the certificate in which HAProxy looks for the key.
func (s settings) KeyBeside() string {
	return strings.TrimSuffix(path.Base(s.Cert), path.Ext(s.Cert)) + ".key"
}

// CertName returns the name of the file with the certificate.
func (s settings) CertName() string { return path.Base(s.Cert) }

// ApacheUpgrade returns the parameter upgrade of ProxyPass.
func (s settings) ApacheUpgrade() string {
	switch {
	case s.All():
		return "ANY"
	case s.TCP:
		return "tcp"
	}
	return "websocket"
}

// Rule returns the prefix for a product that compares whole segments: /pg also matches /pg/x.
func (s settings) Rule() string {
	if s.Exact {
		return s.Path
	}
	return s.Below()
}

// Secret returns the name of the Secret with the certificate of the host.
func (s settings) Secret() string { return strings.ReplaceAll(s.Host, ".", "-") + "-tls" }
