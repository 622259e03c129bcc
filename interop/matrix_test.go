package interop

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write MATRIX.md anew")

// TestMatrix makes MATRIX.md the table of the outcomes that TestProxy requires.
func TestMatrix(t *testing.T) {
	got := matrix()
	if *update {
		require.NoError(t, os.WriteFile("MATRIX.md", []byte(got), 0o644))
	}
	want, err := os.ReadFile("MATRIX.md")
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run `go test -run TestMatrix -update .` if the change is meant")
}

func matrix() string {
	text := new(strings.Builder)
	fmt.Fprint(text, "# What each proxy does\n\n"+
		"`go test -race -run TestProxy .` runs every proxy with its file of [deploy](../deploy) and requires\n"+
		"each of these outcomes, in plain text and, where the proxy has it, over TLS. `go test -run\n"+
		"'Proxy/nginx/tls/Transfer' .` runs one of them. Generated; do not edit.\n\n| |")
	for _, p := range proxies {
		fmt.Fprintf(text, " %s |", p.name)
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
	return text.String()
}
