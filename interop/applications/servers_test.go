package applications

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// The functions of this file run servers that are not written in Go, or not by us.

// startMariaDB runs MariaDB with the user jane, whose password is secret, and her
// database app.
func startMariaDB(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	data, socket := filepath.Join(dir, "data"), filepath.Join(dir, "s")
	start := lab.WriteFile(t, dir, "start.sql", `CREATE DATABASE IF NOT EXISTS app;
CREATE USER IF NOT EXISTS jane@'%' IDENTIFIED BY 'secret';
GRANT ALL ON app.* TO jane@'%';
`)
	var user []string
	if os.Geteuid() == 0 {
		user = []string{"--user=root"}
	}
	lab.RunCommand(t, append([]string{"mariadb-install-db",
		"--no-defaults", "--datadir=" + data, "--skip-test-db", "--auth-root-authentication-method=normal"}, user...)...)
	return lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		return append([]string{"mariadbd",
			"--no-defaults", "--datadir=" + data, "--socket=" + socket, "--pid-file=" + filepath.Join(dir, "pid"),
			"--bind-address=127.0.0.1", "--port=" + lab.Port(addresses[0]), "--skip-name-resolve",
			"--init-file=" + start, "--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M"}, user...)
	}, func() bool { return lab.AcceptUnix(socket) }).Addresses[0] // it has bound its port by then
}

// startPostgres runs PostgreSQL with the user jane, whose password is secret. The server
// also accepts its own TLS, which begins inside the protocol.
func startPostgres(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	lab.WriteCertificate(t, dir)
	password := lab.WriteFile(t, dir, "password", "secret\n")
	data, asNobody := filepath.Join(dir, "data"), commandAsNobody(t, dir)
	lab.RunCommand(t, slices.Concat(asNobody, []string{lab.FindBinary(t, "initdb"), "-D", data, "-U", "jane", "-A", "scram-sha-256",
		"--pwfile=" + password, "-E", "UTF8", "--no-locale", "--no-sync"})...)
	return lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		return slices.Concat(asNobody, []string{lab.FindBinary(t, "postgres"), "-D", data, "-h", "127.0.0.1", "-p", lab.Port(addresses[0]), "-k", "", "-F",
			"-c", "ssl=on", "-c", "ssl_cert_file=" + filepath.Join(dir, "cert.pem"), "-c", "ssl_key_file=" + filepath.Join(dir, "key.pem")})
	}, func() bool { return lab.HasLogged(t, dir, "ready to accept connections") }).Addresses[0]
}

// commandAsNobody returns the beginning of a command line that runs a program as the user
// nobody, if root runs the tests: PostgreSQL refuses to run as root. dir and its files
// then belong to nobody.
func commandAsNobody(t *testing.T, dir string) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	nobody, err := user.Lookup("nobody")
	require.NoError(t, err)
	uid, err := strconv.Atoi(nobody.Uid)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, uid, -1))
	}))
	return []string{"setpriv", "--reuid", nobody.Uid, "--regid", nobody.Gid, "--clear-groups"}
}

// startRedis runs Redis with the password secret.
func startRedis(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	return lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		return []string{
			"redis-server", "--bind", "127.0.0.1", "--port", lab.Port(addresses[0]), "--unixsocket", socket,
			"--dir", dir, "--save", "", "--appendonly", "no", "--requirepass", "secret",
		}
	}, func() bool { return lab.AcceptUnix(socket) }).Addresses[0] // it has bound its port by then
}

// startNATS runs a NATS server.
func startNATS(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	return lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		return []string{"nats-server", "--addr", "127.0.0.1", "--port", lab.Port(addresses[0])}
	}, func() bool { return lab.HasLogged(t, dir, "Server is ready") }).Addresses[0]
}

// startMosquitto runs an MQTT broker that accepts anonymous clients.
func startMosquitto(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	return lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		config := lab.WriteFile(t, dir, "mosquitto.conf", "listener "+lab.Port(addresses[0])+" 127.0.0.1\nallow_anonymous true\n")
		// If root starts it, it changes to another user after it has read the file.
		return []string{"mosquitto", "-c", config, "-v"}
	}, func() bool { return lab.HasLogged(t, dir, " running") }).Addresses[0]
}

// An sshd is OpenSSH's server. It accepts the user who runs the tests.
type sshd struct {
	address string
	user    string
	key     ssh.Signer // of the user
	keyFile string
	host    ssh.PublicKey
}

func startSSHD(t *testing.T) sshd {
	t.Helper()
	dir := t.TempDir()
	who, err := user.Current()
	require.NoError(t, err)
	s := sshd{user: who.Username, keyFile: filepath.Join(dir, "id")}
	s.key = writeSSHKey(t, dir, "id")
	s.host = writeSSHKey(t, dir, "host").PublicKey()
	authorized := lab.WriteFile(t, dir, "authorized", string(ssh.MarshalAuthorizedKey(s.key.PublicKey())))
	if os.Geteuid() == 0 {
		// sshd does not run as root without this folder, which its service makes.
		require.NoError(t, os.MkdirAll("/run/sshd", 0o755))
	}
	pid := filepath.Join(dir, "pid")
	s.address = lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		command = []string{"sshd", "-D", "-e", "-f", "none"}
		for _, option := range []string{
			"ListenAddress=" + addresses[0],
			"HostKey=" + filepath.Join(dir, "host"),
			"PidFile=" + pid,
			"AuthorizedKeysFile=" + authorized,
			"StrictModes=no", // all users can write to the folder for temporary files
			"PermitRootLogin=prohibit-password",
			"Subsystem=sftp internal-sftp",
		} {
			command = append(command, "-o", option)
		}
		return command
	}, func() bool {
		_, err := os.Stat(pid) // sshd writes it when it has bound its port
		return err == nil
	}).Addresses[0]
	return s
}

// writeSSHKey creates a key, and writes it to a file in OpenSSH's format.
func writeSSHKey(t *testing.T, dir, file string) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600)) // OpenSSH accepts no other mode
	signer, err := ssh.NewSignerFromKey(key)
	require.NoError(t, err)
	return signer
}
