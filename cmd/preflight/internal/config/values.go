package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// The values go into the syntax of many programs. So they may only have characters that mean
// nothing in any of them.
var (
	plainPath  = regexp.MustCompile(`^/[A-Za-z0-9._~/-]*$`)
	plainFile  = regexp.MustCompile(`^/[A-Za-z0-9._+@/-]+$`)
	plainLabel = regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)
	plainHost  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)
)

// yamlWord are names that YAML 1.1 reads as a bool or as null.
var yamlWord = regexp.MustCompile(`^(?i:y|yes|n|no|on|off|true|false|null)$`)

// isName reports whether s is the name of a host, and of no other type in a line of YAML.
func isName(s string) bool {
	_, number := strconv.ParseFloat(s, 64)
	_, integer := strconv.ParseInt(s, 0, 64) // also 0x1f
	return plainHost.MatchString(s) && len(s) <= 253 && !yamlWord.MatchString(s) && number != nil && integer != nil
}

// settings checks the options, and fills in the defaults.
func (p product) settings(name string, o Options) (s settings, err error) {
	s = settings{
		Product: name, Title: p.title, SendProxy: o.SendProxy, Folder: o.Folder,
		Host: strings.ToLower(cmp.Or(o.Host, p.host)), Cert: cmp.Or(o.Cert, defaultCert), Key: cmp.Or(o.Key, defaultKey),
	}
	if s.Path, s.Exact, err = parsePath(cmp.Or(o.Path, defaultPath)); err != nil {
		return s, fmt.Errorf("%s: %w", flagPath, err)
	}
	for _, a := range []struct {
		to    *address
		flag  string
		value string
		parse func(string) (address, error)
	}{
		{&s.Backend, flagBackend, cmp.Or(o.Backend, p.backend, defaultBackend), parseBackend},
		{&s.Listen, flagListen, cmp.Or(o.Listen, defaultListen), parseListen},
		{&s.TLSListen, flagTLSListen, cmp.Or(o.TLSListen, defaultTLSListen), parseListen},
	} {
		if *a.to, err = a.parse(a.value); err != nil {
			return s, fmt.Errorf("%s %q: %w", a.flag, a.value, err)
		}
	}
	if _, noTLS := p.refuses[flagTLSListen]; !noTLS && s.Listen.collides(s.TLSListen) {
		return s, fmt.Errorf("%s %s and %s %s are the same port", flagListen, s.Listen, flagTLSListen, s.TLSListen)
	}
	if p.folder == "kubernetes" && !plainLabel.MatchString(s.Backend.Host) {
		return s, fmt.Errorf("%s %q: want the name of a Service of the namespace and its port, such as preflight:9007", flagBackend, s.Backend)
	}
	if ip, err := netip.ParseAddr(s.Backend.Host); p.folder == "alb" && (err != nil || !ip.Is4() || ip.IsLoopback()) {
		return s, fmt.Errorf("%s %q: want the IPv4 address of the server in the VPC and its port", flagBackend, s.Backend)
	}
	if p.folder == "haproxy" && !strings.HasSuffix(s.Cert, ".crt") {
		return s, fmt.Errorf("%s %q: HAProxy finds the key beside it only if the name ends in .crt", flagCert, s.Cert)
	}
	if s.Host != "" && !isName(s.Host) {
		return s, fmt.Errorf("%s %q: want a host name without a port, such as edge.example; a number or a word of YAML, such as on, is none", flagHost, s.Host)
	}
	for _, f := range []struct{ flag, file string }{{flagCert, s.Cert}, {flagKey, s.Key}} {
		if !plainFile.MatchString(f.file) {
			return s, fmt.Errorf("%s %q: want an absolute path of letters, digits and . _ - + @ /, because other characters could break the configuration", f.flag, f.file)
		}
	}
	if s.TCP, s.WebSocket, err = parseCarriers(o.Carriers); err != nil {
		return s, fmt.Errorf("%s: %w", flagCarrier, err)
	}
	if p.webSocketOnly {
		if len(o.Carriers) > 0 && s.TCP {
			return s, fmt.Errorf("%s: %s forwards WebSocket and no other upgrade: leave the flag out, or set it to websocket", flagCarrier, p.title)
		}
		s.TCP = false
	}
	return s, nil
}

// parsePath reads a path. With a slash at the end it stands for the paths below it, and
// without one also for itself.
func parsePath(text string) (path string, exact bool, err error) {
	switch {
	case !strings.HasPrefix(text, "/"):
		return "", false, fmt.Errorf("%q does not begin with /", text)
	case !plainPath.MatchString(text):
		return "", false, fmt.Errorf("%q: want letters, digits and . _ ~ - /, because other characters could break the configuration", text)
	}
	path, below := strings.CutSuffix(text, "/")
	for segment := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if segment == "." || segment == ".." || segment == "" && path != "" {
			return "", false, fmt.Errorf("%q has an empty or a relative segment", text)
		}
	}
	return path, !below, nil
}

// parseCarriers returns the tokens that must pass. Framed tunnels use that of the upgrade.
func parseCarriers(names []string) (tcp, webSocket bool, err error) {
	if len(names) == 0 {
		return true, true, nil
	}
	for _, name := range names {
		switch name {
		case "upgrade", "framed":
			tcp = true
		case "websocket":
			webSocket = true
		default:
			return false, false, fmt.Errorf("%q is not a carrier: use upgrade, framed or websocket", name)
		}
	}
	return tcp, webSocket, nil
}

// An address is a host and a port.
type address struct {
	Host string // a name or an IP address without brackets; "": every address of the machine
	Port string
}

// String returns HOST:PORT, with brackets around an IPv6 address.
func (a address) String() string { return net.JoinHostPort(a.Host, a.Port) }

// Short returns the port alone if there is no host.
func (a address) Short() string {
	if a.Host == "" {
		return a.Port
	}
	return a.String()
}

// collides reports whether one machine cannot listen at both.
func (a address) collides(b address) bool {
	all := func(host string) bool { return host == "" || host == "0.0.0.0" || host == "::" }
	return a.Port == b.Port && (a.Host == b.Host || all(a.Host) || all(b.Host))
}

// IsIP reports whether the host is no name.
func (a address) IsIP() bool {
	_, err := netip.ParseAddr(a.Host)
	return err == nil
}

// Unless returns :PORT, and nothing if the port is the usual one.
func (a address) Unless(usual string) string {
	if a.Port == usual {
		return ""
	}
	return ":" + a.Port
}

// ApacheHost returns the address of a virtual host.
func (a address) ApacheHost() string {
	if a.Host == "" {
		return "*:" + a.Port
	}
	return a.String()
}

// EnvoyHost returns the host for a line of YAML.
func (a address) EnvoyHost() string {
	switch {
	case a.Host == "":
		return "0.0.0.0"
	case strings.Contains(a.Host, ":"):
		return strconv.Quote(a.Host)
	}
	return a.Host
}

// TrafficServer returns the address for proxy.config.http.server_ports.
func (a address) TrafficServer(kind string) string {
	port := a.Port + kind
	switch {
	case a.Host == "":
		return port
	case strings.Contains(a.Host, ":"):
		return port + ":ip-in=[" + a.Host + "]"
	}
	return port + ":ip-in=" + a.Host
}

// BracketHost returns the host, with brackets around an IPv6 address.
func (a address) BracketHost() string {
	if strings.Contains(a.Host, ":") {
		return "[" + a.Host + "]"
	}
	return a.Host
}

// isLoopback reports whether only this machine can reach the address.
func (a address) isLoopback() bool {
	ip, err := netip.ParseAddr(a.Host)
	return err == nil && ip.IsLoopback()
}

// Bits returns the length of the prefix that has the address alone.
func (a address) Bits() int {
	ip, _ := netip.ParseAddr(a.Host)
	return ip.BitLen()
}

func parseAddress(text string) (a address, err error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return a, errors.New("want HOST:PORT, or [IPV6]:PORT")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return a, errors.New("the port is not a number from 1 to 65535")
	}
	return address{host, strconv.FormatUint(n, 10)}, nil
}

func parseBackend(text string) (address, error) {
	a, err := parseAddress(text)
	if err != nil {
		return a, err
	}
	ip, err := netip.ParseAddr(a.Host)
	switch {
	case err == nil && ip.Zone() == "" && !ip.IsUnspecified():
		a.Host = ip.Unmap().String()
	case err == nil || !isName(a.Host):
		return a, errors.New("the host is neither an IP address of one machine nor a name; a number or a word of YAML, such as on, is no name")
	}
	return a, nil
}

func parseListen(text string) (address, error) {
	a, err := parseAddress(text)
	if err != nil || a.Host == "" {
		return a, err
	}
	ip, err := netip.ParseAddr(a.Host)
	if err != nil || ip.Zone() != "" {
		return a, errors.New("want an IP address of this machine, or :PORT for all of them")
	}
	a.Host = ip.Unmap().String()
	return a, nil
}
