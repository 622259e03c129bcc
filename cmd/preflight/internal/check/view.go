package check

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// A View shows progress and the report to a person.
type View struct {
	out, progress io.Writer // progress is nil if it is not shown
	color         bool

	mu    sync.Mutex
	shown bool // a line of progress stands on the terminal
}

// NewView returns a view that prints reports to out, and progress to err unless quiet.
func NewView(out, err io.Writer, quiet, color bool) *View {
	v := &View{out: out, progress: err, color: color}
	if quiet {
		v.progress = nil
	}
	return v
}

const clearLine = "\r\x1b[K"

// Progress shows what begins, in place of what was shown before.
func (v *View) Progress(what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.progress != nil {
		fmt.Fprintf(v.progress, "%s… %s", clearLine, what)
		v.shown = true
	}
}

// Done removes the progress.
func (v *View) Done() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shown {
		io.WriteString(v.progress, clearLine)
		v.shown = false
	}
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
)

func (v *View) paint(color, text string) string {
	if !v.color {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

func (v *View) mark(ok, known bool) string {
	switch {
	case known:
		return "-   "
	case ok:
		return v.paint(green, "ok  ")
	}
	return v.paint(red, "FAIL")
}

// Print prints the report.
func (v *View) Print(r *Report) {
	fmt.Fprintf(v.out, "%s\n\n", v.paint(bold, r.URL))
	for _, s := range r.Steps {
		fmt.Fprintf(v.out, "  %s  %-12s %8.1f ms  %s\n", v.mark(s.OK, s.known), s.Name, s.Millis, s.Detail)
	}
	if len(r.Questions) > 0 {
		fmt.Fprintf(v.out, "\n  asked:\n")
	}
	unasked := 0
	for _, q := range r.Questions {
		if q.Outcome == failed {
			unasked++
			continue
		}
		fmt.Fprintf(v.out, "    %-16s %8.1f ms  %s\n", q.Name, q.Millis, q.text())
	}
	if unasked > 0 {
		fmt.Fprintf(v.out, "    and %d more that could not be asked\n", unasked)
	}
	if f := r.FarEnd; f != nil {
		fmt.Fprintf(v.out, "\n  arrived at the far end: %s\n", f.Request)
		if len(f.Added) > 0 {
			fmt.Fprintf(v.out, "    added on the way: %s\n", strings.Join(f.Added, ", "))
		}
		if len(f.Removed) > 0 {
			fmt.Fprintf(v.out, "    removed on the way: %s\n", strings.Join(f.Removed, ", "))
		}
		if f.Rewritten != "" {
			fmt.Fprintf(v.out, "    the path is rewritten: %s\n", f.Rewritten)
		}
		if f.Replayed {
			fmt.Fprintf(v.out, "    a request without an answer is sent again, so a token in it must not be for one use\n")
		}
	}
	if len(r.Findings) > 0 {
		fmt.Fprintln(v.out)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(v.out, "  %s  %-12s %8.1f ms  %s\n", v.mark(f.OK, false), f.Name, f.Millis, f.Detail)
		if f.Change != "" {
			fmt.Fprintf(v.out, "        %s\n", f.Change)
		}
	}
	if len(r.Way) > 0 {
		fmt.Fprintf(v.out, "\n  on the way: %s\n", strings.Join(r.Way, ", "))
	}
	fmt.Fprintln(v.out)
	if r.Works {
		fmt.Fprintf(v.out, "%s\n", v.paint(green, "A tunnel opens, by carrier "+r.Carrier+"."))
	} else {
		fmt.Fprintf(v.out, "%s\n", v.paint(red, "No tunnel opens."))
	}
	if r.Verdict != nil {
		v.printVerdict(r.Verdict)
	}
}

func (v *View) printVerdict(d *Verdict) {
	label := func(name string) string { return v.paint(bold, fmt.Sprintf("  %-7s", name)) }
	fmt.Fprintf(v.out, "\n%s %s\n", label("hop"), d.Hop)
	fmt.Fprintf(v.out, "%s %s (%s)\n", label("cause"), d.Cause, v.paint(yellow, string(d.Certainty)))
	fmt.Fprintf(v.out, "%s %s\n", label("change"), d.Change)
	for _, o := range d.Else {
		fmt.Fprintf(v.out, "%s %s\n", label("or"), o)
	}
	if d.Next != "" {
		fmt.Fprintf(v.out, "%s %s\n", label("next"), d.Next)
	}
	if len(d.Config) > 0 {
		fmt.Fprintf(v.out, "\n%s\n", label("paste"))
		for _, line := range d.Config {
			fmt.Fprintf(v.out, "    %s\n", line)
		}
	}
	if d.Print != "" {
		fmt.Fprintf(v.out, "\n  `%s` prints the whole file.\n", d.Print)
	}
}

// text describes an answer in a few words.
func (a *Answer) text() string {
	switch a.Outcome {
	case answered:
		text := statusText(a.Status)
		if a.Author != "" {
			text += ", written by " + a.Author
		} else if len(a.Products) > 0 {
			text += ", passed by " + strings.Join(a.Products, ", ")
		}
		if a.Reason != "" {
			text += " [" + a.Reason + "]"
		}
		return text
	case bytesOf:
		if a.Speaks != "" {
			return "speaks " + a.Speaks
		}
		return "something that is not HTTP"
	case ended:
		return "the connection ends"
	case wasReset:
		return "the connection is reset"
	case silent:
		return "nothing comes"
	}
	return "cannot be asked"
}
