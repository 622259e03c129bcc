package applications

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// testSSH uses a jump host that is written in Go.
func testSSH(t *testing.T) {
	l, to := listenWithTLS(t)
	key := serveSSH(t, l)
	echoes := lab.ServeEcho(t)
	for _, r := range routes(t, to) {
		t.Run(r.name, func(t *testing.T) {
			client := sshConnect(t, r, &ssh.ClientConfig{User: "jane", HostKeyCallback: ssh.FixedHostKey(key)})
			for range 3 {
				c, err := client.DialContext(t.Context(), "tcp", echoes)
				require.NoError(t, err)
				require.NoError(t, lab.Echo(c, make([]byte, 1<<20)))
				c.Close()
			}
		})
	}
}

// testSSHD uses the server of OpenSSH.
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
			if !strings.Contains(r.name, "tls") && !strings.Contains(r.name, "inside") {
				t.Run("SCP", func(t *testing.T) { testSCP(t, server, forward(t, r)) })
			}
		})
	}
}

// sshConnect connects over r.
func sshConnect(t *testing.T, r route, config *ssh.ClientConfig) *ssh.Client {
	t.Helper()
	c, err := r.DialContext(t.Context(), "tcp", "ssh.example:22")
	require.NoError(t, err)
	lab.WithDeadline(t, c).SetDeadline(time.Now().Add(5 * lab.Timeout)) // the files take longer
	conn, channels, requests, err := ssh.NewClientConn(c, "ssh.example:22", config)
	require.NoError(t, err)
	client := ssh.NewClient(conn, channels, requests)
	t.Cleanup(func() {
		client.Close()
		client.Wait()
	})
	return client
}

// testSSHCommand runs a command that reads its input to the end, and then writes.
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

// fileSize is the size of the file that SFTP and SCP copy.
const fileSize = 64 << 20

// fileContent returns the content of that file.
func fileContent() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), fileSize) }

// sumOf returns the checksum of data.
func sumOf(t *testing.T, data io.Reader) []byte {
	t.Helper()
	sum := sha256.New()
	_, err := io.Copy(sum, data)
	require.NoError(t, err)
	return sum.Sum(nil)
}

// testSFTP copies a file to the server and back.
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

// forward accepts plain clients at the address that it returns, and connects each over r.
func forward(t *testing.T, r route) (address string) {
	t.Helper()
	if r.edge == nil {
		return r.address // the port that accepts tunnels accepts plain clients too
	}
	l := lab.Listen(t)
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			clients.Go(func() {
				defer client.Close()
				tunnel, err := r.DialContext(t.Context(), "tcp", "ssh.example:22")
				if err != nil {
					return
				}
				defer tunnel.Close()
				clients.Go(func() {
					io.Copy(tunnel, client)
					tunnel.Close()
				})
				io.Copy(client, tunnel)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		clients.Wait()
	})
	return l.Addr().String()
}

// testSCP uses the scp of OpenSSH, which is a plain client.
func testSCP(t *testing.T, server sshd, address string) {
	dir := t.TempDir()
	source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
	file, err := os.Create(source)
	require.NoError(t, err)
	_, err = io.Copy(file, fileContent())
	require.NoError(t, errors.Join(err, file.Close()))
	number := lab.Port(address)
	known := lab.WriteFile(t, dir, "known", fmt.Sprintf("[127.0.0.1]:%s %s", number, ssh.MarshalAuthorizedKey(server.host)))
	output, err := exec.CommandContext(t.Context(), lab.FindBinary(t, "scp"), "-q", "-F", "none", "-P", number, "-i", server.keyFile,
		"-o", "BatchMode=yes", "-o", "UserKnownHostsFile="+known,
		source, server.user+"@127.0.0.1:"+target).CombinedOutput()
	require.NoError(t, err, "%s", output)
	arrived, err := os.Open(target)
	require.NoError(t, err)
	defer arrived.Close()
	require.Equal(t, sumOf(t, fileContent()), sumOf(t, arrived))
}
