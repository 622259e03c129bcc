package interop

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// testSSH has a server that is written in Go, a jump host.
func testSSH(t *testing.T) {
	l, to := listen(t)
	key := serveSSH(t, l)
	echoes := serveEcho(t)
	for _, r := range routes(t, to) {
		t.Run(r.name, func(t *testing.T) {
			client := sshConnect(t, r, &ssh.ClientConfig{User: "jane", HostKeyCallback: ssh.FixedHostKey(key)})
			for range 3 {
				c, err := client.DialContext(t.Context(), "tcp", echoes)
				require.NoError(t, err)
				require.NoError(t, echo(c, make([]byte, 1<<20)))
				c.Close()
			}
		})
	}
}

// testSSHD has OpenSSH's.
func testSSHD(t *testing.T) {
	server := startSSHD(t)
	to := startRelay(t, server.address)
	for _, r := range routes(t, to) {
		t.Run(r.name, func(t *testing.T) {
			client := sshConnect(t, r, &ssh.ClientConfig{
				User: server.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(server.key)}, HostKeyCallback: ssh.FixedHostKey(server.host),
			})
			t.Run("Command", func(t *testing.T) { testSSHCommand(t, client) })
			t.Run("SFTP", func(t *testing.T) { testSFTP(t, client) })
			if r.proxy == nil {
				t.Run("SCP", func(t *testing.T) { testSCP(t, server, to) })
			}
		})
	}
}

// sshConnect connects by r until the end of the test.
func sshConnect(t *testing.T, r route, config *ssh.ClientConfig) *ssh.Client {
	t.Helper()
	c, err := r.DialContext(t.Context(), "tcp", "ssh.example:22")
	require.NoError(t, err)
	bounded(t, c).SetDeadline(time.Now().Add(5 * patience)) // for the files
	conn, channels, requests, err := ssh.NewClientConn(c, "ssh.example:22", config)
	require.NoError(t, err)
	client := ssh.NewClient(conn, channels, requests)
	t.Cleanup(func() {
		client.Close()
		client.Wait()
	})
	return client
}

// A command reads to the end of its input, and then goes on to speak.
func testSSHCommand(t *testing.T, client *ssh.Client) {
	session, err := client.NewSession()
	require.NoError(t, err)
	defer session.Close()
	data := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	session.Stdin = bytes.NewReader(data)
	output, err := session.Output("sha256sum; exit 7")
	var exit *ssh.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 7, exit.ExitStatus())
	require.Equal(t, fmt.Sprintf("%x  -\n", sha256.Sum256(data)), string(output))
}

const fileSize = 64 << 20

// fileContent is what is copied.
func fileContent() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), fileSize) }

func sumOf(t *testing.T, data io.Reader) []byte {
	t.Helper()
	sum := sha256.New()
	_, err := io.Copy(sum, data)
	require.NoError(t, err)
	return sum.Sum(nil)
}

// testSFTP copies a file there and back.
func testSFTP(t *testing.T, client *ssh.Client) {
	c, err := sftp.NewClient(client)
	require.NoError(t, err)
	defer c.Close()
	remote := filepath.Join(t.TempDir(), "file")
	file, err := c.Create(remote)
	require.NoError(t, err)
	n, err := file.ReadFrom(fileContent())
	require.NoError(t, errors.Join(err, file.Close()))
	require.EqualValues(t, fileSize, n)
	want := sumOf(t, fileContent())

	arrived, err := os.Open(remote)
	require.NoError(t, err)
	defer arrived.Close()
	require.Equal(t, want, sumOf(t, arrived))

	file, err = c.Open(remote)
	require.NoError(t, err)
	sum := sha256.New()
	_, err = file.WriteTo(sum)
	require.NoError(t, errors.Join(err, file.Close()))
	require.Equal(t, want, sum.Sum(nil))
}

// testSCP is a client of old, OpenSSH's own, on the port of the tunnels.
func testSCP(t *testing.T, server sshd, to port) {
	dir := t.TempDir()
	from, there := filepath.Join(dir, "from"), filepath.Join(dir, "there")
	file, err := os.Create(from)
	require.NoError(t, err)
	_, err = io.Copy(file, fileContent())
	require.NoError(t, errors.Join(err, file.Close()))
	_, number, err := net.SplitHostPort(to.address)
	require.NoError(t, err)
	write(t, dir, "known", fmt.Sprintf("[127.0.0.1]:%s %s", number, ssh.MarshalAuthorizedKey(server.host)))
	output, err := exec.CommandContext(t.Context(), findBinary(t, "scp"), "-q", "-F", "none", "-P", number, "-i", server.keyFile,
		"-o", "BatchMode=yes", "-o", "UserKnownHostsFile="+filepath.Join(dir, "known"),
		from, server.user+"@127.0.0.1:"+there).CombinedOutput()
	require.NoError(t, err, "%s", output)
	arrived, err := os.Open(there)
	require.NoError(t, err)
	defer arrived.Close()
	require.Equal(t, sumOf(t, fileContent()), sumOf(t, arrived))
}
