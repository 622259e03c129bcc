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
		"Each column is one proxy with its file of `deploy/`, without TLS and, if the proxy has TLS, with it.\n"+
		"`go test -race -run TestProxy ./interop` requires every outcome, and\n"+
		"`go test -race -run 'Proxy/nginx/tls/Transfer' ./interop` requires one of them. This file is generated from\n"+
		"the tests: `go test -run TestMatrix ./interop -update`.\n\n| |")
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
- Half-close: one end of a tunnel ends its direction, and the other goes on sending. "yes": its data arrives. "no": the
  proxy ends both directions. lighttpd sometimes does neither.
- The last rows show how a dial or a tunnel ends: with a status, with an orderly end (EOF) or with a reset.
- "–": does not apply. The proxy has no TLS, no line that could be forgotten, no timer for silent tunnels, or no
  reload that keeps them. A forward proxy (CONNECT) has no paths. To the server its address is that of the client. TLS
  through it is between the two ends.
- The path: the proxies remove the prefix /client, except Squid and the forward proxies.
`)
	return text.String()
}
