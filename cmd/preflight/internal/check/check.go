// Package check finds out why a tunnel to an edge does not open, and what to change.
//
// It walks the path hop by hop, opens a tunnel by each carrier, and then asks the path what
// one dial cannot ask: a malformed head, another path, another protocol. The results are
// evidence. A table of rules, of which the first that fits is taken, leads from the evidence
// to a verdict.
//
// Field values, bodies, the query and credentials never enter a report.
package check

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/preflight-go/preflight"
)

// A Target is what is checked.
type Target struct {
	Name    string // the URL without its query and user
	Address string // host:port
	Dialer  *preflight.PreflightDialer
	// Fields returns the fields of a request. They may hold credentials.
	Fields func(context.Context) (http.Header, error)
	// Wanted are the carriers that the client tries, in this order. The others are tried too.
	Wanted []preflight.Carrier
	// GivenRoots reports whether TLSConfig has authorities of its own.
	GivenRoots bool

	// What is asked only on request.
	Idle      time.Duration // the longest silence to wait for; 0: none
	HalfClose bool
	Sizes     bool
}

// Timeout bounds each step.
func (t *Target) timeout() time.Duration { return t.Dialer.HandshakeTimeout }

// probeTimeout bounds a question. Most of those that a path does not answer at once, it never
// answers.
func (t *Target) probeTimeout() time.Duration { return min(t.timeout(), 5*time.Second) }

// portTimeout bounds the question whether a port speaks a protocol. A port that does answers in
// a round trip or two.
func (t *Target) portTimeout() time.Duration { return min(t.timeout(), 2*time.Second) }

// Progress is told what begins. It may be called by several goroutines.
type Progress func(what string)

// A checker is a check that runs.
type checker struct {
	*Target
	id       string // of this check, for the far end
	progress Progress
	proxy    *url.URL // the forward proxy; nil: none
	header   http.Header
	// addresses are those of the first hop.
	addresses []string
	e         *evidence
}

// Run checks the path.
func Run(ctx context.Context, t *Target, progress Progress) *Report {
	c := &checker{Target: t, id: rand.Text(), progress: progress, e: newEvidence(t)}
	c.walk(ctx)
	if c.e.reached {
		c.tryCarriers(ctx)
		c.tryAgain(ctx)
		c.ask(ctx)
		if !c.e.proxyFailed() {
			c.look(ctx)
		}
		if c.e.works() {
			c.use(ctx)
		}
	}
	return c.report()
}

// ask puts the questions that the evidence calls for, a few at a time. Where an answer takes
// long, it puts more of them at a time.
func (c *checker) ask(ctx context.Context) {
	var running sync.WaitGroup
	places := make(chan struct{}, 4)
	if c.e.took() >= slowMillis {
		places = make(chan struct{}, 8)
	}
	// All conditions are read before the first answer adds to the evidence.
	for _, q := range slices.DeleteFunc(slices.Clone(questions), func(q question) bool { return !q.when(c) }) {
		running.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			c.progress(q.about)
			a := q.ask(ctx, c)
			a.Name, a.About = q.name, q.about
			c.e.add(a)
		})
	}
	running.Wait()
	for _, q := range later {
		if q.when(c) {
			c.progress(q.about)
			a := q.ask(ctx, c)
			a.Name, a.About = q.name, q.about
			c.e.add(a)
		}
	}
}
