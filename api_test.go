package preflight_test

import (
	"flag"
	"os"
	"os/exec"
	"testing"

	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var update = flag.Bool("update", false, "write docs/api.txt anew")

// TestAPI makes every change of the API or its documentation a change of
// docs/api.txt, where a review sees it.
func TestAPI(t *testing.T) {
	doc := exec.Command("go", "doc", "-all", ".")
	// go doc lists the modules of the whole workspace, many of them the bench's
	// alone, and forgets this one's path if a single one cannot be had.
	doc.Env = append(os.Environ(), "GOWORK=off")
	got, err := doc.Output()
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile("docs/api.txt", got, 0o644))
	}
	want, err := os.ReadFile("docs/api.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run `go test -run TestAPI -update .` if the change is meant")
}
