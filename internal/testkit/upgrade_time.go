package testkit

import (
	"context"
	"errors"
	"os"
	"time"
)

var ErrCause = errors.New("the reason why the context ended")

// ContextEnds are the ways in which a handshake without progress ends.
var ContextEnds = map[string]struct {
	Ctx   func(context.Context) (context.Context, context.CancelFunc)
	After time.Duration
	Want  error
	Of    error // the error of the context itself, not its cause; nil: the context has not ended
}{
	"timeout": {context.WithCancel, 10 * time.Second, os.ErrDeadlineExceeded, nil},
	"deadline of ctx": {func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, 3*time.Second)
	}, 3 * time.Second, context.DeadlineExceeded, context.DeadlineExceeded},
	"deadline with a cause": {func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeoutCause(ctx, 3*time.Second, ErrCause)
	}, 3 * time.Second, ErrCause, context.DeadlineExceeded},
	"cancel": {func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(2*time.Second, cancel)
		return ctx, cancel
	}, 2 * time.Second, context.Canceled, context.Canceled},
	"cancel with a cause": {func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancelCause(ctx)
		time.AfterFunc(2*time.Second, func() { cancel(ErrCause) })
		return ctx, func() { cancel(nil) }
	}, 2 * time.Second, ErrCause, context.Canceled},
}
