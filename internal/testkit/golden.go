package testkit

import (
	"embed"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// GoldenPayload holds the first bytes of a tunnel. The test notices if one of
// them is dropped, added or parsed as HTTP.
const GoldenPayload = "\r\n\r\nGET /payload HTTP/1.1\r\n\n\x00\x16\xff no HTTP\r\n"

//go:embed testdata
var transcripts embed.FS

// Transcripts returns the names of the transcripts in a folder of testdata.
func Transcripts(t testing.TB, dir string) (names []string) {
	t.Helper()
	files, err := transcripts.ReadDir("testdata/" + dir)
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		names = append(names, strings.TrimSuffix(file.Name(), ".http"))
	}
	return names
}

// Golden returns the transcript testdata/name.http.
func Golden(t testing.TB, name string) string {
	t.Helper()
	b, err := transcripts.ReadFile("testdata/" + name + ".http")
	require.NoError(t, err)
	return string(b)
}

// GoldenPieces are the ways to cut a transcript into pieces.
var GoldenPieces = map[string]func(w io.Writer, s string) error{
	"whole": func(w io.Writer, s string) error {
		_, err := io.WriteString(w, s)
		return err
	},
	"byte by byte": func(w io.Writer, s string) error {
		for i := range len(s) {
			if _, err := io.WriteString(w, s[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	},
}

// GoldenRead reads n bytes, and fails the test if there are fewer.
func GoldenRead(t testing.TB, r io.Reader, n int) string {
	t.Helper()
	b := make([]byte, n)
	m, err := io.ReadFull(r, b)
	require.NoError(t, err, "after %q", b[:m])
	return string(b)
}

// GoldenAccept starts to accept from l. The channel gets the connections until
// Accept returns an error.
func GoldenAccept(t testing.TB, l net.Listener) <-chan *preflight.Conn {
	accepted := make(chan *preflight.Conn, 16)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c.(*preflight.Conn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		for c := range accepted {
			c.Close()
		}
	})
	return accepted
}

// GoldenNext returns the next accepted connection.
func GoldenNext(t testing.TB, accepted <-chan *preflight.Conn) *preflight.Conn {
	t.Helper()
	select {
	case c, ok := <-accepted:
		require.True(t, ok, "Accept failed")
		c.SetDeadline(time.Now().Add(Patience))
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(Patience):
		require.Fail(t, "Accept returned nothing")
		return nil
	}
}

var GoldenDate = regexp.MustCompile(`\r\nDate: ([^\r]*)\r\n`)

// GoldenAnswer requires a valid Date in the answer and replaces it by a fixed
// one.
func GoldenAnswer(t testing.TB, answer string) string {
	t.Helper()
	m := GoldenDate.FindStringSubmatch(answer)
	require.NotNil(t, m, "no Date (RFC 9110 §6.6.1) in %q", answer)
	_, err := time.Parse(http.TimeFormat, m[1])
	require.NoError(t, err)
	return strings.Replace(answer, m[1], "Sun, 06 Nov 1994 08:49:37 GMT", 1)
}
