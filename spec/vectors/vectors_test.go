package vectors

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func load(t *testing.T) []Vector {
	t.Helper()
	all, err := All()
	require.NoError(t, err)
	return all
}

func TestAll(t *testing.T) {
	all := load(t)
	assert.GreaterOrEqual(t, len(all), 200)
	seen := make(map[string]bool)
	for _, v := range all {
		assert.False(t, seen[v.ID], "%s is repeated", v.ID)
		seen[v.ID] = true
		assert.True(t, v.Kind == Capsules == (v.Role == "any"), v.ID)
		assert.Equal(t, v.Kind == Capsules || v.Kind == WebSocket, v.Expect == "data", v.ID)
	}
}

// Formatting a vector produces the file from which it was read.
func TestFormat(t *testing.T) {
	for _, v := range load(t) {
		file, err := files.ReadFile(v.ID + Ext)
		require.NoError(t, err)
		assert.Equal(t, string(file), string(Format(v)), v.ID)
	}
}

func TestParseFaults(t *testing.T) {
	good := "id: capsules/x\ncovers: M1\nkind: capsules\nrole: any\nnote: x\ntransport: end\nexpect: data\ndata:\nend: clean\n\nbytes"
	v, err := Parse([]byte(good))
	require.NoError(t, err)
	assert.Equal(t, "bytes", string(v.Bytes))
	assert.NotNil(t, v.Data)
	for _, c := range []struct{ old, new, text string }{
		{"\n\nbytes", "\n", "no empty line"},
		{"note: x", "hint: x", `the key "hint" is unknown or repeated`},
		{"note: x", "id: x", `the key "id" is unknown or repeated`},
		{"role: any", "role: proxy", `"proxy" is not one of`},
		{"data:", "data: 0g", "the value of \"data\""},
		{"covers: M1", "covers: M1  M2", "an empty member"},
		{"transport: end\n", "", "transport must be there"},
		{"expect: data", "expect: accept", `expect of the kind "capsules"`},
		{"end: clean\n", "", "data and end belong"},
		{"end: clean", "end: clean\nstatus: 400", "code and status belong"},
		{"end: clean", "end: clean\ncarrier: framed", "carrier and protocol belong"},
		{"end: clean", "end: clean\nchunks: byte", `"byte" is not "each-byte"`},
	} {
		require.Contains(t, good, c.old)
		_, err := Parse([]byte(strings.Replace(good, c.old, c.new, 1)))
		assert.ErrorContains(t, err, c.text)
	}
}

var (
	requirement = regexp.MustCompile(`\*\*M(\d+)\*\*`)
	section     = regexp.MustCompile(`(?s)## What has no vector\n.*?\n## `)
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

// numbers returns the numbers of the requirements that are in bold type.
func numbers(t *testing.T, text string) (all []int) {
	t.Helper()
	for _, m := range requirement.FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		all = append(all, n)
	}
	return all
}

// Each requirement of the document is covered by a vector, or is listed with the reason why a
// vector cannot test it.
func TestCoverage(t *testing.T) {
	document := read(t, "../preflight.md")
	assert.LessOrEqual(t, strings.Count(document, "\n"), 300, "the document stays short")
	_, body, _ := strings.Cut(document, "## 2. ") // the text before it names M1 and M80 only as a range
	count := 0
	for i, n := range numbers(t, body) {
		require.Equal(t, i+1, n, "the numbers have no gap")
		count++
	}
	covered := make(map[string]bool)
	for _, v := range load(t) {
		for _, m := range v.Covers {
			n, err := strconv.Atoi(strings.TrimPrefix(m, "M"))
			require.NoError(t, err, v.ID)
			require.LessOrEqual(t, n, count, "%s covers a requirement that does not exist", v.ID)
			covered[m] = true
		}
	}
	list := strings.ReplaceAll(section.FindString(read(t, "README.md")), "**M48**'s", "")
	for _, n := range numbers(t, list) {
		m := "M" + strconv.Itoa(n)
		assert.False(t, covered[m], "%s is listed, and has a vector", m)
		covered[m] = true
	}
	for n := range count {
		assert.True(t, covered["M"+strconv.Itoa(n+1)], "M%d is neither covered nor listed", n+1)
	}
}

// Each key has a row in the table of keys.
func TestKeys(t *testing.T) {
	text := read(t, "README.md")
	for _, k := range keys {
		assert.Regexp(t, "(?m)^\\| .*`"+regexp.QuoteMeta(k.name)+"`", text)
	}
}
