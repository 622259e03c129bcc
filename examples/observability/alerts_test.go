package main

import (
	"maps"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"
)

// alerts are the rules in alerts.yaml.
func alerts(t *testing.T) []rulefmt.Rule {
	t.Helper()
	text, err := os.ReadFile("alerts.yaml")
	require.NoError(t, err)
	rules, errs := rulefmt.Parse(text, false, model.UTF8Validation)
	require.Empty(t, errs)
	require.Len(t, rules.Groups, 1)
	return rules.Groups[0].Rules
}

// testAlerts requires that the metrics and labels of the rules are in series.
func testAlerts(t *testing.T, series []labels.Labels) {
	for _, rule := range alerts(t) {
		require.Contains(t, []string{"warning", "critical"}, rule.Labels["severity"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["runbook"], rule.Alert)
		summary := rule.Annotations["summary"]
		require.NotEmpty(t, summary, rule.Alert)
		kept := check(t, series, rule.Expr).kept
		for _, used := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(summary, -1) {
			require.Contains(t, kept, used[1], "%s: %s", rule.Alert, summary)
		}
	}
}

const (
	upgraded     = `preflight_server_handshake_duration_seconds_count{preflight_kind="upgraded",http_response_status_code="101"}`
	ordinary     = `preflight_server_handshake_duration_seconds_count{preflight_kind="http"}`
	refused      = `preflight_server_handshake_duration_seconds_count{preflight_kind="refused",http_response_status_code="403",preflight_reason="authorize"}`
	healthCheck  = `preflight_server_handshake_duration_seconds_count{preflight_kind="refused",http_response_status_code="426",preflight_reason="health-check"}`
	draining     = `preflight_server_handshake_duration_seconds_count{preflight_kind="refused",http_response_status_code="503",preflight_reason="draining"}`
	stripped     = `preflight_server_handshake_duration_seconds_count{preflight_kind="refused",http_response_status_code="426",preflight_reason="no-upgrade"}`
	panicked     = `preflight_server_handshake_duration_seconds_count{preflight_kind="refused",http_response_status_code="500",preflight_reason="panic"}`
	failed       = `preflight_server_handshake_duration_seconds_count{preflight_kind="failed",preflight_reason="timeout"}`
	probe        = `preflight_server_handshake_duration_seconds_count{preflight_kind="probe"}`
	within500ms  = `preflight_server_handshake_duration_seconds_bucket{preflight_kind="upgraded",le="0.5"}`
	within2500ms = `preflight_server_handshake_duration_seconds_bucket{preflight_kind="upgraded",le="2.5"}`
	within       = `preflight_server_handshake_duration_seconds_bucket{preflight_kind="upgraded",le="+Inf"}`
	pending      = `preflight_server_handshake_pending`
	evictions    = `preflight_server_evictions_total`
	dialed       = `preflight_client_handshake_duration_seconds_count{preflight_kind="upgraded"}`
	dialRefused  = `preflight_client_handshake_duration_seconds_count{preflight_kind="refused",preflight_reason="no-route"}`
	dialDraining = `preflight_client_handshake_duration_seconds_count{preflight_kind="refused",preflight_reason="draining"}`
)

// healthy has the values of a port without problems, minute by minute. 0+6x60 is a counter
// that grows by 6 in each minute, and 6x60 is one that does not change.
var healthy = map[string]string{
	upgraded: "0+600x60", ordinary: "0+6x60", refused: "0+6x60", failed: "0+6x60",
	within500ms: "0+600x60", within2500ms: "0+600x60", within: "0+600x60",
	pending: "30x60", evictions: "3x60",
	dialed: "0+600x60", dialRefused: "0+6x60",
}

// unhealthy has the values that differ when an alert must fire.
var unhealthy = map[string]map[string]string{
	"PreflightNoUpgrades":       {upgraded: "600x60", refused: "6x60", failed: "6x60", stripped: "0+6x60"},
	"PreflightServerFaults":     {panicked: "0+1x60"},
	"PreflightRefusals":         {refused: "0+100x60"},
	"PreflightFailures":         {failed: "0+100x60"},
	"PreflightPendingNearLimit": {pending: "4000x60"},
	"PreflightEvictions":        {evictions: "0+1x60"},
	"PreflightSlowHandshakes":   {within500ms: "0+500x60"},
	"PreflightDialsFail":        {dialRefused: "0+100x60"},
}

// noise is what must not matter: probes, health checks, and a listener that drains.
var noise = map[string]string{probe: "0+6000x60", healthCheck: "0+6000x60", draining: "0+6000x60", dialDraining: "0+6000x60"}

// testFiring requires that each alert fires when it must, and that no other alert fires then.
// Noise must change nothing, even if there is much of it: it raises no alert, also on a port
// without other connections, and it hides none.
func testFiring(t *testing.T, series []labels.Labels) {
	with := func(values map[string]string) map[string]string {
		all := maps.Clone(noise)
		maps.Copy(all, values)
		return all
	}
	require.Empty(t, firing(t, series, healthy))
	require.Empty(t, firing(t, series, with(healthy)))
	require.Empty(t, firing(t, series, with(nil)))
	for _, rule := range alerts(t) {
		values := maps.Clone(healthy)
		maps.Copy(values, unhealthy[rule.Alert])
		expected := []string{rule.Alert}
		if rule.Alert == "PreflightNoUpgrades" {
			expected = append(expected, "PreflightRefusals") // which all of the requests are then
		}
		require.Equal(t, expected, firing(t, series, values))
		require.Equal(t, expected, firing(t, series, with(values)))
	}
}

// firing returns the alerts that fire for the values of some series. The engine of Prometheus
// evaluates them.
func firing(t *testing.T, series []labels.Labels, values map[string]string) (names []string) {
	t.Helper()
	var stored memory
	for selector, notation := range values {
		check(t, series, anyStatus.ReplaceAllString(selector, `http_response_status_code!=""`)) // not every status is played
		metric, sequence, err := parser.ParseSeriesDesc(selector + " " + notation)
		require.NoError(t, err)
		s := promql.Series{Metric: labels.NewBuilder(metric).Set("job", job).Set("instance", instance).Labels()}
		for minute, value := range sequence {
			s.Floats = append(s.Floats, promql.FPoint{T: int64(minute) * 60_000, F: value.Value})
		}
		stored = append(stored, s)
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})
	defer engine.Close()
	for _, rule := range alerts(t) {
		query, err := engine.NewInstantQuery(t.Context(), stored, nil, rule.Expr, time.Unix(45*60, 0))
		require.NoError(t, err)
		result, err := query.Exec(t.Context()).Vector()
		require.NoError(t, err)
		if len(result) > 0 {
			names = append(names, rule.Alert)
		}
		query.Close()
	}
	return names
}

var anyStatus = regexp.MustCompile(`http_response_status_code="[^"]+"`)

// memory is a storage with a few series.
type memory []promql.Series

func (m memory) Querier(int64, int64) (storage.Querier, error) {
	return &storage.MockQuerier{SelectMockFunction: m.selectSeries}, nil
}

func (m memory) selectSeries(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	set := new(seriesSet)
	for _, s := range m {
		if matches(s.Metric, matchers) {
			set.rest = append(set.rest, s)
		}
	}
	return set
}

// A seriesSet iterates over series.
type seriesSet struct {
	at   promql.Series
	rest []promql.Series
}

func (s *seriesSet) Next() bool {
	if len(s.rest) == 0 {
		return false
	}
	s.at, s.rest = s.rest[0], s.rest[1:]
	return true
}

func (s *seriesSet) At() storage.Series                { return promql.NewStorageSeries(s.at) }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }
