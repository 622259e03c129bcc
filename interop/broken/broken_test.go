package broken

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

var update = flag.Bool("update", false, "write BROKEN.md")

var tableFile = filepath.Join("..", "BROKEN.md")

var paths = slices.Concat(nginxPaths, edgePaths, haproxyPaths, apachePaths, envoyPaths, traefikPaths, caddyPaths, otherPaths, forwardPaths, listenerPaths, peerPaths)

// TestBroken dials each path. It also requires that BROKEN.md is the table of the texts.
func TestBroken(t *testing.T) {
	texts := make(map[string]string)
	k := startKit(t, paths)
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) { texts[p.name] = p.try(t, k) })
	}
	if t.Failed() || len(texts) < len(paths) { // one of them, or -run has chosen some
		return
	}
	got := table(texts)
	if *update {
		require.NoError(t, os.WriteFile(tableFile, []byte(got), 0o644))
	}
	want, err := os.ReadFile(tableFile)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run `go test -run TestBroken . -update` after an intended change")
}

// TestGrades bounds what the texts lack.
func TestGrades(t *testing.T) {
	names, usual := make(map[string]bool), 0
	for _, p := range paths {
		require.False(t, names[p.name], "two paths have the name %s", p.name)
		names[p.name] = true
		require.NotEqual(t, p.program == "", p.direct == "", p.name)
		if p.usual {
			usual++
		}
		require.Empty(t, p.misleads, p.name)
	}
	require.GreaterOrEqual(t, len(paths), 80)
	require.GreaterOrEqual(t, usual, 20)
}

// table returns the table of the texts, by the name of their paths.
func table(texts map[string]string) string {
	count := func(usualAlone bool, grade string) (n int) {
		for _, p := range paths {
			if p.grade() == grade && (p.usual || !usualAlone) {
				n++
			}
		}
		return n
	}
	named := 0
	for _, p := range paths {
		if p.line != "" && p.misleads == "" {
			named++
		}
	}
	b := new(strings.Builder)
	fmt.Fprintf(b, `# What the error of a broken path says

Each row is a path that is really broken: with the real programs, dialed by a PreflightDialer. Addresses are replaced by
names. The code at the end of a text has more in [troubleshooting](../docs/troubleshooting.md).
This file is generated: `+"`go test ./interop/broken -update`"+`. The tests require each text, and that no secret of
the request is in it.

A text is full if it names the hop at fault, the true cause and what to change, and no wrong cause beside them, not even
as a possible one. It is partial if something of that is missing, mostly because nothing that the client can see tells
two causes apart. It is misleading if it asserts a wrong cause.

| | full | partial | misleading |
|---|---|---|---|
| the most usual paths (marked) | %d | %d | %d |
| all %d paths | %d | %d | %d |

%d texts name what to change, some of them beside other possible causes.

| path | grade | the error says |
|---|---|---|
`, count(true, "full"), count(true, "partial"), count(true, "misleading"), len(paths),
		count(false, "full"), count(false, "partial"), count(false, "misleading"), named)
	for _, p := range paths {
		name := p.name
		if p.usual {
			name = "**" + name + "**"
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", name, p.note(), cell(p.text(texts[p.name])))
	}
	return b.String()
}

// note returns the grade, and why it is not full.
func (p brokenPath) note() string {
	switch {
	case p.misleads != "":
		return p.grade() + ": " + p.misleads
	case p.lacks != "":
		return p.grade() + ": it lacks " + p.lacks
	case len(p.beside) > 0:
		return p.grade() + ": other causes stand beside the true one"
	case p.line == "":
		return p.grade() + ": it lacks what to change"
	}
	return p.grade()
}

// text returns what the table shows of a text.
func (p brokenPath) text(text string) string {
	if p.varies {
		return "one of [" + strings.ReplaceAll(p.code, "|", "] [") + "]"
	}
	return text
}

// cell escapes what Markdown would interpret.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "_", `\_`, "...", "…").Replace(text)
}
