package kinds_test

import (
	"github.com/preflight-go/preflight/internal/testkit"
)

// kndCutAt delivers the bytes in two parts.
func kndCutAt(k int) testkit.Pieces { return func(seen int) int { return max(k-seen, 0) } }
