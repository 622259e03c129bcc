package differential

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// A choice has the alternatives for one part of a request. Most request lines have a few odd
// parts: with more, the proxy would forward too few.
type choice struct{ common, odd []string }

func (c choice) pick(r *rand.Rand, oddity float64) string {
	if r.Float64() < oddity {
		return c.odd[r.IntN(len(c.odd))]
	}
	return c.common[r.IntN(len(c.common))]
}

var (
	prefixes = choice{
		[]string{""},
		[]string{"\r\n", "\n", "\r\n\r\n", "\n\n", "\r\n\r\n\r\n", " ", "\t", "\r", "\x00", "\ufeff", "PROXY UNKNOWN\r\n"},
	}
	methods = choice{
		[]string{"POST", "POST", "PUT", "GET"},
		[]string{
			"post", "Post", "gET", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "M-SEARCH", "brew", "PRI", "SM", "PROXY", "PURGE",
			"EHLO", "PUB", "SET", "SETUP", "REQMOD", "INVITE", "*1", "$4", "!#$%&'*+-.^_`|~",
			"G(T", "PO{ST", `"POST"`, `{"id":1}`, "POST:", "[x]", "<x>", "a@b", "P/ST", "HTTP/1.1", `POST\`, "=", "?", "/", ",",
			"PÖST", "\x80\xff", "\xff", "P\x01ST", "P\x7fST", "P\x00ST", "PO\vST", "", strings.Repeat("M", 300), strings.Repeat("M", 9000),
		},
	}
	separators = choice{
		[]string{" "},
		[]string{"  ", "   ", "\t", " \t", "\t ", "\v", "\f", "\r", "\xa0", "\x1c", " \v"},
	}
	targets = choice{
		[]string{"/client/x", "/client/", "/client/amps/json?a=b"},
		[]string{
			"/client/%20b", "/client/a%20b%20HTTP/1.1", "/client/a%09b", "/client/%01", "/client/%0Db", "/client/%7F", "/client/%C3%A9", "/client/%FF", "/client/%00", "/client/%", "/client/%zz",
			"/client/a b", "/client/a b c", "/client/a\tb", "/client/\x01", "/client/a\x00b", "/client/a\fb", "/client/\x1b\v", "/client/é", "/client/\xff", "/client/\x7f", "/client/#f", "/client/{}", `/client/"`, `/client/\`,
			"//client/x", "/./client/x", "/client/../client/x", "/client//x", "/x", "/",
			"/client", "/client", "/client?q", "/clientx", "/clientx%20y", // a rule can remove all of it, or leave no path
			"http://h.example/client/x", "HTTP://h.example/client/x", "https://h.example/client/x", "http://h.example", "http://user@h.example/client/", "http:///client/x",
			"ftp://h.example/client/x", "rtsp://h.example/client/x", "ws://h.example/client/x", "x://y/client/x",
			"*", "h.example:80", "h.example", "tunnel/x", "?q", ";", "UNKNOWN", "TCP4", "TCP6", "{}", "5", "HTTP/1.1", ":", "\xe9",
			"/client/" + strings.Repeat("x", 600), "/client/" + strings.Repeat("y", 7000), "/client/" + strings.Repeat("z", 20000),
		},
	}
	versions = choice{
		[]string{"HTTP/1.1", "HTTP/1.1", "HTTP/1.0"},
		[]string{
			"HTTP/0.9", "HTTP/0.0", "HTTP/0.1", "HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9",
			"HTTP/2", "HTTP/3", "HTTP/1", "HTTP/", "HTTP/11", "HTTP/1.10", "HTTP/01.1", "HTTP/1.1.1", "HTTP/.", "HTTP/..", "HTTP//1.1", "HTTP/X.Y",
			"http/1.1", "http/1.0", "Http/1.1", "hTTP/1.1", "HTTp/1.0", "http/0.9", "http/2",
			"RTSP/1.0", "RTSP/2.0", "rtsp/1.0", "RTSP/",
			"HTTP/1.1x", "HTTP/x.y", "HTTP/1.x", "HTTP/-1.1", "HTTP/1,1", "HTTP/1.1 HTTP/1.1", "HTTP/1.1 x", "x HTTP/1.1", "HTTP/0.9 HTTP/1.1", "",
			"HTTP /1.1", "HTTP/ 1.1", "HTTP/1.1\x00", "HTTP/1.1\x01", "HTTP/1.1\xff", "SIP/2.0", "ICAP/1.0", "HTTPS/1.1", "XHTTP/1.1", "HTTP", "5",
		},
	}
	tails = choice{
		[]string{""},
		[]string{" ", "  ", "\t", " \t", "\r", "\v", " x", "\x00"},
	}
	ends = choice{
		[]string{"\r\n"},
		[]string{"\n", "\r\r\n", "\r"},
	}
	fields = choice{
		[]string{"", "Connection: close\r\n", "Connection: Upgrade\r\nUpgrade: tcp\r\n"},
		[]string{
			"Connection: Upgrade\r\nUpgrade: websocket\r\n", "Connection: upgrade\r\nUpgrade: h2c\r\n", "Upgrade: tcp\r\n", "Connection: keep-alive\r\n",
			"Expect: 100-continue\r\n", "X: y\r\n z\r\n", "X : y\r\n", "X\r\n", ": y\r\n", "X: \xff\r\n", "PROXY UNKNOWN\r\n",
		},
	}
)

// generate returns a request whose body is a command of a line protocol.
func generate(r *rand.Rand) string {
	const rarely, often = 0.1, 0.35
	line := prefixes.pick(r, rarely) + methods.pick(r, often) + separators.pick(r, rarely) + targets.pick(r, often) +
		separators.pick(r, rarely) + versions.pick(r, often) + tails.pick(r, rarely)
	for r.Float64() < 2*rarely {
		line = damage(r, line)
	}
	body := "\r\nSHUTDOWN\r\n"
	head := line + ends.pick(r, rarely/2) + "Host: h.example\r\n" + fields.pick(r, often)
	switch n := r.IntN(10); {
	case n < 6:
		return head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	case n < 8:
		return head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	}
	return head + "\r\n" + body // like the first bytes of a tunnel
}

// damage changes, inserts or removes a byte, or it changes the case of a letter.
func damage(r *rand.Rand, line string) string {
	if line == "" {
		return line
	}
	b, i, c := []byte(line), r.IntN(len(line)), byte(r.IntN(256))
	switch r.IntN(4) {
	case 0:
		b[i] = c
	case 1:
		return line[:i] + string([]byte{c}) + line[i:]
	case 2:
		return line[:i] + line[i+1:]
	case 3:
		if letter := b[i] | 0x20; 'a' <= letter && letter <= 'z' {
			b[i] ^= 0x20
		}
	}
	return string(b)
}
