package preflight

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strings"

	"github.com/preflight-go/preflight/internal/frame"
	"github.com/preflight-go/preflight/internal/wire"
	"golang.org/x/net/http/httpguts"
)

const proxyAuthorization = "Proxy-Authorization"

// reserved are the fields of the upgrade request that the user may not set. The library
// sets them itself, or they would give the request a body.
var reserved = []string{
	"Host", "Connection", "Upgrade",
	"Content-Length", "Transfer-Encoding", "Trailer", "Expect",
	// It belongs to a forward proxy, and would hand the proxy's credentials
	// to the next hop (RFC 9110 §11.7.2).
	proxyAuthorization,
}

// hopFields are the fields that frame a message or belong to one connection (RFC 9110
// §7.6.1). An answer of the application may not carry them.
var hopFields = []string{
	"Connection", "Upgrade", "Content-Length", "Transfer-Encoding", "Trailer",
	"Te", "Keep-Alive", "Proxy-Connection",
}

// ownPrefixes begin the names of the fields by which the two ends negotiate. The
// application may set none of them: an application that copies fields of a request into
// its answer must not agree to anything by accident.
var ownPrefixes = []string{"Preflight-", "Sec-WebSocket-"}

// checkHeader reports the first field of h, in the order of names, that may not be sent.
// Its error never contains a value, which may be a secret.
func checkHeader(h http.Header, forbidden []string) (err error) {
	var first string
	for name, values := range h {
		if e := checkField(name, values, forbidden); e != nil && (err == nil || name < first) {
			first, err = name, e
		}
	}
	return err
}

// checkField is checkHeader for one field.
func checkField(name string, values, forbidden []string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("the header field name %q is not a token", name)
	}
	for _, f := range forbidden {
		switch {
		case len(name) != len(f) || !strings.EqualFold(name, f):
		case f == proxyAuthorization:
			return errors.New("the header field Proxy-Authorization is for the forward proxy alone; set it in PreflightDialer.ProxyHeader")
		default:
			return fmt.Errorf("the header field %s may not be set here", f)
		}
	}
	if prefix := ownPrefix(name); prefix != "" {
		return fmt.Errorf("the header field %s may not be set: the fields that begin with %s are the exchange's own", name, prefix)
	}
	for _, value := range values {
		if !httpguts.ValidHeaderFieldValue(value) {
			return fmt.Errorf("the value of header field %s holds a control character", name)
		}
	}
	return nil
}

// ownPrefix returns the prefix by which a field belongs to the exchange; "" if it does not.
func ownPrefix(name string) string {
	for _, prefix := range ownPrefixes {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return prefix
		}
	}
	return ""
}

// replaced returns h with the fields of fresh, which replace fields of the same name.
func replaced(h, fresh http.Header) http.Header {
	merged := h
	for name := range fresh {
		merged = without(merged, name)
	}
	merged = maps.Clone(merged)
	for name, values := range fresh {
		merged[name] = values
	}
	return merged
}

// without returns h without the fields called name. It ignores case.
func without(h http.Header, name string) http.Header {
	rest := make(http.Header, len(h))
	for other, values := range h {
		if !strings.EqualFold(other, name) {
			rest[other] = values
		}
	}
	return rest
}

// valuesOf returns the values of the fields called name, and whether there is such a
// field. It ignores case.
func valuesOf(h http.Header, name string) (values []string, ok bool) {
	for other, v := range h {
		if strings.EqualFold(other, name) {
			values, ok = append(values, v...), true
		}
	}
	return values, ok
}

// newHeader converts the fields of a parsed head to a Header.
func newHeader(head []byte) http.Header {
	h := make(http.Header)
	for name, value := range wire.Header(head) {
		v := string(value)
		if strings.Contains(v, "\n") { // folded: RFC 9112 §5.2
			v = strings.Join(strings.FieldsFunc(v, func(r rune) bool { return r == '\r' || r == '\n' }), " ")
		}
		h.Add(string(name), v)
	}
	return h
}

// newRequest converts the head of an upgrade request, which came from remote on c, to a
// Request with the context ctx. The strict parser has accepted the head, and net/http
// reads every such head in the same way.
func newRequest(ctx context.Context, head []byte, c net.Conn, remote net.Addr) (*http.Request, error) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return nil, err
	}
	r.RemoteAddr = addrString(remote)
	r.TLS = tlsState(c)
	return r.WithContext(ctx), nil
}

// tlsState returns the TLS state of c for [http.Request]; nil if c is not a TLS
// connection.
func tlsState(c net.Conn) *tls.ConnectionState {
	if framed, ok := c.(*frame.Conn); ok {
		c = framed.NetConn()
	}
	t, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil
	}
	state := t.ConnectionState()
	return &state
}

// newResponse converts the head of an answer to a Response. http.ReadResponse is not
// used, because it rejects a 101 for fields that have no meaning on it.
func newResponse(head []byte, req *http.Request) *http.Response {
	var r wire.Response
	if r.Parse(head) != nil {
		return nil
	}
	return &http.Response{
		Status:     statusLine(&r),
		StatusCode: r.Status,
		Proto:      fmt.Sprintf("HTTP/1.%d", r.Minor),
		ProtoMajor: 1,
		ProtoMinor: int(r.Minor),
		Header:     newHeader(head),
		Body:       http.NoBody,
		Request:    req,
	}
}

// statusLine returns the code with the reason phrase, or with the standard phrase if
// there is none.
func statusLine(r *wire.Response) string {
	if len(r.Reason) == 0 {
		return statusText(r.Status, http.StatusText(r.Status))
	}
	return statusText(r.Status, string(r.Reason))
}
