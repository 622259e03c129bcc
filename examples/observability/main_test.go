package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain fails if a goroutine outlives the tests.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	retry := time.NewTicker(20 * time.Millisecond)
	for range 250 {
		if runtime.NumGoroutine() <= before {
			break
		}
		<-retry.C // those that are about to end have a moment to do so
	}
	if left := runtime.NumGoroutine(); code == 0 && left > before {
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%d goroutines before the tests, %d after:\n%s\n", before, left, stacks[:runtime.Stack(stacks, true)])
		code = 1
	}
	os.Exit(code)
}

// setEnvironment sets the variables that the exporters read, and unsets the others.
func setEnvironment(t *testing.T, variables map[string]string) {
	t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	for name, value := range variables {
		t.Setenv(name, value)
	}
}

func TestStandardOutput(t *testing.T) {
	setEnvironment(t, nil)
	cfg, err := parseFlags(nil)
	require.NoError(t, err)
	var out, notes bytes.Buffer
	require.NoError(t, runAndExport(t.Context(), cfg, &out, &notes))
	require.Contains(t, notes.String(), "played: more slow clients than the server has room for\n")

	require.Less(t, out.Len(), 3<<10)
	text := regexp.MustCompile(`, [0-9.]+(µs|ms|s)`).ReplaceAllString(out.String(), "")
	require.True(t, strings.HasPrefix("\n"+text, printedSpans), text)
	for name := range wantMetrics {
		require.Regexp(t, "(?m)^"+name+" \\(.+\\): .+$", text)
	}
	require.Contains(t, text, "preflight.client.handshake.duration (s): 101 upgrade upgraded 3, 403 upgrade refused authorize 1, tls upgrade failed not-tls 1\n")
}

func TestUntilCtrlC(t *testing.T) {
	setEnvironment(t, map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"})
	for name, after := range map[string]string{
		"in the middle of a demonstration": "played: tunnels\n",
		"between two":                      "played: more slow clients than the server has room for\n",
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := parseFlags([]string{"-listen", "127.0.0.1:0"})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			notes := &interrupter{times: 2, after: after, interrupt: cancel}
			require.NoError(t, runAndExport(ctx, cfg, io.Discard, notes))
			require.Equal(t, 2, strings.Count(notes.text.String(), after))
		})
	}
}

// An interrupter is an output that ends the program when a text has been written to it for
// the nth time.
type interrupter struct {
	text      strings.Builder
	times     int
	after     string
	interrupt func()
}

func (w *interrupter) Write(b []byte) (int, error) {
	n, err := w.text.Write(b)
	if strings.Count(w.text.String(), w.after) == w.times {
		w.interrupt()
	}
	return n, err
}

func TestAddressInUse(t *testing.T) {
	setEnvironment(t, map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	cfg, err := parseFlags([]string{"-listen", ln.Addr().String()})
	require.NoError(t, err)
	err = runAndExport(t.Context(), cfg, io.Discard, io.Discard)
	require.ErrorContains(t, err, "start the proxy: listen tcp "+ln.Addr().String())
}

func TestUnknownExporter(t *testing.T) {
	for variable, of := range map[string]string{"OTEL_TRACES_EXPORTER": "spans", "OTEL_METRICS_EXPORTER": "metrics"} {
		setEnvironment(t, map[string]string{variable: "pigeons"})
		err := runAndExport(t.Context(), config{}, io.Discard, io.Discard)
		require.ErrorContains(t, err, "the exporter of "+of+": unknown exporter")
	}
}
