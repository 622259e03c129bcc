// Package kubernetes tests the files of deploy/kubernetes: that they agree with the
// schemas of Kubernetes, and that their probes work.
package kubernetes

import (
	"os"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }
