package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// results has what a run has measured.
type results struct {
	quick    bool
	machine  []string
	notes    []string // what could not be measured as intended
	sections []*section
	took     time.Duration
}

// A section is a table of the report.
type section struct {
	key, title, text string
	columns          []column
	samples          *samples
}

// A column shows one quantity.
type column struct {
	head string
	cell func(s *samples, row string) string
}

// none stands for a value that was not measured.
const none = "–"

func median(head, quantity, format string) column {
	return column{head, func(s *samples, row string) string {
		v := s.median(row, quantity)
		if math.IsNaN(v) {
			return none
		}
		return fmt.Sprintf(format, v)
	}}
}

// ratio compares with the first row.
func ratio(head, quantity string) column { return against(nil)(head, quantity) }

// against returns a ratio that compares with the row that base returns; nil: with the first.
func against(base func(row string) string) func(head, quantity string) column {
	return func(head, quantity string) column {
		return column{head, func(s *samples, row string) string {
			with := s.rows[0]
			if base != nil {
				with = base(row)
			}
			return s.ratio(row, with, quantity).String()
		}}
	}
}

// spreadOf is for quantities that are already ratios.
func spreadOf(head, quantity string) column {
	return column{head, func(s *samples, row string) string {
		return spreadAmong(s.values[row][quantity]).String()
	}}
}

// section returns a section that was measured, or an empty one.
func (r *results) section(key string) *samples {
	for _, s := range r.sections {
		if s.key == key {
			return s.samples
		}
	}
	return newSamples()
}

func (s *section) markdown() string {
	t := table{heads: []string{""}}
	for _, c := range s.columns {
		t.heads = append(t.heads, c.head)
	}
	for _, row := range s.samples.rows {
		cells := []string{row}
		for _, c := range s.columns {
			cells = append(cells, c.cell(s.samples, row))
		}
		t.rows = append(t.rows, cells)
	}
	return fmt.Sprintf("## %s\n\n%s\n\n%s", s.title, s.text, t.markdown())
}

// A table has numbers in all columns but the first.
type table struct {
	heads []string
	rows  [][]string
}

func (t table) markdown() string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(t.heads)
	line(append([]string{"---"}, repeated("---:", len(t.heads)-1)...))
	for _, row := range t.rows {
		line(row)
	}
	return b.String()
}

func repeated(s string, n int) []string {
	of := make([]string, n)
	for i := range of {
		of[i] = s
	}
	return of
}

const introduction = `# Results

Written by ` + "`go -C bench run%s .%s`" + `, which measures everything in one run.

Client and server are separate processes, so CPU (rusage), allocations and bytes belong to one side.
The rows take turns, and each repetition begins with another row.
In each repetition every row is divided by the first row. A ratio is the median of these quotients, ± half
their interquartile range in percent. Every other value is a median over the repetitions. Connections use the
loopback interface. They are reset on close (SO_LINGER 0), so that none stays in TIME_WAIT. Every row sends the
same head of %d bytes if its protocol allows it.
`

const noise = `## What is noise, and what is not measured

- **Times and CPU** depend on what else the machine does. The ± shows how much within this
  run. If the ranges of two rows overlap, there is no proven difference. If the ± of a row is above about 10 %%,
  ignore its third digit. Between runs, ratios differ by about as much.
- **Allocations, bytes, calls and memory** are counts. They repeat within about 1 %%, RSS within a few percent.
- With one dialer nothing overlaps: the time of both sides, and the time that a thread takes to wake up, add to
  the handshake. If the sides are not pinned, their threads also disturb each other, and this changes
  from minute to minute: on the machine of the committed results, a dozen runs of 100 repetitions gave 1.15 to 1.20,
  and shorter runs 1.11 to 1.30. The client causes a third of this overhead.
- One machine is client, server and proxy at once, without a network. The time of a
  handshake is mostly the work of the kernel and the scheduler. With a real network, the round
  trip dominates in every row, and the differences vanish.
- The WebSocket rows and those of Xray-core and sing-box speak their own protocol, with their own
  fields. go-proxyproto, cmux and the plain client sort a connection first, and then exchange the same bytes
  as bare TCP. crypto/tls does only its handshake, also where tunnels with TLS are compared with it.
- Not measured: HTTP/2, other kernels and processors,
  packet loss, more than %d connections.
`

func (r *results) markdown() string {
	var b strings.Builder
	tags, flags := "", ""
	if len(heavyPeers) > 0 {
		tags = " -tags heavy"
	}
	if r.quick {
		flags = " -quick"
	}
	fmt.Fprintf(&b, introduction+"\n", tags, flags, len(memoryRequest))
	if r.quick {
		b.WriteString("**With -quick there are so few repetitions and connections that times and memory, and the verdicts on them, say\nlittle: it shows that everything can be measured.**\n\n")
	}
	for _, line := range r.machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	fmt.Fprintf(&b, "- It took %s\n", r.took.Round(time.Second))
	for _, note := range r.notes {
		fmt.Fprintf(&b, "- **%s**\n", note)
	}
	fmt.Fprintf(&b, "\n%s\n", r.budgets())
	t := table{heads: []string{"row", "what it is"}}
	for _, p := range slices.Insert(slices.Concat(peers, framedPeers), 1, timed) {
		t.rows = append(t.rows, []string{p.name, p.does})
	}
	fmt.Fprintf(&b, "## The rows\n\n%s\n", strings.Replace(t.markdown(), "---:", "---", 1))
	for _, s := range r.sections {
		fmt.Fprintf(&b, "%s\n", s.markdown())
	}
	fmt.Fprintf(&b, noise, r.most())
	return b.String()
}

// most returns the largest number of connections that were held at once.
func (r *results) most() (n int) {
	for _, row := range r.section(keyGrowth).rows {
		_, number, _ := strings.Cut(row, ", ")
		fmt.Sscan(number, &n)
	}
	return n
}

// write writes the report and the plots.
func (r *results) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := os.WriteFile(filepath.Join(dir, "RESULTS.md"), []byte(r.markdown()), 0o644)
	return errors.Join(err, r.plot(dir))
}
