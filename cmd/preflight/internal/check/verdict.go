package check

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// A certainty says how sure a verdict is.
type certainty string

// The certainties.
const (
	certain  certainty = "certain" // it follows from the evidence
	likely   certainty = "likely"  // the evidence fits it best; Else has what fits too
	possible certainty = "possible"
)

// A Verdict names what is wrong, and what to change.
type Verdict struct {
	Code      string    `json:"code"`
	Certainty certainty `json:"certainty"`
	Hop       string    `json:"hop"`
	Cause     string    `json:"cause"`
	Change    string    `json:"change"`
	Else      []string  `json:"else,omitempty"`   // other causes that the evidence allows
	Next      string    `json:"next,omitempty"`   // what would tell them apart
	Config    []string  `json:"config,omitempty"` // to paste
	Print     string    `json:"print,omitempty"`  // the command that prints the whole configuration
}

// A rule leads from evidence to a verdict. Its texts may have the words in braces of
// evidence.fill.
type rule struct {
	code   string               // of the verdict
	of     string               // codes of the main carrier, one of which is needed; "": any
	when   func(*evidence) bool // what else is needed; nil: nothing
	sure   certainty            // "": certain
	hop    string
	cause  string
	change string
	others []string
	next   string
	paste  bool // the lines for an upgrade are to be pasted
}

func (r *rule) fits(e *evidence) bool {
	return (r.of == "" || e.code() != "" && slices.Contains(strings.Fields(r.of), e.code())) && (r.when == nil || r.when(e))
}

// judge returns the verdict of the first rule that fits, or nil if nothing is wrong.
func judge(e *evidence) *Verdict {
	for i := range rules {
		if r := &rules[i]; r.fits(e) {
			return r.verdict(e)
		}
	}
	return nil
}

func (r *rule) verdict(e *evidence) *Verdict {
	v := &Verdict{Code: r.code, Certainty: r.sure, Hop: e.fill(r.hop), Cause: e.fill(r.cause), Change: e.fill(r.change), Next: e.fill(r.next)}
	if v.Certainty == "" {
		v.Certainty = certain
	}
	for _, o := range r.others {
		if text := e.fill(o); text != "" {
			v.Else = append(v.Else, text)
		}
	}
	e.doubt(r, v)
	if r.paste {
		e.paste(v)
	}
	return v
}

// doubt makes a verdict likely that blames a proxy for an answer which another may have written.
func (e *evidence) doubt(r *rule, v *Verdict) {
	a := e.answer()
	if v.Certainty != certain || a.Outcome != answered || a.Reason != "" || !e.blamesProxy(r, v) {
		return
	}
	other := ""
	writer := e.writer()
	if writer == "" && e.author() == nginx && nginxFile(e) {
		writer = nginx
	}
	switch writer {
	case nginx:
		other = "another nginx behind this one answers so, because two look like one: change it there, or correct `proxy_pass` of the first"
	case caddy:
		other = "a program behind Caddy, whose answers a Caddy before 2.10 passes on without a trace: then correct `reverse_proxy`"
	case "":
		other = e.fill("a program behind {who} answers so: then correct {upstream}")
	default:
		return
	}
	v.Certainty = likely
	v.Else = append(v.Else, other)
}

// blamesProxy reports whether the hop of the verdict is the proxy that answered.
func (e *evidence) blamesProxy(r *rule, v *Verdict) bool {
	_, known := settings[product(v.Hop)]
	return r.hop == "{who}" || known && v.Hop == r.hop
}

// paste adds the lines of the products that may be at fault.
func (e *evidence) paste(v *Verdict) {
	all := e.stripping()
	if len(all) > 1 && v.Certainty == certain {
		v.Certainty = likely
	}
	for _, p := range all {
		s := e.words(p)
		if len(all) > 1 {
			v.Config = append(v.Config, "# "+string(p)+":")
		}
		lines := s.upgrade
		if s.site != nil && slices.Contains([]string{"no-route", "no-listener"}, v.Code) {
			lines = s.site
		}
		for _, line := range lines {
			v.Config = append(v.Config, e.line(line))
		}
	}
	if len(all) == 0 {
		v.Config = unnamed.upgrade
	}
	if len(all) == 1 && settings[all[0]].config != "" {
		v.Print = fmt.Sprintf("preflight config %s --path %s --backend HOST:PORT", settings[all[0]].config, e.path())
	}
}

func (e *evidence) words(p product) setting {
	s, ok := settings[p]
	if !ok {
		return unnamed
	}
	return s
}

// path is that of the URL, without the query.
func (e *evidence) path() string {
	path, _, _ := strings.Cut(e.target.Dialer.Path, "?")
	return path
}

// line is one of a configuration, for this path.
func (e *evidence) line(text string) string {
	slash := ""
	if strings.HasSuffix(e.path(), "/") {
		slash = "/"
	}
	return strings.NewReplacer("{path}", e.path(), "{slash}", slash).Replace(text)
}

// fill replaces the words in braces:
//
//	{edge}      the address of the edge
//	{first}     the first hop
//	{who}       the proxy that wrote the answer, or else the last one on the way
//	{way}       the products on the way
//	{strips}    those of them that pass no upgrade by default
//	{path}      that of the URL
//	{status}    of the answer
//	{took}      how long it took
//	{passes}    how they pass one
//	{connects}  how they pass Connection
//	{widens}    how they pass an upgrade, where they pass another one
//	{some}      what may pass another upgrade, and not this one; "": nothing that is known
//	{http10}    how they speak HTTP/1.1
//	{behind}    the proxy before a server that answered itself
//	{behindSecure} how it speaks TLS
//	{before}    the products on the way that did not write the answer, or else all
//	{old}       the one that may speak HTTP/1.0
//	{unclean}   the part of the path that `preflight serve` refuses
//	{cut}       the part of the path that does not arrive
//	{keeps}     how the products on the way keep the path
//	{strip}     how they remove a part of it
//	{program}   the protocol of a program that is no web server
//	{challenge} the schemes of credentials that the answer asks for
//	{wanted}    the first of them
//	{off}       in parentheses, how a path is exempt from credentials
//	{scheme}    that of the credentials that were sent
//	{others}    what those tunnels get that do not open, where others open
//	{redirectPort} the port of an https URL to which the answer leads, where the URL has another
//	{groups}    where the products on the way name the servers that share their requests
//
// and {route}, {upstream}, {secure}, {insecure}, {deny}, {auth}, {limit}, {timeout}, {head},
// {sni}, {match} and {hostPort} are the words of {who} for them.
func (e *evidence) fill(text string) string {
	if !strings.Contains(text, "{") {
		return text
	}
	who := e.author()
	if who == "" || who == golang || who == listener {
		who = ""
		if way := e.way(); len(way) > 0 {
			who = way[len(way)-1]
		}
	}
	w := e.words(who)
	or := func(p product, otherwise string) string {
		if p == "" || p == golang {
			return otherwise
		}
		return string(p)
	}
	return strings.NewReplacer(
		"{edge}", e.target.Address, "{first}", or(e.first(), "the proxy"), "{who}", or(who, "the proxy"),
		"{way}", list(e.way(), "a proxy on the way"), "{strips}", list(e.stripping(), "a proxy on the way"),
		"{path}", e.path(), "{status}", statusText(e.answer().Status), "{took}", fmt.Sprintf("%.0f ms", e.took()),
		"{passes}", e.passes(func(setting) string { return "" }), "{some}", e.some(),
		"{connects}", e.passes(func(s setting) string { return s.connects }),
		"{widens}", e.passes(func(s setting) string { return s.widens }),
		"{http10}", e.http11(),
		"{behind}", list(e.way(), "the proxy"), "{behindSecure}", e.behindSecure(), "{before}", list(e.before(), "the proxy"), "{old}", e.old(),
		"{cut}", e.cut(), "{unclean}", e.unclean(), "{keeps}", e.keeps(), "{strip}", e.strip(), "{program}", e.otherProgram(), "{off}", e.exempt(w.off), "{hostPort}", cmp.Or(w.hostPort, unnamed.hostPort),
		"{route}", w.route, "{upstream}", w.upstream, "{secure}", w.secure, "{insecure}", w.insecure,
		"{deny}", w.deny, "{auth}", w.auth, "{limit}", w.limit, "{timeout}", w.timeout,
		"{head}", cmp.Or(w.head, unnamed.head), "{sni}", cmp.Or(w.sni, unnamed.sni), "{match}", cmp.Or(w.match, unnamed.match),
		"{groups}", e.groups(), "{others}", e.others,
		"{redirectPort}", e.redirectPort(),
		"{challenge}", strings.Join(e.challenges(), " or "), "{wanted}", append(e.challenges(), "Bearer")[0], "{scheme}", e.scheme,
	).Replace(text)
}

// redirectPort is what a redirect to https means for the port in the URL. Nothing else of a
// Location is shown.
func (e *evidence) redirectPort() string {
	u, err := url.Parse(e.answer().header.Get("Location"))
	_, now, _ := net.SplitHostPort(e.target.Address)
	if err != nil || u.Host == "" {
		return ""
	}
	port, err := strconv.ParseUint(cmp.Or(u.Port(), "443"), 10, 16)
	if err != nil || now == "80" && port == 443 {
		return ""
	}
	if u.Port() == now && !asked("TLS", "client-hello")(e) {
		return fmt.Sprintf(", with the port of its TLS: the redirect names the port %d, which does not speak it", port)
	}
	return fmt.Sprintf(", with the port %d to which it redirects", port)
}

// groups says where each product on the way names the servers that share its requests.
func (e *evidence) groups() string {
	var texts []string
	for _, p := range e.way() {
		s := e.words(p)
		texts = append(texts, cmp.Or(s.group, s.upstream)+" of "+string(p))
	}
	if len(texts) == 0 {
		return "the list of the servers of the proxy"
	}
	return strings.Join(texts, ", or ")
}

// list joins products.
func list(all []product, none string) string {
	if len(all) == 0 {
		return none
	}
	var names []string
	for _, p := range all {
		names = append(names, string(p))
	}
	return strings.Join(names, " or ")
}

// passes says how the products that may be at fault pass an upgrade: by what of says, or else by
// their lines.
func (e *evidence) passes(of func(setting) string) string {
	all := e.stripping()
	if len(all) == 0 {
		return "add the lines for Upgrade and Connection of each proxy on the way (docs/proxies.md)"
	}
	var texts []string
	for _, p := range all {
		s := e.words(p)
		text := cmp.Or(of(s), s.passes, e.addLines(s))
		if len(all) > 1 {
			text = string(p) + ": " + text
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}

// addLines says where to add the lines for an upgrade, or what stands in place of them.
func (e *evidence) addLines(s setting) string {
	var lines, notes []string
	for _, line := range s.upgrade {
		if note, ok := strings.CutPrefix(line, "# "); ok {
			notes = append(notes, strings.TrimSuffix(note, ":"))
			continue
		}
		lines = append(lines, "`"+e.line(line)+"`")
	}
	if len(lines) == 0 {
		return strings.Join(notes, "; ")
	}
	text := "add " + strings.Join(lines, " ")
	if s.where != "" {
		text += " " + e.line(s.where)
	}
	return text
}

// some says what may pass another upgrade and not this one.
func (e *evidence) some() string {
	var texts []string
	for _, p := range e.stripping() {
		if text := settings[p].some; text != "" {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "; ")
}

// http11 says how a proxy speaks HTTP/1.1 to its server.
func (e *evidence) http11() string {
	switch way := e.way(); {
	case slices.Contains(way, nginx):
		return e.addLines(settings[nginx])
	case slices.Contains(way, apache):
		return "remove `force-proxy-request-1.0` from Apache, and add `upgrade=tcp` to its ProxyPass"
	}
	return "let it speak HTTP/1.1 to the server (nginx: `proxy_http_version 1.1;`)"
}

func (e *evidence) exempt(how string) string {
	if how == "" {
		return ""
	}
	return " (" + strings.ReplaceAll(how, "{path}", e.path()) + ")"
}

// old is the hop that may speak HTTP/1.0: nginx and Apache can, and most others cannot.
func (e *evidence) old() string {
	for _, p := range []product{nginx, apache} {
		if slices.Contains(e.way(), p) {
			return string(p)
		}
	}
	return "the last proxy before the listener, one of " + list(e.way(), "those on the way")
}

func (e *evidence) behindSecure() string {
	if way := e.before(); len(way) > 0 {
		return "let it speak TLS: " + e.words(way[len(way)-1]).secure
	}
	return "let it speak TLS to its server"
}
