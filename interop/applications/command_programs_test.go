package applications

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh/knownhosts"
)

// testMariaDBClient inserts and reads many rows. The server speaks first.
func testMariaDBClient(t *testing.T, address string) {
	client := func(stdin string, args ...string) string {
		return runProgram(t, stdin, append([]string{"mariadb", "--no-defaults", "-h", "127.0.0.1", "-P", lab.Port(address), "-u", "jane", "-N", "-B", "app"}, args...)...)
	}
	client("", "-e", "DROP TABLE IF EXISTS numbers; CREATE TABLE numbers (n INT PRIMARY KEY, s TEXT)")
	var insert, want strings.Builder
	insert.WriteString("INSERT INTO numbers VALUES (0, '')")
	want.WriteString("0\t\n")
	for i := 1; i < 20_000; i++ {
		text := strings.Repeat("x", i%100)
		fmt.Fprintf(&insert, ",(%d,'%s')", i, text)
		fmt.Fprintf(&want, "%d\t%s\n", i, text)
	}
	client(insert.String())
	require.True(t, want.String() == client("", "-e", "SELECT * FROM numbers ORDER BY n"))
}

// testMosquittoClients publishes a large message that is kept, and then reads it.
func testMosquittoClients(t *testing.T, address string) {
	message := strings.Repeat("0123456789abcdef", 1<<16)
	file := lab.WriteFile(t, t.TempDir(), "message", message)
	where := []string{"-h", "127.0.0.1", "-p", lab.Port(address), "-t", "kept", "-q", "1"}
	runProgram(t, "", append([]string{"mosquitto_pub", "-r", "-f", file}, where...)...)
	got := runProgram(t, "", append([]string{"mosquitto_sub", "-C", "1", "-N"}, where...)...)
	require.True(t, got == message)
}

// testNATSClient publishes many messages to a subscriber. Its server speaks first. The client is
// in Go, because the program nats needs many more modules, but it knows nothing of tunnels.
func testNATSClient(t *testing.T, address string) {
	connect := func() *nats.Conn {
		c, err := nats.Connect("nats://"+address, nats.Timeout(lab.Timeout))
		require.NoError(t, err)
		t.Cleanup(c.Close)
		return c
	}
	natsPublish(t, connect(), connect())
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

	t.Run("rsync", func(t *testing.T) { testRsync(t, config) })
	t.Run("git", func(t *testing.T) { testGit(t, config) })
}

// testRsync copies a folder there and back, and then only what has changed.
func testRsync(t *testing.T, config string) {
	dir := t.TempDir()
	source, there, back := filepath.Join(dir, "source"), filepath.Join(dir, "there"), filepath.Join(dir, "back")
	require.NoError(t, os.Mkdir(source, 0o755))
	for i := range 200 {
		lab.WriteFile(t, source, fmt.Sprint("small", i), strings.Repeat("x", i))
	}
	lab.WriteFile(t, source, "large", string(lab.RandomBytes(4<<20)))
	rsync := func(args ...string) string {
		return runProgram(t, "", append([]string{"rsync", "-a", "--delete", "--stats", "-e", "ssh -o BatchMode=yes -F " + config}, args...)...)
	}
	rsync(source+"/", "tunnel:"+there+"/")
	lab.WriteFile(t, source, "small9", "of another size")
	require.Contains(t, rsync(source+"/", "tunnel:"+there+"/"), "Number of regular files transferred: 1\n")
	rsync("tunnel:"+there+"/", back+"/")
	runProgram(t, "", "diff", "-r", source, back)
}

// testGit pushes to a repository, and clones it.
func testGit(t *testing.T, config string) {
	dir := t.TempDir()
	bare, work, clone := filepath.Join(dir, "bare"), filepath.Join(dir, "work"), filepath.Join(dir, "clone")
	git := func(args ...string) string {
		return runProgram(t, "", append([]string{
			"git", "-c", "core.sshCommand=ssh -o BatchMode=yes -F " + config, "-c", "user.name=tests", "-c", "user.email=tests@example.com", "-c", "safe.directory=*",
		}, args...)...)
	}
	git("init", "-q", "--bare", "-b", "main", bare)
	git("init", "-q", "-b", "main", work)
	lab.WriteFile(t, work, "file", string(lab.RandomBytes(2<<20)))
	git("-C", work, "add", "file")
	git("-C", work, "commit", "-q", "-m", "the first")
	git("-C", work, "push", "-q", "tunnel:"+bare, "main")
	git("clone", "-q", "tunnel:"+bare, clone)
	require.Equal(t, git("-C", work, "rev-parse", "HEAD"), git("-C", clone, "rev-parse", "HEAD"))
	runProgram(t, "", "cmp", filepath.Join(work, "file"), filepath.Join(clone, "file"))
}
