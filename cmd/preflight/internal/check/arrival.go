package check

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// An Arrival is a connection that came to the far end, as it came. It has no value of a field
// but those that a check needs.
type Arrival struct {
	Question     string   `json:"question,omitempty"` // of the check
	Peer         string   `json:"peer"`               // who connected; to serve, the client of a trusted proxy
	ProxyHeader  string   `json:"proxy_header,omitempty"`
	Client       string   `json:"client,omitempty"` // whom a PROXY header or a field names
	ClientFields []string `json:"client_fields,omitempty"`
	TLS          bool     `json:"tls,omitempty"`
	Protocol     string   `json:"protocol"` // HTTP/1.1, or what else it is
	Method       string   `json:"method,omitempty"`
	Path         string   `json:"path,omitempty"` // without the query
	Host         string   `json:"host,omitempty"`
	Upgrade      string   `json:"upgrade,omitempty"`
	Connection   string   `json:"connection,omitempty"`
	Fields       []string `json:"fields,omitempty"` // the names of all fields
	HeadSize     int      `json:"head_size,omitempty"`

	id    string
	wants string
}

// farReport is what the far end answers a check that asks.
type farReport struct {
	FarEnd   bool      `json:"preflight_far_end"`
	Serve    bool      `json:"serve,omitempty"` // it is serve --echo, and not check --listen
	Arrivals []Arrival `json:"arrivals"`
}

// wantField says what a request wants from the far end: its report, or no answer at all.
const (
	wantField   = "X-Preflight-Check-Want"
	wantsReport = "report"
	wantsNoWord = "silence"
)

// Arrivals keep what has come to a far end, so that a check can ask for it. They may be used
// concurrently.
type Arrivals struct {
	Seen func(Arrival) // is called for each arrival, one at a time

	mu     sync.Mutex
	newest []Arrival // at most maxArrivals
}

const maxArrivals = 1000

// Add keeps a request that serve --echo has received.
func (f *Arrivals) Add(r *http.Request) { f.add(arrivalOf(r)) }

// Answer answers an ordinary request to serve --echo, if it is from a check that wants
// something of the far end. It reports whether it has answered. If the check wants no answer,
// it ends the connection by a panic with [http.ErrAbortHandler].
func (f *Arrivals) Answer(w http.ResponseWriter, r *http.Request) bool {
	a := arrivalOf(r)
	switch a.wants {
	case wantsReport:
		body := f.report(a.id, true)
		// Without the length a long body would be chunked, which the check does not read.
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Write(body)
		return true
	case wantsNoWord:
		f.add(a)
		panic(http.ErrAbortHandler)
	}
	f.add(a)
	return false
}

func (f *Arrivals) add(a Arrival) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = append(f.newest, a)
	if len(f.newest) > maxArrivals {
		f.newest = f.newest[1:]
	}
	f.Seen(a)
}

// report tells a check what has arrived of it. It tells nobody of others.
func (f *Arrivals) report(id string, serve bool) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := farReport{FarEnd: true, Serve: serve, Arrivals: []Arrival{}}
	for _, a := range f.newest {
		if id != "" && a.id == id {
			r.Arrivals = append(r.Arrivals, a)
		}
	}
	body, err := json.Marshal(r)
	if err != nil {
		panic(err) // it holds only texts, numbers and truth values
	}
	return body
}

// clientFields are those by which proxies name the client.
var clientFields = []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip"}

// read takes the facts from the head of a request.
func (a *Arrival) read(head []byte) {
	a.HeadSize = len(head)
	line, fields, _ := strings.Cut(string(head), "\r\n")
	words := strings.SplitN(line, " ", 3)
	if len(words) == 3 {
		a.setLine(words[0], words[1], words[2])
	}
	for field := range strings.SplitSeq(fields, "\r\n") {
		if name, value, ok := strings.Cut(field, ":"); ok {
			a.addField(name, value)
		}
	}
	slices.Sort(a.Fields)
}

// arrivalOf takes the facts from a request that was parsed.
func arrivalOf(r *http.Request) (a Arrival) {
	a.Peer, a.TLS = r.RemoteAddr, r.TLS != nil
	a.setLine(r.Method, r.RequestURI, r.Proto)
	if r.Host != "" {
		a.addField("Host", r.Host)
	}
	for name, values := range r.Header {
		for _, value := range values {
			a.addField(name, value)
		}
	}
	slices.Sort(a.Fields)
	return a
}

func (a *Arrival) setLine(method, target, protocol string) {
	path, _, _ := strings.Cut(target, "?")
	a.Method, a.Path, a.Protocol = printable(method), printable(path), printable(protocol)
}

func (a *Arrival) addField(name, value string) {
	name, value = http.CanonicalHeaderKey(printable(name)), printable(strings.TrimSpace(value))
	a.Fields = append(a.Fields, name)
	switch name {
	case "Host":
		a.Host = value
	case "Upgrade":
		a.Upgrade = value
	case "Connection":
		a.Connection = value
	case wantField:
		a.wants = value
	case idField:
		a.id, a.Question, _ = strings.Cut(value, ".")
	}
	if slices.Contains(clientFields, name) {
		a.ClientFields = append(a.ClientFields, name)
		if a.Client == "" {
			a.Client = value
		}
	}
}

// String describes an arrival in a line.
func (a Arrival) String() string {
	var b strings.Builder
	if a.Question != "" {
		fmt.Fprintf(&b, "%s ", a.Question)
	}
	fmt.Fprintf(&b, "from %s", a.Peer)
	if a.ProxyHeader != "" {
		fmt.Fprintf(&b, ", a PROXY header (%s)", a.ProxyHeader)
	}
	if a.TLS {
		b.WriteString(", TLS")
	}
	if a.Method == "" {
		fmt.Fprintf(&b, ": %s", a.Protocol)
		if a.Protocol == "HTTP/2" {
			b.WriteString(", which has no upgrade: let the proxy speak HTTP/1.1 to this server (HAProxy: no `proto h2`; Envoy: no `http2_protocol_options`; Caddy: no h2c://)")
		}
		return b.String()
	}
	fmt.Fprintf(&b, ": %s %s %s, Host %s", a.Method, a.Path, a.Protocol, a.Host)
	fmt.Fprintf(&b, ", Upgrade %s, Connection %s", cmp.Or(a.Upgrade, "missing"), cmp.Or(a.Connection, "missing"))
	if a.Client != "" {
		fmt.Fprintf(&b, ", client %s", a.Client)
	}
	return b.String()
}
