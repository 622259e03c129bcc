package broken

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write BROKEN.md")

var tableFile = filepath.Join("..", "BROKEN.md")

var paths = slices.Concat(nginxPaths, edgePaths, haproxyPaths, apachePaths, envoyPaths, traefikPaths, caddyPaths, otherPaths, forwardPaths, listenerPaths, peerPaths)

// TestBroken dials each path. It also requires that BROKEN.md is the table of the texts.
func TestBroken(t *testing.T) {
	texts, evidence := make(map[string]string), make(map[string]string)
	k := startKit(t, paths)
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) { texts[p.name], evidence[p.name] = p.try(t, k) })
	}
	if t.Failed() || len(texts) < len(paths) { // one of them, or -run has chosen some
		return
	}
	same := twins(evidence)
	for _, p := range paths {
		// A partial text must say why no text could be full: another path looks the same, or
		// something that is no matter of evidence.
		assert.True(t, p.grade() != "partial" || len(same[p.name]) > 0 || p.lacks != "", "%s has evidence of its own, so its text can be full:\n%s", p.name, evidence[p.name])
	}
	got := table(texts, same, readRight(t))
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

// table returns the table of the texts, by the name of their paths. same are the paths that
// have all evidence in common, and right are those that the doctor finds.
func table(texts map[string]string, same map[string][]string, right map[string]bool) string {
	count := func(usualAlone bool, is func(brokenPath) bool) (n int) {
		for _, p := range paths {
			if is(p) && (p.usual || !usualAlone) {
				n++
			}
		}
		return n
	}
	counts := func(usualAlone bool) (all []any) {
		shares := func(p brokenPath) bool { return len(same[p.name]) > 0 }
		for _, is := range []func(brokenPath) bool{
			func(p brokenPath) bool { return p.grade() == "full" && !shares(p) },
			func(p brokenPath) bool { return p.grade() == "full" && shares(p) },
			func(p brokenPath) bool { return p.grade() == "partial" },
			func(p brokenPath) bool { return p.grade() == "misleading" },
		} {
			all = append(all, count(usualAlone, is))
		}
		return all
	}
	partial := func(p brokenPath) bool { return p.grade() == "partial" && len(same[p.name]) > 0 }
	b := new(strings.Builder)
	b.WriteString(`# What the error of a broken path says

Each row is a path that is really broken: with the real programs, dialed by a PreflightDialer. Addresses are replaced by
names. The code at the end of a text has more in [troubleshooting](../docs/troubleshooting.md).
This file is generated: ` + "`go test ./interop/broken -update`" + `. The tests require each text, and that no secret of
the request is in it.

A text is full if it names the hop at fault, the cause and what to change, and no wrong cause beside them, not even as a
possible one. The cause may be one that several paths have in common, if the text is true for each of them and leads to
the one place where they differ, such as a directive, the block of a configuration, or a log. These are counted apart. A
text is partial if something of that is missing. It is misleading if it asserts a wrong cause.

| | full | full, with what paths have in common | partial | misleading |
|---|---|---|---|---|
`)
	fmt.Fprintf(b, "| the most usual paths (marked) | %d | %d | %d | %d |\n", counts(true)...)
	fmt.Fprintf(b, "| all %d paths | %d | %d | %d | %d |\n", append([]any{len(paths)}, counts(false)...)...)
	fmt.Fprintf(b, `
The last column has the paths with another cause from which nothing tells this one apart. The test records all that a
dial sends and receives: the bytes of each connection, with the order and the case of the fields, whether it ended or
fell silent, and whether an answer took a second or more. Behind a ClientHello it records what the error holds. So no
text could be full for both paths of %d partial rows. `+"`preflight check`"+`, which sends more than a dial does, finds
the cause of %d of these.

| path | grade | the error says | the same evidence as |
|---|---|---|---|
`, count(false, partial), count(false, func(p brokenPath) bool { return partial(p) && right[p.name] }))
	for _, p := range paths {
		name := p.name
		if p.usual {
			name = "**" + name + "**"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", name, p.note(), cell(p.text(texts[p.name])), few(same[p.name]))
	}
	return b.String()
}

// few joins the first of names.
func few(names []string) string {
	const most = 3
	if left := len(names) - most; left > 0 {
		return fmt.Sprintf("%s; and %d more", strings.Join(names[:most], "; "), left)
	}
	return strings.Join(names, "; ")
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
