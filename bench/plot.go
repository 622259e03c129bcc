package main

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
)

var (
	blue   = color.RGBA{0x1f, 0x5f, 0x99, 0xff}
	orange = color.RGBA{0xd9, 0x7b, 0x1e, 0xff}
)

// plots are the files that are written.
var plots = []string{"handshake.svg", "allocations.svg", "idle.svg", "growth.svg", "profile.svg", "profile-carriers.svg"}

// A series is the bars of one colour.
type series struct {
	name  string
	color color.Color
	value func(row string) float64
}

// plot writes the plots.
func (r *results) plot(dir string) error {
	one, many := r.section(keyOne), r.section(keyMany)
	ratioIn := func(s *samples, quantity string) func(string) float64 {
		return func(row string) float64 { return s.ratio(row, s.first(), quantity).median }
	}
	medianIn := func(s *samples, quantity string, scale float64) func(string) float64 {
		return func(row string) float64 { return s.median(row, quantity) / scale }
	}
	idle := r.section(keyIdle)
	return errors.Join(
		bars(filepath.Join(dir, plots[0]), "Time of a handshake, in terms of bare TCP", many.rows,
			series{"1 dialer", blue, ratioIn(one, elapsed)}, series{"64 dialers", orange, ratioIn(many, elapsed)}),
		bars(filepath.Join(dir, plots[1]), "Allocated for a handshake, KiB", many.rows,
			series{"server", blue, medianIn(many, serverBytes, 1<<10)}, series{"client", orange, medianIn(many, clientBytes, 1<<10)}),
		bars(filepath.Join(dir, plots[2]), "Resident memory of an idle connection, KiB", idle.rows,
			series{"server", blue, medianIn(idle, rss, 1<<10)}),
		r.plotGrowth(filepath.Join(dir, plots[3])),
		stacked(filepath.Join(dir, plots[4]), "CPU time of a handshake, µs", r.section(keyProfile)),
		stacked(filepath.Join(dir, plots[5]), "CPU time of 64 KiB, µs", r.section(keyCarriers)),
	)
}

// sans is measured with the font of gonum/plot. Fonts of about its width are on all
// systems.
const (
	sans         = "Liberation Sans"
	sansOrOthers = "Liberation Sans,Arial,Helvetica,sans-serif"
)

func newPlot(title string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.BackgroundColor = color.White // on dark pages too
	for _, of := range []*text.Style{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		of.Font.Variant, of.Font.Size = "Sans", vg.Points(10)
	}
	p.Title.TextStyle.Font.Size = vg.Points(13)
	p.Title.Padding = vg.Points(6)
	p.Legend.XOffs, p.Legend.Padding = vg.Points(-12), vg.Points(3)
	return p
}

// save writes a plot. Its size is always the same.
func save(p *plot.Plot, height float64, file string) error {
	w, err := p.WriterTo(vg.Points(640), vg.Points(height), "svg")
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if _, err := w.WriteTo(&b); err != nil {
		return err
	}
	return os.WriteFile(file, bytes.ReplaceAll(b.Bytes(), []byte(sans), []byte(sansOrOthers)), 0o644)
}

// bars draws horizontal bars, the first row at the top.
func bars(file, title string, rows []string, of ...series) error {
	p := newPlot(title)
	rows = slices.Clone(rows)
	slices.Reverse(rows)
	const width = 7
	highest := 0.0
	for i, s := range of {
		values := make(plotter.Values, len(rows))
		for j, row := range rows {
			if v := s.value(row); !math.IsNaN(v) {
				values[j] = v
			}
			highest = max(highest, values[j])
		}
		b, err := plotter.NewBarChart(values, vg.Points(width))
		if err != nil {
			return err
		}
		b.Horizontal, b.Color, b.LineStyle.Width = true, s.color, 0
		b.Offset = vg.Points(width * (float64(len(of)-1)/2 - float64(i)))
		p.Add(b)
		if len(of) > 1 {
			p.Legend.Add(s.name, b)
		}
		labels, err := plotter.NewLabels(barLabels(values))
		if err != nil {
			return err
		}
		for j := range labels.TextStyle {
			labels.TextStyle[j].Font.Variant, labels.TextStyle[j].Font.Size = "Sans", vg.Points(7)
		}
		labels.Offset.X, labels.Offset.Y = vg.Points(3), b.Offset-vg.Points(3)
		p.Add(labels)
	}
	p.NominalY(rows...)
	p.X.Min, p.X.Max = 0, highest*1.12
	p.Legend.YOffs = vg.Points(8)
	return save(p, 60+24*float64(len(rows)), file)
}

// stacked draws a horizontal bar for each row of a profile, with the classes behind each other.
func stacked(file, title string, s *samples) error {
	p := newPlot(title)
	rows := slices.Clone(s.rows)
	slices.Reverse(rows)
	ends := make(plotter.Values, len(rows))
	var below *plotter.BarChart
	for _, class := range classes {
		values := make(plotter.Values, len(rows))
		for i, row := range rows {
			values[i] = s.median(row, class.name)
			ends[i] += values[i]
		}
		b, err := plotter.NewBarChart(values, vg.Points(14))
		if err != nil {
			return err
		}
		b.Horizontal, b.Color, b.LineStyle.Width = true, class.color, 0
		if below != nil {
			b.StackOn(below)
		}
		below = b
		p.Add(b)
		p.Legend.Add(class.name, b)
	}
	labels, err := plotter.NewLabels(barLabels(ends))
	if err != nil {
		return err
	}
	for i := range labels.TextStyle {
		labels.TextStyle[i].Font.Variant, labels.TextStyle[i].Font.Size = "Sans", vg.Points(8)
	}
	labels.Offset.X, labels.Offset.Y = vg.Points(3), vg.Points(-3)
	p.Add(labels)
	p.NominalY(rows...)
	// The legend stands beside the bars.
	p.X.Min, p.X.Max = 0, slices.Max(ends)*1.65
	p.Legend.YOffs = vg.Points(8)
	return save(p, 60+28*float64(len(rows)), file)
}

func barLabels(values plotter.Values) plotter.XYLabels {
	l := plotter.XYLabels{XYs: make(plotter.XYs, len(values)), Labels: make([]string, len(values))}
	for i, v := range values {
		l.XYs[i] = plotter.XY{X: v, Y: float64(i)}
		l.Labels[i] = fmt.Sprintf("%.3g", v)
	}
	return l
}

// plotGrowth draws the memory of a connection over their number.
func (r *results) plotGrowth(file string) error {
	p := newPlot("Resident memory of a connection, KiB, as connections grow")
	p.X.Label.Text = "connections"
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	s := r.section(keyGrowth)
	highest := 0.0
	for i, peer := range grown {
		var line plotter.XYs
		for _, row := range s.rows {
			name, number, _ := strings.Cut(row, ", ")
			var n float64
			if _, err := fmt.Sscan(number, &n); err != nil {
				return err
			}
			if name == peer {
				line = append(line, plotter.XY{X: n, Y: s.median(row, rss) / (1 << 10)})
				highest = max(highest, line[len(line)-1].Y)
			}
		}
		l, points, err := plotter.NewLinePoints(line)
		if err != nil {
			return err
		}
		l.Color, points.Color = []color.Color{orange, blue}[i], []color.Color{orange, blue}[i]
		l.Width = vg.Points(1.5)
		p.Add(l, points)
		p.Legend.Add(peer, l, points)
	}
	p.Y.Min, p.Y.Max = 0, highest*1.2
	p.X.Max *= 1.3
	p.Legend.YOffs = vg.Points(12)
	return save(p, 260, file)
}
