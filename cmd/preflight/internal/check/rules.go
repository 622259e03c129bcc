package check

import (
	"net/http"
	"slices"
)

// rules is the table of all verdicts. The first rule that fits is taken, so a rule that needs
// more evidence stands before one that needs less. To add a case, add a rule, and a row for it
// in rules_test.go.
var rules = slices.Concat(steadyRules, farRules, connectRules, proxyRules, tlsRules, portRules, serveRules, listenerRules, answerRules, lastRules)

// The conditions of rules.

func all(conditions ...func(*evidence) bool) func(*evidence) bool {
	return func(e *evidence) bool {
		for _, holds := range conditions {
			if !holds(e) {
				return false
			}
		}
		return true
	}
}

// either holds if one of the conditions does.
func either(conditions ...func(*evidence) bool) func(*evidence) bool {
	return func(e *evidence) bool {
		for _, holds := range conditions {
			if holds(e) {
				return true
			}
		}
		return false
	}
}

func not(condition func(*evidence) bool) func(*evidence) bool {
	return func(e *evidence) bool { return !condition(e) }
}

// step holds if a step failed by one of the faults, or by any if none is given.
func step(name string, faults ...fault) func(*evidence) bool {
	return func(e *evidence) bool { return e.failedAt(name, faults...) }
}

// asked holds if the answer to one of the questions speaks a protocol that is not HTTP/1.
func asked(protocol string, questions ...string) func(*evidence) bool {
	return func(e *evidence) bool {
		return slices.ContainsFunc(questions, func(q string) bool { return e.of(q).Speaks == protocol })
	}
}

// came holds if the answer to a question has one of the outcomes.
func came(question string, outcomes ...outcome) func(*evidence) bool {
	return func(e *evidence) bool { return slices.Contains(outcomes, e.of(question).Outcome) }
}

// status holds if the answer to a question has one of the statuses.
func status(question string, all ...int) func(*evidence) bool {
	return func(e *evidence) bool { return e.of(question).is(all...) }
}

func by(all ...product) func(*evidence) bool {
	return func(e *evidence) bool { return slices.Contains(all, e.author()) }
}

// wrote holds if the answer itself shows that the product wrote it.
func wrote(p product) func(*evidence) bool {
	return func(e *evidence) bool { return e.writer() == p }
}

func firstIs(all ...product) func(*evidence) bool {
	return func(e *evidence) bool { return slices.Contains(all, e.first()) }
}

// slow holds if the answer took so long that somebody waited: at least 900 ms, which is less
// than the shortest usual timeout and the pause between two attempts of HAProxy, both 1 s.
func slow(e *evidence) bool { return e.took() >= slowMillis }

const slowMillis = 900

// admits holds if an ordinary request reaches a server that asks for an upgrade.
func admits(e *evidence) bool {
	return e.of("get").Reason == "no-upgrade" || e.of("get").is(http.StatusUpgradeRequired)
}

// otherScheme holds if the answer asks for credentials of another scheme than was sent. What was
// sent may have no scheme at all.
func otherScheme(e *evidence) bool {
	wanted := e.challenges()
	return e.sentAuthorization && len(wanted) > 0 && !slices.Contains(wanted, e.scheme)
}

// notByProxy holds if no product on the way wrote the answer.
func notByProxy(e *evidence) bool {
	return onTheWay(e) && e.answer().Outcome == answered && !slices.Contains(e.way(), e.writer())
}

func binds(e *evidence) bool        { return e.target.bind() != nil }
func throughProxy(e *evidence) bool { return e.proxy }
func overTLS(e *evidence) bool      { return e.target.Dialer.TLSConfig != nil }

// someHTTP holds if any question was answered in HTTP.
func someHTTP(e *evidence) bool {
	for _, a := range e.answers {
		if a.Outcome == answered {
			return true
		}
	}
	return false
}

// anyReason holds if the listener gave this reason to any question.
func anyReason(reason string) func(*evidence) bool {
	return func(e *evidence) bool {
		for _, a := range e.answers {
			if a.Reason == reason {
				return true
			}
		}
		return false
	}
}

// alike holds if two questions were answered by the same status and the same page.
func alike(one, other string) func(*evidence) bool {
	return func(e *evidence) bool {
		a, b := e.of(one), e.of(other)
		return a.Outcome == answered && a.Outcome == b.Outcome && a.Status == b.Status && a.page() == b.page()
	}
}

// field holds if the answer of the main carrier has a field.
func field(name string) func(*evidence) bool {
	return func(e *evidence) bool { return e.answer().header.Get(name) != "" }
}
