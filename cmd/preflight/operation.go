package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
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
	// Nobody receives it. But without this, the first record after the reader of standard error has
	// gone, such as journald, would end the program and its tunnels (package os/signal, SIGPIPE).
	// To ignore the signal would also make the children ignore it.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
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
	files  []string  // "" is none
	reload func() error
}

// A reloader reads files again.
type reloader struct {
	log    *slog.Logger
	limits bool                // by Landlock: it is on
	config *reloadable         // the file of --config; nil: there is none
	others func() []reloadable // what the flags name; the config may change it
	seen   map[string][32]byte // the contents that were read last, by file
	failed map[string]string   // the errors of the last reloads, by name
}

// run reads on SIGHUP, and what has changed as often as every says, until a signal ends the
// program. Zero means only on SIGHUP. A reload that is under way then goes on.
func (r *reloader) run(signals *signals, every time.Duration) {
	var tick <-chan time.Time
	if every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		work, asked := r.again, true
		select {
		case <-signals.reload:
		case <-tick:
			work, asked = r.poll, false
		case <-signals.ctx.Done():
			return
		}
		// A read may hang, for example on a file system of the network. The program must still end.
		done := make(chan struct{})
		go func() {
			work()
			close(done)
		}()
		select {
		case <-done:
			if asked {
				ready()
			}
		case <-signals.ctx.Done():
			return
		}
	}
}

// again reads everything.
func (r *reloader) again() {
	daemon.SdNotify(false, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
	r.changed()
	r.failed = nil // who asks is told again
	r.reload(r.all(), slog.LevelInfo)
}

// poll reads what has changed.
func (r *reloader) poll() {
	level := slog.LevelInfo
	if r.seen == nil {
		// A file may have changed since it was read at the start, so the first
		// time all are read. That is no news.
		level = slog.LevelDebug
	}
	r.reload(r.changed(), level)
}

func (r *reloader) all() []reloadable {
	if r.config == nil {
		return r.others()
	}
	return append([]reloadable{*r.config}, r.others()...)
}

// changed returns those of which a file differs from what was seen last, and those that have failed.
// A failure may have another cause than these files: the config names a file that comes later, or
// there was no descriptor left.
func (r *reloader) changed() (changed []reloadable) {
	seen := make(map[string][32]byte)
	for _, x := range r.all() {
		_, differs := r.failed[x.name.String()]
		for _, file := range x.files {
			if file == "" {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				text = []byte(err.Error())
			}
			seen[file] = sha256.Sum256(text)
			differs = differs || seen[file] != r.seen[file]
		}
		if differs {
			changed = append(changed, x)
		}
	}
	r.seen = seen
	return changed
}

// reload reads the files. If one is bad, what was read of it before stays in use. An error that stays
// the same is logged once.
func (r *reloader) reload(files []reloadable, level slog.Level) {
	before := r.failed
	r.failed = make(map[string]string)
	for _, f := range files {
		name := f.name.String()
		err := f.reload()
		switch {
		case err == nil:
			r.log.Log(context.Background(), level, "reloaded", f.name)
			continue
		case before[name] == err.Error():
		case r.limits && errors.Is(err, fs.ErrPermission):
			r.log.Error("the file is bad; its old content stays in use", f.name, "error", err, "hint", "Landlock allows only the folders that the flags named at the start; for others restart the program")
		default:
			r.log.Error("the file is bad; its old content stays in use", f.name, "error", err)
		}
		r.failed[name] = err.Error()
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

// watchdog tells systemd twice in WatchdogSec= that the program lives, until stop is called. That
// includes a drain. alive takes the locks that everything needs, so it hangs if the program does.
func watchdog(log *slog.Logger, alive func()) (stop func()) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog of systemd is not served", "error", err)
	}
	if limit == 0 {
		return func() {}
	}
	ticker, done := time.NewTicker(limit/2), make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				alive()
				daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			case <-done:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(done)
	}
}
