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
)

// websocketOnly makes nginx forward no other upgrade than that to websocket, as hardened
// configurations do.
var websocketOnly = []string{"    default upgrade;\n    \"\"      close;", "    default close;\n    websocket upgrade;"}

// TestCommand runs programs that are not written in Go through the command preflight, over
// TLS, through nginx.
func TestCommand(t *testing.T) {
	program := lab.BuildCommand(t)
	shell := startSSHD(t)
	redis, postgres, mariadb, mosquitto, broker := startRedis(t), startPostgres(t), startMariaDB(t), startMosquitto(t), startNATS(t)
	page := "the page behind the tunnel"
	pages := startPages(t, page)
	tokens := lab.WriteFile(t, t.TempDir(), "tokens", "tests a-token-for-the-tests\n")
	serve, _ := startCommand(t, program, "serve", "--listen", "127.0.0.1:0", "--token-file", tokens, "--trusted-proxy", "127.0.0.1",
		"--route", "/pg="+postgres, "--route", "/redis="+redis, "--route", "/ssh="+shell.address, "--route", "/page="+pages,
		"--route", "/mariadb="+mariadb, "--route", "/mqtt="+mosquitto, "--route", "/nats="+broker)
	for name, edits := range map[string][]string{"nginx": nil, "websocket-only": websocketOnly} {
		t.Run(name, func(t *testing.T) {
			edge := lab.StartNginx(t, serve[0], edits...).TLS
			c := commandTest{
				program: program, url: "https://" + edge.Address + "/client",
				flags: []string{"--ca", writePeerCertificate(t, edge.Address), "--header", "Authorization: Bearer a-token-for-the-tests"},
			}
			forward := []string{"forward"}
			for _, path := range []string{"/pg", "/redis", "/page", "/mariadb", "/mqtt", "/nats"} {
				forward = append(forward, "--map", "127.0.0.1:0="+c.url+path)
			}
			local, log := startCommand(t, program, append(forward, c.flags...)...)
			t.Run("psql", func(t *testing.T) { testPsql(t, local[0]) })
			t.Run("redis-cli", func(t *testing.T) { testRedisCLI(t, local[1]) })
			t.Run("curl", func(t *testing.T) {
				require.Equal(t, page, runProgram(t, "", "curl", "-sS", "--noproxy", "*", "http://"+local[2]+"/"))
			})
			t.Run("mariadb", func(t *testing.T) { testMariaDBClient(t, local[3]) })
			t.Run("mosquitto", func(t *testing.T) { testMosquittoClients(t, local[4]) })
			t.Run("nats", func(t *testing.T) { testNATSClient(t, local[5]) })
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
	c := launchCommand(t, program, args...)
	t.Cleanup(func() {
		// It drains. A tunnel that is still open would be cut, which is an error.
		if err := c.end(); err != nil || t.Failed() {
			t.Errorf("%v: %s", err, c.log())
		}
	})
	return c.addresses, c.log
}

// A commandProcess is a command that runs in the background.
type commandProcess struct {
	cmd       *exec.Cmd
	addresses []string // at which it listens
	log       func() string
}

func launchCommand(t *testing.T, program string, args ...string) *commandProcess {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	c := &commandProcess{cmd: exec.Command(program, args...)}
	c.log = func() string {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(text)
	}
	file, err := os.Create(path)
	require.NoError(t, err)
	c.cmd.Stderr = file
	require.NoError(t, c.cmd.Start())
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			c.cmd.Process.Kill()
			c.cmd.Wait()
		}
	})
	file.Close()
	words := strings.Join(args, " ")
	want := strings.Count(words, "--listen ") + strings.Count(words, "--map ")
	lab.WaitUntil(t, "the command listens", func() bool {
		c.addresses = nil
		for line := range strings.Lines(c.log()) {
			if _, rest, ok := strings.Cut(line, "msg=listening address="); ok {
				address, _, _ := strings.Cut(rest, " ")
				c.addresses = append(c.addresses, address)
			}
		}
		return len(c.addresses) == want
	})
	return c
}

// end ends the process by a signal, and returns an error unless its exit code is 0.
func (c *commandProcess) end() error {
	c.cmd.Process.Signal(os.Interrupt)
	return c.cmd.Wait()
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
	cmd.Env = append(os.Environ(), "PGPASSWORD=secret", "REDISCLI_AUTH=secret", "MYSQL_PWD=secret")
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

// startPages runs a plain HTTP server, which knows nothing of tunnels.
func startPages(t *testing.T, page string) (address string) {
	t.Helper()
	l := lab.Listen(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })}
	lab.RunServer(t, func() { server.Serve(l) }, server.Close)
	return l.Addr().String()
}
