package interop

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// The servers of the applications that are not written in Go, or not ours. Each
// runs until the end of the test.

// startMariaDB runs a server with the user jane, password secret, and her database.
func startMariaDB(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	data, start := filepath.Join(dir, "data"), filepath.Join(dir, "start.sql")
	var user []string
	if os.Geteuid() == 0 {
		user = []string{"--user=root"}
	}
	prepare(t, findBinary(t, "mariadb-install-db"), append([]string{
		"--no-defaults", "--datadir=" + data, "--skip-test-db", "--auth-root-authentication-method=normal"}, user...)...)
	write(t, dir, "start.sql", `CREATE DATABASE IF NOT EXISTS app;
CREATE USER IF NOT EXISTS jane@'%' IDENTIFIED BY 'secret';
GRANT ALL ON app.* TO jane@'%';
`)
	socket := filepath.Join(dir, "s")
	return launch(t, dir, 1, findBinary(t, "mariadbd"), func(addresses []string) (args []string) {
		return append([]string{
			"--no-defaults", "--datadir=" + data, "--socket=" + socket, "--pid-file=" + filepath.Join(dir, "pid"),
			"--bind-address=127.0.0.1", "--port=" + outPort(addresses[0]), "--skip-name-resolve",
			"--init-file=" + start, "--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M"}, user...)
	}, func() bool { return accepts("unix", socket) }).addresses[0] // it opens that once it has its port
}

// startPostgres runs a server with the user jane, password secret. It accepts
// TLS, by its own STARTTLS.
func startPostgres(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	writeCertificate(t, dir)
	write(t, dir, "password", "secret\n")
	data, as := filepath.Join(dir, "data"), asNobody(t, dir)
	initdb := slices.Concat(as, []string{findBinary(t, "initdb"), "-D", data, "-U", "jane", "-A", "scram-sha-256",
		"--pwfile=" + filepath.Join(dir, "password"), "-E", "UTF8", "--no-locale", "--no-sync"})
	prepare(t, initdb[0], initdb[1:]...)
	postgres := slices.Concat(as, []string{findBinary(t, "postgres"), "-D", data, "-h", "127.0.0.1", "-k", "", "-F",
		"-c", "ssl=on", "-c", "ssl_cert_file=" + filepath.Join(dir, "cert.pem"), "-c", "ssl_key_file=" + filepath.Join(dir, "key.pem")})
	return launch(t, dir, 1, postgres[0], func(addresses []string) (args []string) {
		return slices.Concat(postgres[1:], []string{"-p", outPort(addresses[0])})
	}, func() bool { return logged(t, dir, "ready to accept connections") }).addresses[0]
}

// asNobody is how a command begins that must not be root's. The folder is then
// nobody's, who may enter it.
func asNobody(t *testing.T, dir string) []string {
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
	return []string{findBinary(t, "setpriv"), "--reuid", nobody.Uid, "--regid", nobody.Gid, "--clear-groups"}
}

// startRedis runs a server with the password secret.
func startRedis(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	return launch(t, dir, 1, findBinary(t, "redis-server"), func(addresses []string) (args []string) {
		return []string{
			"--bind", "127.0.0.1", "--port", outPort(addresses[0]), "--unixsocket", socket,
			"--dir", dir, "--save", "", "--appendonly", "no", "--requirepass", "secret",
		}
	}, func() bool { return accepts("unix", socket) }).addresses[0] // as above
}

func startNATS(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	return launch(t, dir, 1, findBinary(t, "nats-server"), func(addresses []string) (args []string) {
		return []string{"--addr", "127.0.0.1", "--port", outPort(addresses[0])}
	}, func() bool { return logged(t, dir, "Server is ready") }).addresses[0]
}

func startMosquitto(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	return launch(t, dir, 1, findBinary(t, "mosquitto"), func(addresses []string) (args []string) {
		write(t, dir, "mosquitto.conf", "listener "+outPort(addresses[0])+" 127.0.0.1\nallow_anonymous true\n")
		// As root it becomes a user who cannot enter here, but has no need to.
		return []string{"-c", filepath.Join(dir, "mosquitto.conf"), "-v"}
	}, func() bool { return logged(t, dir, " running") }).addresses[0]
}

// An sshd lets the user of the tests in.
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
	write(t, dir, "authorized", string(ssh.MarshalAuthorizedKey(s.key.PublicKey())))
	if os.Geteuid() == 0 {
		// Its service would make this folder, without which root's sshd
		// does not run.
		require.NoError(t, os.MkdirAll("/run/sshd", 0o755))
	}
	pid := filepath.Join(dir, "pid")
	s.address = launch(t, dir, 1, findBinary(t, "sshd"), func(addresses []string) (args []string) {
		args = []string{"-D", "-e", "-f", "none"}
		for _, option := range []string{
			"ListenAddress=" + addresses[0],
			"HostKey=" + filepath.Join(dir, "host"),
			"PidFile=" + pid,
			"AuthorizedKeysFile=" + filepath.Join(dir, "authorized"),
			"StrictModes=no", // the folder for temporary files is everybody's
			"PermitRootLogin=prohibit-password",
			"Subsystem=sftp internal-sftp",
		} {
			args = append(args, "-o", option)
		}
		return args
	}, func() bool {
		_, err := os.Stat(pid) // it is written once the port is its own
		return err == nil
	}).addresses[0]
	return s
}

// writeSSHKey makes a key, and writes it as OpenSSH does.
func writeSSHKey(t *testing.T, dir, file string) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	require.NoError(t, err)
	write(t, dir, file, string(pem.EncodeToMemory(block)))
	signer, err := ssh.NewSignerFromKey(key)
	require.NoError(t, err)
	return signer
}

// prepare runs a command to its end.
func prepare(t *testing.T, binary string, args ...string) {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
	require.NoError(t, err, "%s", output)
}
