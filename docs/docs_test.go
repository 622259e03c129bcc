// Package docs_test checks what the documentation says against the repository.
package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/preflight-go/preflight/internal/diagnosis"
	"github.com/stretchr/testify/require"
)

const root = ".."

// pages returns the Markdown files of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	var found []string
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && d.Name() != ".github" && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules"):
			return fs.SkipDir
		case strings.HasSuffix(path, ".md"):
			found = append(found, path)
		}
		return nil
	}))
	require.Greater(t, len(found), 15, "the pages are found")
	return found
}

var (
	link    = regexp.MustCompile(`!?\[[^\]]*\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	inCode  = regexp.MustCompile("`([^`]+)`")
	fence   = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
)

// TestLinks requires that each link into the repository leads to a file, and
// each fragment to a heading.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		text := fence.ReplaceAllString(read(t, page), "")
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target, err := url.Parse(match[1])
			require.NoError(t, err, "%s: %s", page, match[1])
			if target.Scheme != "" {
				continue
			}
			file := page
			if target.Path != "" {
				file = filepath.Join(filepath.Dir(page), target.Path)
				_, err := os.Stat(file)
				require.NoError(t, err, "%s links to %s", page, match[1])
			}
			if target.Fragment != "" {
				require.Contains(t, anchors(read(t, file)), target.Fragment, "%s links to %s", page, match[1])
			}
		}
	}
}

// TestIndex requires that every page and every folder of deploy and examples has a line in its index.
func TestIndex(t *testing.T) {
	for index, pattern := range map[string]string{
		"docs/README.md":     "docs/*.md",
		"deploy/README.md":   "deploy/*",
		"examples/README.md": "examples/*",
	} {
		text := read(t, filepath.Join(root, index))
		entries, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		require.NotEmpty(t, entries)
		for _, entry := range entries {
			name := filepath.Base(entry)
			info, err := os.Stat(entry)
			require.NoError(t, err)
			if name == "README.md" || !info.IsDir() && !strings.HasSuffix(name, ".md") {
				continue
			}
			require.Contains(t, text, "("+name, "%s has no line for %s", index, name)
		}
	}
}

// TestSnippets requires that each Go snippet of a page is also in an example,
// line by line. The examples compile, and their tests run. A line of dots stands
// for omitted lines.
func TestSnippets(t *testing.T) {
	var sources []string
	for _, pattern := range []string{"example*_test.go", "examples/*/*.go"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, file := range files {
			sources = append(sources, lines(read(t, file)))
		}
	}
	checked := 0
	for _, page := range pages(t) {
		for _, block := range fence.FindAllStringSubmatch(read(t, page), -1) {
			if block[1] != "go" {
				continue
			}
			for _, part := range strings.Split(lines(block[2]), "\n...\n") {
				require.True(t, containedIn(sources, part), "%s: no example has these lines:\n%s", page, part)
			}
			checked++
		}
	}
	require.Greater(t, checked, 10)
}

// TestTroubleshooting requires a row for each text of the library. The first column
// must contain a part of the text in code style.
func TestTroubleshooting(t *testing.T) {
	var phrases []string
	for row := range strings.Lines(read(t, "troubleshooting.md")) {
		if first, _, ok := strings.Cut(strings.TrimPrefix(row, "| "), " | "); ok && strings.HasPrefix(row, "| ") {
			for _, code := range inCode.FindAllStringSubmatch(first, -1) {
				if phrase, _, _ := strings.Cut(code[1], "…"); len(phrase) > 6 {
					phrases = append(phrases, phrase)
				}
			}
		}
	}
	texts := messages(t)
	require.Greater(t, len(texts), 100)
	var missing []string
	for text, file := range texts {
		if !slices.ContainsFunc(phrases, func(phrase string) bool { return strings.Contains(text, phrase) }) {
			missing = append(missing, file+": "+text)
		}
	}
	require.Empty(t, missing, "troubleshooting.md has no row for these texts")
}

// TestCodes requires a row for each code of a finding, and a finding for each row.
func TestCodes(t *testing.T) {
	var rows []string
	for row := range strings.Lines(read(t, "troubleshooting.md")) {
		if first, _, ok := strings.Cut(strings.TrimPrefix(row, "| "), " | "); ok {
			for _, code := range bracketed.FindAllStringSubmatch(first, -1) {
				rows = append(rows, code[1])
			}
		}
	}
	require.ElementsMatch(t, diagnosis.Codes(), rows)
}

var bracketed = regexp.MustCompile("`\\[([a-z0-9-]+)\\]`")

// messages returns the string literals of the library that have at least three
// words, with their files.
func messages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "*.go"))
	require.NoError(t, err)
	texts := make(map[string]string)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.SelectorExpr)
				return !ok || f.Sel.Name != "WithDescription" // of a metric
			case *ast.BasicLit:
				text, err := strconv.Unquote(n.Value)
				if err == nil && strings.Count(strings.TrimSpace(text), " ") >= 2 && !strings.Contains(text, " HTTP/1.") {
					texts[text] = filepath.Base(name)
				}
			}
			return true
		})
	}
	return texts
}

// TestPicture requires that path.svg is the output of its script.
func TestPicture(t *testing.T) {
	out, err := exec.Command("go", "run", "path.go").Output()
	require.NoError(t, err)
	require.Equal(t, read(t, "path.svg"), string(out), "go run docs/path.go > docs/path.svg")
}

// TestReadme keeps the README short.
func TestReadme(t *testing.T) {
	require.LessOrEqual(t, len(strings.Fields(read(t, filepath.Join(root, "README.md")))), 1200)
}

func containedIn(sources []string, part string) bool {
	for _, source := range sources {
		if strings.Contains("\n"+source+"\n", "\n"+part+"\n") {
			return true
		}
	}
	return false
}

// lines returns text without indentation and empty lines.
func lines(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// anchors returns the fragments of the headings of a page, as GitHub makes them.
func anchors(text string) []string {
	var found []string
	for _, match := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		found = append(found, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, match[1]))
	}
	return found
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}
