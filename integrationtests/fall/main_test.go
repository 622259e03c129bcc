// Package fall_test tests how a dialer chooses its carrier, and how it verifies each answer.
package fall_test

import (
	"testing"

	"github.com/preflight-go/preflight/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
