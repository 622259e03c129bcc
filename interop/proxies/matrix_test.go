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
	for _, p := range slices.Concat(proxies, websocketOnly) {
		if p.file != "" {
			require.FileExists(t, filepath.Join("..", "..", "deploy", p.file))
		}
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

`)
	writeTable(text, proxies, slices.Concat(tunnelBehaviours, []behaviour{tlsBehaviour}, proxyBehaviours), carriers)
	fmt.Fprint(text, `
- A cell has the outcome with `+"`CarrierUpgrade`"+`. Then it names the carriers with another outcome. With carriers that
  it does not name, the outcome is the same, or the carrier makes no difference.
- Half-close: each end sends 1 MiB and closes its direction, one end first and then, in another tunnel, the other end
  first. "yes": everything arrives. "no": the proxy closes both directions. "only by the client": it works if the
  client closes its direction first. lighttpd sometimes does nothing at all.
- "looks complete": the last Read returns io.EOF, although data is missing.
- The last rows show how a dial or a tunnel ends: with a status, with an orderly end (EOF), with a reset, or with an
  error that tells it from an orderly end.
- "–": does not apply. The proxy has no TLS, needs no line of its own for tunnels, has no idle timeout for tunnels, or
  has no reload that keeps them. A forward proxy (CONNECT) has no routes, the server sees its address instead of the
  client's, and TLS goes through it, end to end.
- The path: the proxies remove the prefix /client, except Squid and the forward proxies.

## Edges that forward WebSocket alone

Each column is an edge that forwards no other upgrade, and each row is what `+"`CarrierWebSocket`"+` does there. The first
three run their file of `+"`deploy/`"+` with other lines. The last five are programs of the test: what is known of AWS ALB, and
gateways that end each WebSocket and open another one to the server.
`+"`go test -race -run TestWebSocketOnly ./interop/proxies`"+` requires all outcomes.

`)
	writeTable(text, websocketOnly, websocketBehaviours, []carrier{byWebSocket})
	fmt.Fprint(text, `
- A dialer without Carriers asks once for `+"`tcp`"+`. The row has the answer, of the edge or of the listener behind it. The
  dialer then uses WebSocket. Its next dials begin with that, and so do those of its copies.
`)
	return text.String()
}

// writeTable writes a table with a column for each proxy.
func writeTable(text *strings.Builder, proxies []proxy, behaviours []behaviour, carriers []carrier) {
	fmt.Fprint(text, "| |")
	for _, p := range proxies {
		if p.file == "" {
			fmt.Fprintf(text, " %s |", p.name)
			continue
		}
		fmt.Fprintf(text, " [%s](../deploy/%s) |", p.name, p.file)
	}
	fmt.Fprint(text, "\n|---|", strings.Repeat("---|", len(proxies)), "\n")
	for _, b := range behaviours {
		fmt.Fprintf(text, "| %s |", b.title)
		for _, p := range proxies {
			fmt.Fprintf(text, " %s |", p.cell(b, carriers))
		}
		fmt.Fprintln(text)
	}
}

// cell returns the outcome with the first carrier without TLS. Then it names the
// variants whose outcome differs: TLS from no TLS, and a carrier from the first one. A
// carrier that does not show a behaviour is not named.
func (p proxy) cell(b behaviour, carriers []carrier) string {
	first := p.outcome(variant{carriers[0], false}, b)
	var outcomes []string            // that differ
	names := make(map[string]string) // of the variants, by outcome
	add := func(name, outcome string) {
		if names[outcome] == "" {
			outcomes = append(outcomes, outcome)
			names[outcome] = name
			return
		}
		names[outcome] += ", " + name
	}
	for _, c := range carriers {
		plain, tls := p.outcome(variant{c, false}, b), p.outcome(variant{c, true}, b)
		if plain != first && plain != notApplicable {
			add(string(c.name), plain)
		}
		if tls != plain {
			add(string(c.name)+" over TLS", tls)
		}
	}
	text := first
	for _, outcome := range outcomes {
		text += "; " + names[outcome] + ": " + outcome
	}
	return text
}
