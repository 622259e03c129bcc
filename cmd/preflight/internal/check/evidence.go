package check

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/preflight-go/preflight"
)

// evidence is all that is known about the path.
type evidence struct {
	target      *Target
	proxy       bool // there is a forward proxy
	reached     bool // the first hop accepts connections
	certificate *Certificate
	// sentAuthorization reports whether the requests have credentials.
	sentAuthorization bool
	scheme            string     // of those credentials, such as Bearer
	others            string     // what some tunnels get while others open by the same carrier
	far               *farReport // nil: there is no far end
	farView           *FarView
	findings          []Finding

	mu      sync.Mutex
	steps   []Step
	answers map[string]*Answer
	codes   map[string]string // of the carriers
	errs    map[string]error  // of the carriers
	order   []string          // of answers
}

func newEvidence(t *Target) *evidence {
	return &evidence{target: t, answers: make(map[string]*Answer), codes: make(map[string]string), errs: make(map[string]error)}
}

func (e *evidence) step(s Step) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.steps = append(e.steps, s)
}

func (e *evidence) add(a *Answer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answers[a.Name] = a
	e.order = append(e.order, a.Name)
}

// sortCarriers puts the steps of the carriers, which are the last ones, into their order.
func (e *evidence) sortCarriers() {
	rank := func(s Step) int { return slices.Index(allCarriers, preflight.Carrier(s.Name)) }
	slices.SortStableFunc(e.steps, func(a, b Step) int { return cmp.Compare(rank(a), rank(b)) })
}

// carrier keeps why a carrier failed.
func (e *evidence) carrier(a *Answer, code string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answers[a.Name], e.codes[a.Name], e.errs[a.Name] = a, code, err
}

// find returns the step with a name, or one that says nothing. Of several it returns one that
// is good, if there is one.
func (e *evidence) find(name string) (found Step) {
	for _, s := range e.steps {
		if s.Name == name && (found.Name == "" || s.OK) {
			found = s
		}
	}
	return found
}

// failedAt reports whether a step failed by one of these faults, or by any if none is given.
func (e *evidence) failedAt(name string, faults ...fault) bool {
	s := e.find(name)
	return s.Name != "" && !s.OK && (len(faults) == 0 || slices.Contains(faults, s.fault))
}

func (e *evidence) proxyFailed() bool { return e.failedAt("proxy") }

// opens reports whether a carrier opens a tunnel.
func (e *evidence) opens(c preflight.Carrier) bool { return e.find(string(c)).OK }

// works reports whether a carrier that the client tries opens a tunnel.
func (e *evidence) works() bool { return slices.ContainsFunc(e.target.Wanted, e.opens) }

// main is the carrier whose failure is to be explained: the first that the client tries and
// that fails. Where an edge passes websocket alone, that is why websocket fails.
func (e *evidence) main() string {
	for _, c := range e.target.Wanted {
		if e.opens(c) {
			continue
		}
		switch code, other := e.codes[string(c)], e.codes[webSocket]; code {
		case "websocket-only":
			if other != "" {
				return webSocket
			}
		case "no-upgrades", "forbidden": // Envoy answers 403 to an upgrade that it does not know
			if other != "" && other != code && slices.Contains(e.target.Wanted, preflight.CarrierWebSocket) {
				return webSocket
			}
		}
		return string(c)
	}
	return ""
}

const webSocket = string(preflight.CarrierWebSocket)

// code is that of the main carrier.
func (e *evidence) code() string { return e.codes[e.main()] }

// answer is that of the main carrier. It is never nil.
func (e *evidence) answer() *Answer {
	if a := e.answers[e.main()]; a != nil {
		return a
	}
	return new(Answer)
}

// mainCarrier stands for the question that the main carrier is.
const mainCarrier = ""

// of returns the answer to a question, or an empty one.
func (e *evidence) of(question string) *Answer {
	if question == mainCarrier {
		return e.answer()
	}
	if a := e.answers[question]; a != nil {
		return a
	}
	return new(Answer)
}

// first is the product of the first hop, as its answer to a malformed head shows it.
func (e *evidence) first() product { return ofMalformed(e.answers["malformed"]) }

// way returns the products on the way, the first hop before the others.
func (e *evidence) way() (all []product) {
	add := func(names ...product) {
		for _, p := range names {
			if p != "" && p != golang && p != listener && !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	add(e.first(), ofMalformed(e.answers["plain"])) // a port for TLS shows itself to plain HTTP
	for _, name := range append([]string{e.main(), "get", "other-path", "other-host"}, revealing...) {
		a := e.of(name)
		for _, p := range a.Products {
			add(product(p))
		}
		add(product(a.Author))
	}
	return all
}

// before returns the products on the way in front of the one that wrote the answer. If there are
// none, it returns all.
func (e *evidence) before() []product {
	way := e.way()
	others := slices.DeleteFunc(slices.Clone(way), func(p product) bool { return p == e.author() })
	if len(others) == 0 {
		return way
	}
	return others
}

// revealing are questions that pass one hop, and that the next answers itself.
var revealing = []string{"fields", "expect"}

// stripping returns the products on the way that pass no upgrade unless they are told to. If
// there are none, it returns all.
func (e *evidence) stripping() (all []product) {
	way := e.way()
	for _, p := range way {
		if settings[p].strips {
			all = append(all, p)
		}
	}
	if all == nil {
		return way
	}
	return all
}

// writer is the product that wrote the answer, as the answer itself shows. It is "" if that is not
// known.
func (e *evidence) writer() product {
	a := product(e.answer().Author)
	if a == envoy && e.passedByEnvoy() {
		return ""
	}
	return a
}

// passedByEnvoy reports whether Envoy got the answer from a server. It tells so in the answer to
// an ordinary request, and not always in that to an upgrade.
func (e *evidence) passedByEnvoy() bool {
	return alike(mainCarrier, "get")(e) &&
		(e.answer().header.Get(envoyTime) != "" || e.of("get").header.Get(envoyTime) != "")
}

// envoyTime is the field in which Envoy says how long the server behind it took.
const envoyTime = "X-Envoy-Upstream-Service-Time"

// passedOn holds if the proxy that is the only one known did not write the answer. Each product
// here marks what it writes, or what it passes on.
func passedOn(e *evidence) bool {
	if a := e.answer(); a.Outcome != answered || a.Reason != "" || e.writer() != "" {
		return false
	}
	switch e.author() {
	case caddy:
		return viaCaddy(e.answer().header)
	case envoy:
		return e.passedByEnvoy()
	case nginx, haproxy, apache:
		return true // its own pages have a form of their own
	}
	return false
}

// author is the product that wrote the answer: its page shows it, or it is the only one on the
// way. In the second case a program behind it may have written the answer: see writer.
func (e *evidence) author() product {
	if a := e.writer(); a != "" {
		return a
	}
	if way := e.way(); len(way) == 1 {
		return way[0]
	}
	return ""
}

// schemes are the schemes of credentials that a report names. Any other could be a secret.
var schemes = []string{"Basic", "Bearer", "Digest", "Negotiate", "NTLM"}

// schemeOf returns the scheme of a value of Authorization or WWW-Authenticate.
func schemeOf(value string) string {
	word, _, _ := strings.Cut(value, " ")
	for _, s := range schemes {
		if strings.EqualFold(word, s) {
			return s
		}
	}
	return ""
}

// challenges are the schemes that the answer asks for.
func (e *evidence) challenges() (all []string) {
	for _, value := range e.answer().header.Values("Www-Authenticate") {
		if s := schemeOf(value); s != "" && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// took is how long the answer took, in milliseconds.
func (e *evidence) took() float64 { return e.find(e.main()).Millis }

func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return fmt.Sprintf("%d %s", status, text)
	}
	return fmt.Sprint(status)
}
