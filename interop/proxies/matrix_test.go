package proxies

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

var update = flag.Bool("update", false, "write MATRIX.md")

var matrixFile = filepath.Join("..", "MATRIX.md")

// TestMatrix requires that MATRIX.md is the table of the outcomes that TestProxy requires.
func TestMatrix(t *testing.T) {
	for _, p := range proxies {
		require.FileExists(t, filepath.Join("..", "..", "deploy", p.file))
	}
	got := matrix()
	if *update {
		require.NoError(t, os.WriteFile(matrixFile, []byte(got), 0o644))
	}
	want, err := os.ReadFile(matrixFile)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run `go test -run TestMatrix . -update` after an intended change")
}

func matrix() string {
	text := new(strings.Builder)
	fmt.Fprint(text, `# What each proxy does

Each column is a proxy with its file of `+"`deploy/`"+`, without TLS and, if the proxy has TLS, with TLS.
`+"`go test -race -run TestProxy ./interop/proxies`"+` requires all outcomes.
`+"`go test -race -run 'Proxy/nginx/upgrade/tls/Transfer' ./interop/proxies`"+` requires one of them.
This file is generated from the tests: `+"`go test -run TestMatrix ./interop/proxies -update`"+`.

| |`)
	for _, p := range proxies {
		fmt.Fprintf(text, " [%s](../deploy/%s) |", p.name, p.file)
	}
	fmt.Fprint(text, "\n|---|", strings.Repeat("---|", len(proxies)), "\n")
	for _, b := range slices.Concat(tunnelBehaviours, []behaviour{tlsBehaviour}, proxyBehaviours) {
		fmt.Fprintf(text, "| %s |", b.title)
		for _, p := range proxies {
			fmt.Fprintf(text, " %s |", p.cell(b))
		}
		fmt.Fprintln(text)
	}
	fmt.Fprint(text, `
- Half-close: one end closes its direction, and the other end continues to send. "yes": the data arrives. "no": the
  proxy closes both directions. "only by the client": it works if the client closes its direction first. lighttpd
  sometimes does nothing at all.
- The last rows show how a dial or a tunnel ends: with a status, with an orderly end (EOF), or with a reset.
- "–": does not apply. The proxy has no TLS, needs no line of its own for tunnels, has no idle timeout for tunnels, or
  has no reload that keeps them. A forward proxy (CONNECT) has no routes, the server sees its address instead of the
  client's, and TLS goes through it, end to end.
- The path: the proxies remove the prefix /client, except Squid and the forward proxies.
`)
	return text.String()
}

// cell returns the outcome with the first carrier without TLS. Then it names the
// variants whose outcome differs: TLS from no TLS, and a carrier from the first one.
func (p proxy) cell(b behaviour) string {
	base := variant{carriers[0], false}
	text := p.outcome(base, b)
	for _, c := range carriers {
		plain, tls := variant{c, false}, variant{c, true}
		if outcome := p.outcome(plain, b); outcome != p.outcome(base, b) {
			text += "; " + string(c.name) + ": " + outcome
		}
		if outcome := p.outcome(tls, b); outcome != p.outcome(plain, b) {
			text += "; " + string(c.name) + " over TLS: " + outcome
		}
	}
	return text
}
