package preflight

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/preflight-go/preflight/internal/wire"
)

const (
	// What a refused client still sends is read and dropped, so that closing
	// does not reset the connection and take the answer with it (RFC 9112
	// §9.6), but not more than this.
	drainBytes = 64 << 10
	drainTime  = time.Second
)

const whyDraining = "the server is shutting down"

// unavailable is the refusal of a client that is welcome another time.
func unavailable(why string) *StatusError {
	e := refusal(http.StatusServiceUnavailable, why)
	e.Header = http.Header{"Retry-After": {"1"}} // seconds; by then there may be room, or another server
	return e
}

// tooLarge is the error of a head that does not fit.
func tooLarge(head []byte) *wire.Error {
	if bytes.IndexByte(head, '\n') < 0 {
		return &wire.Error{Status: 414, Offset: len(head), Rule: "the request line is too long: RFC 9112 §3"}
	}
	return &wire.Error{Status: 431, Offset: len(head), Rule: "the head of the request is too large: RFC 6585 §5"}
}

// ordinary is the refusal of a request that asks for none of our protocols. It
// tells the one who reads it what every misconfigured proxy looks like from here.
func ordinary(r *wire.Request) *wire.Error {
	e := &wire.Error{Status: 426, Offset: -1, Rule: "Upgrade names no protocol that is served here: RFC 9110 §7.8"}
	switch {
	case r.Minor == 0:
		e.Rule = "the request came as HTTP/1.0, which has no upgrade; if the client asked for one, a proxy on the way speaks 1.0 to this server (nginx: proxy_http_version 1.1)"
	case !r.Upgrade:
		e.Rule = "the request has no Upgrade field; if the client sent one, a proxy on the way removed it (nginx: proxy_set_header Upgrade $http_upgrade, and Connection)"
	}
	return e
}

// refuseHead refuses a request for a broken rule.
func (x *exchange) refuseHead(broken *wire.Error, p *policy) error {
	e := refusal(broken.Status, broken.Error())
	if broken.Status == http.StatusMethodNotAllowed {
		e.Header = http.Header{"Allow": {"GET"}} // RFC 9110 §15.5.6
	}
	return x.refuse(e, p)
}

// refusal makes the answer that says why.
func refusal(status int, why string) *StatusError {
	return &StatusError{StatusCode: status, Body: []byte(why + "\n"), cause: why}
}

// refuse answers with e, which it completes and returns, and gives the client
// the time to read it. Not another byte of the connection is interpreted.
func (x *exchange) refuse(e *StatusError, p *policy) error {
	body := e.complete(p)
	b := wire.AppendRefusal(nil, e.StatusCode, http.StatusText(e.StatusCode), e.Header, len(body))
	// Also a head that could not be parsed may be that of a HEAD (RFC 9110 §9.3.2).
	if !bytes.HasPrefix(x.buf, []byte("HEAD ")) && e.StatusCode != http.StatusNotModified {
		b = append(b, body...)
	}
	x.settle()
	defer x.finishBy(time.Now().Add(drainTime))()
	_, err := x.conn.Write(b)
	x.seen.fail(x.ctx, e)
	if err != nil {
		return e
	}
	if c, ok := x.conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	for dropped := 0; dropped < drainBytes; {
		n, err := x.conn.Read(x.first[:])
		if err != nil {
			break
		}
		dropped += max(n, 1)
	}
	return e
}

// complete gives e the fields that every refusal has, and returns its body.
func (e *StatusError) complete(p *policy) (body []byte) {
	reason := http.StatusText(e.StatusCode)
	e.Status = statusText(e.StatusCode, reason)
	header := make(http.Header)
	for name, values := range e.Header {
		if !isHopField(name) {
			name = http.CanonicalHeaderKey(name)
			header[name] = append(header[name], values...)
		}
	}
	if e.StatusCode == http.StatusUpgradeRequired {
		header["Upgrade"] = []string{strings.Join(p.protocols, ", ")} // RFC 9110 §15.5.22
	}
	for name, value := range map[string]string{
		"Date":                   time.Now().UTC().Format(http.TimeFormat), // RFC 9110 §6.6.1
		"Cache-Control":          "no-store",
		"Content-Type":           "text/plain; charset=utf-8",
		"X-Content-Type-Options": "nosniff",
	} {
		if _, ok := header[name]; !ok {
			header[name] = []string{value}
		}
	}
	e.Header = header
	if len(e.Body) == 0 {
		return []byte(reason + "\n")
	}
	return e.Body
}

func isHopField(name string) bool {
	return slices.ContainsFunc(hopFields, func(f string) bool { return strings.EqualFold(f, name) })
}
