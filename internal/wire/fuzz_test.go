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

// addTranscripts adds the golden transcripts of the package above as seeds.
func addTranscripts(f *testing.F, dir string) {
	files, err := filepath.Glob(filepath.Join("..", "..", "testdata", dir, "*.http"))
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(b, uint16(len(b)/2))
	}
}

// framing are the fields that net/http judges, rewrites or removes because
// they frame a body. No upgrade request has one.
var framing = []string{"Content-Length", "Transfer-Encoding", "Trailer"}

// fieldsOf are the fields of a head as net/http keeps them, and the number of lines.
func fieldsOf(head []byte) (h http.Header, lines int) {
	h = make(http.Header)
	for name, value := range wire.Header(head) {
		// A line break of a folded value is a space to net/http.
		h.Add(string(name), strings.Join(strings.Fields(string(value)), " "))
		lines++
	}
	return h, lines
}

// sameFields requires what both parsers read of the fields to be the same,
// except for the ones named.
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

// everyLineCounts requires that no line of a head was passed over: what one
// party skips and another reads is how a field is smuggled.
func everyLineCounts(t *testing.T, head []byte, fields int) {
	t.Helper()
	want := 0
	lines := bytes.SplitAfter(head, []byte("\n"))
	for _, line := range lines[1 : len(lines)-2] { // without the first, the empty one and the end
		if line[0] != ' ' && line[0] != '\t' {
			want++
		}
	}
	require.Equal(t, want, fields)
}

// carelessLine is what nginx makes of a request when $uri or a capture stands
// in proxy_pass: whatever the client has percent-encoded, but for NUL and LF,
// stands in the target as it is.
var carelessLine = regexp.MustCompile(`^[A-Za-z]+ /[^\x00\n]* HTTP/1\.[0-9]\r?\n`)

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
	} {
		f.Add([]byte(s), uint16(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		cut := int(at) % (len(b) + 1)
		n, broken := wire.RequestEnd(b, 0)

		// However the bytes are cut, the head ends at the same place.
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
		if carelessLine.Match(b) {
			require.Equal(t, wire.HTTP, verdict)
		}

		theirs, refused := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if refused == nil && theirs.ProtoMajor == 1 && theirs.RequestURI != "" {
			// What anybody reads as HTTP/1.x is never plain bytes to the
			// application. (Only net/http knows a CONNECT to nowhere.)
			require.Equal(t, wire.HTTP, verdict)
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
		require.Equal(t, b[:n], head, "the head is only read")
		if broken != nil {
			require.Contains(t, []int{400, 505}, broken.Status)
			require.GreaterOrEqual(t, broken.Offset, 0)
			require.Less(t, broken.Offset, n)
			return
		}
		require.Equal(t, wire.HTTP, verdict)

		// What our parser accepts, net/http reads the same way.
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
		if theirs.Method != http.MethodConnect { // whose target is the host to net/http
			require.Equal(t, theirs.Host, string(r.Host))
			require.True(t, httpguts.ValidHostHeader(theirs.Host))
		}
		sameFields(t, ours, theirs.Header.Clone(), append(framing, "Host")...)

		// A request that is upgraded has all that one needs, in net/http's eyes too.
		var token string
		for _, v := range theirs.Header["Upgrade"] {
			for e := range strings.SplitSeq(v, ",") {
				if token == "" {
					token = textproto.TrimString(e)
				}
			}
		}
		protocol, broken := r.Protocol([]string{token})
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
		for _, name := range []string{"Connection", "Upgrade"} {
			fields.Del(name)
		}
		again := wire.AppendFields(wire.AppendRequest(nil, string(r.Target), string(r.Host), protocol, false), fields)
		n, broken = wire.RequestEnd(again, 0)
		require.Nil(t, broken)
		require.Equal(t, len(again), n)
		var r2 wire.Request
		broken = r2.Parse(again)
		require.Nil(t, broken)
		require.Equal(t, string(r.Target), string(r2.Target))
		require.Equal(t, string(r.Host), string(r2.Host))
		protocol, broken = r2.Protocol([]string{token})
		require.Nil(t, broken)
		require.Equal(t, token, protocol)
		ours, _ = fieldsOf(again)
		sameFields(t, ours, fields, "Host", "Connection", "Upgrade")
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

		// The head ends with the first line that is empty, and not before.
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
		r, broken := wire.ParseResponse(head)
		require.Equal(t, b[:n], head, "the head is only read")
		if broken != nil {
			require.Equal(t, 400, broken.Status)
			require.Less(t, broken.Offset, n)
			return
		}
		require.False(t, wire.NotHTTP(head))
		require.GreaterOrEqual(t, r.Status, 100)
		ours, lines := fieldsOf(head)
		everyLineCounts(t, head, lines)

		switched := r.Switched("tcp", false)
		if switched == nil {
			require.True(t, httpguts.HeaderValuesContainsToken(ours["Connection"], "upgrade"))
			require.True(t, httpguts.HeaderValuesContainsToken(ours["Upgrade"], "tcp"))
		}

		// Answers are read tolerantly, so net/http refuses some. What it
		// accepts, it reads the same way.
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
		if err == nil {
			require.Equal(t, theirs.StatusCode, r.Status)
			require.EqualValues(t, theirs.ProtoMinor, r.Minor)
			except := framing
			if httpguts.HeaderValuesContainsToken(ours["Connection"], "close") {
				except = append([]string{"Connection"}, framing...) // which net/http then removes
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
		again := wire.AppendSwitching(nil, "tcp", false, ours)
		require.Equal(t, len(again), wire.ResponseEnd(again, 0))
		r2, broken := wire.ParseResponse(again)
		require.Nil(t, broken)
		require.Equal(t, http.StatusSwitchingProtocols, r2.Status)
		require.Nil(t, r2.Switched("tcp", false))
		fields, _ := fieldsOf(again)
		sameFields(t, fields, ours, "Connection", "Upgrade")
	})
}
