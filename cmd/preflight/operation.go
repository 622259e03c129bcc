package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// signals are those that a command reacts to.
type signals struct {
	ctx    context.Context // ends with the first SIGTERM or SIGINT
	again  context.Context // ends with the second
	reload chan os.Signal
	stop   func()
}

func watchSignals(ctx context.Context) *signals {
	s := &signals{reload: make(chan os.Signal, 1)}
	ending := make(chan os.Signal, 2)
	signal.Notify(ending, endSignals...)
	if len(reloadSignals) > 0 {
		signal.Notify(s.reload, reloadSignals...)
	}
	var first, second context.CancelFunc
	s.ctx, first = context.WithCancel(ctx)
	s.again, second = context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		for _, cancel := range []func(){first, second} {
			select {
			case <-ending:
				cancel()
			case <-done:
				return
			}
		}
	}()
	s.stop = func() {
		signal.Stop(ending)
		signal.Stop(s.reload)
		close(done)
		first()
		second()
	}
	return s
}

// A reloadable is what was read from files.
type reloadable struct {
	name   slog.Attr // of the flag, or of the edge, for the log
	reload func() error
}

// reloadAll reads files again.
func reloadAll(log *slog.Logger, files []reloadable) {
	daemon.SdNotify(false, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
	defer ready()
	for _, f := range files {
		if err := f.reload(); err != nil {
			log.Error("the file is bad; its old content stays in use", f.name, "error", err)
		} else {
			log.Info("reloaded", f.name)
		}
	}
}

// ready and stopping tell systemd, if it runs the program as a unit of Type=notify.
func ready()    { daemon.SdNotify(false, daemon.SdNotifyReady) }
func stopping() { daemon.SdNotify(false, daemon.SdNotifyStopping) }

// A backoff paces a loop that fails, for example because there are no descriptors left.
type backoff struct{ wait time.Duration }

func (b *backoff) sleep() {
	b.wait = min(max(2*b.wait, 5*time.Millisecond), time.Second)
	time.Sleep(b.wait)
}

func (b *backoff) reset() { b.wait = 0 }
