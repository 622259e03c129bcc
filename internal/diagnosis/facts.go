package diagnosis

import (
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// facts are the evidence, and what is derived from it once.
type facts struct {
	*Evidence
	body   string // in lower case
	first  string
	err    string
	shown  []product
	author product
}

func newFacts(e *Evidence) *facts {
	f := &facts{Evidence: e, body: strings.ToLower(string(e.Body)), first: string(e.First)}
	f.shown, f.author = shown(e.Header), author(e.Header, f.body)
	if e.Receipt != "" && e.Status == http.StatusUpgradeRequired && len(e.Header.Values("Sec-Websocket-Accept")) > 0 {
		f.shown = append(f.shown, haproxy) // adds it where Upgrade lists websocket, as in the listener's 426
	}
	if e.Err != nil {
		f.err = e.Err.Error()
	}
	return f
}

// wrote reports whether p wrote the answer: its page shows it, or there is no page of another
// and p is the only product that the fields show.
func (f *facts) wrote(p product) bool {
	if f.author != "" {
		return f.author == p
	}
	return len(f.shown) == 1 && f.shown[0] == p
}

// fill replaces the names in braces:
//
//	{size}        the size of the request's head
//	{token}       the token of Upgrade
//	{websocket}   that CarrierWebSocket is to be added, unless the dialer tries it
//	{later}       when to try again
//	{tls}         how to speak TLS to the hop
//	{plain}       how not to
//	{config}      the tls.Config of the hop
//	{upgrade}     which setting passes Upgrade
//	{http10}      which setting passes it over HTTP/1.1
//	{secure}      which setting lets it speak TLS to its upstream, in parentheses
//	{route}       which settings lead a Host and path, in parentheses
//	{address}     that Host is an address, in parentheses
//	{authorization} which setting passes Authorization
//	{connection}  which setting passes Connection
//	{proxy}       the proxy that answered, or else those that are on the way
//	{who}         the same, or a program behind, if it is not known which
//	{behind}      those that are on the way in front of the one that answered
func (f *facts) fill(text string) string {
	if !strings.Contains(text, "{") {
		return text
	}
	return strings.NewReplacer(
		"{websocket}", f.addWebSocket(),
		"{size}", strconv.Itoa(f.HeadSize),
		"{token}", f.Token,
		"{later}", f.later(),
		"{tls}", hop(f.Stage, "set TLSConfig, or write tcps:// in a URL", "write https:// in the URL that Proxy returns", ""),
		"{plain}", hop(f.Stage, "leave TLSConfig nil, or write tcp:// in a URL", "write http:// in the URL that Proxy returns", "leave TunnelTLSConfig nil, or set PreflightListener.TLSConfig"),
		"{config}", hop(f.Stage, "TLSConfig", "TLSConfig", "TunnelTLSConfig"),
		"{upgrade}", f.setting(func(s setting) string { return s.upgrade }),
		"{http10}", f.setting(func(s setting) string { return s.http10 }),
		"{connection}", f.setting(func(s setting) string { return s.connection }),
		"{proxy}", f.proxy(),
		"{who}", f.who(),
		"{behind}", f.behind(),
		"{secure}", named(f.others(), func(s setting) string { return s.secure }),
		"{route}", named(f.shown, func(s setting) string { return s.route }),
		"{address}", f.address(),
		"{authorization}", f.passAuthorization(),
	).Replace(text)
}

func (f *facts) addWebSocket() string {
	if f.WebSocket {
		return ""
	}
	return " (add CarrierWebSocket)"
}

// hop chooses the text for the hop of a stage.
func hop(at Stage, edge, proxy, tunnel string) string {
	switch at {
	case ProxyTLS, Connect, SOCKS:
		return proxy
	case TunnelTLS:
		return tunnel
	}
	return edge
}

func (f *facts) later() string {
	switch {
	case f.Wait <= 0:
		return "try again later"
	case f.Wait > 24*time.Hour || f.Wait == math.MaxInt64:
		return "try again after Retry-After"
	}
	return "try again in " + f.Wait.Round(time.Second).String()
}

// setting says what makes the product that is shown pass the upgrade. It may not be the one
// that is at fault: a good proxy in front of another writes its own name.
func (f *facts) setting(of func(setting) string) string {
	switch len(f.shown) {
	case 0:
		return "Let each proxy on the way pass Upgrade and Connection over HTTP/1.1 (docs/proxies.md has the line of each product)"
	case 1:
		s := settings[f.shown[0]]
		line := of(s)
		if f.shown[0] == nginx && f.hidden() {
			return "nginx is on the way, and a proxy that shows no name: it removes Upgrade from answers too, as Apache does without `upgrade=" + f.Token + "` in ProxyPass. Check both"
		}
		if line == "" {
			line = s.upgrade
		}
		if line == "" {
			return "Possibly " + string(f.shown[0]) + ", which is on the way: let it pass Upgrade and Connection"
		}
		return string(f.shown[0]) + " is on the way; if it is that proxy, " + strings.NewReplacer("{token}", f.Token, "{websocket}", f.addWebSocket()).Replace(line)
	}
	return joined(f.shown) + " are on the way: docs/proxies.md has the line of each"
}

// named returns a setting of the product, if there is only one, in parentheses.
func named(all []product, of func(setting) string) string {
	if len(all) != 1 || of(settings[all[0]]) == "" {
		return ""
	}
	return " (`" + of(settings[all[0]]) + "`)"
}

func (f *facts) address() string {
	if addressAsHost(f) {
		return " (now an address)"
	}
	return ""
}

func (f *facts) passAuthorization() string {
	if len(f.shown) != 1 || settings[f.shown[0]].authorization == "" {
		return "Let each proxy on the way pass it"
	}
	return string(f.shown[0]) + " is on the way; if it is that proxy, " + settings[f.shown[0]].authorization
}

func joined(all []product) string {
	var b strings.Builder
	for i, p := range all {
		if i > 0 {
			b.WriteString(" and ")
		}
		b.WriteString(string(p))
	}
	return b.String()
}

// proxy names the proxy that wrote the answer, or else those that passed it on.
func (f *facts) proxy() string {
	if f.author != "" && f.author != golang {
		return string(f.author)
	}
	return f.behind()
}

// who names the proxy that wrote the answer. If it is not known, a program behind those that
// are shown may have.
func (f *facts) who() string {
	switch {
	case f.author != "" && f.author != golang:
		return string(f.author)
	case len(f.shown) > 0:
		return joined(f.shown) + ", or a program behind,"
	}
	return "a proxy or program in front of the listener"
}

// behind names the products that passed an answer on, as the hop before another.
func (f *facts) behind() string {
	if others := f.others(); len(others) > 0 {
		return joined(others)
	}
	return "the proxy"
}

// others are the products that are shown, without the one that wrote the answer.
func (f *facts) others() []product {
	return slices.DeleteFunc(slices.Clone(f.shown), func(p product) bool { return p == f.author })
}

// A place is where a redirect leads.
type place uint8

const (
	elsewhere         place = iota // on the same host, or not to be understood
	sameOverTLS                    // the same host over https, instead of http
	sameURL                        // the same host and path over https, again
	withSlash                      // the same path with a slash at its end
	otherHostSamePath              // the same path on another host
	otherHost                      // another host over http
	otherHostTLS                   // another host over https
)

// leads returns where the Location of the answer leads.
func (f *facts) leads() place {
	u, err := url.Parse(f.Header.Get("Location"))
	if err != nil {
		return elsewhere
	}
	own := url.URL{Host: f.Host}
	same := u.Host == "" || strings.EqualFold(u.Hostname(), own.Hostname())
	switch {
	case same && u.Scheme == "https" && !f.TLS:
		return sameOverTLS
	case f.TLS && f.again(u):
		return sameURL
	case same && u.Path == f.Path+"/":
		return withSlash
	case same:
		return elsewhere
	case (u.Scheme == "http" || u.Scheme == "https") && len(u.Path) > 1 && u.Path == f.Path:
		return otherHostSamePath
	case u.Scheme == "http":
		return otherHost
	case u.Scheme == "https":
		return otherHostTLS
	}
	return elsewhere
}

// again reports whether u is the URL of the request, which is one of https.
func (f *facts) again(u *url.URL) bool {
	authority := func(host string) string { return strings.TrimSuffix(strings.ToLower(host), ":443") }
	return (u.Scheme == "https" || u.Scheme == "") && (u.Host == "" || authority(u.Host) == authority(f.Host)) && u.Path == f.Path
}
