package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	api "go.opentelemetry.io/otel/trace"
)

// A tree is an exporter that prints spans as trees.
type tree struct{ out io.Writer }

// ExportSpans prints the trees of the spans in a batch. A span whose parent is not among them
// is printed as a root.
func (t tree) ExportSpans(_ context.Context, spans []trace.ReadOnlySpan) error {
	spans = slices.SortedStableFunc(slices.Values(spans), func(a, b trace.ReadOnlySpan) int {
		return a.StartTime().Compare(b.StartTime())
	})
	here := make(map[api.SpanID]bool)
	for _, s := range spans {
		here[s.SpanContext().SpanID()] = true
	}
	var text strings.Builder
	var below func(parent api.SpanID, indent string)
	below = func(parent api.SpanID, indent string) {
		for _, s := range spans {
			above := s.Parent().SpanID()
			if !here[above] {
				above = api.SpanID{}
			}
			if above == parent {
				fmt.Fprintf(&text, "%s%s\n", indent, line(s))
				below(s.SpanContext().SpanID(), indent+"  ")
			}
		}
	}
	below(api.SpanID{}, "")
	_, err := io.WriteString(t.out, text.String())
	return err
}

func (tree) Shutdown(context.Context) error { return nil }

// line returns the line of a span: its name, its kind, its outcome, its duration, and the
// stages that it has completed.
func line(s trace.ReadOnlySpan) string {
	text := s.Name()
	if kind := s.SpanKind(); kind != api.SpanKindInternal {
		text += fmt.Sprintf(" (%v)", kind)
	}
	set := attribute.NewSet(s.Attributes()...)
	for _, key := range []attribute.Key{semconv.HTTPResponseStatusCodeKey, semconv.ErrorTypeKey} {
		if v, ok := set.Value(key); ok && !strings.HasSuffix(text, v.String()) {
			text += " " + v.String()
		}
	}
	text += fmt.Sprintf(", %v", s.EndTime().Sub(s.StartTime()).Round(time.Microsecond))
	for i, event := range s.Events() {
		text += []string{": ", ", "}[min(i, 1)] + strings.TrimPrefix(event.Name, "preflight.")
	}
	return text
}

// printMetrics prints a line for each metric, with its values by kind and outcome.
func printMetrics(ctx context.Context, out io.Writer, reader metric.Reader) error {
	var all metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &all); err != nil {
		return err
	}
	var text strings.Builder
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			fmt.Fprintf(&text, "%s (%s): %s\n", m.Name, m.Unit, strings.Join(values(m.Data), ", "))
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// values returns the values of a metric: sums, and the counts of a histogram.
func values(data metricdata.Aggregation) (all []string) {
	add := func(set attribute.Set, value any) {
		text := fmt.Sprint(value)
		var labels []string
		for _, kv := range set.ToSlice() {
			labels = append(labels, kv.Value.String())
		}
		if len(labels) > 0 {
			text = strings.Join(slices.Compact(labels), " ") + " " + text
		}
		all = append(all, text)
	}
	switch data := data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, p.Value)
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			add(p.Attributes, p.Count)
		}
	}
	slices.SortFunc(all, cmp.Compare[string])
	return all
}
