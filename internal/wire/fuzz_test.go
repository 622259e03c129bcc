package wire_test

import (
	"bufio"
	"bytes"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http/httpguts"
)

// addTranscripts adds the golden transcripts as seeds.
func addTranscripts(f *testing.F, dir string) {
	files, err := filepath.Glob(filepath.Join("..", "testkit", "testdata", dir, "*.http"))
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(b, uint16(len(b)/2))
	}
}

// framing are the fields that net/http checks, rewrites or removes because they
// frame a body. No upgrade request has one.
var framing = []string{"Content-Length", "Transfer-Encoding", "Trailer"}

// fieldsOf returns the fields of a head as net/http keeps them, and the number
// of lines.
func fieldsOf(head []byte) (h http.Header, lines int) {
	h = make(http.Header)
	for name, value := range wire.Header(head) {
		// For net/http, a line break in a folded value is a space.
		h.Add(string(name), strings.Join(strings.Fields(string(value)), " "))
		lines++
	}
	return h, lines
}

// sameFields requires that both parsers read the same fields, except for the
// named ones.
func sameFields(t *testing.T, ours, theirs http.Header, except ...string) {
	t.Helper()
	for _, h := range []http.Header{ours, theirs} {
		if len(h["Pragma"]) > 0 {
			h.Del("Cache-Control") // net/http derives it from Pragma
		}
		for _, name := range except {
			h.Del(name)
		}
		for _, values := range h {
			for i, v := range values {
				values[i] = strings.Join(strings.Fields(v), " ")
			}
		}
	}
	require.Equal(t, theirs, ours)
}

// everyLineCounts requires that no line of a head was skipped. A field is
// smuggled when one party skips a line and another reads it.
func everyLineCounts(t *testing.T, head []byte, fields int) {
	t.Helper()
	want := 0
	lines := bytes.SplitAfter(head, []byte("\n"))
	for _, line := range lines[1 : len(lines)-2] { // without the first line, the empty one and the end
		if line[0] != ' ' && line[0] != '\t' {
			want++
		}
	}
	require.Equal(t, want, fields)
}

// Every parser takes these lines for requests. They are never plain.
var requestLines = []*regexp.Regexp{
	// Lines that HAProxy, Varnish and Apache forward, before or after they
	// rewrite them.
	regexp.MustCompile(`^(\r?\n){0,2}[^\x00-\x20\x7f]+ [^\x00-\x20]* (?i:http)/[0-9A-Za-z./]*\r?\n`),
	// Lines that nginx makes from a request when $uri or a capture stands in
	// proxy_pass, or that a lax lighttpd forwards. The target may contain any
	// byte except LF.
	regexp.MustCompile(`^(\r?\n){0,2}[^\x00-\x20\x7f]+ (/|(?i:https?)://)[^\n]* (?i:http|rtsp)/[0-9A-Za-z./]*\r?\n`),
}

// headers are headers of the PROXY protocol, which some proxies send although
// it was not asked for.
var headers = []string{
	"PROXY UNKNOWN\r\n",
	"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n",
	proxyHeader2(0),
	proxyHeader2(12) + "\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb",
}

func FuzzRequest(f *testing.F) {
	addTranscripts(f, "to_listener")
	for _, s := range []string{
		"GET http://h:1/a?b HTTP/1.1\r\nHost: [::1]:80\r\nConnection: a, Upgrade\r\nUpgrade: b/1, TCP\r\n\r\n\x00payload",
		"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\nPragma: no-cache\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\nContent-Length: 00\r\nExpect: 100-continue\r\n\r\n",
		"GET //a%41 HTTP/1.1\r\nHost: a!b\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n",
		"GET / HTTP/1.1\nHost: h\r\n b\r\n\r\n",
		"GET key\r\n",
		"POST /a b\tc\rd\x01e HTTP HTTP/1.1\r\nHost: h\r\n\r\n",
		"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
		"\r\n\nPOST /x HTTP/0.9\r\nContent-Length: 5\r\n\r\nhello",
		"PO(ST\xff /x hTTp/2\r\n\r\n",
		"POST  HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST HTTP://h/ x RTSP/1.0\r\n\r\n",
		"PROXY UNKNOWN HTTP/1.1\r\nHost: h\r\n\r\n",
		"PROXY UNKNOWN\r\nPOST /x HTTP/1.1\r\nHost: h\r\n\r\n",
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x02xxPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		f.Add([]byte(s), uint16(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		cut := int(at) % (len(b) + 1)
		n, broken := wire.RequestEnd(b, 0)

		// However the bytes are cut, the head ends at the same byte.
		m, err := wire.RequestEnd(b[:cut], 0)
		if m == 0 && err == nil {
			m, err = wire.RequestEnd(b, cut)
		}
		require.Equal(t, n, m)
		require.Equal(t, broken, err)

		var whole, split wire.Sniffer
		verdict := whole.Next(b)
		v := split.Next(b[:cut])
		if v == wire.More || v == wire.Doubt {
			v = split.Next(b)
		}
		require.Equal(t, verdict, v)
		theirs, refused := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		request := refused == nil && theirs.Method != "PRI" && theirs.RequestURI != "" // only net/http accepts a CONNECT without a host
		for _, line := range requestLines {
			request = request || line.Match(b) && !bytes.Contains(b, []byte("PRI * HTTP/2"))
		}
		if request {
			require.Equal(t, wire.HTTP, verdict)
		}
		if verdict == wire.HTTP && !whole.BehindHeader() {
			var skipped wire.Sniffer
			require.Equal(t, wire.HTTP, skipped.Next(b[whole.EmptyLines():]))
			require.LessOrEqual(t, whole.EmptyLines(), 4)
			require.Equal(t, strings.Repeat("\r\n", whole.EmptyLines()/2), string(b[:whole.EmptyLines()]))
		}
		for _, header := range headers {
			var after wire.Sniffer
			want := verdict
			if want == wire.More {
				want = wire.Doubt // it is Doubt after the header
			}
			require.Equal(t, want, after.Next(append([]byte(header), b...)), "after %q", header)
			require.Equal(t, want == wire.HTTP, want == wire.HTTP && after.BehindHeader())
		}
		// A head that is given to net/http as no upgrade is no upgrade for
		// net/http either.
		if refused == nil && theirs.ProtoMajor == 1 && theirs.RequestURI != "" {
			require.True(t, wire.MayUpgrade(b) || theirs.Header["Upgrade"] == nil)
		}
		if broken != nil {
			require.Zero(t, n)
			require.Equal(t, 400, broken.Status)
			require.Less(t, broken.Offset, len(b))
			return
		}
		blank := bytes.Index(b, []byte("\r\n\r\n"))
		if n == 0 {
			require.Negative(t, blank)
			return
		}
		require.Equal(t, blank+4, n)

		head := bytes.Clone(b[:n:n])
		var r wire.Request
		broken = r.Parse(head)
		require.Equal(t, b[:n], head, "the head is not modified")
		if broken != nil {
			require.Equal(t, 400, broken.Status)
			require.Equal(t, wire.CodeHead, broken.Code)
			require.GreaterOrEqual(t, broken.Offset, 0)
			require.Less(t, broken.Offset, n)
			return
		}
		require.Equal(t, wire.HTTP, verdict)

		// net/http reads the heads that our parser accepts in the same way.
		ours, lines := fieldsOf(head)
		everyLineCounts(t, head, lines)
		framed := false
		for _, name := range framing {
			framed = framed || len(ours[name]) > 0
		}
		if refused != nil {
			require.True(t, framed, "net/http: %v", refused)
			return
		}
		require.Equal(t, theirs.Method, string(r.Method))
		require.Equal(t, theirs.RequestURI, string(r.Target))
		require.EqualValues(t, theirs.ProtoMinor, r.Minor)
		require.Equal(t, len(ours["Upgrade"]) > 0, r.Upgrade)
		if theirs.Method != http.MethodConnect { // net/http takes the target for the host
			require.Equal(t, theirs.Host, string(r.Host))
			require.True(t, httpguts.ValidHostHeader(theirs.Host))
		}
		sameFields(t, ours, theirs.Header.Clone(), append(framing, "Host")...)

		// A request that is upgraded has all the fields of an upgrade for
		// net/http too.
		var token string
		for _, v := range theirs.Header["Upgrade"] {
			for e := range strings.SplitSeq(v, ",") {
				if token == "" {
					token = textproto.TrimString(e)
				}
			}
		}
		protocol, broken := protocolOf(&r, []string{token})
		if broken != nil || protocol == "" {
			return
		}
		require.Equal(t, http.MethodGet, theirs.Method)
		require.True(t, theirs.ProtoAtLeast(1, 1))
		require.True(t, httpguts.HeaderValuesContainsToken(theirs.Header["Connection"], "upgrade"))
		require.Equal(t, token, protocol)
		require.Zero(t, theirs.ContentLength)
		require.Empty(t, theirs.TransferEncoding)
		require.Empty(t, theirs.Trailer)

		// parse(format(x)) == x
		fields := theirs.Header.Clone()
		for _, name := range []string{"Connection", "Upgrade", wire.CarriersField} {
			fields.Del(name)
		}
		again := wire.AppendFields(wire.AppendRequest(nil, string(r.Target), string(r.Host), &wire.Terms{Protocol: protocol}, "", []string{"upgrade"}), fields)
		n, broken = wire.RequestEnd(again, 0)
		require.Nil(t, broken)
		require.Equal(t, len(again), n)
		var r2 wire.Request
		broken = r2.Parse(again)
		require.Nil(t, broken)
		require.Equal(t, string(r.Target), string(r2.Target))
		require.Equal(t, string(r.Host), string(r2.Host))
		protocol, broken = protocolOf(&r2, []string{token})
		require.Nil(t, broken)
		require.Equal(t, token, protocol)
		ours, _ = fieldsOf(again)
		sameFields(t, ours, fields, "Host", "Connection", "Upgrade", wire.CarriersField)
	})
}

func FuzzResponse(f *testing.F) {
	addTranscripts(f, "to_dialer")
	for _, s := range []string{
		"HTTP/1.0 101\nUpgrade: tcp\nConnection: close\nConnection: a, Upgrade\n\npayload",
		"HTTP/1.1 200 OK\r\nA: b\r\n\tc\r\n d\r\nPragma: x\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 101 x\r\nUpgrade: tcp\r\n\rConnection: Upgrade\r\n\r\n",
		"HTTP/1.1 101 x\r\nA: b\r\r\n\r\r\n\r\n",
		"HTTP/2 101\r\n\r\n",
	} {
		f.Add([]byte(s), uint16(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		cut := int(at) % (len(b) + 1)
		n := wire.ResponseEnd(b, 0)
		m := wire.ResponseEnd(b[:cut], 0)
		if m == 0 {
			m = wire.ResponseEnd(b, cut)
		}
		require.Equal(t, n, m)

		// The head ends with the first empty line, and not earlier.
		end := 0
		for _, blank := range []string{"\n\n", "\n\r\n"} {
			if i := bytes.Index(b, []byte(blank)); i >= 0 && (end == 0 || i+len(blank) < end) {
				end = i + len(blank)
			}
		}
		require.Equal(t, end, n)
		if n == 0 {
			return
		}

		head := bytes.Clone(b[:n:n])
		var r, r2 wire.Response
		broken := r.Parse(head)
		require.Equal(t, b[:n], head, "the head is not modified")
		if broken != nil {
			require.Equal(t, 400, broken.Status)
			require.Less(t, broken.Offset, n)
			return
		}
		require.False(t, wire.NotHTTP(head))
		require.GreaterOrEqual(t, r.Status, 100)
		ours, lines := fieldsOf(head)
		everyLineCounts(t, head, lines)

		switched := r.Switched(&wire.Terms{Protocol: "tcp"}, "")
		if switched == nil {
			require.True(t, httpguts.HeaderValuesContainsToken(ours["Connection"], "upgrade"))
			require.True(t, httpguts.HeaderValuesContainsToken(ours["Upgrade"], "tcp"))
		}

		// Answers are parsed tolerantly, so net/http refuses some of them. The
		// answers that it accepts, it reads in the same way.
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
		if err == nil {
			require.Equal(t, theirs.StatusCode, r.Status)
			require.EqualValues(t, theirs.ProtoMinor, r.Minor)
			except := framing
			if httpguts.HeaderValuesContainsToken(ours["Connection"], "close") {
				except = append([]string{"Connection"}, framing...) // net/http then removes it
			}
			sameFields(t, ours, theirs.Header.Clone(), except...)
		}

		// parse(format(x)) == x
		if switched != nil || r.Status != http.StatusSwitchingProtocols {
			return
		}
		for _, name := range []string{"Connection", "Upgrade"} {
			ours.Del(name)
		}
		again := wire.AppendSwitching(nil, wire.Terms{Protocol: "tcp"}, "", ours)
		require.Equal(t, len(again), wire.ResponseEnd(again, 0))
		broken = r2.Parse(again)
		require.Nil(t, broken)
		require.Equal(t, http.StatusSwitchingProtocols, r2.Status)
		require.Nil(t, r2.Switched(&wire.Terms{Protocol: "tcp"}, ""))
		fields, _ := fieldsOf(again)
		sameFields(t, fields, ours, "Connection", "Upgrade")
	})
}
