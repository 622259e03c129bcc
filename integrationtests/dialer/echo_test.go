package dialer_test

import (
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// echoAnswers are answers that repeat echo, in each place where an answer can.
func echoAnswers(echo string) map[string]string {
	return map[string]string{
		"bare":               echo,
		"second line":        "no:\r\n" + echo,
		"banner":             "SSH-" + echo,
		"page":               "<html>" + echo,
		"another version":    "HTTP/9.9 400 " + echo + "\r\n\r\n",
		"alert":              "\x15\x03" + echo,
		"phrase":             "HTTP/1.1 403 " + echo + "\r\n\r\n",
		"in a phrase":        "HTTP/1.1 403 bad token <" + echo + ">\r\n\r\n",
		"phrase of a 101":    "HTTP/1.1 101 " + echo + "\r\n\r\n",
		"phrase of a 999":    "HTTP/1.1 999 " + echo + "\r\n\r\n",
		"phrase of interim":  "HTTP/1.1 103 " + echo + "\r\n\r\nHTTP/1.1 404 " + echo + "\r\n\r\n",
		"field":              "HTTP/1.1 401 U\r\nWWW-Authenticate: " + echo + "\r\nUpgrade: " + echo + "\r\n\r\n",
		"token":              "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: " + echo + "\r\n\r\n",
		"malformed":          "HTTP/1.1 " + echo + "\r\n\r\n",
		"field name":         "HTTP/1.1 200 OK\r\n" + echo + " x\r\n\r\n",
		"Preflight-Tunnel":   "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Tunnel: " + echo + "\r\n\r\n",
		"body":               "HTTP/1.1 500 I\r\n\r\n" + echo,
		"path of Location":   "HTTP/1.1 302 F\r\nLocation: https://x/" + echo + "?" + echo + "\r\n\r\n",
		"scheme of Location": "HTTP/1.1 302 F\r\nLocation: " + echo + "://x/\r\n\r\n",
		"host of Location":   "HTTP/1.1 302 F\r\nLocation: https://" + echo + "/\r\n\r\n",
	}
}

// An error contains nothing that a server repeats from the request, also if the
// server decoded it, changed its case or cut it.
func TestErrorsRepeatNoSecret(t *testing.T) {
	header := http.Header{
		"Authorization": {"Basic bWUubXlzZWxmOlMzY3IzdC1wYXNz"}, // me.myself:S3cr3t-pass
		"Cookie":        {"sid=K00kie; lang=x"},
		"X-Api-Key":     {"k3y"},
		"X-Latin":       {"p\xe4ssw\xf6rd"},
	}
	for _, echo := range []string{
		"S3cr3t-pass", "s3cr", "R3T-PASS", "me.myself:S3cr3t-pass", "myself", "bWUubXlzZWxm", "mylzzwxmolm",
		"sid=K00kie", "k00ki", "k3y", "K3Y", "p\xe4ssw\xf6rd", "ssw\xf6",
		"qu3ry%2Dt0ken", "qu3ry-t0ken", "3ry-", "token=qu3ry", "GET /amps?token=qu3ry%2Dt0ken HTTP/1.1",
		"\u202eS3cr3t-pass", "\u009bk3y", "k00ki\xff",
	} {
		for name, answer := range echoAnswers(echo) {
			t.Run(name+" "+strconv.Quote(echo), func(t *testing.T) {
				client, server := net.Pipe()
				go func() {
					defer server.Close()
					testkit.ReadRequest(server)
					io.WriteString(server, answer)
				}()
				_, err := preflight.Client(t.Context(), client, &http.Request{
					Host: "edge.example", URL: &url.URL{Path: "/amps", RawQuery: "token=qu3ry%2Dt0ken"}, Header: header,
				})
				require.NotContains(t, strings.ToLower(err.Error()), strings.ToLower(echo))
				for _, part := range []string{"s3cr", "k00k", "k3y", "qu3r", "myse", "\xe4", "\xf6"} {
					require.NotContains(t, strings.ToLower(err.Error()), part)
				}
				require.Equal(t, -1, strings.IndexFunc(err.Error(), func(r rune) bool { return !strconv.IsPrint(r) }), "%q", err)
			})
		}
	}
}

// The same holds for the credentials that a forward proxy repeats.
func TestErrorsRepeatNoSecretOfTheForwardProxy(t *testing.T) {
	for _, echo := range []string{"s3cr3t-pass", "me.myself:s3cr3t-pass", "bWUubXlzZWxmOnMzY3IzdC1wYXNz"} {
		for name, answer := range echoAnswers(echo) {
			if name == "phrase of a 101" || name == "token" || name == "Preflight-Tunnel" {
				continue // in the answer to a CONNECT, these are refusals like any other
			}
			t.Run(name+" "+echo, func(t *testing.T) {
				peer := &testkit.DialPeer{T: t, Peer: testkit.Say(answer, func(c net.Conn) { c.Close() })}
				d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: peer, Proxy: fwdBy(t, "http://me.myself:s3cr3t-pass@proxy.example:3128")}
				_, err := d.Dial("tcp", "edge.example:80")
				require.Error(t, err)
				require.NotContains(t, err.Error(), echo)
				testkit.RequireNoSecret(t, err)
			})
		}
	}
}

// Text that repeats nothing is shown, because it may explain the error.
func TestErrorsShowTextThatIsNoEcho(t *testing.T) {
	for answer, shown := range map[string]string{
		"HTTP/1.1 403 Quota exceeded\r\n\r\n":                         "answered 403 Quota exceeded: ",
		"HTTP/1.1 403 \u202eevil\u009b\r\n\r\n":                       `answered 403 \u202eevil\u009b: `,
		"HTTP/1.1 403 a\xffb\r\n\r\n":                                 `answered 403 a\xffb: `,
		"HTTP/1.1 403 " + strings.Repeat("\u202e", 9000) + "\r\n\r\n": `answered 403 \u202e`,
		"SSH-2.0-x\r\n":        `begins with "SSH-2.0-x\r\n"`,
		"\x15\x03\x01\x00\x02": `begins with "\x15\x03\x01\x00\x02"`,
		"\u202e\u009b":         `begins with "\u202e\u009b"`,
	} {
		_, err := testkit.UpgradeAnswered(t, answer, true)
		require.ErrorContains(t, err, shown)
		require.Less(t, len(err.Error()), 1000)
		require.Equal(t, -1, strings.IndexFunc(err.Error(), func(r rune) bool { return !strconv.IsPrint(r) }), "%q", err)
	}
}

// The text of a certificate cannot send control characters to a terminal.
func TestErrorsArePrintable(t *testing.T) {
	ca := fwdNewCA(t)
	const name = "edge\x1b[2J\x07.example"
	network := &fwdNet{hosts: map[string]string{"edge.example:443": fwdServe(t, fwdSecure(ca.server(name), fwdEcho))}}
	_, err := (&preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, TLSConfig: ca.client()}).Dial("tcp", "edge.example:443")
	var hostname x509.HostnameError
	require.ErrorAs(t, err, &hostname)
	require.Contains(t, hostname.Error(), name)
	require.ErrorContains(t, err, `edge\x1b[2J\a.example`)
	require.Equal(t, -1, strings.IndexFunc(err.Error(), unicode.IsControl))
}
