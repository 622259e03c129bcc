package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSystemd plays systemd's part: it passes a listening socket (sd_listen_fds(3)), and
// reads what the program notifies (sd_notify(3)).
func TestSystemd(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer target.Close()
	go func() {
		for {
			c, err := target.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello")
			c.Close()
		}
	}()
	path := filepath.Join(t.TempDir(), "notify")
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer notified.Close()
	notified.SetDeadline(time.Now().Add(timeout))
	next := func() string {
		b := make([]byte, 1024)
		n, err := notified.Read(b)
		require.NoError(t, err)
		return string(b[:n])
	}

	socket, address := systemdSocket(t)
	program, err := exec.LookPath("preflight")
	require.NoError(t, err)
	run := func(name string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, program,
			"serve", "--listen", "systemd:"+name, "--to", target.Addr().String(), "--allow-all")
		cmd.ExtraFiles = []*os.File{socket}
		cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "LISTEN_FDNAMES=tunnels", "NOTIFY_SOCKET="+path)
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill() })
		return cmd, &output
	}
	for _, name := range []string{"tunnels", ""} {
		cmd, output := run(name)
		require.Equal(t, "READY=1", next(), output)
		got, err := exec.Command(program, "connect", "http://"+address+"/").Output()
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
		require.Regexp(t, "^RELOADING=1\nMONOTONIC_USEC=[0-9]+\n$", next())
		require.Equal(t, "READY=1", next())
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.Equal(t, "STOPPING=1", next())
		require.NoError(t, cmd.Wait(), output)
	}
	cmd, output := run("other")
	require.Error(t, cmd.Wait())
	require.Contains(t, output.String(), `systemd has passed 0 sockets named "other"`)
}

// systemdSocket opens a socket as systemd does.
func systemdSocket(t *testing.T) (socket *os.File, address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	socket, err = l.(*net.TCPListener).File()
	require.NoError(t, err)
	t.Cleanup(func() { socket.Close() })
	return socket, l.Addr().String()
}

// TestWatchdog waits for the signs of life, also while the program drains.
func TestWatchdog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer notified.Close()
	notified.SetDeadline(time.Now().Add(timeout))
	next := func(want string) {
		b := make([]byte, 1024)
		for got := ""; got != want; {
			n, err := notified.Read(b)
			require.NoError(t, err, "waiting for %s", want)
			got = string(b[:n])
		}
	}
	program, err := exec.LookPath("preflight")
	require.NoError(t, err)
	for _, args := range [][]string{
		{"serve", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--allow-all", "--drain-delay", "1h"},
		{"forward", "--listen", "127.0.0.1:0", "http://127.0.0.1:1/"},
	} {
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), "WATCHDOG_USEC=10000", "NOTIFY_SOCKET="+path)
		var output bytes.Buffer
		cmd.Stderr = &output
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill() })
		next("READY=1")
		next("WATCHDOG=1")
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		next("STOPPING=1")
		if args[0] == "serve" {
			next("WATCHDOG=1")
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		}
		require.NoError(t, cmd.Wait(), output.String())
	}
}

// TestSystemdSockets has two sockets of systemd for one process.
func TestSystemdSockets(t *testing.T) {
	a, addressA := systemdSocket(t)
	b, addressB := systemdSocket(t)
	program, err := exec.LookPath("preflight")
	require.NoError(t, err)
	run := func(first, second string) (*exec.Cmd, io.Reader) {
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, program, "forward",
			"--listen", "systemd:"+first, "--listen", "systemd:"+second, "http://127.0.0.1:1/"+first, "http://127.0.0.1:1/"+second)
		cmd.ExtraFiles = []*os.File{a, b}
		cmd.Env = append(os.Environ(), "LISTEN_FDS=2", "LISTEN_FDNAMES=a:b")
		stderr, err := cmd.StderrPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill() })
		return cmd, stderr
	}
	cmd, stderr := run("b", "a")
	lines := bufio.NewScanner(stderr)
	for _, want := range []string{"address=" + addressB + " edge=http://127.0.0.1:1/b", "address=" + addressA + " edge=http://127.0.0.1:1/a"} {
		require.True(t, lines.Scan())
		require.Contains(t, lines.Text(), want)
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	for lines.Scan() {
	}
	require.NoError(t, cmd.Wait())

	cmd, stderr = run("a", "a")
	text, err := io.ReadAll(stderr)
	require.NoError(t, err)
	require.Error(t, cmd.Wait())
	require.Contains(t, string(text), "--listen systemd:a is there twice")
}
