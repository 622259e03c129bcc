package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// play publishes messages until ctx ends, or until the duration is over if it is not 0. Then it
// waits for the messages that are still under way. It returns the number of messages, and
// an error that says what did not arrive.
func play(ctx context.Context, duration time.Duration, out io.Writer, publisher net.Conn, arrivals <-chan arrival, subscribers ...*subscriber) (int, error) {
	if duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, duration)
		defer cancel()
	}
	published, err := relay(ctx, out, publisher, arrivals, subscribers)
	for _, s := range subscribers {
		err = errors.Join(err, s.check(published))
	}
	return published, err
}

// relay publishes and prints in one loop, so that only one goroutine prints.
func relay(ctx context.Context, out io.Writer, publisher net.Conn, arrivals <-chan arrival, subscribers []*subscriber) (published int, err error) {
	publishNext := func() error {
		published++
		fmt.Fprintf(out, "  %-20s -> #%d %s\n", "publisher", published, greeting)
		return publish(publisher, published)
	}
	if err := publishNext(); err != nil {
		return published, err
	}
	next := time.NewTicker(interval)
	defer next.Stop()
	end := ctx.Done()
	outstanding := func(s *subscriber) bool { return !s.has(published) }
	var overdue <-chan time.Time // not nil after the last message
	for overdue == nil || slices.ContainsFunc(subscribers, outstanding) {
		select {
		case <-next.C:
			if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
				continue // the duration is over too, and select chooses at random
			}
			if err := publishNext(); err != nil {
				return published, err
			}
		case a := <-arrivals:
			if a.err != nil {
				return published, fmt.Errorf("the connection of the %s ended: %w", a.at.name, a.err)
			}
			a.at.arrive(a.line)
			fmt.Fprintf(out, "  %-20s <- #%d %s\n", a.at.name, a.line.Number, a.line.Data)
		case <-end:
			end = nil
			next.Stop()
			overdue = time.After(timeout)
		case <-overdue:
			return published, nil
		}
	}
	return published, nil
}
