package wire_test

import (
	"strings"
	"testing"

	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
)

func TestErrorSaysWhereOnce(t *testing.T) {
	require.Equal(t, "a rule (byte 7 of the head)", (&wire.Error{Status: 400, Offset: 7, Rule: "a rule"}).Error())
	require.Equal(t, "a rule", (&wire.Error{Status: 426, Offset: -1, Rule: "a rule"}).Error())
}

func TestValidHost(t *testing.T) {
	for _, host := range []string{
		"h", "h:80", "h:", "H.example.:65535", "a-b_c~d.example", "192.0.2.1", "192.0.2.1:8080",
		"[::1]", "[::1]:443", "[2001:db8::192.0.2.1]", "[::ffff:192.0.2.1]:1",
		"a!$&'()*+;=z", // sub-delims: RFC 3986 §3.2.2
	} {
		require.True(t, wire.ValidHost(host), "%q", host)
	}
	for _, host := range []string{
		"", ":80", "a b", " h", "h ", "h\t", "h\r", "u@h", "u:p@h", "h/", "h?q", "h#f", `h\`, "h:8x", "h:-1", "h:+1", "h:80:80", "h: 80",
		"[", "[]", "[::1", "::1", "[::g]", "[::1]80", "[::1]:x", "[::1]x", "[[::1]]", "x[::1]",
		"[127.0.0.1]", "[v1.x]", "[fe80::1%eth0]", "[fe80::1%25eth0]", "h%41", "http://h", "a, b", "h\x00", "h\x7f", "hé", `"h"`, "<h>",
	} {
		require.False(t, wire.ValidHost(host), "%q", host)
	}
}

func TestValidTarget(t *testing.T) {
	for _, target := range []string{
		"/", "//", "/a/b", "/a?b=c&d", "/?", "/%41%e4%FF", "/a:b@c;d,e", "/~a_b-c.d", "/a?x=http://h/%2F",
	} {
		require.True(t, wire.ValidTarget(target), "%q", target)
	}
	for _, target := range []string{
		"", "*", "a", "?q", "http://h/", "h:80", "/a b", " /", "/ ", "/a\t", "/a\r", "/a\n", "/\x00", "/\x7f", "/é", "/\xff",
		"/#", "/a#b", "/%", "/%4", "/%zz", "/%4g", "/a%", "/a%4",
	} {
		require.False(t, wire.ValidTarget(target), "%q", target)
	}
}

func TestValidProtocol(t *testing.T) {
	for _, p := range []string{"tcp", "TCP", "tcp/1", "HTTP/2.0", "a!#$%&'*+-.^_`|~9"} {
		require.True(t, wire.ValidProtocol(p), "%q", p)
	}
	for _, p := range []string{"", "/", "/1", "tcp/", "tcp/1/2", "tcp 1", " tcp", "tcp ", "tcp,tcps", "tcp;q=1", `"tcp"`, "tcp\r\nX: y", "tcp\x00", "tçp"} {
		require.False(t, wire.ValidProtocol(p), "%q", p)
	}
}

func TestHeaderYieldsEveryFieldInOrder(t *testing.T) {
	head := "HTTP/1.1 101 x\r\nB:1\r\nA: \t two  words \t\r\nB:  3\r\nEmpty:\r\nFolded: a\r\n\tb\r\n  c\r\nLF: x\n\r\n"
	var got []string
	for name, value := range wire.Header([]byte(head)) {
		got = append(got, string(name)+"="+string(value))
	}
	require.Equal(t, []string{"B=1", "A=two  words", "B=3", "Empty=", "Folded=a\r\n\tb\r\n  c", "LF=x"}, got)
}

func TestHeaderStopsWhenAsked(t *testing.T) {
	n := 0
	for range wire.Header([]byte("HTTP/1.1 101 x\r\nA: 1\r\nB: 2\r\n\r\n")) {
		n++
		break
	}
	require.Equal(t, 1, n)
}

// normalRequest and normalAnswer are usual messages, with the fields that a
// proxy adds.
const (
	normalRequest = "GET /client/amps/json HTTP/1.1\r\nHost: edge.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" +
		"Authorization: Bearer t0ken\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\r\n"
	normalAnswer = "HTTP/1.1 101 Switching Protocols\r\nServer: nginx/1.22.1\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n" +
		"Connection: upgrade\r\nUpgrade: tcp\r\n\r\n"
)

func TestNoAllocations(t *testing.T) {
	all := offer("tcp")
	webSocket := []byte(webSocketRequest("Preflight-Carriers: websocket\r\nOrigin: https://a.example\r\n"))
	request, answer := []byte(normalRequest), []byte(normalAnswer)
	plain := []byte("PUB subject 5\r\nhello\r\n")
	buf := make([]byte, 0, 1024)
	header := map[string][]string{"Authorization": {"Bearer t0ken"}, "X-Dup": {"1", "2"}}
	terms, carriers := &wire.Terms{Protocol: "tcp"}, []string{"upgrade", "websocket"}
	for name, f := range map[string]func(){
		"request": func() {
			n, err := wire.RequestEnd(request, 0)
			if err != nil || n != len(request) {
				panic("RequestEnd")
			}
			var r wire.Request
			if err := r.Parse(request[:n]); err != nil || string(r.Host) != "edge.example" {
				panic("Parse")
			}
			if t, err := r.Terms(all); err != nil || t.Protocol != "tcp" {
				panic("Terms")
			}
		},
		"request for a WebSocket": func() {
			var r wire.Request
			if err := r.Parse(webSocket); err != nil {
				panic("Parse")
			}
			if t, err := r.Terms(all); err != nil || !t.WebSocket {
				panic("Terms")
			}
			if origin, ok := r.Origin(); !ok || string(origin) != "https://a.example" {
				panic("Origin")
			}
		},
		"answer": func() {
			n := wire.ResponseEnd(answer, 0)
			if n != len(answer) || wire.NotHTTP(answer) {
				panic("ResponseEnd")
			}
			var r wire.Response
			err := r.Parse(answer[:n])
			if err != nil || r.Status != 101 || r.Switched(terms, "") != nil {
				panic("ParseResponse")
			}
		},
		"sniffer": func() {
			var s, p wire.Sniffer
			if s.Next(request) != wire.HTTP || p.Next(plain) != wire.Plain {
				panic("Next")
			}
		},
		"write": func() {
			buf = wire.AppendRequest(buf[:0], "/client/amps/json", "edge.example", terms, "", carriers)
			buf = wire.AppendField(buf, "traceparent", "00-01-02-01")
			buf = wire.AppendFields(buf, header)
			buf = wire.AppendSwitching(buf[:0], wire.Terms{Protocol: "tcp"}, "", header)
			buf = wire.AppendSwitching(buf[:0], wire.Terms{Protocol: "tcp"}, "", nil)
			buf = wire.AppendRefusal(buf[:0], 426, "Upgrade Required", header, 10)
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Zero(t, testing.AllocsPerRun(100, f))
		})
	}
}

// everySplit calls f with each index at which b can be cut into two parts.
func everySplit(b string, f func(i int)) {
	for i := range len(b) + 1 {
		f(i)
	}
}

// long returns n bytes of a token.
func long(n int) string { return strings.Repeat("a", n) }
