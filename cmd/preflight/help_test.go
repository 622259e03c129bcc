package main

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/preflight-go/preflight/cmd/preflight/internal/config"
	"github.com/stretchr/testify/require"
)

// TestExamples requires that the command accepts the flags of each example in its help.
func TestExamples(t *testing.T) {
	command := regexp.MustCompile(`preflight ('[^']*'|[^|<>)'])*`) // without what the shell does around it
	for name, list := range examples {
		for _, e := range list {
			// The shell finds the words.
			words, err := exec.CommandContext(t.Context(), "bash", "-c", `printf '%s\0' `+command.FindString(e.line)).Output()
			require.NoError(t, err)
			args := strings.Split(strings.TrimSuffix(string(words), "\x00"), "\x00")
			parser, err := kong.New(new(cli), kong.Vars{"version": "", "products": strings.Join(config.Products(), ",")})
			require.NoError(t, err)
			parsed, err := parser.Parse(args[1:])
			require.NoError(t, err, e.line)
			require.Equal(t, name, parsed.Selected().Name)
		}
	}
}
