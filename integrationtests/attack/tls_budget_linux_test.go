//go:build linux && !race

package attack_test

import (
	"testing"
)

func TestBudgetAttackHalfHellos(t *testing.T) {
	attackBudget(t, attackLoad{config: attackConfig{Tune: "tls"}, send: attackHalfHello(t)}, 1.25, 0)
}

// A stalled client costs the same, however many kinds of connection the
// listener can detect.
func TestBudgetAttackEveryKind(t *testing.T) {
	attackBudget(t, attackLoad{config: attackConfig{Tune: "every kind"}, send: attackHead}, 1.25, 0)
}
