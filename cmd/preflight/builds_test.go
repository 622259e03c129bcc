package main

import (
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is the root of the repository.
var root = filepath.Join("..", "..")

// TestOtherSystems vets the command for systems that no test runs on, and builds it.
func TestOtherSystems(t *testing.T) {
	for _, system := range []string{"windows/amd64", "darwin/arm64"} {
		t.Run(system, func(t *testing.T) {
			goos, goarch, _ := strings.Cut(system, "/")
			env := append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch)
			for _, args := range [][]string{{"vet", "./..."}, {"build", "-o", filepath.Join(t.TempDir(), "preflight"), "."}} {
				cmd := exec.CommandContext(t.Context(), "go", args...)
				cmd.Env = env
				output, err := cmd.CombinedOutput()
				require.NoError(t, err, "go %s: %s", strings.Join(args, " "), output)
			}
		})
	}
}

// TestDockerfile runs the commands of the Dockerfile with the files that its build has, and
// no others. The result must be one static binary.
func TestDockerfile(t *testing.T) {
	folder := t.TempDir()
	ignore, err := os.ReadFile(filepath.Join(root, "deploy", "docker", "Dockerfile.dockerignore"))
	require.NoError(t, err)
	for line := range strings.Lines(string(ignore)) {
		if pattern, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			copyFiles(t, pattern, folder)
		}
	}
	text, err := os.ReadFile(filepath.Join(root, "deploy", "docker", "Dockerfile"))
	require.NoError(t, err)
	program := filepath.Join(folder, "program")
	ran := 0
	for line := range strings.Lines(string(text)) {
		command, ok := strings.CutPrefix(line, "RUN ")
		if !ok {
			continue
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(command, "-o /preflight", "-o "+program))
		cmd.Dir = folder
		cmd.Env = append(os.Environ(), "TARGETOS="+runtime.GOOS, "TARGETARCH="+runtime.GOARCH)
		output, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", command, output)
		ran++
	}
	require.Equal(t, 2, ran)
	output, err := exec.CommandContext(t.Context(), program, "--version").Output()
	require.NoError(t, err)
	require.Contains(t, string(output), "preflight")
	if runtime.GOOS == "linux" {
		file, err := elf.Open(program)
		require.NoError(t, err)
		defer file.Close()
		for _, p := range file.Progs {
			require.NotEqual(t, elf.PT_INTERP, p.Type, "it needs a loader, which the image does not have")
		}
	}
}

// copyFiles copies what matches a pattern at the root of the repository, without tests.
func copyFiles(t *testing.T, pattern, folder string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root, pattern))
	require.NoError(t, err)
	require.NotEmpty(t, names, pattern)
	for _, name := range names {
		require.NoError(t, filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.Name() == "testdata":
				return fs.SkipDir
			case d.IsDir() || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			relative, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			to := filepath.Join(folder, relative)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			return os.WriteFile(to, text, 0o644)
		}))
	}
}
