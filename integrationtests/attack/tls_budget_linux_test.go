//go:build linux && !race

package attack_test

import (
	"testing"
)

func TestBudgetAttackHalfHellos(t *testing.T) {
	attackBudget(t, attackLoad{config: attackConfig{Tune: "tls"}, send: attackHalfHello(t)}, 1.25, 0)
}

// However many kinds there are to be told apart, a client that stalls costs the same.
func TestBudgetAttackEveryKind(t *testing.T) {
	attackBudget(t, attackLoad{config: attackConfig{Tune: "every kind"}, send: attackHead}, 1.25, 0)
}
