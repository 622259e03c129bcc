package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/preflight-go/preflight/cmd/preflight/internal/config"
	"github.com/stretchr/testify/require"
)

// TestUnit has systemd check the units of deploy, and rate how exposed the service is. Its
// scale is from 0 to 10. The command must accept the flags.
func TestUnit(t *testing.T) {
	folder, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	program, err := os.Executable()
	require.NoError(t, err)
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root, "deploy", "systemd", name))
		require.NoError(t, err)
		return string(text)
	}
	service, socket := read("preflight.service"), read("preflight.socket")
	// systemd requires that the program exists.
	for name, text := range map[string]string{
		"preflight.service": strings.ReplaceAll(service, "/usr/local/bin/preflight", program), "preflight.socket": socket,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644))
	}
	for _, args := range [][]string{
		{"verify", "--man=no", filepath.Join(folder, "preflight.service"), filepath.Join(folder, "preflight.socket")},
		{"security", "--no-pager", "--offline=true", "--threshold=15", filepath.Join(folder, "preflight.service")}, // 1.5
	} {
		output, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
		require.NoError(t, err, "%s", output)
		if args[0] == "verify" {
			require.Empty(t, string(output), "it warns by text alone")
		}
	}

	command := regexp.MustCompile(`(?s)ExecStart=\S+ (.*?[^\\])\n`).FindStringSubmatch(service)
	require.NotNil(t, command)
	var c cli
	parser, err := kong.New(&c, kong.Vars{"version": "", "products": strings.Join(config.Products(), ",")})
	require.NoError(t, err)
	_, err = parser.Parse(strings.Fields(strings.ReplaceAll(command[1], "\\\n", " ")))
	require.NoError(t, err)
	stop, err := time.ParseDuration(regexp.MustCompile(`TimeoutStopSec=(\S+)`).FindStringSubmatch(service)[1])
	require.NoError(t, err)
	require.Less(t, c.Serve.DrainTimeout, stop)
	require.Contains(t, socket, "FileDescriptorName="+strings.TrimPrefix(c.Serve.Listen.String(), "systemd:")+"\n")
}
