// Package diagnosis tells from the evidence of a failed dial what is wrong, and what to
// change. It has one table, from which the first row that fits is taken. The rows say first
// what was seen, then what follows from it, then what to change. A cause that is only
// possible is called possible.
//
// The texts are fixed. No field value, no part of a body and no credential enters them. Two
// facts of an answer do, each in a form of this package: which products are on the way, and
// how long Retry-After asks to wait.
package diagnosis

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Stage is the step of a dial that failed.
type Stage uint8

// The stages, in the order of a dial.
const (
	ProxyTLS  Stage = 1 << iota // TLS with the forward proxy
	SOCKS                       // SOCKS5 with the forward proxy
	Connect                     // CONNECT to the forward proxy
	TLS                         // TLS with the reverse proxy
	Upgrade                     // the upgrade request and its answer
	TunnelTLS                   // TLS inside the tunnel
)

// Evidence is what a dialer knows about a dial that failed. Zero values mean that a fact is
// not there.
type Evidence struct {
	Stage Stage

	// What was sent.
	Token         string // of Upgrade
	Host, Path    string // of the request; Path has no query
	TLS           bool   // to the one who answered
	Authorization bool   // the request had that field; with CONNECT Proxy-Authorization
	Scheme        string // of Authorization, if it is a scheme and something behind it
	WebSocket     bool   // CarrierWebSocket is among those that the dialer tries
	HeadSize      int    // of the request, in bytes

	// What came: an answer, bytes that are not HTTP, or an error alone.
	Status  int    // of the answer
	Phrase  string // its reason phrase
	Receipt string // its Preflight-Refusal
	Broken  string // the rule that a 101 breaks, by its code
	Header  http.Header
	Body    []byte
	Wait    time.Duration // of Retry-After
	First   []byte        // the first bytes, if they are not HTTP
	Err     error
}

// A Finding is what the evidence shows. The zero Finding shows nothing.
type Finding struct {
	Code      string // of its row in docs/troubleshooting.md
	Text      string // with the code at its end
	Temporary bool   // the same dial may succeed later
	Common    bool   // every carrier meets it
}

// Of returns what e shows.
func Of(e *Evidence) Finding {
	f := newFacts(e)
	row := find(f)
	if row == nil {
		return Finding{}
	}
	return Finding{row.code, f.fill(row.text) + " [" + row.code + "]", row.waits, row.common}
}

func find(f *facts) *row {
	for i := range table {
		if row := &table[i]; row.fits(f) {
			return row
		}
	}
	return nil
}

// Codes returns the code of each row, without repetition.
func Codes() (codes []string) {
	for _, row := range table {
		if !slices.Contains(codes, row.code) {
			codes = append(codes, row.code)
		}
	}
	return codes
}

// A row is one conclusion. It fits if all that it names is in the evidence.
type row struct {
	code    string
	at      Stage             // one of these; 0: Upgrade
	receipt string            // the code of the listener; "": the answer has none
	status  string            // such as "404", "405 501" or "5xx"; "": any
	from    product           // wrote the answer, or is the only one shown
	body    string            // a part of it, in lower case
	first   string            // begins with it
	also    func(*facts) bool // anything else
	text    string            // see facts.fill
	waits   bool              // waiting can help
	common  bool              // it is no matter of the carrier: each one meets it
}

func (r *row) fits(f *facts) bool {
	at := r.at
	if at == 0 {
		at = Upgrade
	}
	if f.Stage&at == 0 || f.Receipt != r.receipt && r.receipt != anyReceipt {
		return false
	}
	return (r.status == "" || matchesStatus(r.status, f.Status)) &&
		(r.status != "" || r.receipt != "" || f.Status == 0) &&
		(r.from == "" || f.wrote(r.from)) &&
		(r.body == "" || strings.Contains(f.body, r.body)) &&
		(r.first == "" || strings.HasPrefix(f.first, r.first)) &&
		(r.also == nil || r.also(f))
}

// anyReceipt is the receipt of a row for codes that this version does not know.
const anyReceipt = "any"

// matchesStatus reports whether list has status, or its class.
func matchesStatus(list string, status int) bool {
	s := strconv.Itoa(status)
	for one := range strings.FieldsSeq(list) {
		if one == s || len(s) == 3 && one == s[:1]+"xx" || one == "any" && status > 0 {
			return true
		}
	}
	return false
}
