//go:build cluster

package kubernetes

import (
	"path/filepath"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// testFiles requires that the API server accepts each file, with the rules that are in no
// schema. No gateway runs.
func testFiles(t *testing.T, c *cluster) {
	files, err := filepath.Glob("../../deploy/kubernetes/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c.api.install(t, lab.DeployFile(t, "kubernetes/"+filepath.Base(file)))
		})
	}
}
