package broken

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A brokenPath is a path to a server that does not work, and what the error must say. hop,
// cause and line are parts of the text. Each has alternatives, separated by "|", of which
// one must be there.
type brokenPath struct {
	name  string
	usual bool // one of the most usual ones

	// The path. Either a program runs with site in its configuration, and is dialed. Or a
	// server of the kit is dialed, whose name is direct.
	program, site string
	direct        string
	// forward is the URL of the program or server as a forward proxy, without its address.
	// Then edge is dialed through it: a server, or another path. "": the server that works.
	forward, edge string
	// dial sets what a user would set beside the address and the path. nil: nothing.
	dial   func(k *kit, d *preflight.PreflightDialer)
	again  bool // it is dialed once before
	keep   bool // one tunnel is open meanwhile
	settle bool // it is dialed until the code is the right one, because a health check takes time

	code  string // at the end of the text; "": the error of another package
	hop   string // the hop at fault
	cause string // the true cause
	line  string // what to change
	// not must not be in the text: causes that this path does not have.
	not []string
	// beside are wrong causes that stand beside the true one.
	beside []string
	// lacks says what the text does not tell, and why nobody could. misleads says what is
	// wrong with it.
	lacks, misleads string
	waits           bool // Temporary
	// varies says that the error depends on when the bytes of two programs meet. Then code
	// and the parts have the alternatives, and nothing else is required.
	varies bool
	long   bool // the text is longer than maxText
}

// Parts of the request that must never be in a text.
const (
	secretHeader = "header-s3cr3t"
	secretQuery  = "query-s3cr3t"
	path         = "/client/amps/json"
)

// maxText is what an error may hold for one carrier, without the addresses.
const maxText = 300

// grade returns full, partial or misleading.
func (p brokenPath) grade() string {
	switch {
	case p.misleads != "":
		return "misleading"
	case p.hop == "" || p.cause == "" || p.line == "" || len(p.beside) > 0 || p.lacks != "":
		return "partial"
	}
	return "full"
}

// try dials the path and requires what p says of the error. It returns its text, and all
// evidence that the dial had.
func (p brokenPath) try(t *testing.T, k *kit) (text, evidence string) {
	address, proxy := k.addresses(t, p)
	d := &preflight.PreflightDialer{
		Path:             path + "?token=" + secretQuery,
		Header:           http.Header{"X-Token": {secretHeader}},
		HandshakeTimeout: lab.Timeout,
	}
	if proxy != "" {
		u, err := url.Parse(p.forward + proxy)
		require.NoError(t, err)
		d.Proxy = http.ProxyURL(u)
	}
	if p.dial != nil {
		p.dial(k, d)
	}
	dial := func() error {
		c, err := d.DialContext(t.Context(), "tcp", address)
		if err == nil {
			c.Close()
		}
		return err
	}
	if p.keep {
		first, err := d.DialContext(t.Context(), "tcp", address)
		require.NoError(t, err)
		defer first.Close()
	}
	if p.again {
		dial()
	}
	record := func() (*recorder, error) {
		r := new(recorder)
		d.NetDialer = r
		return r, dial()
	}
	r, err := record()
	if p.settle {
		lab.WaitUntil(t, "the health check finds the server down", func() bool {
			r, err = record()
			return err != nil && code(err.Error()) == p.code
		})
	}
	if r.slow() { // again: this machine may have been slow, and not the path
		if again, same := record(); same != nil && !again.slow() {
			r, err = again, same
		}
	}
	require.Error(t, err)
	text = k.anonymous(err.Error(), address)
	t.Log(text)
	evidence = r.evidence(k, err)
	assert.NotContains(t, text, secretHeader)
	assert.NotContains(t, text, secretQuery)
	for part, alternatives := range map[string]string{"hop": p.hop, "cause": p.cause, "line": p.line} {
		contains := func(alternative string) bool { return strings.Contains(text, alternative) }
		assert.True(t, slices.ContainsFunc(strings.Split(alternatives, "|"), contains), "the %s %q is missing:\n%s", part, alternatives, text)
	}
	for _, wrong := range p.not {
		assert.NotContains(t, text, wrong)
	}
	for _, beside := range p.beside {
		assert.Contains(t, text, beside)
	}
	assert.Contains(t, strings.Split(p.code, "|"), code(text))
	if p.varies {
		return stable(text), evidence
	}
	p.requireNoFalseCause(t, text)
	assert.Equal(t, p.waits, temporary(err), "Temporary\n%s", text)
	longest := 0 // with words for addresses
	for _, one := range strings.Split(text, "; and by carrier ") {
		longest = max(longest, len(one))
	}
	assert.Equal(t, p.long, longest > maxText, "%d characters\n%s", longest, text)
	return stable(text), evidence
}

// falseCauses are parts of texts, each with what the path must be about: one of the
// alternatives, separated by "|".
var falseCauses = []struct{ says, about string }{
	{"is down", "down"},
	{"down, full", "full"},
	{"PROXY header", "PROXY"},
	{"speaks TLS", "TLS"},
	{"wants TLS", "TLS"},
	{"too large", "head"},
	{"return 444", "444"},
	{"limits the rate", "rate"},
	{"self-signed", "self-signed"},
	{"captive portal", "captive"},
	{"is slow", "slow|never answers"},
}

// products are the names of programs that texts blame.
var products = regexp.MustCompile(`\b(nginx|HAProxy|Apache|Envoy|Traefik|Caddy|Varnish|lighttpd|Squid|tinyproxy|h2o|Traffic Server)\b('s|,| itself| is on| has | reached| cannot| denies| passes| needs| sends| does not| refuses| forbids| limits| wants| answers| got| failed)`)

// requireNoFalseCause requires that text blames nothing that the path does not have, except
// what stands in beside or makes it misleading.
func (p brokenPath) requireNoFalseCause(t *testing.T, text string) {
	t.Helper()
	if p.misleads != "" {
		return
	}
	for _, beside := range p.beside {
		text = strings.ReplaceAll(text, beside, "")
	}
	about := p.name + p.program + p.edge + p.lacks
	for _, c := range falseCauses {
		isAbout := func(word string) bool { return strings.Contains(about, word) }
		if !slices.ContainsFunc(strings.Split(c.about, "|"), isAbout) {
			assert.NotContains(t, text, c.says)
		}
	}
	for _, blamed := range products.FindAllStringSubmatch(text, -1) {
		assert.Contains(t, about, blamed[1], "the text blames a program that is not on the path: %s", blamed[0])
	}
}

// code returns the code at the end of the text, or at the end of its first part if several
// carriers failed.
func code(text string) string {
	text, _, _ = strings.Cut(text, "; and by carrier ")
	if i := strings.LastIndexByte(text, '['); i >= 0 && strings.HasSuffix(text, "]") {
		return text[i+1 : len(text)-1]
	}
	return ""
}

// temporary reports whether err says that the same dial may succeed later.
func temporary(err error) bool {
	var e interface{ Temporary() bool }
	return errors.As(err, &e) && e.Temporary()
}
