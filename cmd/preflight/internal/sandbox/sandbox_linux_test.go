package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain makes a program of the test binary: the sandbox is for good, so each test needs a
// process of its own.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SANDBOX_TEST"); dir != "" {
		if err := inside(dir, os.Getenv("SANDBOX_ALLOWED"), os.Getenv("SANDBOX_DENIED")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// inside enters the sandbox, and tries what is allowed and what is denied.
func inside(dir, allowed, denied string) error {
	port := func(address string) uint16 {
		a, _ := net.ResolveTCPAddr("tcp", address)
		return uint16(a.Port)
	}
	socket := filepath.Join(dir, "sockets", "socket")
	link := filepath.Join(dir, "etc", "resolv.conf")
	systemFiles = append(systemFiles, link)
	n := Needs{Files: []string{filepath.Join(dir, "config", "file"), ""}, Sockets: []string{socket}, Ports: []uint16{port(allowed)}}
	if err := n.Enter(); err != nil {
		return err
	}
	dial := func(address string) error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err
	}
	_, read := os.ReadFile(filepath.Join(dir, "config", "file"))
	_, system := os.ReadFile("/etc/passwd")
	_, linked := os.ReadFile(link)
	_, secret := os.ReadFile(filepath.Join(dir, "secret"))
	for what, err := range map[string]error{"read": read, "system": system, "linked": linked, "dial": dial(allowed), "remove": os.Remove(socket)} {
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	for what, err := range map[string]error{
		"secret": secret,
		"write":  os.WriteFile(filepath.Join(dir, "config", "new"), nil, 0o600),
		"remove": os.Remove(filepath.Join(dir, "config", "file")),
		"dial":   dial(denied),
	} {
		if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EACCES) {
			return fmt.Errorf("%s is not denied: %v", what, err)
		}
	}
	return nil
}

// TestSandbox proves on the kernel of this machine that the sandbox denies what it should, and
// nothing else.
func TestSandbox(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"config/file", "sockets/socket", "secret", "run/resolv.conf", "etc/hosts"} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
	}
	require.NoError(t, os.Symlink("../run/resolv.conf", filepath.Join(dir, "etc", "resolv.conf")))
	var addresses []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SANDBOX_TEST="+dir, "SANDBOX_ALLOWED="+addresses[0], "SANDBOX_DENIED="+addresses[1])
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
