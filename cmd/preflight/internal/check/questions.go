package check

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/preflight-go/preflight"
	"golang.org/x/net/http/httpguts"
)

// idField marks the requests of one check, for the far end.
const idField = "X-Preflight-Check"

// A question is asked by one connection.
type question struct {
	name, about string
	when        func(*checker) bool
	ask         func(context.Context, *checker) *Answer
}

// questions may be asked at the same time.
var questions = []question{
	{"malformed", "a malformed head, whose error page shows the first hop", always, func(ctx context.Context, c *checker) *Answer {
		return c.on(ctx, c.dialHTTP, c.bare("GET", "/", "Content-Length: x\r\n"))
	}},
	{"get", "the path without an upgrade", always, func(ctx context.Context, c *checker) *Answer {
		return c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, c.host(), "get", ""))
	}},
	{"other-path", "another path", notOpen, func(ctx context.Context, c *checker) *Answer {
		return c.on(ctx, c.dialHTTP, c.request("/"+strings.ToLower(rand.Text()), c.host(), "other-path", c.upgrade()))
	}},
	{"other-host", "another Host", notOpen, func(ctx context.Context, c *checker) *Answer {
		return c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, strings.ToLower(rand.Text())+".invalid", "other-host", c.upgrade()))
	}},
	{"bare-host", "the Host without its port", hasPort, func(ctx context.Context, c *checker) *Answer {
		return c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, withoutPort(c.host()), "bare-host", c.upgrade()))
	}},
	{"other-token", "an upgrade to another protocol", notOpen, func(ctx context.Context, c *checker) *Answer {
		return c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, c.host(), "other-token", "Connection: Upgrade\r\nUpgrade: check/1\r\n"))
	}},
	{"fields", "120 fields, which a second hop may refuse", always, func(ctx context.Context, c *checker) *Answer {
		var b strings.Builder
		for i := range 120 {
			fmt.Fprintf(&b, "X-Check-%d: x\r\n", i)
		}
		return c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, c.host(), "fields", b.String()))
	}},
	{"expect", "an expectation that nobody meets, which a second hop may refuse", always, func(ctx context.Context, c *checker) *Answer {
		return c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, c.host(), "expect", "Expect: check\r\n"))
	}},
	{"silence", "400 ms of silence: does the server speak first", notOpen, func(ctx context.Context, c *checker) *Answer {
		return c.onFor(ctx, c.dialPort, nil, 400*time.Millisecond)
	}},
	{"authorization", "an Authorization so large that the listener complains if it gets it", refusesCredentials, func(ctx context.Context, c *checker) *Answer {
		c = c.withoutCredentials()
		return c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, c.host(), "authorization", c.upgrade()+large("Authorization")))
	}},
	{"other-field", "another field as large", refusesCredentials, func(ctx context.Context, c *checker) *Answer {
		c = c.withoutCredentials()
		return c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, c.host(), "other-field", c.upgrade()+large("X-Check")))
	}},
	{"client-hello", "TLS", isPlain, func(ctx context.Context, c *checker) *Answer { return c.sayHello(ctx, c.dialPort) }},
	{"plain", "HTTP without TLS", isTLS, func(ctx context.Context, c *checker) *Answer {
		return c.onFor(ctx, c.dialPort, c.bare("GET", "/", ""), c.portTimeout())
	}},
	{"http2", "an HTTP/2 preface", isPlain, func(ctx context.Context, c *checker) *Answer {
		return c.onFor(ctx, c.dialPort, []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"), c.portTimeout())
	}},
	{"proxy-header", "a PROXY header before the request", func(c *checker) bool { return isPlain(c) && !c.e.proxyFailed() }, func(ctx context.Context, c *checker) *Answer {
		return c.onFor(ctx, c.dialPort, append([]byte("PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\n"), c.request(c.Dialer.Path, c.host(), "proxy-header", "")...), c.portTimeout())
	}},
	{"proxy-header-tls", "a PROXY header before TLS", isTLS, func(ctx context.Context, c *checker) *Answer {
		return c.sayHello(ctx, func(ctx context.Context) (net.Conn, error) {
			conn, err := c.dialPort(ctx)
			if err == nil {
				_, err = conn.Write([]byte("PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\n"))
			}
			return conn, err
		})
	}},
	{"redis", "PING of Redis", isPlain, func(ctx context.Context, c *checker) *Answer {
		return c.onFor(ctx, c.dialPort, []byte("PING\r\n"), 500*time.Millisecond)
	}},
	{"socks", "SOCKS5", func(c *checker) bool { return c.e.proxyFailed() }, func(ctx context.Context, c *checker) *Answer {
		return c.onFor(ctx, c.dialPort, []byte{5, 1, 0}, c.portTimeout())
	}},
	{"connect", "HTTP CONNECT", func(c *checker) bool { return c.e.proxyFailed() }, func(ctx context.Context, c *checker) *Answer {
		return c.onFor(ctx, c.dialPort, []byte("CONNECT "+c.Address+" HTTP/1.1\r\nHost: "+c.Address+"\r\n\r\n"), c.portTimeout())
	}},
}

// large are fields of 10 KiB, and one of 7 KiB by the given name. With that one the head is
// larger than a listener takes by default, which says so; without it, it is not.
func large(name string) string {
	var b strings.Builder
	for i := range 5 {
		fmt.Fprintf(&b, "X-Check-%d: %s\r\n", i, strings.Repeat("x", 2<<10))
	}
	fmt.Fprintf(&b, "%s: %s\r\n", name, strings.Repeat("x", 7<<10))
	return b.String()
}

// refusesCredentials holds if a listener refuses what was sent. Then the question is whether
// it got them.
func refusesCredentials(c *checker) bool { return c.e.sentAuthorization && c.e.code() == "authorize" }

// later are asked one after the other, when the others have ended.
var later = []question{
	{"again", "the same request again", notSilent, func(ctx context.Context, c *checker) *Answer {
		ask := func() *Answer {
			return c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, c.host(), "again", c.upgrade()))
		}
		a := ask()
		// nginx passes on what SSH says only if it comes at the right moment.
		for range 4 {
			if a.Outcome != ended || c.e.code() != "ended" {
				break
			}
			a = ask()
		}
		return a
	}},
	{"body", "the head of a POST, which nginx goes on with if it leads to a server", nginxEnds, func(ctx context.Context, c *checker) *Answer {
		get := c.request(c.Dialer.Path, c.host(), "body", "Expect: 100-continue\r\nContent-Length: 1\r\n")
		return c.onFor(ctx, c.dialHTTP, append([]byte("POST"), get[len("GET"):]...), c.portTimeout())
	}},
	{"post", "an empty POST, which nginx refuses for a file", servesFile, func(ctx context.Context, c *checker) *Answer {
		get := c.request(c.Dialer.Path, c.host(), "post", "Content-Length: 0\r\n")
		return c.on(ctx, c.dialHTTP, append([]byte("POST"), get[len("GET"):]...))
	}},
}

// servesFile holds if nginx answered with a file. It refuses POST for one, unless an error_page
// leads to it.
func servesFile(c *checker) bool { return c.e.answer().is(http.StatusOK) && nginxFile(c.e) }

// nginxEnds holds if the connection ended without an answer, behind nginx as the first hop.
func nginxEnds(c *checker) bool { return notOpen(c) && c.e.code() == "ended" && c.e.first() == nginx }

func (c *checker) withoutCredentials() *checker {
	copied := *c
	copied.header = c.header.Clone()
	copied.header.Del("Authorization")
	return &copied
}

func always(c *checker) bool { return !c.e.proxyFailed() }

// notOpen holds where the first carrier opens no tunnel, and the edge is reached.
func notOpen(c *checker) bool { return c.e.main() != "" && !c.e.proxyFailed() }

func isPlain(c *checker) bool {
	return c.e.proxyFailed() || notOpen(c) && c.Dialer.TLSConfig == nil
}

func isTLS(c *checker) bool { return notOpen(c) && c.Dialer.TLSConfig != nil }

// notSilent holds where the first carrier failed, and not because no answer came.
func notSilent(c *checker) bool { return notOpen(c) && c.e.code() != "silent" }

// hasPort holds where the Host has a port, and no listener has answered. A proxy may know the
// Host without it.
func hasPort(c *checker) bool {
	return notOpen(c) && c.e.answer().Reason == "" && withoutPort(c.host()) != c.host()
}

func withoutPort(host string) string {
	if _, port, err := net.SplitHostPort(host); err == nil {
		return strings.TrimSuffix(host, ":"+port)
	}
	return host
}

// dialPort connects to the port that is in question: that of the edge, or that of a forward
// proxy that does not connect.
func (c *checker) dialPort(ctx context.Context) (net.Conn, error) {
	if c.e.proxyFailed() {
		return c.dialFirst(ctx)
	}
	return c.dialEdge(ctx)
}

// host is the Host of a request.
func (c *checker) host() string {
	if c.Dialer.Host != "" {
		return c.Dialer.Host
	}
	host, port, _ := net.SplitHostPort(c.Address)
	if port == map[bool]string{false: "80", true: "443"}[c.Dialer.TLSConfig != nil] {
		return host
	}
	return c.Address
}

// upgrade is what the main carrier asks for.
func (c *checker) upgrade() string {
	switch preflight.Carrier(c.e.main()) {
	case preflight.CarrierWebSocket:
		key := make([]byte, 16)
		rand.Read(key)
		return "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " +
			base64.StdEncoding.EncodeToString(key) + "\r\nSec-WebSocket-Protocol: preflight.v1\r\n"
	case preflight.CarrierFramed:
		return "Connection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Framing: capsule\r\n"
	}
	return "Connection: Upgrade\r\nUpgrade: tcp\r\n"
}

// request is one with the fields of the user. It goes only where a tunnel's request goes.
func (c *checker) request(path, host, question, more string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\n%s: %s.%s\r\n%s", path, host, idField, c.id, question, more)
	writeFields(&b, c.header)
	b.WriteString("\r\n")
	return b.Bytes()
}

// bare is a request without anything of the user, for a port that may not be the right one.
func (c *checker) bare(method, path, more string) []byte {
	return fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", method, path, c.host(), more)
}

func writeFields(b *bytes.Buffer, h http.Header) {
	for name, values := range h {
		for _, value := range values {
			if httpguts.ValidHeaderFieldName(name) && httpguts.ValidHeaderFieldValue(value) {
				fmt.Fprintf(b, "%s: %s\r\n", name, value)
			}
		}
	}
}

// sayHello asks whether a port speaks TLS.
func (c *checker) sayHello(ctx context.Context, dial func(context.Context) (net.Conn, error)) *Answer {
	ctx, cancel := context.WithTimeout(ctx, c.portTimeout())
	defer cancel()
	begin := time.Now()
	a := &Answer{Outcome: failed}
	defer func() { a.Millis = millis(time.Since(begin)) }()
	conn, err := dial(ctx)
	if err != nil {
		return a
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(c.Address)
	seen := &firstBytes{Conn: conn}
	// Nothing is sent over this connection, so the certificate does not matter.
	err = tls.Client(seen, &tls.Config{ServerName: host, InsecureSkipVerify: true}).HandshakeContext(ctx)
	switch {
	case err == nil:
		a.Outcome, a.Speaks = bytesOf, "TLS"
	case len(seen.first) > 0:
		a.parse(seen.first)
	case faultOf(err) == timedOut:
		a.Outcome = silent
	default:
		a.Outcome = ended
	}
	return a
}

// firstBytes keeps what is read first.
type firstBytes struct {
	net.Conn
	first []byte
}

func (f *firstBytes) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	f.first = append(f.first, b[:min(n, 64-min(len(f.first), 64))]...)
	return n, err
}
