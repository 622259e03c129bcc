package applications

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh/knownhosts"
)

// websocketOnly makes nginx forward no other upgrade than that to websocket, as hardened
// configurations do.
var websocketOnly = []string{"    default upgrade;\n    \"\"      close;", "    default close;\n    websocket upgrade;"}

// TestCommand runs programs that are not written in Go through the command preflight, over
// TLS, through nginx.
func TestCommand(t *testing.T) {
	program := lab.BuildCommand(t)
	shell := startSSHD(t)
	redis, postgres := startRedis(t), startPostgres(t)
	page := "the page behind the tunnel"
	pages := startPages(t, page)
	tokens := lab.WriteFile(t, t.TempDir(), "tokens", "tests a-token-for-the-tests\n")
	serve, _ := startCommand(t, program, "serve", "--listen", "127.0.0.1:0", "--token-file", tokens, "--trusted-proxy", "127.0.0.1",
		"--route", "/pg="+postgres, "--route", "/redis="+redis, "--route", "/ssh="+shell.address, "--route", "/page="+pages)
	for name, edits := range map[string][]string{"nginx": nil, "websocket-only": websocketOnly} {
		t.Run(name, func(t *testing.T) {
			edge := lab.StartNginx(t, serve[0], edits...).TLS
			c := commandTest{
				program: program, url: "https://" + edge.Address + "/client",
				flags: []string{"--ca", writePeerCertificate(t, edge.Address), "--header", "Authorization: Bearer a-token-for-the-tests"},
			}
			listen := []string{"forward", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"}
			local, log := startCommand(t, program, append(append(listen, c.flags...), c.url+"/pg", c.url+"/redis", c.url+"/page")...)
			t.Run("psql", func(t *testing.T) { testPsql(t, local[0]) })
			t.Run("redis-cli", func(t *testing.T) { testRedisCLI(t, local[1]) })
			t.Run("curl", func(t *testing.T) {
				require.Equal(t, page, runProgram(t, "", "curl", "-sS", "--noproxy", "*", "http://"+local[2]+"/"))
			})
			carrier := "carrier=upgrade"
			if edits != nil {
				carrier = "carrier=websocket"
			}
			tunnels := strings.Count(log(), " carrier=")
			require.NotZero(t, tunnels)
			require.Equal(t, tunnels, strings.Count(log(), " "+carrier+" "))
			t.Run("ssh", func(t *testing.T) { c.testSSH(t, shell) })
		})
	}
}

type commandTest struct {
	program string
	url     string
	flags   []string
}

// startCommand runs the command in the background, and returns the addresses at which it
// listens, and its log.
func startCommand(t *testing.T, program string, args ...string) (addresses []string, log func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	log = func() string {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(text)
	}
	file, err := os.Create(path)
	require.NoError(t, err)
	cmd := exec.Command(program, args...)
	cmd.Stderr = file
	require.NoError(t, cmd.Start())
	file.Close()
	t.Cleanup(func() {
		// It drains. A tunnel that is still open would be cut, which is an error.
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("%v: %s", err, log())
		}
	})
	want := strings.Count(strings.Join(args, " "), "--listen ")
	lab.WaitUntil(t, "the command listens", func() bool {
		addresses = nil
		for line := range strings.Lines(log()) {
			if _, rest, ok := strings.Cut(line, "msg=listening address="); ok {
				address, _, _ := strings.Cut(rest, " ")
				addresses = append(addresses, address)
			}
		}
		return len(addresses) == want
	})
	return addresses, log
}

// writePeerCertificate writes the certificate of a server to a file.
func writePeerCertificate(t *testing.T, address string) (file string) {
	t.Helper()
	c, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer c.Close()
	block := &pem.Block{Type: "CERTIFICATE", Bytes: c.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw}
	return lab.WriteFile(t, t.TempDir(), "ca.pem", string(pem.EncodeToMemory(block)))
}

// runProgram runs a program to its end, and returns what it prints.
func runProgram(t *testing.T, stdin string, command ...string) (stdout string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*lab.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, lab.FindBinary(t, command[0]), command[1:]...)
	cmd.Env = append(os.Environ(), "PGPASSWORD=secret", "REDISCLI_AUTH=secret")
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", stderr.String())
	return string(out)
}

// testPsql copies rows in and out, and cancels a query, which takes a second connection.
func testPsql(t *testing.T, address string) {
	psql := func(stdin string, args ...string) string {
		uri := "postgres://jane@" + address + "/postgres?sslmode=require"
		return runProgram(t, stdin, append([]string{"psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", uri}, args...)...)
	}
	const rows = 200_000
	var data strings.Builder
	for i := range rows {
		fmt.Fprintf(&data, "%d\tthe text of a row, which is long enough to fill a few frames\n", i)
	}
	psql("", "-c", "DROP TABLE IF EXISTS copied", "-c", "CREATE TABLE copied (n int, s text)")
	psql(data.String(), "-c", `\copy copied FROM STDIN`)
	require.Equal(t, fmt.Sprintln(rows), psql("", "-c", "SELECT count(*) FROM copied"))
	require.True(t, data.String() == psql("", "-c", `\copy (SELECT * FROM copied ORDER BY n) TO STDOUT`))

	uri := "postgres://jane@" + address + "/postgres?sslmode=disable&application_name=cancelled"
	cmd := exec.CommandContext(t.Context(), lab.FindBinary(t, "psql"), "-X", uri, "-c", "SELECT pg_sleep(600)")
	cmd.Env = append(os.Environ(), "PGPASSWORD=secret")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	lab.WaitUntil(t, "the query runs", func() bool {
		return psql("", "-c", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cancelled' AND wait_event = 'PgSleep'") == "1\n"
	})
	require.NoError(t, cmd.Process.Signal(os.Interrupt)) // psql sends a CancelRequest
	cmd.Wait()
	require.Contains(t, stderr.String(), "canceling statement due to user request")
}

// testRedisCLI sends many commands at once, and a large value.
func testRedisCLI(t *testing.T, address string) {
	cli := func(stdin string, args ...string) string {
		return runProgram(t, stdin, append([]string{"redis-cli", "-h", "127.0.0.1", "-p", lab.Port(address)}, args...)...)
	}
	require.Equal(t, "PONG\n", cli("", "PING"))
	large := strings.Repeat("0123456789abcdef", 1<<16)
	require.Equal(t, "OK\n", cli(large, "-x", "SET", "large"))
	require.Equal(t, large+"\n", cli("", "GET", "large"))
	var commands strings.Builder
	for i := range 10_000 {
		key := fmt.Sprintf("key:%d", i)
		fmt.Fprintf(&commands, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$1\r\nx\r\n", len(key), key)
	}
	require.Contains(t, cli(commands.String(), "--pipe"), "errors: 0, replies: 10000")
}

// testSSH uses the lines that --ssh-config prints, for ssh and for scp.
func (c commandTest) testSSH(t *testing.T, server sshd) {
	dir := t.TempDir()
	args := append([]string{"connect", "--ssh-config", "tunnel"}, c.flags...)
	lines, err := exec.CommandContext(t.Context(), c.program, append(args, c.url+"/ssh")...).Output()
	require.NoError(t, err)
	known := lab.WriteFile(t, dir, "known", knownhosts.Line([]string{"tunnel"}, server.host)+"\n")
	config := lab.WriteFile(t, dir, "config", string(lines)+fmt.Sprintf("    User %s\n    IdentityFile %s\n    UserKnownHostsFile %s\n", server.user, server.keyFile, known))

	// The command reads to the end of its input before it answers.
	input := strings.Repeat("a line for sha256sum\n", 1<<16)
	local := runProgram(t, input, "sha256sum")
	require.Equal(t, local, runProgram(t, input, "ssh", "-F", config, "-o", "BatchMode=yes", "tunnel", "sha256sum"))

	data := lab.RandomBytes(16 << 20)
	source := lab.WriteFile(t, dir, "source", string(data))
	runProgram(t, "", "scp", "-q", "-B", "-F", config, source, "tunnel:"+filepath.Join(dir, "there"))
	runProgram(t, "", "scp", "-q", "-B", "-F", config, "tunnel:"+filepath.Join(dir, "there"), filepath.Join(dir, "back"))
	back, err := os.ReadFile(filepath.Join(dir, "back"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, back))
}

// startPages runs a plain HTTP server, which knows nothing of tunnels.
func startPages(t *testing.T, page string) (address string) {
	t.Helper()
	l := lab.Listen(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })}
	lab.RunServer(t, func() { server.Serve(l) }, server.Close)
	return l.Addr().String()
}
