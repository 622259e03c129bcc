package kinds_test

import (
	"github.com/preflight-go/preflight/internal/testkit"
)

// cutAt delivers the bytes in two parts.
func cutAt(k int) testkit.Pieces { return func(seen int) int { return max(k-seen, 0) } }
