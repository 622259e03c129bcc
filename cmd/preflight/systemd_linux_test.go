package main

import (
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

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	socket, err := listener.(*net.TCPListener).File()
	require.NoError(t, err)
	address := listener.Addr().String()
	listener.Close()
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
