package lab

import (
	"bytes"
	"embed"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"github.com/stretchr/testify/require"
)

// root is the root of the repository, relative to a test package.
var root = filepath.Join("..", "..")

// Templates are main configuration files. Each includes a file of deploy/, which
// is named preflight.conf and is in the folder of the test.
var Templates, _ = fs.Sub(templates, "templates")

//go:embed templates
var templates embed.FS

// DeployFile returns a file of deploy/ with edits: strings to replace, each
// followed by its replacement. Each string must occur in the file. A change of the
// file that makes an edit useless therefore fails the test.
func DeployFile(t *testing.T, file string, edits ...string) string {
	t.Helper()
	return Edit(t, filepath.Join("deploy", file), edits...)
}

// Edit does the same for any file of the repository.
func Edit(t *testing.T, file string, edits ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	require.NoError(t, err)
	for i := 0; i < len(edits); i += 2 {
		require.Contains(t, string(text), edits[i], file)
	}
	return strings.NewReplacer(edits...).Replace(string(text))
}

// WriteFile writes text to a file in dir, and returns the path of the file. Some
// servers read it as another user.
func WriteFile(t *testing.T, dir, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// Render executes the template name.tmpl of templates, writes the result to the
// file name in dir, and returns the path of the file.
func Render(t *testing.T, templates fs.FS, dir, name string, data any) (path string) {
	t.Helper()
	tmpl, err := template.New(name+".tmpl").Option("missingkey=error").ParseFS(templates, name+".tmpl")
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, tmpl.Execute(&text, data))
	return WriteFile(t, dir, name, text.String())
}
