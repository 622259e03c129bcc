package interop

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write MATRIX.md anew")

// TestMatrix makes MATRIX.md the table of the outcomes that TestProxy requires.
func TestMatrix(t *testing.T) {
	for _, p := range proxies {
		require.FileExists(t, filepath.Join("..", "deploy", p.file))
	}
	got := matrix()
	if *update {
		require.NoError(t, os.WriteFile("MATRIX.md", []byte(got), 0o644))
	}
	want, err := os.ReadFile("MATRIX.md")
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run `go test -run TestMatrix . -update` if the change is meant")
}

func matrix() string {
	text := new(strings.Builder)
	fmt.Fprint(text, "# What each proxy does\n\n"+
		"Each proxy runs with the file of `deploy/` that stands at the head of its column, in plain text and,\n"+
		"where it has that, over TLS. `go test -race -run TestProxy ./interop` requires every outcome,\n"+
		"`go test -race -run 'Proxy/nginx/tls/Transfer' ./interop` one of them; this file is generated from\n"+
		"what the tests require (`go test -run TestMatrix ./interop -update`).\n\n| |")
	for _, p := range proxies {
		fmt.Fprintf(text, " [%s](../deploy/%s) |", p.name, p.file)
	}
	fmt.Fprint(text, "\n|---|", strings.Repeat("---|", len(proxies)), "\n")
	for _, b := range slices.Concat(ofTunnels, []behaviour{tlsFront}, ofProxies) {
		fmt.Fprintf(text, "| %s |", b.title)
		for _, p := range proxies {
			outcome := p.outcome("", b)
			if overTLS := p.outcome("tls/", b); overTLS != outcome {
				outcome += "; over TLS: " + overTLS
			}
			fmt.Fprintf(text, " %s |", outcome)
		}
		fmt.Fprintln(text)
	}
	fmt.Fprint(text, `
- Half-close: when one end of a tunnel ends its direction, what the other then sends arrives ("yes"), or
  the proxy ends both ("no"); lighttpd at times does neither.
- The last rows name what a dial, or a tunnel, ends with: a status, an orderly end (EOF) or a reset.
- "–": the proxy has no such thing: no TLS, no line that could be forgotten, no timer for silent tunnels,
  no reload that could leave them alone. A forward proxy, by which the client gets out (CONNECT), knows no paths; for the server, the
  client's address is that proxy's; and TLS through it is between the two ends.
`)
	return text.String()
}
