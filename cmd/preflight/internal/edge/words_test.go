package edge

import (
	"crypto/tls"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// diagnosisTexts returns the strings of the package whose texts stand in the errors of a dial, with
// the names in braces filled in that stand for a field of the dialer.
func diagnosisTexts(t *testing.T) (texts []string) {
	fill := strings.NewReplacer("{config}", "TLSConfig", "{websocket}", " (add CarrierWebSocket)", "{address}", " (now an address)")
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "..", "internal", "diagnosis", "*.go"))
	require.NoError(t, err)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		require.NoError(t, err)
		file, err := parser.ParseFile(token.NewFileSet(), name, source, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				text, err := strconv.Unquote(l.Value)
				require.NoError(t, err)
				if strings.Contains(text, " ") {
					texts = append(texts, fill.Replace(text))
				}
			}
			return true
		})
	}
	return texts
}

// goNames are the names that mean something in a Go program alone.
func goNames() map[string]bool {
	names := map[string]bool{"StatusError": true, "PreflightDialer": true, "CarrierUpgrade": true, "CarrierFramed": true, "CarrierWebSocket": true}
	for _, of := range []any{preflight.PreflightDialer{}, preflight.StatusError{}, tls.Config{}} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(of)) {
			if field.IsExported() {
				names[field.Name] = true
			}
		}
	}
	return names
}

var (
	quoted = regexp.MustCompile("`[^`]*`")             // the settings of products
	word   = regexp.MustCompile(`[A-Za-z][A-Za-z.-]*`) // with the dots and hyphens inside
	// inHTTP are words about the field Host of a request, and about the listener.
	inHTTP = strings.NewReplacer("this Host", "", "path and Host", "", "matches Host and path", "", "the listener did not get the whole head in its HandshakeTimeout", "")
)

// TestInFlags requires that no text of a failed dial names a field of Go, which a user of the
// command cannot set.
func TestInFlags(t *testing.T) {
	names, texts := goNames(), diagnosisTexts(t)
	require.Greater(t, len(texts), 150)
	changed := 0
	for _, text := range texts {
		if strings.Contains(text, "TunnelTLSConfig") { // the command opens no TLS inside a tunnel
			continue
		}
		own := InFlags(text)
		if own != text {
			changed++
		}
		for _, w := range word.FindAllString(inHTTP.Replace(quoted.ReplaceAllString(own, "")), -1) {
			if strings.HasPrefix(w, "PreflightListener") {
				continue
			}
			for part := range strings.SplitSeq(strings.Trim(w, ".-"), ".") {
				assert.False(t, names[part], "%s is a name of Go, see words: %s", part, own)
			}
		}
	}
	require.Greater(t, changed, 50)
}
