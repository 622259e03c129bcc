// Package broken dials paths that are really broken, through real programs, and requires
// what the error says about each.
package broken

import (
	"os"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }
