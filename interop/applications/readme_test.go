package applications

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh/knownhosts"
)

// TestReadme runs the lines of the README that carry psql and ssh, through an nginx that
// forwards only WebSocket. It replaces only the addresses, the token, and the files of the
// machine.
func TestReadme(t *testing.T) {
	dir := t.TempDir()
	program := lab.BuildCommand(t)
	postgres, shell := startPostgres(t), startSSHD(t)
	t.Setenv("PATH", filepath.Dir(program)+":"+os.Getenv("PATH"))
	lab.WriteCertificate(t, dir)
	for from, to := range map[string]string{"cert.pem": "tls.crt", "key.pem": "tls.key"} {
		require.NoError(t, os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)))
	}
	t.Setenv("SSL_CERT_FILE", filepath.Join(dir, "tls.crt"))
	t.Setenv("PGPASSWORD", "secret")
	known := lab.WriteFile(t, dir, "known", knownhosts.Line([]string{"build.example"}, shell.host)+"\n")

	replace := []string{
		"127.0.0.1:5432", postgres, "127.0.0.1:22", shell.address,
		"~/.ssh/config", filepath.Join(dir, "config"),
		"ssh build.example", fmt.Sprintf("ssh -F %s/config -l %s -i %s -o UserKnownHostsFile=%s -o BatchMode=yes build.example echo over ssh", dir, shell.user, shell.keyFile, known),
		"psql ", "psql -X -A -t -U jane -d postgres -c 'SELECT 6 * 7' ",
		"/etc/nginx/conf.d", filepath.Join(dir, "installed.conf"), // nginx.conf has the file of dir
		"/etc/ssl/preflight", filepath.Join(dir, "ssl"),
		"config nginx ", fmt.Sprintf("config nginx --carrier websocket --cert %[1]s/ssl/tls.crt --key %[1]s/ssl/tls.key ", dir),
		"nginx -s reload", fmt.Sprintf("nginx -p %[1]s -c %[1]s/nginx.conf -e stderr -s reload", dir),
	}
	var outputs []string
	run := func(line string) {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", line)
		cmd.Dir = dir
		output, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", line, output)
		outputs = append(outputs, string(output))
	}
	lines := readmeCommands(t)
	for line := range strings.Lines(lines) {
		shown := strings.TrimSpace(line)
		line = strings.NewReplacer(replace...).Replace(shown)
		switch {
		case strings.HasPrefix(line, "preflight serve "), strings.HasPrefix(line, "preflight forward "):
			listen := regexp.MustCompile(`--listen (\S+)`).FindStringSubmatch(line)[1]
			line = strings.ReplaceAll(line, listen, "127.0.0.1:0")
			for _, file := range []string{"tokens", "fields"} {
				line = strings.ReplaceAll(line, "-file "+file, "-file "+filepath.Join(dir, file))
			}
			addresses, _ := startCommand(t, program, strings.Fields(line)[1:]...)
			replace = append(replace, listen, addresses[0], "-p "+lab.Port(listen), "-p "+lab.Port(addresses[0]))
		case strings.Contains(line, ">tokens"):
			run(line)
			tokens, err := os.ReadFile(filepath.Join(dir, "tokens"))
			require.NoError(t, err)
			_, token, _ := strings.Cut(strings.TrimSpace(string(tokens)), " ")
			replace = append(replace, "TOKEN", token)
		case strings.HasPrefix(line, "preflight config "):
			run(strings.NewReplacer(replace...).Replace(regexp.MustCompile("(?m)^install .*tls.key$").FindString(lines))) // nginx runs before
			edge := lab.StartNginxDaemon(t, dir, 2, func(addresses []string) (config string) {
				run(strings.Replace(line, " --path", " --listen "+addresses[0]+" --tls-listen "+addresses[1]+" --path", 1))
				return lab.Render(t, lab.Templates, dir, "nginx.conf", map[string]any{"Root": os.Geteuid() == 0})
			})
			replace = append(replace, "https://edge.example", "https://"+edge.Addresses[1])
		default:
			run(line)
		}
		t.Log(shown)
	}
	require.Contains(t, outputs, "42\n")
	require.Contains(t, outputs, "over ssh\n")
}

// readmeCommands returns the lines of the shell in the section of the README about programs
// that are not written in Go.
func readmeCommands(t *testing.T) (lines string) {
	t.Helper()
	_, section, ok := strings.Cut(lab.Edit(t, "README.md"), "\n## Programs that are not written in Go\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n## ")
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		lines += strings.NewReplacer("\n\n", "\n", "\\\n", "").Replace(block[1])
	}
	return lines
}
