package check

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/preflight-go/preflight"
)

// repeats is how often tryAgain dials. A proxy that takes its servers in turn leads to each of
// four servers then.
const repeats = 4

// tryAgain opens tunnels by the first carrier again and again, where any tunnel has opened. A
// proxy may share the requests among servers of which not all are right.
func (c *checker) tryAgain(ctx context.Context) {
	carrier := c.Wanted[0]
	before := c.e.find(string(carrier))
	if !slices.ContainsFunc(allCarriers, c.e.opens) || before.Millis >= slowMillis {
		return
	}
	opened := 0
	if before.OK {
		opened = 1
	} else if passing(c.e.codes[string(carrier)], c.e.of(string(carrier))) {
		return
	}
	others := ""
	// The dialer bounds each dial. One bound for all would make the last ones fail on a slow path.
	c.timed(ctx, "repeat", func(context.Context) (string, error) {
		for range repeats {
			tunnel, err := c.dialTunnel(ctx, carrier)
			if err == nil {
				tunnel.Close()
				opened++
				continue
			}
			if ctx.Err() != nil {
				return "interrupted", ctx.Err()
			}
			a := &Answer{Outcome: failed}
			var answer *preflight.StatusError
			if errors.As(err, &answer) {
				a.Outcome, a.Status = answered, answer.StatusCode
			}
			if passing(codeOf(err), a) {
				return fmt.Sprintf("%d of %d tunnels open by %s, and then a limit is reached", opened, repeats+1, carrier), nil
			}
			others = c.failure(a, err)
		}
		if others == "" && !before.OK {
			others = c.failure(c.e.of(string(carrier)), c.e.errs[string(carrier)])
		}
		text := fmt.Sprintf("%d of %d tunnels open by %s", opened, repeats+1, carrier)
		switch opened {
		case 0:
			return fmt.Sprintf("as before, no tunnel opens by %s (%d tried)", carrier, repeats+1), errKnown
		case repeats + 1:
			return text, nil
		}
		c.e.others = others
		return text + "; the others: " + others, errUnsteady
	})
}

var errUnsteady = errors.New("not all tunnels open")

// passing reports whether a failure is one of a limit or a shutdown, which a later dial may not
// meet.
func passing(code string, a *Answer) bool {
	switch code {
	case "rate-limit", "full", "draining":
		return true
	}
	return a.Status == http.StatusTooManyRequests || code == "authorize" && a.Status == http.StatusServiceUnavailable
}
