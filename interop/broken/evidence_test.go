package broken

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/preflight-go/preflight"
)

// A recorder is a NetDialer that records what a dial sends and receives. It also records
// what a dial could use and does not, such as the order of fields, their case, and time.
type recorder struct {
	mu    sync.Mutex
	conns []*recorded
}

// A recorded connection keeps its bytes.
type recorded struct {
	net.Conn
	began time.Time

	mu         sync.Mutex
	sent, came []byte
	first      time.Duration // until the first byte, or the end
	end        error         // of reading
}

func (r *recorder) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	one := &recorded{Conn: c, began: time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, one)
	return one, nil
}

func (c *recorded) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.sent = append(c.sent, b...)
	c.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *recorded) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == 0 {
		c.first = time.Since(c.began)
	}
	c.came = append(c.came, b[:n]...)
	c.end = err
	return n, err
}

// muchLater is what tells an answer at once from one after a timeout or a pause of a proxy.
// The shortest of these is a second, and one of 100 ms counts as at once.
const muchLater = 900 * time.Millisecond

// slow reports whether a connection got its first byte much later.
func (r *recorder) slow() bool {
	return slices.ContainsFunc(r.conns, func(c *recorded) bool { return c.first > muchLater })
}

// evidence returns all that the dial, which failed with err, knows: what differs in each run
// is replaced.
func (r *recorder) evidence(k *kit, err error) string {
	var b strings.Builder
	encrypted := false
	for _, c := range r.conns {
		c.mu.Lock()
		switch isHello := func(b []byte) bool { return len(b) > 1 && b[0] == 0x16 && b[1] == 3 }; {
		case isHello(c.sent) && (isHello(c.came) || len(c.came) > 0 && c.came[0] == 0x15):
			encrypted = true
			b.WriteString("> a ClientHello\n< TLS\n")
		case isHello(c.sent):
			fmt.Fprintf(&b, "> a ClientHello\n< %q\n", c.came)
		default:
			fmt.Fprintf(&b, "> %q\n< %q\n", c.sent, c.came)
		}
		var expired net.Error
		switch {
		case errors.As(c.end, &expired) && expired.Timeout():
			b.WriteString("nothing more came in time\n")
		case c.end != nil && len(c.came) == 0:
			b.WriteString("ended\n") // an end or a reset: that depends on time
		}
		if c.first > muchLater {
			b.WriteString("much later\n")
		}
		c.mu.Unlock()
	}
	if encrypted || len(r.conns) == 0 { // what the errors hold
		for _, one := range unjoin(err) {
			writeError(&b, k, one)
		}
	}
	return normalised(k, b.String())
}

// unjoin returns the error of each carrier.
func unjoin(err error) []error {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return all.Unwrap()
	}
	return []error{err}
}

// writeError writes what an error holds: the answer, or the fault of TLS and of the chain, or
// of the dial.
func writeError(b *strings.Builder, k *kit, err error) {
	var refused *preflight.StatusError
	var unverified *tls.CertificateVerificationError
	switch {
	case errors.As(err, &refused):
		fmt.Fprintf(b, "%s\n", refused.Status)
		for _, name := range slices.Sorted(maps.Keys(refused.Header)) {
			fmt.Fprintf(b, "%s: %q\n", name, refused.Header[name])
		}
		fmt.Fprintf(b, "%q\n", refused.Body)
	case errors.As(err, &unverified):
		fmt.Fprintf(b, "%v\n", unverified.Err)
		for _, c := range unverified.UnverifiedCertificates {
			fmt.Fprintf(b, "certificate: of itself %t\n", string(c.RawIssuer) == string(c.RawSubject))
		}
	default:
		text, _, _ := strings.Cut(stable(err.Error()), ": possible")
		b.WriteString(text + "\n")
	}
}

// changing is what differs in each run, with what replaces it.
var changing = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "address"},
	{regexp.MustCompile(`[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT`), "date"},
	{regexp.MustCompile(`(?i)(sec-websocket-(key|accept): )[\w+/=]+`), "${1}key"},
	{regexp.MustCompile(`(?i)(x-varnish: )[\d ]+`), "${1}id"},
	{regexp.MustCompile(`XID: \d+`), "XID: id"},
	{regexp.MustCompile(`(?i)(content-length: )\d+`), "${1}n"}, // the body is there
	{regexp.MustCompile(`:\d{4,5}\b`), ":port"},
}

func normalised(k *kit, text string) string {
	text = strings.ReplaceAll(text, k.dir, "dir")
	for _, c := range changing {
		text = c.what.ReplaceAllString(text, c.by)
	}
	return text
}

// twins returns, for each path, the paths that have all evidence in common with it, and
// another cause. Paths whose evidence differs from run to run have none.
func twins(evidence map[string]string) map[string][]string {
	same := make(map[string][]brokenPath)
	for _, p := range paths {
		if e := evidence[p.name]; !p.varies {
			same[e] = append(same[e], p)
		}
	}
	all := make(map[string][]string)
	for _, group := range same {
		for _, p := range group {
			for _, other := range group {
				if other.why() != p.why() {
					all[p.name] = append(all[p.name], other.name)
				}
			}
		}
	}
	return all
}

// why tells causes apart: it is what the doctor must find, and where.
func (p brokenPath) why() string {
	want, ok := expectations[p.name]
	if !ok {
		return p.name
	}
	return want.codes + " " + want.line
}
