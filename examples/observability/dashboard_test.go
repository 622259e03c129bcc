package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/trace/noop"
)

// TestDashboardAndAlerts compares the queries of both with what Prometheus gets from a
// demonstration.
func TestDashboardAndAlerts(t *testing.T) {
	series := scrape(t)

	t.Run("dashboard", func(t *testing.T) { testDashboard(t, series) })
	t.Run("alerts", func(t *testing.T) { testAlerts(t, series) })
	t.Run("firing", func(t *testing.T) { testFiring(t, series) })
}

// testDashboard requires that the metrics and labels of the dashboard are in series, and that
// it shows all metrics.
func testDashboard(t *testing.T, series []labels.Labels) {
	text, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	var d dashboard
	require.NoError(t, json.Unmarshal(text, &d))
	shown := make(map[string]bool)
	ids := make(map[int]bool)
	for _, panel := range d.Panels {
		require.False(t, ids[panel.ID], "two panels %d", panel.ID)
		ids[panel.ID] = true
		require.Equal(t, panel.Type == "row", len(panel.Targets) == 0, panel.Title)
		for _, target := range panel.Targets {
			require.Equal(t, "${datasource}", target.Datasource.UID, panel.Title)
			query := strings.NewReplacer("$job", job, "$instance", instance, "$__rate_interval", "1m").Replace(target.Expr)
			checked := check(t, series, query)
			for name := range checked.metrics {
				shown[name] = true
			}
			for _, used := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				require.Contains(t, checked.kept, used[1], "the legend of %s", panel.Title)
			}
		}
	}
	for _, variable := range d.Templating.List {
		if variable.Type == "query" {
			parts := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(variable.Query.Query)
			require.NotNil(t, parts, variable.Query.Query)
			check(t, series, strings.ReplaceAll(parts[1], "$job", job))
			require.Equal(t, variable.Name, parts[2])
		}
	}
	// All metrics of the library are there.
	for _, s := range series {
		if name := family(s.Get(model.MetricNameLabel)); strings.HasPrefix(name, "preflight_") {
			require.Contains(t, shown, name)
		}
	}
}

// A dashboard has the parts of a dashboard of Grafana that the test reads.
type dashboard struct {
	Panels []struct {
		ID          int
		Type, Title string
		Targets     []struct {
			Datasource         struct{ UID string }
			Expr, LegendFormat string
		}
	}
	Templating struct {
		List []struct {
			Name, Type string
			Query      templateQuery
		}
	}
}

// A templateQuery is an object, except that it is a string for the variable that selects the
// data source.
type templateQuery struct{ Query string }

func (q *templateQuery) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		return json.Unmarshal(b, &q.Query)
	}
	type object templateQuery
	return json.Unmarshal(b, (*object)(q))
}

// The labels that Prometheus adds to each series of a target.
const (
	job      = "preflight"
	instance = "127.0.0.1:9464"
)

// scrape runs a demonstration, and returns the series that Prometheus then gets. The parser
// of Prometheus reads them.
func scrape(t *testing.T) []labels.Labels {
	t.Helper()
	registry := prometheus.NewRegistry()
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry))
	require.NoError(t, err)
	telemetry := &preflight.Telemetry{
		TracerProvider: noop.NewTracerProvider(),
		MeterProvider:  metric.NewMeterProvider(metric.WithReader(exporter)),
		Propagator:     propagation.TraceContext{},
	}
	cfg, err := parseFlags(nil)
	require.NoError(t, err)
	require.NoError(t, run(t.Context(), cfg, telemetry, io.Discard))

	response := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(response, httptest.NewRequest("GET", "/metrics", nil))
	exposed, err := textparse.New(response.Body.Bytes(), response.Header().Get("Content-Type"), nil, textparse.ParserOptions{})
	require.NoError(t, err)
	var all []labels.Labels
	for {
		entry, err := exposed.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		if entry == textparse.EntrySeries {
			var series labels.Labels
			exposed.Labels(&series)
			all = append(all, labels.NewBuilder(series).Set("job", job).Set("instance", instance).Labels())
		}
	}
}

// A checked query is a query whose selectors all select something.
type checked struct {
	metrics map[string]bool // the families that it selects
	kept    []string        // the labels that its aggregation keeps
}

// check requires that all metrics, labels and values in a query are those of series.
func check(t *testing.T, series []labels.Labels, query string) checked {
	t.Helper()
	expr, err := parser.ParseExpr(query)
	require.NoError(t, err, query)
	result := checked{metrics: make(map[string]bool)}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			for _, s := range selected(t, series, node) {
				result.metrics[family(s.Get(model.MetricNameLabel))] = true
			}
		case *parser.AggregateExpr:
			result.kept = append(result.kept, node.Grouping...)
			for _, label := range node.Grouping {
				require.True(t, slices.ContainsFunc(below(t, series, node), func(s labels.Labels) bool { return s.Has(label) }),
					"no label %s in %s", label, query)
			}
		}
		return nil
	})
	require.NotEmpty(t, result.metrics, query)
	return result
}

// below returns what the selectors in an expression select.
func below(t *testing.T, series []labels.Labels, expr parser.Expr) (all []labels.Labels) {
	t.Helper()
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			all = append(all, selected(t, series, selector)...)
		}
		return nil
	})
	return all
}

// selected returns what a selector selects. For a|b, both must exist. Not every reason can
// be played, so its words must be those of the documentation instead.
func selected(t *testing.T, series []labels.Labels, selector *parser.VectorSelector) []labels.Labels {
	t.Helper()
	var played []*labels.Matcher
	for _, m := range selector.LabelMatchers {
		if m.Name != "preflight_reason" {
			played = append(played, m)
			continue
		}
		for _, reason := range strings.Split(m.Value, "|") {
			require.Regexp(t, "`\\[?"+regexp.QuoteMeta(reason)+"\\]?`", reasons(t), "no reason %q for %s", reason, selector)
		}
	}
	all := slices.DeleteFunc(slices.Clone(series), func(s labels.Labels) bool { return !matches(s, played) })
	require.NotEmpty(t, all, "nothing is selected by %s", selector)
	for _, m := range played {
		require.True(t, slices.ContainsFunc(all, func(s labels.Labels) bool { return s.Has(m.Name) }),
			"no label %s is selected by %s", m.Name, selector)
		for _, value := range m.SetMatches() {
			require.True(t, slices.ContainsFunc(all, func(s labels.Labels) bool { return s.Get(m.Name) == value }),
				"no %s=%q is selected by %s", m.Name, value, selector)
		}
	}
	return all
}

// reasons returns the pages that have the words of preflight.reason.
func reasons(t *testing.T) (text string) {
	t.Helper()
	for _, page := range []string{"telemetry", "server", "troubleshooting"} {
		b, err := os.ReadFile("../../docs/" + page + ".md")
		require.NoError(t, err)
		text += string(b)
	}
	return text
}

func matches(s labels.Labels, matchers []*labels.Matcher) bool {
	return !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Get(m.Name)) })
}

// family returns the name of a metric, without the suffix that a series of a histogram has.
func family(name string) string {
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}
