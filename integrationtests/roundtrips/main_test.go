package roundtrips_test

import (
	"testing"

	"github.com/preflight-go/preflight/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
